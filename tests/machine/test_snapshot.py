"""`persist snapshot`: an agent's home and what it persists, kept on purpose, in one moment, on real btrfs."""

import errno
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo import loopback
from persist import cli, kept, shelves
from tests.machine import killing, olds, towns
from tests.machine.stores import with_store
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from tests.reach import PYTHON
from tests.scale import SEED, times
from town import btrfs, files, kernel, moment, process, subvolumes

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def lived(town: Town) -> Town:
    """Ada wrote into her home, and into her projects, which lie outside of it."""
    assert town.persist("restore").status == 0
    as_agent(AS_ADA, town.agents / "ada", "open('note', 'w').write('1'); open('projects/work', 'w').write('1')")
    return town


def top_of(town: Town) -> Path:
    """The top level, mounted for the test."""
    top = town.base / "top"
    if not top.exists():
        top.mkdir()
        kernel.mount(town.device, str(top), "btrfs", 0, "subvolid=5")
    return top


def shelf(town: Town) -> Path:
    """Where ada's snapshots lie."""
    return top_of(town) / "@agents-snapshots/ada"


def taken(town: Town, name: str, *words: str) -> Path:
    """A snapshot that must succeed: where it lies."""
    said = town.persist("snapshot", "ada", "--name", name, *words)
    assert (said.status, said.out) == (0, f"ada@{name}\n"), said
    return shelf(town) / name


def tree(path: Path) -> list[tuple[str, int, int, int, int]]:
    """Names, modes, owners, sizes and times of all below a directory, but for those of itself."""
    found = []
    for above, directories, names in os.walk(path):
        for name in (*directories, *names):
            entry = os.lstat(os.path.join(above, name))
            size = 0 if name in directories else entry.st_size
            relative = os.path.relpath(os.path.join(above, name), path)
            found.append((relative, entry.st_mode, entry.st_uid, size, entry.st_mtime_ns))
    return sorted(found)


def test_a_snapshot_holds_the_home_and_what_it_persists_and_stays_as_it_was(lived: Town) -> None:
    home, projects = tree(lived.agents / "ada"), tree(lived.agents / "ada/projects")
    one = taken(lived, "one")
    as_agent(AS_ADA, lived.agents / "ada", "open('note', 'w').write('2'); open('projects/work', 'w').write('2')")
    assert (one / "home/note").read_text() == "1"
    assert (one / "persisted/projects/work").read_text() == "1"
    assert [entry for entry in tree(one / "home") if entry[0] != "projects"] == [
        entry for entry in home if not entry[0].startswith("projects")
    ]
    assert tree(one / "persisted/projects") == projects
    assert ((one / "home").stat().st_uid, (one / "home").stat().st_mode & 0o777) == (ADA, 0o700)


def test_nobody_can_write_to_a_snapshot_and_only_root_reaches_it(lived: Town) -> None:
    as_agent(AS_ADA, lived.agents / "ada", "import subprocess; subprocess.run(['btrfs', 'subvolume', 'create', 'sub'])")
    one = taken(lived, "one")
    for name in ("home", "home/sub", "persisted"):
        with pytest.raises(OSError, match="Read-only") as refused:
            (one / name / "x").write_text("x")
        assert refused.value.errno == errno.EROFS
    for path in (one, one.parent, one.parent.parent):
        assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (0, 0o700)


def test_it_is_said_that_all_of_it_is_of_one_moment(lived: Town) -> None:
    said = lived.persist("snapshot", "ada", "-m", "why")
    assert re.fullmatch(
        r"kept: the home and 1 persisted directory, as of transaction \d+ of the filesystem: one point in time\n",
        said.err,
    )
    told = json.loads(lived.persist("snapshot", "ada", "-m", "why", "--name", "two", "--json").out)
    assert (told["name"], told["message"], told["one_moment"], told["persisted"], told["notes"]) == (
        "ada@two", "why", True, ["projects"], [],
    )  # fmt: skip
    assert told["transids"]["home"] == told["transids"]["persisted"]


