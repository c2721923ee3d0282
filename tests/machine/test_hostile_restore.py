"""`persist restore` where ada has prepared her home, as her own uid: nothing outside it moves, vox comes up, root waits
for nobody, and what she breaks is her own."""

import os
import stat

import pytest

from tests.machine.hostilehomes import HELD_HOMES, HOMES, STANDING, SUBVOLUME
from tests.machine.hostilescene import Scene, sampled, scene
from tests.machine.towns import ADA, VOX
from town import mounts

__all__ = ["scene"]
pytestmark = pytest.mark.root
BOTH = ["btrfs", "ext4"]


def _bound(scene: Scene, path: str) -> bool:
    """Whether something is mounted at that very place in ada's home."""
    return mounts.at(scene.home / path) is not None


def _after(scene: Scene, declared: str, at: str) -> None:
    """A restore of what is declared now, twice: outside all is as it was, and what is shown is ada's and whole."""
    scene.declare(declared)
    for _ in range(2):
        said = scene.run("restore")
        assert "vox: nothing to do" in said.out
        if said.status == 0:
            assert _bound(scene, at)
            assert (scene.home / at).stat().st_uid == ADA
        else:
            assert not _bound(scene, at)
            assert at.split("/", 1)[0] in said.err, said.err
    scene.vox_is_well()


@pytest.mark.parametrize("standing", sampled(STANDING, 9))
def test_whatever_stands_at_a_declared_path_is_neither_followed_nor_hidden(scene: Scene, standing: str) -> None:
    scene.begin("[]")
    scene.ada(STANDING[standing].replace("{at}", "projects"))
    before = os.lstat(scene.home / "projects")
    _after(scene, '["projects"]', "projects")
    if not _bound(scene, "projects"):
        now = os.lstat(scene.home / "projects")
        assert (now.st_ino, now.st_mode, now.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    scene.unharmed()


@pytest.mark.parametrize("scene", BOTH, indirect=True)
@pytest.mark.parametrize("standing", sampled([name for name in STANDING if "subvolume" not in name], 6))
def test_whatever_stands_on_the_way_to_a_declared_path_is_not_followed(scene: Scene, standing: str) -> None:
    scene.begin("[]")
    scene.ada(STANDING[standing].replace("{at}", "work"))
    _after(scene, '["work/deep/place"]', "work/deep/place")
    scene.unharmed()


@pytest.mark.parametrize("odd", HOMES)
def test_a_home_that_is_only_odd_is_restored(scene: Scene, odd: str) -> None:
    scene.begin("[]")
    scene.ada(HOMES[odd])
    scene.declare('["work/deep/place"]')
    scene.ok("restore")
    assert _bound(scene, "work/deep/place")
    for made in ("work", "work/deep"):
        found = os.stat(scene.home / made)
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (ADA, ADA, 0o700)
        assert "system.posix_acl_access" not in os.listxattr(scene.home / made), "others are let in"
    scene.unharmed()


@pytest.mark.parametrize("held", HELD_HOMES)
@pytest.mark.parametrize("scene", BOTH, indirect=True)
def test_a_home_that_ada_holds_on_to_is_restored(scene: Scene, held: str) -> None:
    scene.begin('["notes"]')
    scene.stays(HELD_HOMES[held].replace("{at}", "work"))
    scene.declare('["notes", "work2"]')
    scene.ok("restore")
    assert _bound(scene, "work2")
    scene.unharmed()


@pytest.mark.parametrize("at", [".", "work", "work/deep"])
def test_a_filesystem_that_never_answers_holds_up_nobody(scene: Scene, at: str) -> None:
    scene.begin("[]")
    scene.fuse(at)
    scene.declare('["work/deep/place", "other"]')
    said = scene.run("restore")
    assert said.status == 1
    assert "something else is mounted at" in said.err
    assert "vox: nothing to do" in said.out
    scene.unharmed()


@pytest.mark.parametrize("at", [".", ".nuketown-0123456789ab", "work"])
@pytest.mark.parametrize("scene", BOTH, indirect=True)
def test_a_filesystem_that_never_answers_is_not_asked_by_who_only_looks(scene: Scene, at: str) -> None:
    scene.begin("[]")
    scene.fuse(at)
    scene.declare('[{ path = "work", type = "file" }]')
    for words in (("status",), ("restore", "--dry-run"), ("restore",)):
        said = scene.run(*words)
        assert at.startswith(".nuketown") or "something else is mounted at" in said.out + said.err
    scene.unharmed()


def test_a_filesystem_that_never_answers_in_a_bound_directory_is_not_asked(scene: Scene) -> None:
    scene.begin('["projects"]')
    scene.fuse("projects/deep")
    scene.ok("restore")
    scene.declare('["projects", "projects2"]')
    scene.ok("restore")
    scene.unharmed()


def test_a_home_that_ada_set_read_only_costs_her_alone_and_is_said(scene: Scene) -> None:
    scene.begin("[]")
    scene.ada(SUBVOLUME + 'read_only(".")')
    scene.declare('["projects"]')
    said = scene.run("restore")
    assert said.status == 1
    assert "persist: error: ada: " in said.err
    assert "read-only" in said.err.lower()
    assert "vox: nothing to do" in said.out
    scene.unharmed()
    scene.ada(SUBVOLUME + 'read_only(".", 0)')
    scene.ok("restore")


def test_a_home_that_ada_set_read_only_is_gone_with_the_boot(scene: Scene) -> None:
    scene.begin('["projects"]')
    scene.ada(SUBVOLUME + 'open("projects/kept", "w").write("kept"); open("payload", "w"); read_only(".")')
    scene.reboot()
    scene.ok("restore")
    assert os.listdir(scene.home) == ["projects"]
    assert (scene.home / "projects/kept").read_text() == "kept"


def test_modes_of_a_bound_directory_are_adas_and_harm_nobody(scene: Scene) -> None:
    scene.begin('["projects"]')
    scene.ada(
        'import os; os.chmod("projects", 0o7777); os.close(os.open("projects/tool", os.O_CREAT, 0o700)); '
        'os.chmod("projects/tool", 0o6777)'
    )
    scene.reboot()
    scene.ok("restore")
    mount = mounts.at(scene.home / "projects")
    assert mount is not None
    assert {"nosuid", "nodev"} <= mount.options


def test_what_was_exchanged_under_persist_dir_by_ada_is_only_what_is_hers(scene: Scene) -> None:
    scene.begin('["work/place"]')
    for act in ("os.rename(path, path + '2')", "os.symlink(vox, path + '/../other')", "os.rmdir(path)"):
        for path in (scene.kept, scene.kept / "work", scene.kept / "work/place", scene.kept.parent):
            done = scene.ada(f"import os; path = {str(path)!r}\n{act}", check=False)
            assert done.status != 0, (act, path)
    scene.ok("restore")
    scene.unharmed()


@pytest.mark.parametrize("name", ["notes", "open"])
def test_a_name_that_is_also_anothers_file_stays_theirs(scene: Scene, name: str) -> None:
    """A hard link into the home: what fs.protected_hardlinks does not keep ada from, or does not where it is 0."""
    scene.begin('["projects"]')
    theirs = scene.outside.roots.parent / "agents/ada/.theirs"
    theirs.write_text("theirs")
    os.chown(theirs, VOX, VOX)
    os.link(theirs, scene.home / name)
    before = theirs.stat()
    scene.declare(f'["projects", "{name}"]')
    assert scene.run("restore").status == 1
    now = theirs.stat()
    assert (now.st_uid, now.st_mode, now.st_nlink) == (before.st_uid, before.st_mode, 2)
