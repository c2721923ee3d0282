"""The lines of listings: made without objects in between, the same bytes; long listings are cut where lines say so."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist.bucket import content, records, trees
from persist.bucket.blobs import Reader, Writer
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.trees import Entry
from persist.store import StoreDamaged
from persist.store.memory import MemoryStore
from tests.scale import times

KEYS = AgentKeys.of(TownKey(bytes(32)), "ada")
ROLES = st.sampled_from(["agent", "root", "other"])
CONTENTS = st.builds(Content, st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple), st.integers(0, 4))
EXTENTS = st.lists(st.tuples(st.integers(0, 2**63), st.integers(1, 2**63)), max_size=3).map(tuple)
XATTRS = st.dictionaries(st.binary(max_size=8), st.binary(max_size=12), max_size=3).map(
    lambda found: tuple(found.items())
)
ENTRIES = st.builds(
    Entry,
    name=st.binary(max_size=40), kind=st.sampled_from(["file", "dir", "symlink", "fifo"]), mode=st.integers(0, 0o7777),
    mtime=st.integers(-(2**70), 2**70), owner=ROLES, group=ROLES, xattrs=XATTRS, size=st.integers(0, 2**63),
    content=st.none() | CONTENTS, data=st.none() | EXTENTS, target=st.binary(max_size=40),
    link=st.text(st.characters(categories=None, exclude_categories=()), max_size=8),
)  # fmt: skip


def fast(entry: Entry) -> bytes:
    fields: dict[str, Any] = {name: getattr(entry, name) for name in Entry.__slots__}
    return trees.line(fields.pop("name"), fields.pop("kind"), fields.pop("mode"), fields.pop("mtime"), **fields)


@settings(max_examples=times(400), deadline=None)
@given(ENTRIES)
def test_a_line_is_the_record_of_its_entry_byte_for_byte(entry: Entry) -> None:
    expected = records.written(trees.record(entry))
    assert fast(entry) == trees.line_of(entry) == expected
    assert b"\n" not in expected


@pytest.mark.parametrize("byte", range(256))
def test_a_line_holds_every_byte_that_a_name_a_target_and_an_attribute_can_have(byte: int) -> None:
    odd = b'a"\\' + bytes([byte]) * 2
    entry = Entry(odd, "symlink", 0o777, 0, target=odd, link=chr(byte) + "\ud800\udfff\U0001f600")
    assert fast(entry) == records.written(trees.record(entry))
    entry = Entry(odd, "fifo", 0, -1, xattrs=((odd, odd), (b"", b"")))
    assert fast(entry) == records.written(trees.record(entry))


def test_an_entry_with_more_attributes_or_extents_than_a_sync_takes_is_refused() -> None:
    xattrs = ((b"user.a", b"x" * (trees.LARGEST_XATTRS - 6)),)
    data = tuple((2 * at, 1) for at in range(trees.MOST_EXTENTS))
    most = Entry(b"n", "file", 0, 0, size=1 << 40, content=Content(()), xattrs=xattrs, data=data)
    assert trees.parsed(trees.record(most), "it") == most
    with pytest.raises(StoreDamaged, match="2,000 extents"):
        trees.parsed(trees.record(replace(most, data=(*(most.data or ()), (1 << 39, 1)))), "it")
    with pytest.raises(StoreDamaged, match="65,536 bytes of extended attributes"):
        trees.parsed(trees.record(replace(most, xattrs=(*most.xattrs, (b"user.b", b"")))), "it")


class Counted:
    """A writer into memory that says how many bytes the last sync sent."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.known: set[bytes] = set()
        self.packs: list[Any] = []

    def write(self, lines: Iterator[bytes]) -> tuple[Content, int]:
        writer = Writer(self.store, KEYS, self.known.__contains__)
        listing = trees.write_lines(writer, lines)
        placed = writer.finish()
        self.known |= {id_ for each in placed for id_ in each.ids}
        self.packs += [each.pack for each in placed]
        return listing, sum(each.pack.size for each in placed)

    def reader(self) -> Reader:
        reader = Reader(self.store, KEYS, kind="tree")
        reader.load_all(self.packs)
        return reader


