"""The derivation of an evaluated town's units, carried out: its own build command, with the real `persist`."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persist import units
from tests.nix.evaluated import evaluate
from town import spec

# What the packages hold of what units call, on NixOS; here it is taken from where Debian has it.
HOLDS = {
    "bash": ("sh",),
    "coreutils": ("rm", "true"),
    "gnugrep": ("grep",),
    "util-linux": ("mount", "umount", "findmnt"),
}
_ASK = """
let
  inherit (config.nuketown.build) townText units;
in
{
  inherit townText;
  command = units.buildCommand;
  env = { inherit (units.env) town program hook; };
  dropIn = units.env.dropIn.text;
  homes = units.env.homes.text;
  instances = units.env.instances.text;
  sweep = units.env.sweep.text;
  packages = map toString config.systemd.packages;
  units = toString units;
  wants = lib.filterAttrs (_: found: found != [ ]) (lib.mapAttrs (_: target: target.wants) config.systemd.targets);
}
"""


@dataclass(frozen=True)
class Built:
    """What the derivation holds, and what the evaluation says beside it."""

    at: Path
    said: dict[str, Any]

    @property
    def units(self) -> Path:
        return self.at / "lib/systemd/system"

    @property
    def names(self) -> list[str]:
        """Every unit; of a template the one of ada; of a drop-in what it belongs to."""
        found = {path.name.removesuffix(".d") for path in self.units.iterdir() if path.suffix != ".requires"}
        return sorted({name.replace("@.", "@ada.") for name in found})

    def verify(self) -> str:
        """What systemd-analyze says of all of them; empty when nothing is wrong."""
        env = os.environ | {"SYSTEMD_UNIT_PATH": f"{self.units}:"}
        argv = ["systemd-analyze", "verify", "--man=no", *self.names]
        done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
        return done.stdout + done.stderr


def build(at: Path, modules: str) -> Built:
    """Evaluate a configuration and build its units below `at`."""
    package = at / "package"
    (package / "bin").mkdir(parents=True)
    for name in ("persist", "identity"):
        (package / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    fake = f'{{ type = "derivation"; name = "nuketown"; outPath = "{package}"; }}'
    said = evaluate(f"{modules} ++ [ {{ nuketown.package = {fake}; }} ]", _ASK)
    given = {"town": said["townText"], "dropIn": _found(at, said["dropIn"])}
    given |= {name: said[name] for name in ("homes", "instances", "sweep")}
    for name, text in given.items():
        (at / name).write_text(text)
    env = os.environ | said["env"] | {name: str(at / name) for name in given} | {"out": str(at / "out")}
    done = subprocess.run(["sh", "-euc", said["command"]], env=env, capture_output=True, text=True, cwd=at, check=False)
    assert done.returncode == 0, done.stderr
    return Built(at / "out", said)


def _found(at: Path, text: str) -> str:
    """The drop-in with directories that are here: each package's holds what it holds on NixOS, and nothing else."""

    def here(match: re.Match[str]) -> str:
        place = at / "bin" / match[1]
        place.mkdir(parents=True)
        for name in HOLDS[match[1]]:
            (place / name).symlink_to("/usr/bin/true")
        return str(place)

    return re.sub(r"/nix/store/[0-9a-f]{32}-([a-z-]+)/bin", here, text)


def rendered(built: Built) -> tuple[units.Unit, ...]:
    """The same town's units, as `persist install` has them on another machine."""
    town = spec.parse(built.said["townText"].encode(), Path("/etc/nuketown/town.toml"))
    in_initrd = built.said["env"]["hook"] != "none"
    return units.render(town, program="/usr/bin/persist", file=str(town.file), in_initrd=in_initrd)
