"""`persist adopt`, `release` and `chown` where ada is hostile: nothing outside her places moves, is given away or read
for her, nothing of hers is lost, nobody else's process ends."""

import os
import stat
import subprocess
import time

import pytest

from tests.machine import movers, stores
from tests.machine.hostilehomes import HELD_HOMES, STANDING
from tests.machine.hostilescene import Scene, sampled, scene
from tests.machine.racer import racing
from tests.machine.towns import VOX
from tests.reach import PYTHON
from tests.scale import SCALE
from town import files, mounts
from town.process import Person

__all__ = ["scene"]
pytestmark = pytest.mark.root
NEW = 42_000 + os.getpid() % 900  # nobody's, in no other process of the suite
SECONDS = 1.0 if SCALE == 1 else 5.0
FILL = """
import os
os.makedirs("projects/d/e", exist_ok=True)
for name in ("f", "d/f", "d/e/f"):
    open(f"projects/{name}", "w").write(name * 9)
"""


@pytest.fixture
def own(scene: Scene) -> Scene:
    """The scene with a uid of ada's that no other test uses: what looks at processes, or ends them, meets no other."""
    scene.person = movers.AS_ADA
    return scene


# adopt


@pytest.mark.parametrize("standing", sampled(STANDING, 6))
def test_whatever_stands_at_a_declared_path_is_adopted_whole_or_left(own: Scene, standing: str) -> None:
    own.begin("[]")
    own.ada(STANDING[standing].replace("{at}", "projects"))
    there = os.lstat(own.home / "projects")
    whole = stores.facts(own.home / "projects") if stat.S_ISDIR(there.st_mode) else None
    own.declare('["projects"]')
    for _ in range(2):
        said = own.run("adopt", "ada")
        assert said.status == 0 or "projects" in said.err, said
    if (own.kept / "projects").is_dir() and os.listdir(own.kept / "projects"):
        assert whole is not None
        now = stores.facts(own.kept / "projects")
        assert {path: fact[1:] for path, fact in now.items() if path} == {
            path: fact[1:] for path, fact in whole.items() if path
        }
    else:
        left = os.lstat(own.home / "projects")
        assert stat.S_ISDIR(left.st_mode) or (left.st_ino, left.st_mode) == (there.st_ino, there.st_mode)
    own.vox_is_well()
    own.unharmed()


@pytest.mark.parametrize("where", ["projects/link", "projects"])
def test_adopting_takes_no_name_of_a_file_that_is_not_adas(own: Scene, where: str) -> None:
    """fs.protected_hardlinks may be 0: then any file of the same filesystem can have a name in the home."""
    own.begin("[]")
    own.ada(FILL.replace("projects", "other" if where == "projects" else "projects"))
    theirs = own.home / ".theirs"
    theirs.write_text("theirs")
    os.chown(theirs, VOX, VOX)
    os.link(theirs, own.home / where)
    before = theirs.stat()
    own.declare('["projects"]')
    assert own.run("adopt", "ada").status == 1
    now = theirs.stat()
    assert (now.st_uid, now.st_mode, now.st_nlink, now.st_size) == (VOX, before.st_mode, 2, before.st_size)
    own.unharmed()


RACES = {
    "a file for a link to root's secret": [("f", "link:{roots}/secret")],
    "a directory for a link to another agent's home": [("d", "link:{vox}"), ("d/e", "link:{human}")],
    "a directory for nothing": [("d", "away"), ("d/e", "away")],
    "a file for a FIFO": [("d/f", "fifo")],
}


@pytest.mark.parametrize("race", RACES)
def test_adopting_what_is_swapped_meanwhile_takes_nothing_of_others(own: Scene, race: str) -> None:
    own.begin("[]")
    own.ada(FILL)
    own.declare('["projects"]')
    swaps, until = 0, time.monotonic() + SECONDS
    with own.racing(RACES[race], place=own.home / "projects", catch=["."]) as racer:
        while (time.monotonic() < until or swaps < 300) and own.kept.joinpath("projects").exists() is False:
            before = racer.swaps
            own.run("adopt", "ada")
            swaps += racer.swaps - before
            assert time.monotonic() < until + 20
    assert swaps > 100
    own.ok("adopt", "ada")
    mount = mounts.at(own.home / "projects")
    assert mount is not None
    assert {b"f", b"d"} <= set(_names(own))
    own.unharmed()


