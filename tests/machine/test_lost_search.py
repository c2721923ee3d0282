"""`persist lost` on btrfs: the filesystem's own word, held against a walk; `--since`, `--tree`."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from persist import searched, since, transactions
from persist.walk import Entry, walk
from tests.machine import stores, towns
from tests.machine.towns import AS_ADA, Town, as_agent, town
from tests.scale import SEED, times
from town import btrfs, files, kernel, process, standing, subvolumes

__all__ = ["town"]
pytestmark = pytest.mark.root
NEW = 50
SECOND = 10**9
Facts = set[tuple[bytes, str, int]]


@pytest.fixture
def home(town: Town) -> Path:
    town.write('["projects"]')
    town.persist("restore")
    return town.agents / "ada"


def by_search(home: Path, transid: int = 0) -> Facts:
    with files.opened(files.open_dir(home)) as fd:
        assert searched.ready(fd)
        return facts(searched.search(fd, lambda _above, _name: True, searched.mounted(fd), since=transid))


def by_walk(home: Path) -> Facts:
    with files.opened(files.open_dir(home)) as fd:
        return facts(walk(fd, lambda _above, _name: True))


def facts(events: Any) -> Facts:
    found = [event for event in events if isinstance(event, Entry)]
    return {(entry.directory.path(entry.name), entry.kind, entry.bytes) for entry in found}


def paths(found: Facts) -> set[bytes]:
    return {path for path, *_ in found}


def kept(home: Path, name: str) -> int:
    """A read-only snapshot beside the home; the transaction that it is of."""
    with (
        files.opened(files.open_dir(home)) as fd,
        files.opened(files.open_dir(home.parent)) as above,
        files.opened(btrfs.snapshot(fd, above, name, read_only=True)) as made,
    ):
        return btrfs.info(made).origin_generation


def edit(home: Path, random: Random) -> None:
    """One thing that an agent does."""
    directories = [Path(above) for above, _, _ in os.walk(home) if not above.startswith(f"{home}/projects")]
    every = [path for above in directories for path in above.iterdir() if path.is_file() and not path.is_symlink()]
    place, name = random.choice(directories), f"n{random.randrange(10**6)}"
    match random.randrange(9):
        case 0 | 1:
            (place / name).write_bytes(bytes(random.choice([0, 10, 5000, 100_000])))
        case 2:
            (place / name).mkdir()
        case 3:
            (place / name).symlink_to("/etc/passwd")
        case 4 if every:
            os.link(random.choice(every), place / name) if not is_other(place, every[0]) else None
        case 5 if every:
            random.choice(every).unlink()
        case 6 if every:
            with random.choice(every).open("ab") as file:
                file.write(bytes(777))
        case 7:
            moved = random.choice(directories)
            if (
                moved not in (home, home / "projects")
                and not place.is_relative_to(moved)
                and not is_other(moved, place)
            ):
                moved.rename(place / name)
        case 8:
            with files.opened(files.open_dir(place)) as fd:
                os.close(btrfs.create(fd, name))


def is_other(one: Path, another: Path) -> bool:
    return one.lstat().st_dev != another.lstat().st_dev


def same_links(found: Facts) -> set[tuple[bytes, str]]:
    """Without sizes: of a file with several names either way counts one, not the same one."""
    return {(path, kind) for path, kind, _ in found}


@pytest.mark.parametrize("round_", range(times(6)))
def test_a_search_finds_what_a_walk_finds(home: Path, round_: int) -> None:
    random = Random(f"{SEED}-{round_}")
    for _ in range(120):
        with contextlib.suppress(OSError):  # a link or a rename over the border of a subvolume
            edit(home, random)
    found, walked = by_search(home), by_walk(home)
    assert same_links(found) == same_links(walked)
    assert sum(size for *_, size in found) == sum(size for *_, size in walked)


@pytest.mark.parametrize("round_", range(times(6)))
def test_since_a_snapshot_it_finds_exactly_what_changed(home: Path, round_: int) -> None:
    random = Random(f"since-{SEED}-{round_}")
    for _ in range(80):
        place = home / random.choice("abcd")
        place.mkdir(exist_ok=True)
        (place / f"f{random.randrange(1000)}").write_bytes(bytes(random.randrange(3000)))
    transid = kept(home, "kept")
    before = {path: path.lstat().st_ctime_ns for path in home.rglob("*") if stat.S_ISREG(path.lstat().st_mode)}
    time.sleep(0.02)  # the kernel's clock for files goes in steps
    for path in random.sample(sorted(before), 5):
        path.write_bytes(b"changed") if random.random() < 0.5 else path.chmod(0o640)
    (home / "a/new").write_bytes(bytes(9))
    (home / "a/link").symlink_to("x")
    (home / "b").rename(home / "c/b")
    changed = {path for path in home.rglob("*") if not path.is_dir() or path.is_symlink()}
    changed = {path for path in changed if before.get(_before(home, path)) != path.lstat().st_ctime_ns}
    assert paths(by_search(home, transid)) == {bytes(path.relative_to(home)) for path in changed}


def _before(home: Path, path: Path) -> Path:
    return home / "b" / path.name if path.parent == home / "c/b" else path


def test_what_was_written_this_moment_has_its_size(home: Path) -> None:
    (home / "growing").write_bytes(bytes(3_000_000))
    assert (b"growing", "file", 3_000_000) in by_search(home)
    with (home / "growing").open("ab") as file:
        file.write(bytes(1000))
    assert (b"growing", "file", 3_001_000) in by_search(home)


def test_fifty_new_files_among_many_take_less_than_fifty_milliseconds(home: Path) -> None:
    for number in range(500):
        (home / f"d{number}").mkdir()
        for name in range(40):
            (home / f"d{number}/{name}").write_bytes(b"x" * name)
    transid = kept(home, "kept")
    for number in range(NEW):
        (home / f"d{number * 7}/new").write_bytes(bytes(100))
    with files.opened(files.open_dir(home)) as fd:
        assert searched.ready(fd)
        took = []
        for _ in range(5):
            began = time.process_time()
            found = facts(searched.search(fd, lambda _above, _name: True, searched.mounted(fd), since=transid))
            took.append(time.process_time() - began)
    assert len(found) == NEW
    assert min(took) < 0.05, took


def test_a_subvolume_below_a_path_that_nothing_can_open_is_counted(home: Path) -> None:
    program = """
