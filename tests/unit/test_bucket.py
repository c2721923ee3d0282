"""Pieces, packs, contents and listings: what goes in comes out, a small change stays small, limits hold."""

import os
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist.bucket import blobs, content, packing, packs, records, trees
from persist.bucket.blobs import Reader, Writer
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.packs import Pack
from persist.bucket.trees import Entry
from persist.store import StoreDamaged
from persist.store.memory import MemoryStore
from tests.scale import times

KEYS = AgentKeys.of(TownKey(bytes(32)), "ada")


class Shelf:
    """A store with a writer, and a reader of all that it sent."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.writer = Writer(self.store, KEYS)
        self.known: dict[bytes, Pack] = {}

    @property
    def sent(self) -> list[Pack]:
        return [placed.pack for placed in self.writer.finish()]

    def reader(self) -> Reader:
        reader = Reader(self.store, KEYS)
        for placed in self.writer.finish():
            assert reader.load(placed.pack) == list(placed.ids)
            self.known |= dict.fromkeys(placed.ids, placed.pack)
        return reader


def test_equal_pieces_are_stored_once() -> None:
    shelf = Shelf()
    for _ in range(3):
        shelf.writer.add("data", b"the same" * 100)
    shelf.reader()
    assert len(shelf.sent) == 1
    again = Writer(shelf.store, KEYS, shelf.known.__contains__)
    id_ = again.add("data", b"the same" * 100)
    assert again.finish() == []
    assert list(shelf.known) == [id_]


def test_small_pieces_share_a_frame_and_packs_are_closed_when_they_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "FULL", 100_000)
    monkeypatch.setattr(blobs, "GROUP", 10_000)
    shelf, random = Shelf(), Random(1)
    pieces = [random.randbytes(random.randrange(3000)) for _ in range(300)]
    ids = [shelf.writer.add("data", piece) for piece in pieces]
    reader = shelf.reader()
    assert 4 <= len(shelf.sent) <= 6
    assert all(pack.size < 130_000 for pack in shelf.sent)
    assert [reader.get("data", id_) for id_ in ids] == pieces
    frames = [packs.PackReader(shelf.store, KEYS, pack).frames() for pack in shelf.sent]
    assert sum(map(len, frames)) < 60


def test_a_piece_of_a_file_never_passes_for_a_listing() -> None:
    shelf = Shelf()
    id_ = shelf.writer.add("data", b"[]")
    assert shelf.writer.add("tree", b"[]") != id_
    with pytest.raises(StoreDamaged, match="not what its id says"):
        shelf.reader().get("tree", id_)


def test_no_two_objects_have_one_key_or_name() -> None:
    writers = [packs.PackWriter(KEYS, os.urandom) for _ in range(100)]
    assert len({writer.key for writer in writers}) == 100
    for writer in writers[:2]:
        writer.add(packs.Packed.of("data", (KEYS.id("data", b"x"),), (b"x",)))
    assert writers[0].closed()[1] != writers[1].closed()[1]


@settings(max_examples=times(40), deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=300), st.integers(0, 3))
def test_every_content_comes_back(pieces: list[bytes], more: int) -> None:
    shelf = Shelf()
    pieces = pieces * (more + 1)
    held = content.write(shelf.writer, "data", pieces)
    assert Content.parsed({"depth": 0} | held.record) == held
    assert list(content.read(shelf.reader(), "data", held)) == pieces


def test_a_long_content_is_named_by_few_ids_and_an_insertion_changes_few_lists() -> None:
    shelf = Shelf()
    pieces = [b"%d" % number for number in range(30_000)]
    one = content.write(shelf.writer, "data", pieces)
    assert one.depth >= 1
    assert len(one.ids) <= content.INLINE
    reader = shelf.reader()
    assert list(content.read(reader, "data", one)) == pieces
    sent = len(shelf.sent)
    content.write(shelf.writer, "data", [*pieces[:5000], b"inserted", *pieces[5000:]])
    shelf.reader()
    assert sum(pack.size for pack in shelf.sent[sent:]) < 60_000


class Bytes:
    """A stream of bytes that gives them in odd portions."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def readinto(self, buffer: memoryview, /) -> int:
        part = self.data[self.at : self.at + min(len(buffer), 77_777)]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)