def lines(
    count: int, *, changed: dict[int, int] | None = None, gone: tuple[int, ...] = (), more: tuple[bytes, ...] = ()
) -> Iterator[bytes]:
    names = {b"file-%06d.txt" % number: number for number in range(count) if number not in gone}
    for name in sorted((*names, *more)):
        number = names.get(name, 0)
        held = Content((sha256(b"%d" % (changed or {}).get(number, number)).digest(),))
        yield trees.line(name, "file", 0o644, 10**18 + (changed or {}).get(number, number), size=9, content=held)


@pytest.mark.parametrize(
    "edit",
    [
        {"changed": {54_321: 5}}, {"changed": {99_999: 5}}, {"gone": (0,)}, {"more": (b"file-050000.aaa",)},
        {"changed": {10: 1}, "gone": (90_000,), "more": (b"a",)},
    ],
    ids=["changed", "the last one changed", "the first one removed", "one more", "three at once"],
)  # fmt: skip
def test_one_change_in_a_directory_of_100_000_names_sends_under_200_kb(
    edit: dict[str, Any], large: tuple[Counted, Content]
) -> None:
    counted, before = large
    after, sent = counted.write(lines(100_000, **edit))
    assert before.depth == after.depth == 1
    assert before != after
    assert 0 < sent < 200_000, sent
    pieces = content.read(counted.reader(), "tree", after)
    assert b"".join(pieces).splitlines() == list(lines(100_000, **edit))


@pytest.fixture(scope="module")
def large() -> tuple[Counted, Content]:
    counted = Counted()
    listing, sent = counted.write(lines(100_000))
    assert sent > 3_000_000
    assert len(listing.ids) <= content.INLINE
    return counted, listing


def test_a_change_of_nothing_sends_nothing(large: tuple[Counted, Content]) -> None:
    counted, before = large
    assert counted.write(lines(100_000)) == (before, 0)


def test_the_same_lines_are_the_same_listing_however_they_come() -> None:
    counted = Counted()
    entries = [Entry(b"%d" % number, "fifo", 0, 0) for number in range(5000)]
    writer = Writer(counted.store, KEYS)
    assert trees.write(writer, reversed(entries)) == trees.write_lines(writer, sorted(map(trees.line_of, entries)))
    assert trees.write(writer, []) == Content(())
    writer.finish()


def test_lines_are_taken_as_they_come_and_never_held_all_at_once() -> None:
    class Few(Writer):
        def add(self, kind: Any, piece: bytes) -> bytes:
            given.append(len(piece))
            return super().add(kind, piece)

    given: list[int] = []
    taken, worst = 0, 0

    def source() -> Iterator[bytes]:
        nonlocal taken, worst
        for line in lines(5000):
            taken += len(line) + 1
            worst = max(worst, taken - sum(given))
            yield line

    writer = Few(None, KEYS)
    trees.write_lines(writer, source())
    writer.finish()
    assert worst <= (64 << 10) * 2 + 300


NO_LINES = {
    "no newline": b'{"a":1}',
    "two on a line": b'{"a":1}{"a":1}\n',
    "a space behind": b'{"a":1} \n',
    "a space before": b' {"a":1}\n',
    "an empty line": b"\n",
    "cut": b'{"a":\n',
    "not ASCII": b'{"a":"\xc3\xa9"}\n',
    "deep": b"[" * 10_000,
}


@pytest.mark.parametrize("piece", NO_LINES.values(), ids=NO_LINES)
def test_lines_that_were_never_written_so_are_refused(piece: bytes) -> None:
    with pytest.raises(StoreDamaged, match="not a record that this format knows"):
        list(records.lines(piece, "x"))


def test_lists_of_lists_that_repeat_are_walked_once() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    leaf = writer.add("tree", b"\7" * 32)
    for _ in range(3):
        leaf = writer.add("tree", leaf * 4096)
    reader = Reader(store, KEYS)
    reader.load_all(placed.pack for placed in writer.finish())
    assert len(list(content.ids(reader, Content((leaf,), 4)))) == 1 + 3 * 4096 + 1


def test_a_list_that_is_longer_than_any_that_was_written_is_refused() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    long = writer.add("tree", b"\7" * 32 * 4097)
    reader = Reader(store, KEYS)
    reader.load_all(placed.pack for placed in writer.finish())
    with pytest.raises(StoreDamaged, match="length that it cannot have"):
        list(content.read(reader, "data", Content((long,), 1)))
