"""Units as `persist units` renders them, for tests that ask systemd's own tools about them."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from persist import units
from town import spec
from town.spec import Spec

BTRFS = '[town.btrfs]\ndevice = "LABEL=my disk"\nwait = "20s"\n'
S3 = 'store = "s3://bucket/town?endpoint=https://s3.example.org"\n'
AGENTS = """
[agents.ada]
uid = 51100
persist = ["projects", { path = "a b", via = "store" }]
[agents.b-x]
uid = 51101
"""
LOCAL = AGENTS.replace(', { path = "a b", via = "store" }', "")


def town(keys: str = "", *, btrfs: str = BTRFS, agents: str = AGENTS, file: str = "t.toml") -> Spec:
    """A town with an agent that syncs and one that does not."""
    return spec.parse(f"[town]\n{keys}{btrfs}{agents}".encode(), Path(file))


@dataclass(frozen=True)
class Units:
    """Units in a directory, with the links that enable them."""

    at: Path
    made: tuple[units.Unit, ...]

    def text(self, name: str) -> str:
        return next(unit.text for unit in self.made if unit.name == name)

    def lines(self, name: str, key: str) -> list[str]:
        """What a unit says of a key, line by line."""
        return re.findall(rf"(?m)^{key}=(.*)$", self.text(name))

    def words(self, name: str, key: str) -> list[str]:
        return [word for line in self.lines(name, key) for word in line.split()]

    @property
    def names(self) -> list[str]:
        """Every unit; of a template the one of an agent that it is for; of a drop-in what it belongs to."""
        found = [unit.name.partition(".d/")[0] for unit in self.made]
        agents = {unit.name: unit.agents[0] for unit in self.made if unit.agents}
        return [_instance(name, agents.get(name, "nuketown-open@ada.service")) for name in found]

    def analyze(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"SYSTEMD_UNIT_PATH": f"{self.at}:"}
        return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, env=env, check=False)


def _instance(name: str, of: str) -> str:
    return name.replace("@.", f"@{of}.")


def write(at: Path, made: tuple[units.Unit, ...]) -> Units:
    for unit in made:
        (at / unit.name).parent.mkdir(parents=True, exist_ok=True)
        (at / unit.name).write_text(unit.text)
    for link, name in units.links(made):
        (at / link).parent.mkdir(exist_ok=True)
        (at / link).symlink_to(f"../{name}")
    return Units(at, made)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`persist`, with `identity` beside it: systemd-analyze looks whether they are there."""
    place = tmp_path_factory.mktemp("bin")
    for name in ("persist", "identity"):
        (place / name).symlink_to("/usr/bin/true")
    return str(place / "persist")


def rendered(
    at: Path, of: Spec, program: str = "/usr/bin/persist", *, file: str = "/etc/town.toml", in_initrd: bool = True
) -> Units:
    return write(at, units.render(of, program=program, file=file, in_initrd=in_initrd))
