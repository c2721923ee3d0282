"""The stream: frames in order by few large reads, bounded; what goes wrong comes in order, and no thread stays."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from persist.bucket import streaming
from persist.bucket.blobs import FrameWanted, Writer, directories, stream
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.packs import MAGIC, Pack
from persist.store import ObjectMissing, StoreDamaged, StoreForeign, StoreUnreachable
from persist.store.memory import MemoryStore

KEYS = AgentKeys.of(TownKey(bytes(32)), "ada")
MIB = 1 << 20


class Counting(MemoryStore):
    """Says what was read, and how much at once; a get may be slow, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, int, int]] = []
        self.inside = self.most = 0
        self.pause = 0.0
        self.fails: Callable[[str], bool] = lambda _: False
        self._count = threading.Lock()

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._count:
            self.reads.append((key, offset, length or 0))
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.pause)
        with self._count:
            self.inside -= 1
        if self.fails(key):
            raise StoreUnreachable("away")
        return super().get(key, offset, length)


@pytest.fixture(scope="module")
def filled() -> tuple[dict[str, bytes], list[Pack], dict[bytes, bytes]]:
    store, random = MemoryStore(), Random(5)
    writer = Writer(store, KEYS)
    pieces = [random.randbytes(random.randrange(1, 300_000)) for _ in range(400)] + [bytes(3 * MIB)]
    ids = [writer.add("data", piece) for piece in pieces]
    packs = sorted(placed.pack for placed in writer.finish())
    return {found.key: store.get(found.key) for found in store.list("")}, packs, dict(zip(ids, pieces, strict=True))


Filled = tuple[dict[str, bytes], list[Pack], dict[bytes, bytes]]


@pytest.fixture
def store(filled: Filled) -> Counting:
    store = Counting()
    for key, data in filled[0].items():
        store.put(key, data)
    return store


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    end = time.monotonic() + 10
    while left := [each for each in threading.enumerate() if each.name.startswith("persist-")]:
        assert time.monotonic() < end, left
        time.sleep(0.005)


def wanted(store: MemoryStore, packs: list[Pack]) -> list[FrameWanted]:
    return [
        FrameWanted(pack, number, frame)
        for pack, frames in directories(store, KEYS, packs)
        for number, frame in enumerate(frames)
    ]


def test_every_frame_comes_in_order_by_few_reads(filled: Filled, store: Counting) -> None:
    wants = wanted(store, filled[1])
    store.reads.clear()
    got = list(stream(store, KEYS, wants))
    assert [want for want, _ in got] == wants
    pieces = {}
    for want, data in got:
        pieces |= {id_: data[at : at + length] for id_, at, length in want.frame.pieces()}
    assert pieces == filled[2]
    assert len(store.reads) == len(filled[1])
    assert max(length for _, _, length in store.reads) <= streaming.RANGE