def test_chunks_are_bounded_and_an_insertion_moves_few_of_them() -> None:
    data = Random(7).randbytes(12 << 20)
    before = list(content.chunks(Bytes(data), KEYS.chunks))
    assert b"".join(before) == data
    assert all(len(chunk) <= 4 << 20 for chunk in before)
    assert all(len(chunk) >= 256 << 10 for chunk in before[:-1])
    after = list(content.chunks(Bytes(data[:100] + b"inserted" + data[100:]), KEYS.chunks))
    assert len(set(after) - set(before)) <= 2
    others = list(content.chunks(Bytes(data), AgentKeys.of(TownKey(bytes(32)), "vox").chunks))
    assert list(map(len, others)) != list(map(len, before))


NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name))


FACTS = st.tuples(st.integers(0, 0o7777), st.integers(-(2**62), 2**62), st.binary(max_size=9))


@settings(max_examples=times(60), deadline=None)
@given(st.dictionaries(NAMES, FACTS, max_size=40))
def test_every_listing_comes_back_sorted(named: dict[bytes, tuple[int, int, bytes]]) -> None:
    entries = [
        Entry(name, "fifo", mode, mtime, owner="root", xattrs=((b"user.x", value),), link=value.hex())
        for name, (mode, mtime, value) in named.items()
    ]
    shelf = Shelf()
    listing = trees.write(shelf.writer, entries)
    assert list(trees.read(shelf.reader(), listing)) == sorted(entries, key=lambda entry: entry.name)


def test_one_change_in_a_directory_of_100_000_names_sends_less_than_200_kb() -> None:
    def entry(number: int, mtime: int) -> Entry:
        held = Content((KEYS.id("data", b"%d" % number),))
        return Entry(b"file-%d" % number, "file", 0o644, mtime, size=9, content=held)

    shelf = Shelf()
    entries = [entry(number, 10**18 + number) for number in range(100_000)]
    trees.write(shelf.writer, entries)
    shelf.reader()
    sent = len(shelf.sent)
    entries[54_321] = entry(54_321, 5)
    del entries[7]  # what comes after it in the listing moves by a line
    trees.write(shelf.writer, entries)
    shelf.reader()
    assert 0 < sum(pack.size for pack in shelf.sent[sent:]) < 200_000


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(-9, 9)
RECORDS = st.recursive(
    LEAVES,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from(sorted(trees._KEYS)), each, max_size=6),
)


@settings(max_examples=times(200), deadline=None)
@given(RECORDS)
def test_no_record_ends_in_anything_but_an_entry_or_damage(record: object) -> None:
    with suppress(StoreDamaged):
        trees.parsed(records.read(records.written(record), "x"), "x")


def test_a_frame_is_expanded_only_to_the_size_that_was_agreed() -> None:
    codec, small = packing.packed(b"\0" * 1_000_000)
    assert codec == "zstd"
    assert packing.unpacked(codec, small, 1_000_000) == b"\0" * 1_000_000
    for bad in (999_999, 1_000_001, -1, packing.LARGEST + 1):
        with pytest.raises(StoreDamaged, match=r"expands to another size|the format allows"):
            packing.unpacked(codec, small, bad)
    with pytest.raises(StoreDamaged):
        packing.unpacked("zstd", b"not zstd", 10)
    with pytest.raises(StoreDamaged):
        packing.unpacked("lzma", b"x", 1)
    with pytest.raises(StoreDamaged):
        packing.unpacked_record(packing.packed_record(b"\0" * 1_000_000), 999_999)


ID = "00" * 32
NO_PACKS: list[object] = [
    [], [ID, 100], [ID, 10, 9], ["0" * 63, 1000, 100], [ID, 1000, 990], [ID, 1000, -1], [ID, "1000", 100], 7, None,
]  # fmt: skip


@pytest.mark.parametrize("record", NO_PACKS)
def test_a_pack_that_cannot_be_is_refused(record: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Pack.parsed(record)