def test_home_and_persisted_directories_are_of_one_moment_while_the_agent_writes_to_both(lived: Town) -> None:
    """Ada makes `projects/N`, then `N` in her home, then N + 1: the one is as far as the other, or one on."""
    program = (
        "import os, time\nos.mkdir('seen'); n = 0\n"
        "while True:\n"
        "    n += 1; os.mkdir(f'projects/{n}'); os.mkdir(f'seen/{n}')\n"
        "    if n > 50: os.rmdir(f'seen/{n - 50}'); os.rmdir(f'projects/{n - 50}'); time.sleep(0.0002)\n"
    )
    writing = subprocess.Popen([PYTHON, "-c", program], cwd=lived.agents / "ada", user=ADA, group=ADA)
    try:
        while not (lived.agents / "ada/seen/100").exists():
            time.sleep(0.01)
        for number in range(times(8)):
            one = taken(lived, f"s{number}")
            outside = max(int(name) for name in os.listdir(one / "persisted/projects") if name.isdigit())
            inside = max(map(int, os.listdir(one / "home/seen")))
            assert inside <= outside <= inside + 1, number
        assert writing.poll() is None
    finally:
        writing.kill()
        writing.wait()


def test_snapshots_asked_for_together_are_of_one_transaction(btrfs_top: int) -> None:
    sources, places = list[int](), list[int]()
    for number in range(moment.MOST):
        sources.append(btrfs.create(btrfs_top, f"s{number}"))
        os.mkdir(f"d{number}", dir_fd=btrfs_top)
        places.append(files.enter(btrfs_top, f"d{number}"))
    for count in (1, 2, 5, moment.MOST):
        wanted = [moment.Wanted(sources[n], places[n], f"of{count}", n % 2 == 0) for n in range(count)]
        assert len(set(moment.taken(wanted))) == 1
    with pytest.raises(btrfs.BtrfsFailed, match="File exists"):
        moment.taken([moment.Wanted(sources[n], places[n], "of1" if n == 0 else "new", False) for n in range(3)])
    assert b"new" not in files.names(places[1])
    assert b"of1" in files.names(places[0])
    for fd in (*sources, *places):
        os.close(fd)


def test_what_the_store_alone_keeps_lies_in_the_home_and_is_in_the_snapshot(town: Town) -> None:
    with_store(town, '[{ path = "work", via = "store" }]')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    as_agent(AS_ADA, town.agents / "ada", "open('work/x', 'w').write('1')")
    assert towns.is_subvolume(town.agents / "ada/work")
    one = taken(town, "one")
    assert (one / "home/work/x").read_text() == "1"
    assert kept_one(town, "one").about.notes == ()


def kept_one(town: Town, name: str) -> kept.Kept:
    with shelves.opened(town.spec) as where:
        return kept.chosen(kept.every(town.spec, where.top, where.agents), f"ada@{name}")


def test_nested_subvolumes_are_in_it_read_only_hidden_or_not(lived: Town) -> None:
    as_agent(
        AS_ADA,
        lived.agents / "ada",
        "import os, subprocess\n"
        "def make(*p): subprocess.run(['btrfs', 'subvolume', 'create', '/'.join(p)], check=True)\n"
        "make('a'); make('a', 'b'); make('a', 'b', 'c'); open('a/b/c/x', 'w').write('deep')\n"
        "subprocess.run(['btrfs', 'property', 'set', '-t', 'subvol', 'a/b', 'ro', 'true'], check=True)\n"
        "make('projects', 'n'); open('projects/n/x', 'w').write('outside')\n",
    )
    with (
        files.opened(files.open_dir(lived.agents / "ada")) as home,
        files.opened(olds.deep(home, 60, "d" * 200)) as fd,
        files.opened(btrfs.create(fd, "hidden")) as hidden,
    ):
        files.write_beneath(hidden, "x", b"found")
    said = lived.persist("snapshot", "ada", "--name", "one")
    assert "one point in time" in said.err
    one = shelf(lived) / "one"
    assert (one / "home/a/b/c/x").read_text() == "deep"
    assert (one / "persisted/projects/n/x").read_text() == "outside"
    with files.opened(files.open_dir(one / "home")) as home:
        assert len(btrfs.nested(home)) == 2
        hidden = next(nested.id for nested in btrfs.nested(home) if nested.above is None)
        with files.opened(subvolumes.opened_root(home, hidden)) as fd:
            assert files.names(fd) == [b"x"]
            assert btrfs.info(fd).read_only
    assert lived.persist("homes", "--delete", "ada@one").status == 0
    with files.opened(files.open_dir(top_of(lived))) as top:
        assert [nested.path for nested in btrfs.nested(top) if nested.path.startswith(b"@agents-snap")] == []