def test_only_what_is_wanted_is_read_and_small_gaps_along_with_it(
    filled: Filled, store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = wanted(store, filled[1])
    wants = [want for at, want in enumerate(every) if at % 9 == 0]
    store.reads.clear()
    assert [want for want, _ in stream(store, KEYS, wants)] == wants
    assert len(store.reads) == len(wants)
    heads = len(MAGIC) * sum(want.number == 0 for want in wants)
    assert sum(length for _, _, length in store.reads) == heads + sum(want.frame.stored for want in wants)
    store.reads.clear()
    monkeypatch.setattr(streaming, "_GAP", 100 * MIB)
    assert [want for want, _ in stream(store, KEYS, wants)] == wants
    assert len(store.reads) == len({want.pack for want in wants})


def test_frames_in_any_order_come_in_that_order(filled: Filled, store: Counting) -> None:
    wants = wanted(store, filled[1])
    Random(6).shuffle(wants)
    assert [want for want, _ in stream(store, KEYS, wants)] == wants


def test_downloads_run_ahead_several_at_once_and_within_their_bound(filled: Filled, store: Counting) -> None:
    wants = wanted(store, filled[1])
    store.pause, ahead = 0.03, 8 * MIB
    store.reads.clear()
    frames = stream(store, KEYS, wants, ahead_bytes=ahead, threads=5)
    next(frames)
    time.sleep(0.3)
    # The consumer stands still: no more than was allowed is there or on its way.
    assert 4 * MIB <= sum(length for _, _, length in store.reads) <= ahead + 2 * MIB
    assert len(list(frames)) == len(wants) - 1
    assert store.most == 4


def test_what_is_expanded_ahead_is_bounded_too(store: Counting) -> None:
    other = Counting()
    writer = Writer(other, KEYS)
    for number in range(60):
        writer.add("data", bytes([number]) * 4 * MIB)
    wants = wanted(other, [placed.pack for placed in writer.finish()])
    assert sum(want.frame.stored for want in wants) < MIB
    frames = stream(other, KEYS, wants)
    next(frames)
    time.sleep(0.3)
    waiting = [item for item in gc.get_objects() if isinstance(item, streaming._Out)]
    assert 3 <= len(waiting) <= streaming.EXPANDED // (4 * MIB)
    waiting.clear()
    assert len(list(frames)) == 59


def test_a_failure_of_the_store_comes_behind_the_frames_before_it(filled: Filled, store: Counting) -> None:
    wants, bad = wanted(store, filled[1]), filled[1][1]
    store.fails = lambda key: key == bad.key(KEYS)
    before = [want for want in wants if want.pack < bad]
    frames = stream(store, KEYS, wants)
    assert [want for want, _ in islice(frames, len(before))] == before
    with pytest.raises(StoreUnreachable):
        next(frames)
    with pytest.raises(StopIteration):
        next(frames)


def test_a_changed_byte_a_missing_pack_a_short_one_and_a_strange_head_are_named(filled: Filled) -> None:
    pack = filled[1][0]
    key = pack.key(KEYS)
    data = filled[0][key]
    good = MemoryStore()
    good.put(key, data)
    wants = wanted(good, [pack])
    flipped = bytes([*data[:5000], data[5000] ^ 1, *data[5001:6000]]) + data[6000:]
    cases: list[tuple[bytes | None, type[Exception], str]] = [
        (flipped, StoreDamaged, "data 0 was changed, cut short or moved"),
        (None, ObjectMissing, "not in the store"),
        (data[:10_000], StoreDamaged, "shorter than its commit says"),
        (b"nuketown pack 3\n" + data[16:], StoreForeign, "of another version"),
        (b"nuketown sack 2\n" + data[16:], StoreDamaged, "does not begin like a pack"),
    ]
    for held, error, what in cases:
        bad = MemoryStore()
        if held is not None:
            bad.put(key, held)
        with pytest.raises(error, match=what):
            list(stream(bad, KEYS, wants))


def test_a_frame_of_another_pack_or_place_does_not_open(filled: Filled, store: Counting) -> None:
    one, two = (wanted(store, [pack])[:2] for pack in filled[1][:2])
    first = one[0].frame
    with pytest.raises(StoreDamaged):
        list(stream(store, KEYS, [replace(one[0], pack=two[0].pack)]))
    with pytest.raises(StoreDamaged):
        list(stream(store, KEYS, [replace(one[0], number=1)]))
    with pytest.raises(StoreDamaged):
        list(stream(store, KEYS, [replace(one[0], frame=replace(first, kind="tree"))]))
    with pytest.raises(StoreDamaged, match="another size"):
        list(stream(store, KEYS, [replace(one[0], frame=replace(first, size=first.size + 1))]))


def test_an_end_before_the_end_stops_the_threads(filled: Filled, store: Counting) -> None:
    frames = stream(store, KEYS, wanted(store, filled[1]))
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    frames = stream(store, KEYS, wanted(store, filled[1]))
    next(frames)
    del frames


def test_a_failing_source_of_wishes_is_raised(filled: Filled, store: Counting) -> None:
    def wishes() -> Iterator[FrameWanted]:
        yield from wanted(store, filled[1])[:3]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(stream(store, KEYS, wishes()))


def test_nothing_wanted_is_nothing_read(store: Counting) -> None:
    assert list(stream(store, KEYS, [])) == []
    assert not store.reads


def test_directories_are_read_several_at_once_and_a_failure_comes_in_order(filled: Filled, store: Counting) -> None:
    store.pause = 0.02
    found = list(directories(store, KEYS, filled[1], threads=3))
    assert [pack for pack, _ in found] == filled[1]
    assert store.most == 3
    store.fails = lambda key: key == filled[1][1].key(KEYS)
    read = directories(store, KEYS, filled[1])
    assert next(read)[0] == filled[1][0]
    with pytest.raises(StoreUnreachable):
        next(read)
