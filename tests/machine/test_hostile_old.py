"""Hosts without btrfs: whatever ada did to her home, the first restore of the next boot sets it aside and she starts
with an empty one; `persist tidy` deletes it without reaching anything else."""

import os
import stat

import pytest

from tests.machine.hostilehomes import HELD_HOMES, HOMES, STANDING
from tests.machine.hostilescene import Scene, sampled, scene
from tests.machine.towns import ADA

__all__ = ["scene"]
pytestmark = [pytest.mark.root, pytest.mark.parametrize("scene", ["ext4"], indirect=True)]
KEEP = "keep = { homes = 1, days = 1 }"
LEFT = {name: program for name, program in (STANDING | HOMES).items() if "subvolume" not in name}


def _old(scene: Scene) -> list[str]:
    place = scene.town.agents / ".old"
    return sorted(f"{one.name}/{home}" for one in place.iterdir() for home in os.listdir(one)) if place.exists() else []


@pytest.mark.parametrize("left", sampled(LEFT, 6))
def test_whatever_ada_left_is_set_aside_whole_and_she_starts_empty(scene: Scene, left: str) -> None:
    scene.begin('["projects"]', more=KEEP)
    scene.ada('open("payload", "w").write("x"); open("projects/kept", "w").write("kept")')
    scene.ada(LEFT[left].replace("{at}", "here"))
    inode = scene.home.stat().st_ino
    scene.reboot()
    scene.ok("restore")
    assert os.listdir(scene.home) == ["projects"]
    assert (scene.home / "projects/kept").read_text() == "kept"
    found = scene.home.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ADA, 0o700)
    (aside,) = [one for one in _old(scene) if "/ada" in one]
    assert (scene.town.agents / ".old" / aside).stat().st_ino == inode
    above = (scene.town.agents / ".old").stat()
    assert (above.st_uid, stat.S_IMODE(above.st_mode)) == (0, 0o700)
    scene.ok("tidy")
    scene.unharmed()


@pytest.mark.parametrize("held", HELD_HOMES)
def test_a_home_that_ada_holds_on_to_is_set_aside(scene: Scene, held: str) -> None:
    scene.begin('["projects"]')
    scene.stays(HELD_HOMES[held].replace("{at}", "work"))
    scene.reboot()
    scene.ok("restore")
    assert os.listdir(scene.home) == ["projects"]
    scene.unharmed()


def test_a_name_that_ada_raced_for_is_set_aside_as_it_is(scene: Scene) -> None:
    scene.begin("[]")
    with scene.racing([("work", "link:{vox}"), ("other", "away"), ("third", "fifo")], catch=["."]) as racer:
        for _ in range(5):
            scene.reboot()
            before = racer.swaps
            scene.ok("restore")
            assert racer.swaps >= before
        assert racer.swaps > 300
    assert len([one for one in _old(scene) if "/ada" in one]) == 5
    assert os.listdir(scene.home) == []
    scene.ok("tidy", "--dry-run")
    scene.unharmed()


def test_what_ada_sees_of_the_old_homes_is_nothing(scene: Scene) -> None:
    scene.begin("[]")
    scene.reboot()
    scene.ok("restore")
    program = f"import os\nfor path in ({str(scene.town.agents / '.old')!r},):\n os.listdir(path)"
    assert b"PermissionError" in scene.ada(program, check=False).err
    scene.unharmed()
