"""`persist diff`, on real btrfs: exact against a full walk, whatever was done in between."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo import loopback
from persist import leftovers, momentary
from persist.difference import extents
from persist.difference.pairs import Pairs
from persist.sync import contents
from tests.machine.shapes import Shape, raw, verify, walked
from tests.machine.stores import with_store
from tests.machine.towns import AS_ADA, Town, as_agent, town, undo
from tests.scale import SEED, times
from town import btrfs, files, kernel, process, standing

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def lived(town: Town) -> Town:
    """A town whose ada has a home, and keeps nothing outside of it."""
    town.write("[]")
    assert town.persist("restore").status == 0
    return town


def told(town: Town, *words: str) -> dict[str, Any]:
    """What the command says as JSON."""
    said = town.persist("diff", *words, "--json")
    assert said.status == 0, said
    found: dict[str, Any] = json.loads(said.out)
    return found


def lines(town: Town, *words: str) -> list[str]:
    said = town.persist("diff", *words)
    assert said.status == 0, said
    return said.out.splitlines()


def short(changes: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    return [(change["change"], raw(change["path"])) for change in changes]


def keep(town: Town, name: str) -> None:
    said = town.persist("snapshot", "ada", "--name", name)
    assert said.status == 0, said


@contextmanager
def shelf(town: Town) -> Iterator[Path]:
    """@agents-snapshots/ada, and all else at the top level, at a path."""
    top = town.base / "top"
    top.mkdir(exist_ok=True)
    kernel.mount(town.device, str(top), "btrfs", 0, "subvolid=5")
    try:
        yield top
    finally:
        kernel.umount(str(top))


@pytest.mark.parametrize("round_", range(times(12)))
def test_between_snapshots_of_one_home_it_is_exact_against_a_full_walk(lived: Town, round_: int) -> None:
    home = Shape(lived.agents / "ada", SEED * 1000 + round_)
    home.grow(60)
    keep(lived, "one")
    home.live(home.random.choice([1, 3, 40]))
    keep(lived, "two")
    home.live(10)
    keep(lived, "three")
    with shelf(lived) as top:
        names = ("one", "two", "three")
        there = {name: walked(top / f"@agents-snapshots/ada/{name}/home") for name in names}
    for one, other in (("one", "two"), ("two", "three"), ("one", "three"), ("three", "one")):
        found = told(lived, f"ada@{one}", f"ada@{other}")
        assert found["notes"] == []
        verify(found["changes"], there[one], there[other], lineage=True)
    found = told(lived, "ada@one")
    verify(found["changes"], there["one"], walked(lived.agents / "ada"), lineage=True)


@pytest.mark.parametrize("round_", range(times(6)))
def test_between_homes_of_two_boots_it_is_exact_too(lived: Town, round_: int) -> None:
    home = Shape(lived.agents / "ada", SEED * 2000 + round_)
    home.grow(60)
    before = walked(lived.agents / "ada")
    lived.boot("20260101T000000Z-boot")
    shutil.copytree(_old(lived), lived.base / "copy", symlinks=True, copy_function=_copied)
    assert lived.persist("restore").status == 0
    for name in os.listdir(lived.base / "copy"):
        shutil.move(lived.base / "copy" / name, lived.agents / "ada" / name)
    Shape(lived.agents / "ada", SEED * 3000 + round_).live(20)
    found = told(lived, "ada@20260101")
    verify(found["changes"], before, walked(lived.agents / "ada"), lineage=False)


def _old(town: Town) -> Path:
    top = town.base / "top"
    top.mkdir(exist_ok=True)
    kernel.mount(town.device, str(top), "btrfs", 0, "subvolid=5")
    return top / "@agents-old/20260101T000000Z-boot/ada"


def _copied(source: str, target: str) -> None:
    if os.path.islink(source) or os.path.isfile(source):
        shutil.copy2(source, target, follow_symlinks=False)
    else:
        os.mkfifo(target)


def write(town: Town, *pairs: str) -> None:
    """Files of ada's: path, content, path, content …"""
    for path, content in zip(pairs[::2], pairs[1::2], strict=True):
        make = f"import os; os.makedirs(os.path.dirname({path!r}) or '.', exist_ok=True)"
        as_agent(AS_ADA, town.agents / "ada", f"{make}; open({path!r}, 'w').write({content!r})")


