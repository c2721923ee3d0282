"""The rollback in the initrd of NixOS: the unit, the programs and the hook that the evaluation puts there, and run."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import initrd
from tests.machine import rollbackdisk as disk
from tests.nix.evaluated import evaluate, messages
from town import process

BTRFS = "38b243a0-c875-4758-8998-cc6c6a4c451e"
CALLED = "/usr/lib/nuketown"
UNIT = "nuketown-initrd-rollback"


def modules(system: str = "", device: str = BTRFS) -> str:
    keys = f'nuketown = {{ enable = true; btrfsDevice = "{device}"; agents.ada = {{ enable = true; uid = 51100; }}; }};'
    return f"[ {{ {keys} {system} }} ]"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    ask = f"""
    let
      inherit (config.boot.initrd.systemd) contents services;
    in
    {{
      service = services.{UNIT};
      sources = lib.mapAttrs (_: file: file.source) contents;
      programs = map (entry: {{ inherit (entry) name; path = toString entry.path; }})
        contents."{CALLED}/bin".source.entries;
      filesystems = config.boot.initrd.supportedFilesystems;
      host = config.boot.supportedFilesystems;
      units = toString config.nuketown.build.units;
    }}
    """
    said: dict[str, Any] = evaluate(modules(), ask)
    return said


def as_unit(service: dict[str, Any]) -> str:
    """The text that NixOS makes of a service of its initrd (nixos/lib/systemd-lib.nix)."""
    lines = []
    for section, key in (("Unit", "unitConfig"), ("Service", "serviceConfig")):
        lines.append(f"[{section}]")
        for name, value in service[key].items():
            lines += [f"{name}={one}" for one in (value if isinstance(value, list) else [value])]
    return "\n".join([*lines, "[Install]", *(f"WantedBy={name}" for name in service["wantedBy"])])


def said_in(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line and not line.startswith("#"))


def test_the_unit_of_the_initrd_is_that_of_every_other_initrd_but_for_the_shell_that_it_calls(
    found: dict[str, Any],
) -> None:
    text = initrd.unit().read_text()
    assert "ExecStart=/bin/sh /usr/lib/nuketown/boot.sh" in text
    wanted = text.replace("ExecStart=/bin/sh ", f"ExecStart={CALLED}/bin/sh ")
    assert said_in(as_unit(found["service"])) == said_in(wanted)


def test_systemd_finds_nothing_wrong_with_the_unit(found: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / f"{UNIT}.service"
    file.write_text(as_unit(found["service"]).replace(f"{CALLED}/bin/sh", "/bin/sh"))
    env = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    argv = ["systemd-analyze", "verify", "--man=no", file.name]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_hook_and_what_starts_it_are_in_the_initrd_with_the_disk_that_they_are_for(found: dict[str, Any]) -> None:
    sources = found["sources"]
    ours = {f"{CALLED}/{name}" for name in ("bin", "boot.sh", "rollback.sh")}
    assert set(sources) == {*ours, "/etc/nuketown/rollback.conf"}
    for name in ("boot.sh", "rollback.sh"):
        assert re.fullmatch(rf"/nix/store/[0-9a-z]{{32}}-{name}", sources[f"{CALLED}/{name}"])
    assert sources["/etc/nuketown/rollback.conf"] == f"{found['units']}/etc/nuketown/rollback.conf"
    assert (found["filesystems"], found["host"]) == ({"btrfs": True}, {"btrfs": True})


def test_every_program_that_an_initrd_of_dracuts_takes_in_is_there_too(found: dict[str, Any]) -> None:
    module = (initrd.HERE / "dracut/90nuketown/module-setup.sh").read_text()
    lists = re.findall(r"(?m)^ +inst_multiple (?:-o )?(.*)$", module)
    # modprobe is pre-mount.sh's, which an initrd with systemd has not.
    assert {"sh", *" ".join(lists).split()} - {"modprobe"} == {program["name"] for program in found["programs"]}
    for program in found["programs"]:
        assert re.fullmatch(rf"/nix/store/[0-9a-f]{{32}}-[a-z-]+/bin/{program['name']}", program["path"])


@pytest.mark.root
def test_the_hook_runs_with_these_programs_and_no_other(
    found: dict[str, Any], tmp_path: Path, btrfs_device: str, btrfs_top: int
) -> None:
    disk.lay_out(btrfs_top)
    disk.put(btrfs_top, "@agents/left", b"what an agent left")
    place, run, nothing = (tmp_path / name for name in ("nuketown", "run", "nothing"))
    for folder in (place / "bin", run, nothing):
        folder.mkdir(parents=True)
    for program in found["programs"]:
        shutil.copy(str(shutil.which(program["name"])), place / "bin" / program["name"])
    for name in ("boot.sh", "rollback.sh"):
        shutil.copy(initrd.HERE / name, place / name)
    # boot.sh looks into the directories of the system too: there is nothing in them.
    inside = """
    mount --bind "$1" /run
    "$2/bin/mount" --bind "$3" /usr/sbin
    "$2/bin/mount" --bind "$3" /usr/bin
    exec "$2/bin/sh" "$2/boot.sh"
    """
    argv = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-euc", inside, "sh", run, place, nothing]
    done = process.run(argv, env={"NUKETOWN_DEVICE": btrfs_device, "NUKETOWN_WAIT": "1"}, check=False)
    assert done.status == 0, done.err.decode()
    assert disk.is_blank(btrfs_top)
    assert (run / "nuketown/rollback").read_text().startswith("version=1\n")


def test_scripted_stage_1_is_refused_with_the_cure() -> None:
    failed, _ = messages(modules("boot.initrd.systemd.enable = false;"))
    assert len(failed) == 1
    assert "boot.initrd.systemd.enable = true" in failed[0]
    assert failed[0].startswith("nuketown")


@pytest.mark.parametrize("system", ["boot.isContainer = true;", "boot.initrd.enable = false;"])
def test_where_there_is_no_initrd_nothing_is_put_into_one_and_the_host_runs_the_hook(system: str) -> None:
    given = modules(f"{system} boot.initrd.systemd.enable = false;")
    assert messages(given)[0] == []
    ask = """{
      inherit (config.boot.initrd.systemd) services contents;
      inherit (config.boot.initrd) supportedFilesystems;
      inherit (config.nuketown.build.units.env) hook;
    }"""
    assert evaluate(given, ask) == {"services": {}, "contents": {}, "supportedFilesystems": {}, "hook": "none"}


def test_a_town_without_btrfs_asks_nothing_of_the_initrd() -> None:
    given = "[ { nuketown = { enable = true; agents.ada = { enable = true; uid = 51100; }; }; BOOT } ]"
    given = given.replace("BOOT", "boot.initrd.systemd.enable = false;")
    assert messages(given)[0] == []
    assert evaluate(given, "config.boot.initrd.systemd.services // config.boot.supportedFilesystems") == {}


LOCKED = 'boot.initrd.luks.devices.agents.device = "/dev/x";'
NOFAIL = 'boot.initrd.luks.devices.agents.crypttabExtraOpts = [ "nofail" ];'
ROOT = 'fileSystems."/" = { device = "/dev/mapper/agents"; fsType = "btrfs"; options = [ "subvol=@" ]; };'


@pytest.mark.parametrize(
    ("system", "is_told"),
    [
        (LOCKED, True),
        (LOCKED + NOFAIL, False),
        (LOCKED.replace("agents.", "other."), False),
        (LOCKED + ROOT, False),  # the person's own too: nothing goes on without it
        (LOCKED + "boot.isContainer = true;", False),
    ],
)
def test_a_disk_in_luks_that_the_boot_waits_for_is_named(system: str, is_told: bool) -> None:
    failed, warned = messages(modules(system, device="/dev/mapper/agents"))
    assert failed == []
    assert any('boot.initrd.luks.devices.agents has no "nofail"' in one for one in warned) is is_told


def test_a_disk_in_luks_changes_nothing_of_the_unit_which_comes_after_it_is_unlocked(found: dict[str, Any]) -> None:
    given = modules('boot.initrd.luks.devices.agents.device = "/dev/disk/by-uuid/x";')
    assert messages(given)[0] == []
    service = evaluate(given, f"config.boot.initrd.systemd.services.{UNIT}")
    assert service == found["service"]
    assert "cryptsetup.target" in " ".join(service["unitConfig"]["After"])