def test_more_subvolumes_than_are_taken_at_once_are_a_moment_later_and_that_is_said(
    lived: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    with files.opened(files.open_dir(lived.agents / "ada")) as home:
        for number in range(30):
            with files.opened(btrfs.create(home, f"n{number}")) as fd:
                files.write_beneath(fd, "x", b"x")
    later = 30 - (moment.MOST - 2)
    said = lived.persist("snapshot", "ada", "--name", "one")
    assert said.err.startswith("kept: the home and 1 persisted directory\n")
    assert f"{later} nested subvolumes in it: each a moment later than the rest" in said.err
    assert all((shelf(lived) / f"one/home/n{number}/x").exists() for number in range(30))
    monkeypatch.setattr("persist.nested.MOST", 3)
    said = lived.persist("snapshot", "ada", "--name", "two")
    assert f"{later - 3} nested subvolumes, with what lies in them, are not in it" in said.err
    assert sum((shelf(lived) / f"two/home/n{number}/x").exists() for number in range(30)) == 33 - later


def test_a_home_that_its_agent_set_read_only_or_filled_with_oddities_is_kept(lived: Town) -> None:
    as_agent(
        AS_ADA,
        lived.agents / "ada",
        "import os, socket\nos.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('sock'); os.symlink('/etc', 'link')\n"
        "open(b'\\xff\\n\\x1b[2J', 'w'); open('x' * 255, 'w'); os.mkdir('closed', 0)\n",
    )
    with files.opened(files.open_dir(lived.agents / "ada")) as home:
        os.close(olds.deep(home, 10_000))
        btrfs.set_read_only(home, True)
    one = taken(lived, "one")
    assert set(os.listdir(os.fsencode(one / "home"))) == {
        b"pipe", b"sock", b"link", b"\xff\n\x1b[2J", b"x" * 255, b"closed", b"d", b"note", b"projects",
    }  # fmt: skip
    assert lived.persist("homes", "--delete", "ada@one").status == 0


def test_what_is_mounted_in_the_home_is_asked_nothing(lived: Town) -> None:
    place = lived.agents / "ada/mount"
    place.mkdir()
    kernel.mount("tmpfs", str(place), "tmpfs", 0)
    (place / "secret").write_text("of another filesystem")
    one = taken(lived, "one")
    assert os.listdir(one / "home/mount") == []


def test_names_are_the_time_or_what_was_said(lived: Town) -> None:
    names = [lived.persist("snapshot", "ada").out.strip() for _ in range(2)]
    assert all(re.fullmatch(r"ada@\d{8}T\d{6}Z(\.\d+)?", name) for name in names)
    assert len(set(names)) == 2
    taken(lived, "one")
    for words in ((), ("--dry-run",)):
        said = lived.persist("snapshot", "ada", "--name", "one", *words)
        assert (said.status, said.out) == (1, "")
        assert "there already" in said.err or "already" in said.err
    assert len(os.listdir(shelf(lived))) == 3


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "a@b", "now", "a b", "a\nb", "é", "x" * 101, "-x", "20261120T080000Z-1111"]
)
def test_a_name_that_no_home_can_have_is_refused(lived: Town, name: str) -> None:
    said = lived.persist("snapshot", "ada", f"--name={name}")
    assert (said.status, said.out) == (2, "")
    assert not (top_of(lived) / "@agents-snapshots").exists()


def test_a_dry_run_says_what_would_be_kept_and_keeps_nothing(lived: Town) -> None:
    before = towns.facts(lived.base), len(os.listdir(top_of(lived)))
    said = lived.persist("snapshot", "ada", "--name", "one", "--dry-run")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines() == [
        f"snapshot  {lived.agents}/ada -> ada@one, read-only",
        f"snapshot  {lived.persisted}/agents/ada/projects, in the same moment",
    ]
    assert json.loads(lived.persist("snapshot", "ada", "--name", "one", "--dry-run", "--json").out)["dry_run"]
    assert (towns.facts(lived.base)[: len(before[0])], len(os.listdir(top_of(lived)))) != ([], before[1] + 1)
    assert not (top_of(lived) / "@agents-snapshots").exists()