import os, subprocess
for _ in range(30):
    os.mkdir("d" * 200); os.chdir("d" * 200)
subprocess.run(["btrfs", "subvolume", "create", "deep"], check=True, stdout=subprocess.DEVNULL)
open("deep/payload", "wb").write(bytes(4321))
"""
    assert as_agent(AS_ADA, home, program).status == 0
    found = by_search(home)
    assert sum(size for *_, size in found) == 4321
    assert {kind for _, kind, _ in found} == {"subvolume", "file"}


def test_a_home_that_its_agent_set_read_only_is_listed(town: Town, home: Path) -> None:
    (home / "payload").write_bytes(bytes(10))
    assert (
        as_agent(AS_ADA, home, "import subprocess as s; s.run(['btrfs','property','set','.','ro','true'])").status == 0
    )
    said = town.persist("lost", "ada")
    with files.opened(files.open_dir(home)) as fd:
        btrfs.set_read_only(fd, False)
    assert (said.status, said.err) == (0, "")
    assert "payload  10 B, 1 file" in said.out


def test_what_is_mounted_over_is_neither_counted_nor_asked(town: Town, home: Path) -> None:
    (home / "projects/bound").write_bytes(bytes(100))
    towns.undo(home / "projects")
    (home / "projects/below").write_bytes(bytes(7))
    assert "projects is declared but not bound: 7 B" in town.persist("lost", "ada").err
    kernel.mount("tmpfs", str(home / "projects"), "tmpfs", 0)
    assert by_search(home) == set()
    assert "projects" not in town.persist("lost", "ada").err


def test_where_no_search_can_be_made_a_walk_finds_the_same(
    town: Town, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/b", "c"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(bytes(10))
    asked = town.persist("lost", "ada")

    def refused(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(subvolumes, "inside", refused)
    walked = town.persist("lost", "ada")
    assert (walked.status, walked.out) == (asked.status, asked.out)


def test_a_plain_directory_that_goes_to_the_store_is_passed_over(town: Town, home: Path) -> None:
    stores.with_store(town, '[{path = "data", via = "store"}]')
    (home / "data").mkdir()
    (home / "data/kept").write_bytes(bytes(10))
    (home / "gone").write_bytes(bytes(20))
    said = town.persist("lost", "ada")
    assert said.out.splitlines()[1:] == ["  gone  20 B, 1 file"]
    assert "data: 10 B, 1 file not in the store yet: the next boot sets that aside" in said.err


def test_what_the_store_does_not_have_yet_is_said_and_is_no_loss(town: Town, home: Path) -> None:
    stores.with_store(town, '[{path = "data", via = "store"}]')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore", "ada").status == 0
    (home / "data/one").write_bytes(bytes(10))
    never = town.persist("lost", "ada")
    assert "data: 10 B, 1 file not in the store yet" in never.err, never.err
    assert town.persist("sync", "ada").status == 0
    assert "not in the store yet" not in town.persist("lost", "ada").err
    town.boot("20261121T101500Z-0f0f")
    assert town.persist("restore", "ada").status == 0
    assert "not in the store yet" not in town.persist("lost", "ada").err
    for name in ("two", "three"):
        (home / "data" / name).write_bytes(bytes(5))
    said = town.persist("lost", "ada")
    assert "data: 10 B, 2 files not in the store yet; no boot takes that" in said.err
    assert said.out.startswith("ada: 0 B, 0 files")
    (agent,) = json.loads(town.persist("lost", "ada", "--json").out)["agents"]
    assert [(one["path"]["text"], one["files"], one["carried"]) for one in agent["unsynced"]] == [("data", 2, True)]


# ---- --since and --tree


def entries(town: Town, *words: str) -> list[str]:
    said = town.persist("lost", "ada", "--json", *words)
    assert said.status == 0, said
    return sorted(entry["path"]["text"] for entry in json.loads(said.out)["agents"][0]["entries"])


def test_since_a_kept_home_by_its_name_or_its_beginning(town: Town, home: Path) -> None:
    (home / "old").write_bytes(b"x")
    assert town.persist("snapshot", "ada", "--name", "before").status == 0
    (home / "new").write_bytes(b"x")
    assert entries(town) == ["new", "old"]
    for name in ("before", "ada@before", "bef"):
        assert entries(town, "--since", name) == ["new"], name
    said = town.persist("lost", "ada", "--since", "before")
    assert said.out.splitlines()[0].startswith(f"ada: 1 B, 1 file in {home} since ada@before (")


def test_what_was_appended_a_moment_ago_is_new(town: Town, home: Path) -> None:
    """The tree has it only once it is written out, half a minute later."""
    (home / "chat.jsonl").write_bytes(bytes(5000))
    os.sync()
    assert town.persist("snapshot", "ada", "--name", "before").status == 0
    time.sleep(0.05)
    moment = datetime.now(UTC).isoformat()
    for option in ("before", moment):
        with (home / "chat.jsonl").open("ab") as file:
            file.write(bytes(5000))
        assert entries(town, "--since", option) == ["chat.jsonl"], option


def test_since_a_home_that_was_set_aside_all_of_the_present_one_is_new(town: Town, home: Path) -> None:
    (home / "gone").write_bytes(b"x")
    town.boot("20261121T101500Z-0f0f")
    town.persist("restore")
    (home / "here").write_bytes(b"x")
    assert entries(town, "--since", "ada@20261121T101500Z-0f0f") == ["here"]


def test_since_a_time(town: Town, home: Path) -> None:
    (home / "old").write_bytes(b"x")
    time.sleep(1.1)
    middle = datetime.now(UTC)
    time.sleep(0.1)
    (home / "new").write_bytes(b"x")
    assert entries(town, "--since", middle.isoformat()) == ["new"]
    assert entries(town, "--since", "1h") == ["new", "old"]
    assert entries(town, "--since", "1970-01-01") == ["new", "old"]
    said = town.persist("lost", "ada", "--since", "2999-01-01")
    assert (said.status, said.out) == (2, "")
    assert "persist: error: --since 2999-01-01 00:00:00 UTC is still to come: it is 20" in said.err


def near(town: Town, home: Path, moment: int) -> int:
    """The transaction from which on `--since` that moment (ns) looks."""
    told = datetime.fromtimestamp(moment / SECOND, UTC).isoformat()
    bound = since.read(town.spec, town.spec.agent("ada"), told, datetime.now(UTC) + timedelta(seconds=9))
    with files.opened(files.open_dir(home)) as fd:
        return since.nearer(bound, fd).transid


def commit(home: Path) -> int:
    with files.opened(files.open_dir(home)) as fd:
        return transactions.commit(fd)


def many(home: Path, name: str, count: int = 40) -> None:
    for number in range(count * 40):
        if number % 40 == 0:
            place = home / f"{name}{number}"
            place.mkdir()
        (place / f"{number}").write_bytes(b"x" * 500)


def test_since_a_time_is_as_fast_as_what_is_kept_lies_near_it(town: Town, home: Path) -> None:
    """Snapshots say which transaction was over at which time."""
    for number in range(200):
        (home / f"old{number}").write_bytes(b"x" * 1000)
    assert town.persist("snapshot", "ada", "--name", "before").status == 0
    time.sleep(2.1)
    found = since.read(town.spec, town.spec.agent("ada"), datetime.now(UTC).isoformat(), datetime.now(UTC))
    assert transactions.before(found.pairs, found.time) > 0
    (home / "new").write_bytes(b"x")
    assert entries(town, "--since", datetime.fromtimestamp(time.time() - 1, UTC).isoformat()) == ["new"]
    assert len(by_search(home, near(town, home, found.time))) < 100


def test_since_a_time_that_nobody_noted_looks_from_what_was_made_before_it(town: Town, home: Path) -> None:
    for name in "abcd":
        many(home, name, 10)
        os.sync()
    time.sleep(1.2)
    moment = time.time_ns()
    (home / "new").write_bytes(b"x")
    shutil.rmtree(standing.RUN / "transactions", ignore_errors=True)
    assert entries(town, "--since", datetime.fromtimestamp(moment / SECOND, UTC).isoformat()) == ["new"]
    shutil.rmtree(standing.RUN / "transactions")
    last = commit(home)
    assert last - 3 <= near(town, home, moment) < last


def test_a_sync_notes_which_transaction_was_over(town: Town, home: Path) -> None:
    stores.with_store(town, '["projects"]')
    assert town.persist("init", "--store").status == 0
    many(home, "d")
    assert town.persist("sync", "ada").status == 0
    time.sleep(1.1)
    moment = time.time_ns()
    for number in range(NEW):
        (home / f"d0/new{number}").write_bytes(b"x")
    with files.opened(files.open_dir(home)) as fd:
        assert searched.ready(fd)
        bound = since.Since(time=moment)
        began = time.process_time()
        found = since.nearer(bound, fd)
        events = searched.search(fd, lambda _above, _name: True, since=found.transid, changed=moment)
        assert len(facts(events)) == NEW
        assert time.process_time() - began < 0.05
    assert len(by_search(home, found.transid)) < 500


def test_a_dry_sync_notes_nothing(town: Town, home: Path) -> None:
    stores.with_store(town, '["projects"]')
    assert town.persist("init", "--store").status == 0
    shutil.rmtree(standing.RUN / "transactions", ignore_errors=True)
    assert town.persist("sync", "ada", "--dry-run").status == 0
    assert not (standing.RUN / "transactions").exists()


def test_what_was_noted_is_roots_alone_and_what_is_damaged_is_nothing(town: Town, home: Path) -> None:
    commit(home)
    (file,) = (standing.RUN / "transactions").iterdir()
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600)
    with files.opened(files.open_dir(home)) as fd:
        for text in (
            "",
            "[]",
            "{}",
            '{"version": 2, "ended": [[5, 5]]}',
            '{"version": 1, "ended": [[5], "x", [-1, 2]]}',
        ):
            file.write_text(text)
            assert transactions.noted(fd) == []
            assert commit(home) > 0
            assert len(transactions.noted(fd)) == 1


@pytest.mark.parametrize("round_", range(times(2)))
def test_since_a_time_it_finds_exactly_what_a_walk_finds(town: Town, home: Path, round_: int) -> None:
    random, moments = Random(f"time-{SEED}-{round_}"), [time.time_ns()]
    for _ in range(12):
        for _ in range(random.randrange(40)):
            with contextlib.suppress(OSError):
                edit(home, random)
        match random.randrange(4):
            case 0:
                os.sync()
            case 1:
                commit(home)
            case 2:
                kept(home, f"kept{len(moments)}")
        time.sleep(random.choice([0.05, 0.4, 1.1]))
        moments.append(time.time_ns())
    with files.opened(files.open_dir(home)) as fd:
        assert searched.ready(fd, written=True)
        walked = [event for event in walk(fd, lambda _above, _name: True) if isinstance(event, Entry)]
        for moment in moments:
            found = searched.search(
                fd, lambda _above, _name: True, searched.mounted(fd), since=near(town, home, moment)
            )
            new = [event for event in found if isinstance(event, Entry) and event.changed >= moment]
            wanted = {(at.directory.path(at.name), at.kind) for at in walked if at.changed >= moment and inner(at)}
            assert {(at.directory.path(at.name), at.kind) for at in new if inner(at)} == wanted, moment


def inner(entry: Entry) -> bool:
    """A subvolume has the second in which it was made, of a walk that of its directory's last change."""
    return entry.kind != "subvolume"