def test_a_person_reads_what_was_created_changed_removed_and_renamed(lived: Town) -> None:
    home = lived.agents / "ada"
    write(lived, "notes.md", "1", "old/a", "a", "old/b", "b", "gone", "x", "mode", "m")
    keep(lived, "one")
    os.rename(home / "old", home / "new")
    write(lived, "notes.md", "2", "new/c", "c")
    (home / "gone").unlink()
    (home / "mode").chmod(0o755)
    said = lived.persist("diff", "ada@one")
    assert said.out.splitlines() == [
        "removed  gone  1 B", "changed  mode: mode", "renamed  old → new/", "created  new/c  1 B",
        "changed  notes.md: content",
    ]  # fmt: skip
    assert said.err.splitlines()[-1] == "ada@one → ada@now: 2 changed, 1 created, 1 removed, 1 renamed"
    assert lived.persist("diff", "ada@one", "ada@one").err == "ada@one → ada@one: no difference\n"


def test_a_directory_of_many_new_files_is_one_line_and_all_of_them_in_json(lived: Town) -> None:
    keep(lived, "one")
    as_agent(AS_ADA, lived.agents / "ada", "import os; os.makedirs('m/deep'); "
                                           "[open(f'm/deep/{n}', 'w').write('xx') for n in range(500)]")  # fmt: skip
    assert lines(lived, "ada@one") == ["created  m/…  500 files, 1.0 kB"]
    assert len(told(lived, "ada@one")["changes"]) == 502


def test_names_cannot_act_on_the_terminal(lived: Town) -> None:
    keep(lived, "one")
    (lived.agents / "ada" / "a\nremoved  b\x1b]0;x\x07").write_text("x")
    assert lines(lived, "ada@one") == ["created  a\\nremoved  b\\x1b]0;x\\x07  1 B"]


def test_what_a_home_persists_is_compared_where_both_hold_it_and_else_it_is_said(town: Town) -> None:
    assert town.persist("restore").status == 0
    write(town, "projects/a", "1", "note", "1")
    keep(town, "one")
    write(town, "projects/a", "2", "projects/b", "2")
    keep(town, "two")
    for other in ("ada@two", "ada@now"):
        assert lines(town, "ada@one", other) == ["changed  projects/a: content", "created  projects/b  1 B"]
    town.boot("20260101T000000Z-boot")
    assert town.persist("restore").status == 0
    said = town.persist("diff", "ada@20260101")
    assert said.out == "removed  note  1 B\n"
    assert "not compared, as ada@20260101T000000Z-boot does not hold it: projects" in said.err


def test_against_a_state_of_the_store_it_is_exact(town: Town) -> None:
    with_store(town, '["projects", { path = "notes.json", type = "file" }]')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    write(town, "projects/same", "s", "projects/a", "1", "projects/gone/x", "moved", "notes.json", "1", "other", "x")
    (town.agents / "ada/projects/large").write_bytes(os.urandom(3 << 20))
    (town.agents / "ada/projects/holes").write_bytes(b"")
    os.truncate(town.agents / "ada/projects/holes", 1 << 20)
    assert town.persist("sync").status == 0
    first = json.loads(town.persist("log", "ada", "--json").out)["agents"][0]["states"][0]["snapshot"]
    assert lines(town, f"ada@{first}", "ada@now") == []
    write(town, "projects/a", "2", "notes.json", "22")
    os.rename(town.agents / "ada/projects/gone/x", town.agents / "ada/projects/came")
    with (town.agents / "ada/projects/large").open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"!")
    (town.agents / "ada/projects/same").chmod(0o640)
    wanted = [
        "changed  notes.json: content", "changed  projects/a: content", "renamed  projects/gone/x → projects/came",
        "changed  projects/large: content", "changed  projects/same: mode",
    ]  # fmt: skip
    assert lines(town, f"ada@{first}", "ada@now") == wanted
    keep(town, "one")
    assert lines(town, f"ada@store:{first}", "ada@one") == wanted
    assert town.persist("sync").status == 0
    second = json.loads(town.persist("log", "ada", "--json").out)["agents"][0]["states"][0]["snapshot"]
    assert lines(town, f"ada@{first[:8]}", f"ada@{second}") == wanted
    assert lines(town, f"ada@{second}", "ada@now") == []


