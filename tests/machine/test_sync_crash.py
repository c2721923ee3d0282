"""A sync that is killed, with SIGKILL, at any moment: the last committed state restores, the next sync completes."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from persist import sync as syncing
from persist.bucket import blobs, packs
from persist.bucket.opening import open_bucket
from persist.store.directory import DirectoryStore
from persist.sync import local
from tests.machine import stores
from tests.machine.stores import Fact, into_new, source, with_store
from tests.machine.towns import Town, town
from tests.scale import times
from town import btrfs, files

__all__ = ["town"]
pytestmark = pytest.mark.root
SEED = 20261121


@pytest.fixture
def made(town: Town) -> Town:
    with_store(town)
    town.persist("init", "--store")
    town.persist("restore")
    stores.torture(source(town), big=1 << 20)
    assert town.persist("sync").status == 0
    return town


def edited(town: Town, random: Random) -> None:
    """Some files changed, one new, one gone."""
    for number in range(40):
        (source(town) / f"many/f{number + 10}").write_bytes(random.randbytes(random.randrange(20_000)))
    (source(town) / f"new{random.randrange(10**9)}").write_bytes(random.randbytes(700_000))
    next((source(town) / "many").glob("f2*")).unlink()


def in_a_child(town: Town, before: Callable[[], None], kill_after: float | None = None) -> int:
    """Sync ada in a child process; its exit status, negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            blobs.GROUP, packs.FULL = 20_000, 50_000  # many packs: many moments between them
            before()
            spec = town.spec
            syncing.sync(spec, spec.agent("ada"), open_bucket(spec), syncing.Options(), now=datetime.now(UTC))
            os._exit(0)
        finally:
            os._exit(9)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def restored(town: Town) -> dict[bytes, Fact]:
    back = town.persisted / "back"
    into_new(stores.held(town), back)
    found = stores.facts(back)
    shutil.rmtree(back)
    return found


def whole(town: Town, *states: dict[bytes, Fact]) -> None:
    """What restores is exactly one of the states; the next sync completes and brings the newest; nothing is left."""
    assert restored(town) in states
    assert town.persist("sync", "ada").status == 0
    assert restored(town) == stores.facts(source(town))
    with btrfs.top_level(town.device) as top, files.opened(files.enter(top, ".nuketown-sync")) as fd:
        assert files.names(fd) == []


def test_killed_at_sampled_moments_the_last_commit_restores_and_the_next_sync_completes(made: Town) -> None:
    random = Random(SEED)
    edited(made, random)
    start = time.monotonic()
    assert in_a_child(made, lambda: None) == 0
    took = time.monotonic() - start
    killed = 0
    for _ in range(times(12)):
        before = stores.facts(source(made))
        edited(made, random)
        killed += in_a_child(made, lambda: None, kill_after=random.uniform(0, took)) == -signal.SIGKILL
        whole(made, before, stores.facts(source(made)))
    assert killed >= times(6)  # else this proved little


def killing_at(where: object, name: str, number: int, *, after: bool) -> Callable[[], None]:
    """Make the `number`th call of `where.name` the last thing this process does."""

    def arm() -> None:
        real, calls = getattr(where, name), [0]

        def call(*words: object, **more: object) -> object:
            calls[0] += 1
            if calls[0] == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*words, **more)
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(where, name, call)

    return arm


def test_killed_at_every_write_the_last_commit_restores_and_the_next_sync_completes(made: Town) -> None:
    random = Random(SEED + 1)
    points = [(DirectoryStore, "put", 1), (DirectoryStore, "put", 2), (DirectoryStore, "put", 5), (os, "link", 3),
              (os, "fsync", 7), (local, "change", 1), (local, "change", 2), (btrfs, "delete", 1)]  # fmt: skip
    for where, name, number in points:
        for after in (False, True):
            before = stores.facts(source(made))
            edited(made, random)
            status = in_a_child(made, killing_at(where, name, number, after=after))
            assert status == -signal.SIGKILL, (name, number)
            whole(made, before, stores.facts(source(made)))


def test_a_commit_whose_record_was_cut_off_is_known_as_our_own(made: Town) -> None:
    edited(made, Random(3))
    assert in_a_child(made, killing_at(local, "change", 2, after=False)) == -signal.SIGKILL
    said = made.persist("sync", "ada")
    assert (said.status, said.err) == (0, "")
    assert "nothing new" in said.out


def test_a_full_disk_behind_the_store_is_said_and_loses_nothing(made: Town, tmp_path: Path) -> None:
    from town import kernel

    before = stores.facts(source(made))
    small = tmp_path / "small"
    small.mkdir()
    kernel.mount("none", str(small), "tmpfs", 0, "size=4m,mode=700")
    try:
        shutil.copytree(made.base / "store", small / "store")
        with_store(made)
        made.file.write_text(made.file.read_text().replace(f"file://{made.base}/store", f"file://{small}/store"))
        (source(made) / "large").write_bytes(Random(1).randbytes(6 << 20))
        said = made.persist("sync", "ada")
        assert said.status == 1
        assert "No space left" in said.err
        assert restored(made) == before
    finally:
        kernel.umount(str(small), kernel.MNT_DETACH)
