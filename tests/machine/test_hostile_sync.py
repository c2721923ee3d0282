"""`persist sync` and `persist lost` where ada has prepared what they read: root waits for nobody, reads nothing for her
that she may not read, and what cannot be synced costs her alone."""

import os
import shutil

import pytest

from tests.machine.homes import Home
from tests.machine.hostilehomes import HOMES, LEASED, STANDING, SUBVOLUME
from tests.machine.hostilescene import Scene, sampled, scene
from tests.machine.towns import ADA, VOX
from tests.scale import SCALE

__all__ = ["scene"]
pytestmark = pytest.mark.root
BOTH = ["btrfs", "ext4"]
INSIDE = dict(STANDING)
if SCALE > 1:  # ten seconds
    INSIDE["twenty thousand names"] = HOMES["it holds twenty thousand names"].replace("{at}", "")


def _begun(scene: Scene, via: str = "both") -> None:
    scene.begin(f'[{{ path = "projects", via = "{via}" }}]', store=True)
    scene.ada('open("projects/mine", "w").write("mine")')
    scene.ok("sync")


def _told(scene: Scene) -> list[object]:
    """Everything that the newest state holds of ada."""
    home = Home(scene.town)
    return [part for fact in home.got(home.head).values() for part in fact]


@pytest.mark.parametrize("inside", sampled(INSIDE, 6))
def test_whatever_lies_in_what_is_synced_brings_nothing_of_others(scene: Scene, inside: str) -> None:
    _begun(scene)
    scene.ada(f'import os; os.chdir("projects")\n{INSIDE[inside].replace("{at}", "it")}')
    said = scene.run("sync")
    assert "vox: " in said.out
    scene.run("lost")
    assert not any(isinstance(part, bytes) and scene.outside.tells(part) for part in _told(scene))
    scene.unharmed()


@pytest.mark.parametrize("scene", BOTH, indirect=True)
@pytest.mark.parametrize("via", ["both", "store"])
def test_another_name_of_a_file_that_ada_may_not_read_gives_her_nothing(scene: Scene, via: str) -> None:
    """fs.protected_hardlinks may be 0: then any file of the same filesystem can have a name in the home."""
    _begun(scene, via)
    top = (scene.kept if via == "both" else scene.home) / "projects"
    theirs = top / ".theirs"  # in the same subvolume: there is no hard link from one to another
    scene.outside.add(theirs, VOX)
    os.link(theirs, top / "link")
    scene.run("sync", "ada")
    scene.unbind()
    for path in (scene.home, scene.kept):
        shutil.rmtree(path, ignore_errors=True)
    theirs.unlink(missing_ok=True)
    Home(scene.town).forget()
    scene.run("restore", "--take-over", "ada")
    back = scene.home / "projects/link"
    assert (scene.home / "projects/mine").read_text() == "mine"
    if back.exists():
        found = back.stat()
        assert found.st_uid != ADA or not scene.outside.tells(back.read_bytes()), "ada was given it"
        reads = scene.ada('print(open("projects/link").read())', check=False)
        assert not scene.outside.tells(reads.out), "ada can read it"


@pytest.mark.parametrize("scene", BOTH, indirect=True)
def test_leases_on_every_file_hold_up_nobody(scene: Scene) -> None:
    _begun(scene)
    scene.stays(LEASED.replace("{names}", repr([f"projects/f{number}" for number in range(5)])))
    said = scene.run("sync")
    assert "vox: " in said.out
    scene.run("lost", "ada")
    scene.unharmed()


@pytest.mark.parametrize("at", ["projects/fuse", "other"])
def test_a_filesystem_that_never_answers_is_not_asked(scene: Scene, at: str) -> None:
    _begun(scene)
    scene.fuse(at)
    for verb in ("sync", "lost", "status"):
        said = scene.run(verb, "ada")
        assert said.status in (0, 1, 3, 4)
    scene.unharmed()


def test_a_home_that_ada_set_read_only_is_synced(scene: Scene) -> None:
    _begun(scene, "store")
    scene.ada(SUBVOLUME + 'open("projects/more", "w").write("more"); read_only(".")')
    scene.ok("sync", "ada")
    home = Home(scene.town)
    assert b"/more" in home.got(home.head)


def test_nested_subvolumes_and_read_only_ones_are_synced_with_what_they_hold(scene: Scene) -> None:
    _begun(scene)
    scene.ada(
        SUBVOLUME + 'subvolume("projects", b"s"); subvolume("projects/s", b"t")\n'
        'open("projects/s/t/deep", "w").write("deep"); read_only("projects/s/t"); read_only("projects/s")'
    )
    scene.ok("sync", "ada")
    home = Home(scene.town)
    assert b"/s/t/deep" in home.got(home.head)
    scene.unharmed()


@pytest.mark.parametrize("scene", BOTH, indirect=True)
@pytest.mark.parametrize("via", ["both", "store"])
@pytest.mark.parametrize("uid", [165_536] if SCALE == 1 else [0, VOX, 165_536])
def test_nothing_that_lends_rights_of_others_comes_back_from_the_store(scene: Scene, via: str, uid: int) -> None:
    """A container of ada's makes files of uids that /etc/subuid gives her, with any bits and bytes."""
    _begun(scene, via)
    tool = (scene.kept if via == "both" else scene.home) / "projects/tool"
    tool.write_text("#!/bin/sh\nid\n")
    os.chown(tool, uid, uid)
    tool.chmod(0o6755)
    scene.run("sync", "ada")
    scene.unbind()
    for path in (scene.home, scene.kept):
        shutil.rmtree(path, ignore_errors=True)
    Home(scene.town).forget()
    scene.ok("restore", "ada", "--take-over")
    back = scene.home / "projects/tool"
    assert back.exists()
    found = back.stat()
    assert found.st_uid == ADA or not found.st_mode & 0o6000