def test_what_cannot_be_kept_is_said_and_leaves_nothing(town: Town) -> None:
    said = town.persist("snapshot", "ada")
    assert (said.status, said.out) == (1, "")
    assert "ada has no home now" in said.err
    assert town.persist("snapshot", "nobody").status == 2
    assert town.persist("snapshot", "ada", "-m", "x" * 1001).status == 2
    town.write("[]", btrfs_device="")
    assert town.persist("snapshot", "ada").status == 78


def test_persisted_directories_that_are_no_subvolume_are_copied_from_the_same_moment(town: Town) -> None:
    (town.persisted / "agents/ada").mkdir(parents=True, mode=0o711)
    (town.persisted / "agents/ada").chmod(0o711)
    (town.persisted / "agents").chmod(0o711)
    assert town.persist("restore").status == 0
    as_agent(AS_ADA, town.agents / "ada", "import os; open('projects/work', 'w').write('1'); os.mkfifo('projects/p')")
    said = town.persist("snapshot", "ada", "--name", "one")
    assert "one point in time" in said.err, said
    one = shelf(town) / "one"
    assert (one / "persisted/projects/work").read_text() == "1"
    assert tree(one / "persisted/projects") == tree(town.persisted / "agents/ada/projects")
    assert sorted(os.listdir(one)) == ["about.json", "home", "persisted"]
    assert town.persist("homes", "--delete", "ada@one").status == 0


def test_a_home_that_is_no_subvolume_is_kept_as_one(town: Town) -> None:
    home = town.agents / "ada"
    home.mkdir(mode=0o700)
    os.chown(home, ADA, ADA)
    (home / "x").write_text("plain")
    os.chown(home / "x", ADA, ADA)
    town.write("[]")
    one = taken(town, "one")
    assert (one / "home/x").read_text() == "plain"
    assert towns.is_subvolume(one / "home")
    assert tree(one / "home") == tree(home)


@contextmanager
def another(town: Town, kind: str) -> Iterator[None]:
    """persist_dir on a filesystem of its own."""
    image = town.base.parent / "other.img"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    process.run([f"mkfs.{kind}", "-q", image])
    with loopback.attached(image) as device:
        kernel.mount(device, str(town.persisted), kind, 0)
        try:
            yield
        finally:
            towns.undo(town.agents / "ada")
            kernel.umount(str(town.persisted), kernel.MNT_DETACH)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_persisted_directories_on_another_filesystem_are_a_moment_later_and_that_is_said(town: Town, kind: str) -> None:
    with another(town, kind):
        assert town.persist("restore").status == 0
        as_agent(AS_ADA, town.agents / "ada", "open('projects/work', 'w').write('1'); open('note', 'w').write('1')")
        said = town.persist("snapshot", "ada", "--name", "one", "--dry-run")
        assert ", in the same moment" not in said.out
        said = town.persist("snapshot", "ada", "--name", "one")
        assert said.status == 0, said
        assert "one point in time" not in said.err
        assert ("theirs is a moment later" if kind == "btrfs" else "copied file by file") in said.err
        with shelves.opened(town.spec) as where:
            found = kept.chosen(kept.every(town.spec, *where), "ada@one")
            with kept.opened(town.spec, where.top, found, where.agents) as home:
                assert b"note" in files.names(home.fd)
                (projects,) = home.persisted.values()
                with files.opened(files.open_beneath(projects, "work", os.O_RDONLY)) as work:
                    assert os.read(work, 9) == b"1"
        assert town.persist("homes", "--sizes").status == 0
        assert town.persist("homes", "--delete", "ada@one").status == 0
        assert os.listdir(shelf(town)) == []


def test_the_directories_of_a_snapshot_are_opened_by_what_was_declared_then(lived: Town) -> None:
    taken(lived, "one")
    lived.write("[]")
    with shelves.opened(lived.spec) as where:
        found = kept.chosen(kept.every(lived.spec, *where), "ada@on")
        with kept.opened(lived.spec, where.top, found, where.agents) as home:
            assert [str(path) for path in home.persisted] == ["projects"]
            assert all(files.names(fd) == [b"work"] for fd in home.persisted.values())