def test_a_clock_that_ran_behind_hides_nothing() -> None:
    assert transactions.before([(5, 100 * SECOND), (9, 200 * SECOND)], 150 * SECOND) == 5
    assert transactions.before([(5, 100 * SECOND), (9, 200 * SECOND), (12, 50 * SECOND)], 150 * SECOND) == 5
    assert transactions.before([(5, 100 * SECOND)], 50 * SECOND) == 0
    behind = [(5, 100 * SECOND), (9, 200 * SECOND), (12, 50 * SECOND)]
    assert transactions.thinned(behind) == behind


def test_however_often_it_is_noted_the_notes_stay_few_and_near(town: Town) -> None:
    random, at, pairs = Random(SEED), 0, list[transactions.Pair]()
    for number in range(5000):
        at += random.choice([SECOND // 10, SECOND // 2, 30 * SECOND, 900 * SECOND])
        pairs = transactions.thinned([*pairs, (number + 1, at)])
    assert len(pairs) < 100
    for (_, older), (_, newer) in pairwise(pairs):
        assert newer - older <= max(900 * SECOND, (at - newer) // 4)


def test_since_an_import_is_since_what_it_was_made_from(town: Town, home: Path, tmp_path: Path) -> None:
    recipient = tmp_path / "key"
    process.run(["age-keygen", "-o", recipient])
    public = process.run(["age-keygen", "-y", recipient]).out.decode().strip()
    assert town.persist("snapshot", "ada", "--name", "s1").status == 0
    time.sleep(1.1)
    (home / "fb").write_bytes(b"x")
    made = tmp_path / "ada.nuketown"
    assert town.persist("export", "ada@s1", str(made), "--to", public).status == 0
    assert town.persist("import", str(made), "--key", str(recipient)).status == 0
    (home / "fc").write_bytes(b"x")
    assert entries(town, "--since", "ada@s1") == ["fb", "fc"]
    assert entries(town, "--since", "ada@s1.1") == ["fb", "fc"]


def test_since_a_time_a_work_tree_without_anything_new_is_neither_listed_nor_proposed(town: Town, home: Path) -> None:
    for name in ("old", "touched"):
        subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "-q", str(home / name)], check=True)
        (home / name / "main.c").write_bytes(b"x")
    time.sleep(1.1)
    moment = datetime.now(UTC).isoformat()
    (home / "touched/new.c").write_bytes(b"x")
    for option in ([], ["--tree"]):
        said = town.persist("lost", "ada", "--since", moment, *option)
        assert "old" not in said.out
        assert said.out.splitlines()[-1] == 'persist = ["touched"]'


def test_since_without_btrfs_goes_by_the_times_of_files(town: Town) -> None:
    towns.undo(town.agents)
    town.write("[]", btrfs_device="")
    town.persist("restore", "ada")
    home = town.agents / "ada"
    (home / "old").write_bytes(b"x")
    time.sleep(0.05)
    middle = datetime.now(UTC)
    time.sleep(0.05)
    (home / "new").write_bytes(b"x")
    assert entries(town, "--since", middle.isoformat()) == ["new"]


@pytest.mark.parametrize("text", ["yesterday-ish", "ada@none", "2026-13-45", "\x1b[2J", "1e999", "9" * 400 + "y"])
def test_since_something_that_is_neither_is_refused_in_one_sentence(town: Town, home: Path, text: str) -> None:
    said = town.persist("lost", "ada", "--since", text)
    assert said.status in (1, 2)
    assert said.out == ""
    assert said.err.startswith("persist: error: ")
    assert "\x1b" not in said.err
    assert "report it" not in said.err


def test_as_a_tree_every_directory_has_its_size_and_what_comes_back_is_one_line(town: Town, home: Path) -> None:
    for name, size in (("src/app/main", 500), ("src/app/lib/x", 300), ("src/notes", 50), (".cache/a/b/c", 9000),
                       ("todo", 5)):  # fmt: skip
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(bytes(size))
    said = town.persist("lost", "ada", "--tree")
    assert said.out.splitlines()[1:] == [
        "  *  5 B, 1 file",
        "  .cache/…  9.0 kB, 1 file",
        "  src/  850 B, 3 files",
        "    *  50 B, 1 file",
        "    app/  800 B, 2 files",
        "      *  500 B, 1 file",
        "      lib/  300 B, 1 file",
    ]
    assert town.persist("lost", "ada", "--tree", "--json").status == 2


def test_a_tree_of_thousands_of_levels_stays_readable(town: Town, home: Path) -> None:
    fd = files.open_dir(home)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = files.enter(fd, "d")
        os.close(fd)
        fd = below
    with files.opened(fd):
        files.write_beneath(fd, "x", b"x")
    said = town.persist("lost", "ada", "--tree")
    assert said.status == 0
    assert len(said.out) < 4000
    subprocess.run(["rm", "-rf", str(home / "d")], check=True)
