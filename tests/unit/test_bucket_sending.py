"""The writer's threads: bounded, stopped by the first failure, gone when nobody wants them; packs of some 16 MiB."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random

import pytest

from persist.bucket import blobs, packs
from persist.bucket.blobs import Placed, Reader, Writer
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.packs import PackReader
from persist.store import StoreFull, StoreUnreachable
from persist.store.memory import MemoryStore

KEYS = AgentKeys.of(TownKey(bytes(32)), "ada")
MIB = 1 << 20


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("persist-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    until(lambda: not ours())


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not there():
        assert time.monotonic() < end, ours()
        time.sleep(0.005)


class Gate(MemoryStore):
    """A store whose puts wait until they are let through; counts how many are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.inside = self.most = 0
        self._count = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        with self._count:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.open.wait(30)
        super().put(key, data)
        with self._count:
            self.inside -= 1


class Broken(MemoryStore):
    """A store whose n-th put fails."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = after, error

    def put(self, key: str, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error
        super().put(key, data)


def fill(writer: Writer, mebibytes: int, *, seed: int = 1) -> None:
    random = Random(seed)
    for _ in range(mebibytes):
        writer.add("data", random.randbytes(MIB))


def test_four_uploads_run_at_once_and_no_fifth_pack_is_made_while_they_hang() -> None:
    store, handed = Gate(), []
    writer = Writer(store, KEYS)

    def feed() -> None:
        random = Random(1)
        for _ in range(160):
            writer.add("data", random.randbytes(MIB))
            handed.append(MIB)
        writer.finish()

    thread = threading.Thread(target=feed)
    thread.start()
    until(lambda: store.inside == 4)
    time.sleep(0.3)
    # Four packs on their way, one that is full and waits, and the queue: the reading stands still here.
    assert sum(handed) <= 5 * packs.FULL + 8 * MIB + 2 * MIB
    assert store.most == 4
    store.open.set()
    thread.join(30)
    assert sum(handed) == 160 * MIB
    assert store.most == 4
    assert len(writer.durable) == len(list(store.list("packs/"))) >= 10


def test_finish_returns_when_every_pack_is_durable_and_not_before() -> None:
    store, done = Gate(), list[list[Placed]]()
    writer = Writer(store, KEYS)
    id_ = writer.add("data", b"x")
    thread = threading.Thread(target=lambda: done.append(writer.finish()))
    thread.start()
    until(lambda: store.inside == 1)
    time.sleep(0.1)
    assert not done
    assert not writer.durable
    store.open.set()
    thread.join(10)
    assert [placed.ids for placed in done[0]] == [(id_,)]


@pytest.mark.parametrize("error", [StoreFull("no room"), StoreUnreachable("away"), MemoryError(), ZeroDivisionError()])
def test_a_failed_upload_is_raised_as_it_is_by_what_comes_next(error: Exception) -> None:
    writer = Writer(Broken(2, error), KEYS)
    with pytest.raises(type(error)) as raised:
        fill(writer, 1600)
    assert raised.value is error
    with pytest.raises(type(error)):
        writer.finish()
    assert len(writer.durable) == 2
    until(lambda: not ours())


def test_a_failure_at_the_last_pack_is_raised_by_finish() -> None:
    with Writer(Broken(0, StoreFull("no room")), KEYS) as writer:
        writer.add("tree", b"x")
        with pytest.raises(StoreFull):
            writer.finish()


def test_a_failure_of_the_packing_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(packs.packing, "packed", fails)
    writer = Writer(MemoryStore(), KEYS)
    writer.add("data", b"x")
    with pytest.raises(ZeroDivisionError):
        writer.finish()


def test_an_interruption_stops_the_threads_though_the_writer_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(MemoryStore(), KEYS)
    fill(writer, 1)
    assert writer._sender is not None
    waits = writer._sender._changed.wait_for

    def interrupted(until: Callable[[], bool], timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return waits(until, timeout)

    monkeypatch.setattr(writer._sender._changed, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(writer, 1, seed=2)
    until(lambda: not ours())
    assert writer.durable == []


def test_an_exception_inside_of_with_stops_the_threads() -> None:
    store = MemoryStore()
    with suppress(ZeroDivisionError), Writer(store, KEYS) as writer:
        fill(writer, 20)
        raise ZeroDivisionError
    assert len(writer.durable) < 2
    until(lambda: not ours())


def test_a_writer_that_is_dropped_takes_its_threads_along() -> None:
    writer = Writer(MemoryStore(), KEYS)
    fill(writer, 2)
    assert ours()
    del writer
    gc.collect()
    until(lambda: not ours())


def test_more_may_be_added_after_finish_and_finish_names_every_pack() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    one = writer.add("data", b"one")
    assert len(writer.finish()) == 1
    assert not ours()
    two = writer.add("data", b"two")
    assert writer.add("data", b"one") == one
    assert {placed.ids for placed in writer.finish()} == {(one,), (two,)}
    assert len(list(store.list("packs/"))) == 2


def test_nothing_new_sends_nothing_and_starts_no_thread() -> None:
    writer = Writer(MemoryStore(), KEYS, lambda _: True)
    fill(writer, 3)
    assert not ours()
    assert writer.finish() == []


def test_a_dry_run_counts_what_would_be_sent() -> None:
    counted = Writer(None, KEYS)
    fill(counted, 20)
    sent = Writer(MemoryStore(), KEYS)
    fill(sent, 20)
    assert sum(placed.pack.size for placed in counted.finish()) == sum(placed.pack.size for placed in sent.finish())


def test_listings_lie_side_by_side_behind_the_files_and_no_pack_is_longer_than_it_should() -> None:
    store, random = MemoryStore(), Random(2)
    writer = Writer(store, KEYS)
    for number in range(60):
        writer.add("data", random.randbytes(MIB))
        writer.add("tree", b"%d" % number + random.randbytes(100_000))
    placed = writer.finish()
    kinds = ["".join(frame.kind[0] for frame in PackReader(store, KEYS, each.pack).frames()) for each in placed]
    assert all("td" not in each for each in kinds)
    assert sum("t" in each for each in kinds) == 1
    assert all(each.pack.size - each.pack.directory - 8 <= packs.FULL for each in placed)
    assert len(placed) == 5


def test_many_listings_get_packs_of_their_own() -> None:
    store, random = MemoryStore(), Random(3)
    writer = Writer(store, KEYS)
    ids = [writer.add("tree", random.randbytes(300_000)) for _ in range(100)]
    writer.add("data", random.randbytes(15 * MIB // 4))
    placed = writer.finish()
    reader = Reader(store, KEYS, kind="tree")
    reader.load_all(each.pack for each in placed)
    assert all(len(reader.get("tree", id_)) == 300_000 for id_ in ids)
    assert all(each.pack.size - each.pack.directory - 8 <= packs.FULL for each in placed)


def test_many_tiny_pieces_fill_a_frame_and_a_pack_by_their_number() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    for number in range(230_000):
        writer.add("data", b"%d" % number)
    placed = writer.finish()
    assert min(len(each.ids) for each in placed) < 100_000
    for each in placed:
        found = PackReader(store, KEYS, each.pack).frames()
        assert sum(map(len, found)) == len(each.ids) <= 200_000
        assert max(map(len, found)) <= blobs.MOST


def test_a_listener_hears_of_every_durable_byte() -> None:
    heard: list[int] = []

    class Listener:
        def sent(self, bytes_: int) -> None:
            heard.append(bytes_)

    store = MemoryStore()
    writer = Writer(store, KEYS, progress=Listener())
    fill(writer, 40)
    writer.finish()
    assert sum(heard) == sum(found.size for found in store.list("packs/"))


def test_listings_are_read_together() -> None:
    class Counting(MemoryStore):
        gets = 0

        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            self.gets += 1
            return super().get(key, offset, length)

    store, random = Counting(), Random(4)
    writer = Writer(store, KEYS)
    ids = [writer.add("tree", random.randbytes(10_000)) for _ in range(600)]
    reader = Reader(store, KEYS)
    for placed in writer.finish():
        reader.load(placed.pack)
    store.gets = 0
    assert all(reader.get("tree", id_) for id_ in ids)
    assert store.gets == 1
    # A small cache costs requests, and nothing else.
    small = Reader(store, KEYS, cache=1 << 20)
    small.load_all(placed.pack for placed in writer.finish())
    random.shuffle(ids)
    for id_ in ids[:50]:
        assert small.get("tree", id_) == reader.get("tree", id_)
        assert small._cached <= 1 << 20


def test_listings_of_two_packs_are_never_read_as_one() -> None:
    store, random = MemoryStore(), Random(9)
    first, second = Writer(store, KEYS), Writer(store, KEYS)
    one = first.add("tree", random.randbytes(5000))
    second.add("data", random.randbytes(5000))  # so that the listing begins where that of the other pack ends
    two = second.add("tree", random.randbytes(5000))
    reader = Reader(store, KEYS, kind="tree")
    reader.load_all(placed.pack for writer in (first, second) for placed in writer.finish())
    assert len(reader.get("tree", one)) == len(reader.get("tree", two)) == 5000
