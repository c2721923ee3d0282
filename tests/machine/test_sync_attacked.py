"""What once went wrong when something came between two steps of a sync or a restore, or the store told a lie.

A prune or a kill at the one moment where it hurts, names that stand for nothing, a store into a mapped file.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from demo import loopback
from persist.bucket.commits import LAST, Name
from persist.bucket.opening import open_bucket
from persist.restore import staging
from persist.store import Found
from persist.store.directory import DirectoryStore
from persist.sync import committing
from tests.machine.homes import Home
from tests.machine.hostile import plain
from tests.machine.stores import fetched, source, with_store
from tests.machine.test_sync_states import Pair, empty, pair, put, sync, whole
from tests.machine.towns import ADA, Said, Town, town, undo
from town import kernel, process

__all__ = ["pair", "town"]
pytestmark = pytest.mark.root
PROJECTS = '[{ path = "projects", via = "store" }]'
KEEP = "[town.sync]\nkeep = { last = 1 }\n"


@pytest.fixture
def keeping(town: Town) -> Home:
    """Ada on btrfs, in a town that keeps one state; she has a project."""
    with_store(town, PROJECTS, more=KEEP)
    home = Home(town)
    home.ok("init", "--store")
    home.ok("restore")
    return home


# What comes in between


def test_a_prune_between_the_last_look_and_the_commit_stops_no_later_sync(
    keeping: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"small{number}": os.urandom(2000).hex() for number in range(4)}  # four packs: a prune makes one of them
    for name, text in files.items():
        put(keeping, **{name: text})
        sync(keeping)
    _right_after_the_last_look(monkeypatch, lambda: keeping.ok("prune", "ada"))
    for number in range(3):
        put(keeping, changing=str(number))
        sync(keeping)
    keeping.ok("prune", "ada")
    sync(keeping)
    whole(keeping, changing="2", **files)


def _right_after_the_last_look(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act once between a sync's last look at the store and its commit."""
    real = committing._looked_again
    waiting = [act]

    def looked(*args: object) -> object:
        found = real(*args)  # type: ignore[arg-type]
        if waiting:
            waiting.pop()()
        return found

    monkeypatch.setattr(committing, "_looked_again", looked)