def _names(scene: Scene) -> list[bytes]:
    with files.opened(files.open_dir(scene.home / "projects")) as fd:
        return files.names(fd)


# release


@pytest.mark.parametrize("held", HELD_HOMES)
def test_a_release_goes_only_with_stop_where_ada_holds_on_and_ends_nobody_else(own: Scene, held: str) -> None:
    own.begin('["projects", "work/deep"]')
    others = _process(VOX)
    try:
        own.stays(HELD_HOMES[held].replace("{at}", "projects"))
        assert own.run("release", "ada").status == 1
        assert mounts.at(own.home / "projects") is not None
        own.ok("release", "ada", "--stop")
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()
    assert mounts.below(own.home) == []
    own.vox_is_well()
    own.unharmed()


def _process(uid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([PYTHON, "-c", "import time; time.sleep(60)"], user=uid, group=uid, extra_groups=[])


def test_a_release_ends_a_racer_and_takes_its_binds_wherever_it_moved_them(own: Scene) -> None:
    own.begin('["projects", "work/deep/place"]')
    moves = [("work", "away"), ("work/deep", "maze:place:{vox}"), ("link", "link:{shared}")]
    with own.racing(moves) as racer:
        assert own.run("release", "ada").status == 1
        assert racer.swaps > 1
        own.ok("release", "ada", "--stop")
        assert racer.process.wait(5) < 0
    assert mounts.below(own.home) == []
    own.vox_is_well()
    own.unharmed()


# chown


def _renumbered(scene: Scene) -> None:
    file = scene.town.file
    file.write_text(file.read_text().replace(f"uid = {scene.person.uid}", f"uid = {NEW}"))


@pytest.fixture
def old(own: Scene) -> Scene:
    """Ada lived here under an earlier uid, with data; canaries around her."""
    own.begin('["projects"]')
    own.ada(FILL)
    return own


@pytest.mark.parametrize("standing", sampled(STANDING, 6))
def test_whatever_ada_left_is_given_to_her_alone(old: Scene, standing: str) -> None:
    old.ada(STANDING[standing].replace("{at}", "here"))
    old.ada(STANDING[standing].replace("{at}", "projects/here"), check="subvolume" not in standing)
    _renumbered(old)
    said = old.run("chown", "ada")
    assert said.status == 0 or "read-only" in standing, said
    for top in (old.home, old.kept / "projects"):
        with files.opened(files.open_dir(top)) as fd:
            for name in files.names(fd):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                assert found.st_uid == NEW or "read-only" in standing
                assert not (stat.S_ISREG(found.st_mode) and found.st_mode & 0o6000)
    old.unharmed()


def test_names_of_files_of_others_are_given_to_nobody(old: Scene) -> None:
    theirs, roots = old.home / ".theirs", old.kept / "roots"
    for path, uid in ((theirs, VOX), (roots, 0)):
        path.write_text("theirs")
        os.chown(path, uid, uid)
        path.chmod(0o4755)
    os.link(theirs, old.home / "mine")
    os.link(roots, old.kept / "projects/mine")
    _renumbered(old)
    old.run("chown", "ada")
    for path, uid in ((theirs, VOX), (roots, 0)):
        found = path.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode), found.st_nlink) == (uid, 0o4755, 2)
    old.unharmed()


@pytest.mark.parametrize("race", ["a directory for a link to another agent's home", "a directory for nothing"])
def test_what_the_new_uid_swaps_meanwhile_gives_it_nothing_of_others(old: Scene, race: str) -> None:
    """Processes of the new uid run already, and may write where the old one let everybody in."""
    old.ada('import os; [os.chmod(p, 0o777) for p in (".", "projects", "projects/d", "projects/d/e")]')
    outside = old.outside
    names = {"shared": outside.shared, "roots": outside.roots, "human": outside.human, "vox": old.town.agents / "vox"}
    moves = [(name, kind.format(**names)) for name, kind in RACES[race]]
    _renumbered(old)
    swaps, until = 0, time.monotonic() + SECONDS
    with racing(Person(NEW, NEW), old.home / "projects", moves) as racer:
        while time.monotonic() < until or swaps < 300:
            before = racer.swaps
            old.run("chown", "--from", str(old.person.uid), "ada")
            swaps += racer.swaps - before
            assert time.monotonic() < until + 20
    old.ok("chown", "--from", str(old.person.uid), "ada")
    assert swaps > 100
    old.unharmed()
