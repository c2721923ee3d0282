"""Declared files, which root copies in and out of a home that ada changes meanwhile: nothing of others is read or
written, and what was kept of the file before stays."""

import os
import stat
import time

import pytest

from tests.machine.hostilehomes import LEASED, STANDING
from tests.machine.hostilescene import Scene, sampled, scene
from tests.machine.towns import ADA, VOX
from tests.scale import SCALE

__all__ = ["scene"]
pytestmark = pytest.mark.root
BOTH = ["btrfs", "ext4"]
SECONDS = 0.8 if SCALE == 1 else 5.0
FILE = "conf/tool.toml"
DECLARED = f'[{{ path = "{FILE}", type = "file" }}]'
FILES = [name for name in STANDING if not any(word in name for word in ("ten thousand", "names that", "subvolume"))]


def _begun(scene: Scene) -> None:
    scene.begin(DECLARED, store=True)
    scene.ada('import os; os.makedirs("conf", exist_ok=True); open("conf/tool.toml", "w").write("kept")')
    scene.ok("sync", "ada")


def _comes_back(scene: Scene, text: str = "kept") -> None:
    scene.reboot()
    scene.ok("restore", "ada")
    found = os.lstat(scene.home / FILE)
    assert (scene.home / FILE).read_text() == text
    assert (found.st_uid, found.st_nlink) == (ADA, 1)


@pytest.mark.parametrize("standing", sampled(FILES, 4))
@pytest.mark.parametrize("at", [FILE, "conf"])
def test_whatever_stands_in_the_place_of_a_file_is_not_copied(scene: Scene, standing: str, at: str) -> None:
    _begun(scene)
    scene.ada('import os; os.unlink("conf/tool.toml")' + ('; os.rmdir("conf")' if at == "conf" else ""))
    scene.ada(STANDING[standing].replace("{at}", at))
    said = scene.run("sync", "ada")
    scene.unharmed()
    if said.status == 0 or (at == "conf" and stat.S_ISDIR(os.lstat(scene.home / "conf").st_mode)):
        return  # a plain file of hers is the file now; where there is none any more, she removed it
    _comes_back(scene)
    scene.unharmed()


@pytest.mark.parametrize("scene", BOTH, indirect=True)
def test_another_name_of_a_file_that_is_not_adas_is_not_copied(scene: Scene) -> None:
    _begun(scene)
    theirs = scene.home / ".theirs"
    theirs.write_text("theirs")
    os.chown(theirs, VOX, VOX)
    (scene.home / FILE).unlink()
    os.link(theirs, scene.home / FILE)
    said = scene.run("sync", "ada")
    assert said.status == 1
    assert "tool.toml" in said.err
    assert (theirs.stat().st_uid, theirs.read_text()) == (VOX, "theirs")
    _comes_back(scene)


def test_leases_on_all_of_it_hold_up_nobody(scene: Scene) -> None:
    scene.begin(f'["projects", {DECLARED[1:-1]}]', store=True)
    scene.ada('import os; os.makedirs("conf", exist_ok=True)')
    names = [FILE, *(f"projects/f{number}" for number in range(4))]
    scene.stays(LEASED.replace("{names}", repr(names)))
    scene.run("sync", "ada")
    scene.run("lost", "ada")
    scene.unharmed()


RACES = {
    "the file for a link to root's secret": [(FILE, "link:{roots}/secret")],
    "the file for a link to another agent's": [(FILE, "link:{vox}/secret")],
    "the file for a FIFO": [(FILE, "fifo")],
    "its directory for a link to root's": [("conf", "link:{roots}"), ("conf", "link:{human}")],
    "its directory for nothing": [("conf", "away")],
}


@pytest.mark.parametrize("scene", BOTH, indirect=True)
@pytest.mark.parametrize("race", sampled(RACES, 2))
@pytest.mark.parametrize("verb", ["sync", "restore"])
def test_a_copy_beside_a_race_reads_and_writes_nothing_of_others(scene: Scene, race: str, verb: str) -> None:
    scene.begin(DECLARED, store=True)
    scene.ada('import os; os.makedirs("conf", exist_ok=True); open("conf/tool.toml", "w").write("kept")')
    scene.ok("sync", "ada")
    swaps, until = 0, time.monotonic() + SECONDS
    with scene.racing(RACES[race], catch=[".", "conf"]) as racer:
        while time.monotonic() < until or swaps < 300:
            before = racer.swaps
            scene.run(verb, "ada")
            swaps += racer.swaps - before
            assert time.monotonic() < until + 20, "this was no race"
    kept = [path for path in scene.kept.rglob("*") if path.is_file()]
    assert not any(scene.outside.tells(path.read_bytes()) for path in kept)
    scene.unharmed()