def test_a_restore_that_is_killed_before_it_shows_what_came_leaves_older_data_older(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    put(one, a="one")
    sync(one)
    two.ok("restore", "ada", "--take-over")
    put(two, b="two")
    sync(two)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as ours:
        ours.setattr(staging, "exchange", killed)
        assert one.run("restore", "--at", two.head, "--take-over", "ada").status != 0
    assert os.listdir(one.projects) == ["a"]
    said = one.run("sync", "ada")
    assert (said.status, "has synced" in said.err) == (1, True), said
    whole(two, a="one", b="two")


def test_what_an_older_state_brought_back_needs_outlives_that_state(keeping: Home) -> None:
    put(keeping, a="one")
    sync(keeping)
    old = keeping.head
    empty(keeping)
    put(keeping, b="two")
    _forget_the_index(keeping.town)  # so that everything is read, and the packs of a leave the head
    sync(keeping, "--accept-loss")
    keeping.ok("restore", "ada", "--at", old)
    sync(keeping)
    keeping.ok("prune", "ada")
    assert keeping.run("restore", "ada", "--at", old, "--dry-run").status == 1  # it is gone, and its packs may go
    whole(keeping, a="one")


def test_who_takes_over_sends_again_what_only_a_state_that_was_pruned_held(pair: Pair) -> None:
    one, two = pair
    for home in pair:
        home.town.file.write_text(f"{home.town.file.read_text()}\n{KEEP}")
    put(one, a="one")
    sync(one)
    two.ok("restore", "ada", "--take-over")
    empty(two)
    put(two, b="two")
    sync(two, "--accept-loss")
    two.ok("prune", "ada")
    sync(one, "--take-over")  # nothing has changed here
    whole(one, a="one")


def _forget_the_index(town: Town) -> None:
    for path in (town.spec.state_dir / "index").iterdir():
        path.unlink()


def test_a_state_of_an_earlier_epoch_that_was_brought_back_is_synced_whole_in_the_new_one(pair: Pair) -> None:
    one, _ = pair
    put(one, a="one")
    sync(one)
    old = one.head
    one.ok("key", "rotate")
    put(one, b="two")
    sync(one)
    one.ok("restore", "ada", "--at", old)
    sync(one)
    whole(one, a="one")


# What the store says that is not so


class Lying:
    """A directory store that lists names beside those that are there, at some of the looks at an agent's states."""

    def __init__(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = open_bucket(home.town.spec)
        self.place = f"agents/{bucket.keys('ada').place}/"
        self.looks = 0
        self._home, self._monkeypatch = home, monkeypatch

    def sync(self, name: str, *, at: int | None = None) -> Said:
        """A sync that is shown one more name, at its look `at` (from 1) or at each."""
        real = DirectoryStore.list
        self.looks = 0

        def lists(store: DirectoryStore, prefix: str) -> Iterator[Found]:
            yield from real(store, prefix)
            if prefix == self.place:
                self.looks += 1
                if at in (None, self.looks):
                    yield Found(prefix + name, 100, 0.0)

        with self._monkeypatch.context() as ours:
            ours.setattr(DirectoryStore, "list", lists)
            return self._home.run("sync", "ada")


@pytest.fixture
def synced(pair: Pair) -> Home:
    """Ada on btrfs, with two states in the store."""
    one, _ = pair
    for text in ("one", "two"):
        put(one, a=text)
        sync(one)
    return one


@pytest.mark.parametrize("generation", [LAST, LAST - 1])
def test_a_false_name_of_the_last_generation_uses_up_none(
    synced: Home, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    lying = Lying(synced, monkeypatch)
    put(synced, a="three")
    said = lying.sync(str(Name(generation, "a" * 32, "b" * 64)), at=2)  # the look right before the commit
    assert (said.status, lying.looks, "is not in the store" in said.err) == (1, 2, True), said
    for text in ("four", "five"):  # the store is honest again
        put(synced, a=text)
        sync(synced)
    assert [state["generation"] for state in synced.log()] == [4, 3, 2, 1]
    whole(synced, a="five")


@pytest.mark.parametrize("generation", [1, 2])
def test_a_false_commit_beside_or_below_the_head_stops_no_sync(
    synced: Home, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    put(synced, a="three")
    said = Lying(synced, monkeypatch).sync(str(Name(generation, "c" * 32, "d" * 64)))
    assert said.status == 0, said
    assert "d" * 12 in said.err  # it is told: it may be another machine's
    sync(synced)
    whole(synced, a="three")


@pytest.mark.parametrize("look", [None, 2])
def test_a_false_tomb_stops_the_sync_that_is_shown_it_and_no_other(
    synced: Home, monkeypatch: pytest.MonkeyPatch, look: int | None
) -> None:
    put(synced, a="three")
    said = Lying(synced, monkeypatch).sync("tomb-" + "e" * 64, at=look)
    assert (said.status, "is not in the store" in said.err) == (1, True), said
    assert len(synced.log()) == 2
    sync(synced)
    whole(synced, a="three")


# Without btrfs

MAPS = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
    for word in (b"ONE", b"TWO"):
        mapped[0:3] = word
        print(word, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def on_ext4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    """A town on a filesystem without snapshots, synced once."""
    image, disk = tmp_path / "ext4.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    process.run(["mkfs.ext4", "-q", image])
    disk.mkdir()
    with loopback.attached(image) as device:
        kernel.mount(device, str(disk), "ext4", 0, "")
        try:
            yield plain(disk / "town", capsys)
        finally:
            undo(disk)


def test_a_store_into_a_mapped_page_that_was_dirty_already_is_synced_without_btrfs(on_ext4: Town) -> None:
    path = source(on_ext4) / "mapped"
    path.write_bytes(b"000" + b"x" * 5000)
    os.chown(path, ADA, ADA)
    with subprocess.Popen(
        [sys.executable, "-c", MAPS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as agent:  # fmt: skip
        assert agent.stdin is not None
        assert agent.stdout is not None
        _next(agent.stdout)
        time.sleep(2.1)  # so that its ctime is old enough to be trusted
        assert on_ext4.persist("sync", "ada").status == 0
        agent.stdin.write(b"\n")
        agent.stdin.flush()
        _next(agent.stdout)
        agent.stdin.close()
    os.sync()
    assert on_ext4.persist("sync", "ada").status == 0
    with fetched(on_ext4, on_ext4.base / "got") as got:
        assert (got / "mapped").read_bytes()[:3] == b"TWO"


def _next(lines: IO[bytes]) -> None:
    assert lines.readline()