def test_where_nothing_can_be_compared_it_says_so_and_not_that_nothing_differs(town: Town) -> None:
    with_store(town, '["projects"]')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    write(town, "projects/a", "1")
    assert town.persist("sync").status == 0
    state = json.loads(town.persist("log", "ada", "--json").out)["agents"][0]["states"][0]["snapshot"]
    town.boot("20260101T000000Z-boot")
    assert town.persist("restore").status == 0
    aside = "ada@20260101"  # what was bound is not in it
    for words in ([], ["--json"]):
        said = town.persist("diff", aside, f"ada@{state}", *words)
        assert (said.status, said.out) == (1, "")
        assert "not compared, as" in said.err
        assert "nothing was compared" in said.err
        assert "no difference" not in said.err
    assert lines(town, "ada@now", f"ada@{state}") == []


def test_names_that_say_nothing_are_refused(lived: Town) -> None:
    keep(lived, "one")
    keep(lived, "one.b")
    for words, status, what in (
        (("ada",), 2, "not of the form"),
        (("ada@o",), 1, "beginning of 2 homes"),
        (("ada@nope",), 1, "no home that is kept"),
        (("ada@one", "vox@now"), 2, "different agents"),
        (("ada@one", "ada@store:abc"), 78, "store"),
        (("bob@now", "bob@now"), 2, "no agent"),
    ):
        said = lived.persist("diff", *words)
        assert (said.status, what in said.err) == (status, True), (words, said)


def test_a_hostile_home_is_compared_and_nothing_of_it_stays(lived: Town) -> None:
    home = lived.agents / "ada"
    keep(lived, "one")
    as_agent(AS_ADA, home, "import os\nos.mkfifo('fifo'); os.symlink('/', 'root'); os.mkdir('deep')\n"
                           "os.chdir('deep')\nfor n in range(3000): os.mkdir('d' * 200); os.chdir('d' * 200)\n"
                           "open('bottom', 'w').write('x')")  # fmt: skip
    with files.opened(files.open_dir(home)) as fd, files.opened(btrfs.create(fd, "s")) as inner:
        os.close(btrfs.create(inner, "t"))
    found = told(lived, "ada@one")
    paths = {raw(change["path"]): change for change in found["changes"]}
    assert paths.keys() >= {b"fifo", b"root", b"deep", b"s", b"s/t"}
    assert max(map(len, paths)) <= 4096
    (deep,) = [change for change in found["changes"] if change["change"] == "too deep"]
    assert deep["differences"] > 2900
    keep(lived, "two")
    assert told(lived, "ada@two")["changes"] == []
    with shelf(lived) as top:
        assert os.listdir(top / ".nuketown-sync") == []


def test_a_home_that_its_agent_set_read_only_is_compared(lived: Town) -> None:
    keep(lived, "one")
    write(lived, "a", "1")
    with files.opened(files.open_dir(lived.agents / "ada")) as fd:
        btrfs.set_read_only(fd, True)
    assert lines(lived, "ada@one") == ["created  a  1 B"]


def test_a_recalled_copy_that_a_person_changed_is_compared(lived: Town) -> None:
    write(lived, "a", "1", "b", "1")
    keep(lived, "one")
    look = lived.base / "look"
    said = lived.persist("recall", "ada@one", "--to", str(look))
    assert said.status == 0, said
    (look / "a").write_text("2")  # not written out yet: no commit, no sync
    name = next(home["name"] for home in json.loads(lived.persist("homes", "--json").out)["homes"]
                if home["kind"] == "recalled")  # fmt: skip
    assert "changed  a: content" in lines(lived, "ada@one", name)


def test_ten_changes_among_many_files_cost_what_they_are(lived: Town) -> None:
    """Looked at are the names on the way to what changed, and no other."""
    as_agent(AS_ADA, lived.agents / "ada", "import os\nfor d in range(100):\n  os.mkdir(f'{d}')\n"
                                           "  for n in range(100): open(f'{d}/{n}', 'w').close()")  # fmt: skip
    keep(lived, "one")
    for number in range(10):
        with (lived.agents / f"ada/{number}/7").open("a") as file:
            file.write("x")
    looked: list[int] = []
    run = Pairs.run

    def counted(pairs: Pairs, **words: bool) -> None:
        run(pairs, **words)
        looked.append(pairs.looked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pairs, "run", counted)
        assert len(lines(lived, "ada@one")) == 10
    assert sum(looked) <= 40


