"""A town whose agents have uids that no other test uses at the same time: for what looks at processes, or ends them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist import proof
from tests.machine import towns
from tests.machine.towns import Town, as_agent
from town import btrfs, files
from town.process import Person

ADA = 43000 + os.getpid() % 8000 * 2
VOX = ADA + 1
AS_ADA, AS_VOX = Person(ADA, ADA), Person(VOX, VOX)


@pytest.fixture
def town(btrfs_device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    """The town of a test: ada persists `projects`, vox nothing, until the test writes another spec."""
    base = tmp_path / "town"
    base.mkdir()
    with pytest.MonkeyPatch.context() as ours:
        ours.setattr(towns, "ADA", ADA)
        ours.setattr(towns, "VOX", VOX)
        with towns.made(base, btrfs_device, capsys) as there:
            ours.setattr(proof, "PROOF", there.proof)
            yield there


def home(town: Town) -> Path:
    return town.agents / "ada"


def kept(town: Town, path: str = "projects") -> Path:
    return town.persisted / "agents/ada" / path


def lived_in(town: Town, program: str = "", *, subvolume: bool = True) -> Path:
    """A home of ada's that something else made, and what a program of hers leaves in it."""
    if subvolume:
        with files.opened(files.open_dir(town.agents)) as agents:
            os.close(btrfs.create(agents, "ada"))
    else:
        home(town).mkdir()
    os.chown(home(town), ADA, ADA)
    home(town).chmod(0o700)
    if program:
        as_agent(AS_ADA, home(town), program)
    return home(town)