def test_a_snapshot_killed_anywhere_is_all_there_or_not_at_all_and_the_next_takes_what_is_left(lived: Town) -> None:
    as_agent(AS_ADA, lived.agents / "ada", "import subprocess; subprocess.run(['btrfs', 'subvolume', 'create', 'sub'])")
    chance, names, killed = random.Random(SEED), itertools_names(), 0
    words = ["--spec", str(lived.file), "snapshot", "ada", "--name"]

    def run(name: str) -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return cli.main([*words, name])

    moments = killing.count(lambda: run("count"))
    for _ in range(times(25)):
        name = next(names)
        killed += killing.tried(lambda name=name: run(name), chance.randrange(moments))  # type: ignore[misc]
        for there in (path for path in shelf(lived).iterdir() if not path.name.startswith(".")):
            assert (there / "home/note").read_text() == "1"
            assert (there / "persisted/projects/work").read_text() == "1"
            assert (there / "home/sub").stat().st_ino == btrfs.FIRST_INODE
            assert kept_one(lived, there.name).about.paths
        told = lived.persist("homes", "--json", "ada").out
        assert {home["name"] for home in json.loads(told)["homes"]} == {
            f"ada@{path.name}" for path in shelf(lived).iterdir() if not path.name.startswith(".")
        }
    assert killed > times(25) // 2
    taken(lived, "last")
    assert [path.name for path in shelf(lived).iterdir() if path.name.startswith(".")] == []
    assert (lived.agents / "ada/note").read_text() == "1"


def itertools_names() -> Iterator[str]:
    return (f"k{number}" for number in range(sys.maxsize))


def test_a_delete_killed_anywhere_leaves_a_whole_home_or_none_and_the_next_command_goes_on(lived: Town) -> None:
    as_agent(AS_ADA, lived.agents / "ada", "import subprocess; subprocess.run(['btrfs', 'subvolume', 'create', 'sub'])")
    chance = random.Random(SEED)

    def run() -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return cli.main(["--spec", str(lived.file), "homes", "--delete", "ada@one"])

    taken(lived, "one")
    moments = killing.count(run)
    for _ in range(times(15)):
        if not (shelf(lived) / "one").exists():
            taken(lived, "one")
        killing.tried(run, chance.randrange(moments))
        if (one := shelf(lived) / "one").exists():
            assert (one / "home/note").read_text() == "1"
            assert (one / "persisted/projects/work").read_text() == "1"
        else:
            assert lived.persist("homes", "ada").out == ""
    if not (shelf(lived) / "one").exists():
        taken(lived, "one")
    assert run_here(lived, "ada@one") == []


def run_here(town: Town, name: str) -> list[str]:
    assert town.persist("homes", "--delete", name).status == 0
    return os.listdir(shelf(town))


@pytest.mark.parametrize("kind", ["data", "metadata"])
def test_on_a_full_disk_a_snapshot_is_whole_or_refused_with_the_cure(lived: Town, kind: str) -> None:
    taken(lived, "before")
    with files.opened(files.open_dir(lived.agents)) as agents:
        with files.opened(btrfs.create(agents, "fill")) as fd:
            olds.fill_metadata(fd, 60 << 20)
            olds.fill_data(agents)
            if kind == "metadata":
                olds.fill_metadata(fd)
        if kind == "data":
            btrfs.delete(agents, "fill")
            olds.wait_freed(agents)
    said = lived.persist("snapshot", "ada", "--name", "full")
    there = [path.name for path in shelf(lived).iterdir()]
    if kind == "data":  # there is room for metadata: all of it works
        assert said.status == 0, said
        assert sorted(there) == ["before", "full"]
        assert (shelf(lived) / "full/home/note").read_text() == "1"
        assert [str(path) for path in kept_one(lived, "full").about.paths] == ["projects"]
    else:
        assert "No space left on device; nothing was kept" in said.err
        assert "shows what takes room" in said.err
        assert there == ["before"]
    assert lived.persist("homes").status == 0
    assert lived.persist("homes", "--delete", "ada@before").status == 0
    assert not (shelf(lived) / "before").exists()
    assert (lived.agents / "ada/note").read_text() == "1"