def test_without_btrfs_it_walks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    town = Town(tmp_path, "", capsys)
    town.agents.mkdir()
    town.persisted.mkdir()
    kernel.mount("tmpfs", str(town.agents), "tmpfs", 0, "mode=0755")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(standing, "RUN", tmp_path / "run")
            town.write("[]", btrfs_device="")
            assert town.persist("restore").status == 0
            write(town, "a", "1", "b/c", "moved here")
            shutil.rmtree(tmp_path / "run")  # a reboot
            assert town.persist("restore").status == 0
            write(town, "a", "2", "d", "moved here")
            found = json.loads(town.persist("homes", "--json").out)["homes"][0]["name"]
            assert lines(town, found) == ["changed  a: content", "removed  b/", "renamed  b/c → d"]
    finally:
        undo(tmp_path)


def test_what_a_kill_left_goes_with_the_next_sweep_also_with_subvolumes_in_it(lived: Town) -> None:
    with shelf(lived) as top:
        (top / ".nuketown-sync").mkdir(exist_ok=True)
        with files.opened(files.open_dir(top / ".nuketown-sync")) as place:
            with files.opened(btrfs.create(place, "ada@command-0")) as fd:
                os.close(btrfs.create(fd, "nested"))
            home = files.open_dir(lived.agents / "ada")
            with files.opened(home), momentary.frozen(home, "ada", None):  # one that is in use
                swept = list(leftovers.sweep(place, time.time() + 2 * 86400))
                assert swept == [(b"ada@command-0", None)]
            assert files.names(place) == []


def _sparse(town: Town, size: int, *at: int) -> None:
    """A file of that size in ada's projects, with a byte at each of some places."""
    path = town.agents / "ada/projects/sparse"
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(size)
        for place in at:
            file.seek(place)
            file.write(b"!")


def test_a_file_of_exbibytes_of_holes_takes_no_time_against_the_store_or_a_copy(town: Town) -> None:
    """Any agent can make one: what is read of it is its data."""
    with_store(town, '["projects"]')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    _sparse(town, 1 << 62, 0, 1 << 50)
    assert town.persist("sync").status == 0
    first = json.loads(town.persist("log", "ada", "--json").out)["agents"][0]["states"][0]["snapshot"]
    started = time.monotonic()
    assert lines(town, f"ada@{first}", "ada@now") == []
    _sparse(town, 1 << 62, 1 << 55)
    assert lines(town, f"ada@{first}", "ada@now") == ["changed  projects/sparse: content"]
    path = town.agents / "ada/projects/sparse"
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 1 << 55, 1 << 20)  # other holes, and zeros where there was one
        file.seek(1 << 55)
        file.write(bytes(1 << 20))
    assert lines(town, f"ada@{first}", "ada@now") == []
    assert town.persist("sync").status == 0
    second = json.loads(town.persist("log", "ada", "--json").out)["agents"][0]["states"][0]["snapshot"]
    assert lines(town, f"ada@{first}", f"ada@{second}") == []
    assert time.monotonic() - started < 30


def test_a_file_in_more_pieces_than_a_sync_takes_is_compared(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    with_store(town, '["projects"]')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    _sparse(town, 8 << 20, 0, 2 << 20)
    assert town.persist("sync").status == 0
    first = json.loads(town.persist("log", "ada", "--json").out)["agents"][0]["states"][0]["snapshot"]
    _sparse(town, 8 << 20, 4 << 20, 6 << 20)
    monkeypatch.setattr(contents, "MOST_EXTENTS", 3)
    assert lines(town, f"ada@{first}", "ada@now") == ["changed  projects/sparse: content"]


def test_holes_that_a_filesystem_writes_down_are_not_read(tmp_path: Path) -> None:
    """One without the feature NO_HOLES, as mkfs.btrfs made them before 5.15."""
    image, there = tmp_path / "image", tmp_path / "there"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    process.run(["mkfs.btrfs", "--quiet", "--metadata", "single", "--features", "^no-holes", image])
    there.mkdir()
    with loopback.attached(image) as device:
        kernel.mount(device, str(there), "btrfs", 0)
        try:
            for name, places in (("one", (0, 1 << 61)), ("same", (0, 1 << 61)), ("other", (0, 1 << 60))):
                with (there / name).open("wb") as file:
                    file.truncate(1 << 62)
                    for place in places:
                        file.seek(place)
                        file.write(b"!")
                    file.flush()
                    os.fsync(file.fileno())
            fds = [os.open(there / name, os.O_RDONLY) for name in ("one", "same", "other")]
            started = time.monotonic()
            found = [extents.same(fds[0], fd, 1 << 62) for fd in fds[1:]]
            for fd in fds:
                os.close(fd)
            assert found == [True, False]
            assert time.monotonic() - started < 5
        finally:
            kernel.umount(str(there))
