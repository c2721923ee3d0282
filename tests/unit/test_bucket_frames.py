"""A directory that lies, though it was sealed with the right key, is refused by name before anything is made of it."""

import struct
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zstandard import ZstdCompressor

from persist.bucket import frames, packing
from persist.bucket.blobs import Reader, Writer
from persist.bucket.frames import Frame
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.packs import LARGEST, MAGIC, Pack, PackReader
from persist.bucket.sealing import Seal
from persist.store import StoreDamaged
from persist.store.memory import MemoryStore
from tests.scale import times

KEYS = AgentKeys.of(TownKey(bytes(32)), "ada")
NAME = f"packs/{KEYS.place}/{'5a' * 32}"
SEAL = Seal.of(KEYS.agent, KEYS.pack, NAME)
HEAD = struct.Struct(">BBIII")


def pack(store: MemoryStore, directory: bytes, sealed: bytes = b"", *, number: int = 1, packed: bool = True) -> Pack:
    """A pack of the town's own key that holds `sealed` and that directory."""
    record = SEAL.close("directory", number, packing.packed_record(directory) if packed else directory, last=True)
    data = MAGIC + sealed + record + struct.pack(">II", number, len(record))
    store.delete(NAME)
    store.put(NAME, data)
    return Pack("5a" * 32, len(data), len(record))


def head(kind: int = 0, codec: int = 0, pieces: int = 1, stored: int = 19, size: int = 3) -> bytes:
    return HEAD.pack(kind, codec, pieces, stored, size)


def length(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


ID = KEYS.id("data", b"abc")
SEALED = SEAL.close("data", 0, b"abc")


def test_the_layout_is_what_the_format_says() -> None:
    store = MemoryStore()
    made = pack(store, head() + length(3) + ID, SEALED)
    reader = Reader(store, KEYS)
    assert reader.load(made) == [ID]
    assert reader.get("data", ID) == b"abc"
    (frame,) = PackReader(store, KEYS, made).frames()
    assert frames.written([frame]) == head() + length(3) + ID


@settings(max_examples=times(60), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["data", "tree"]), st.sampled_from(["zstd", "raw"]),
            st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(1, 9)), min_size=1, max_size=9),
        ), max_size=9,
    )
)  # fmt: skip
def test_every_directory_comes_back(given: list[tuple[frames.Kind, packing.Codec, list[tuple[bytes, int]]]]) -> None:
    made, offset = [], 16
    for kind, codec, pieces in given:
        lengths = [length for _, length in pieces]
        ids = b"".join(id_ for id_, _ in pieces)
        made.append(Frame(kind, codec, offset, 17, sum(lengths), ids, lengths))
        offset += 17
    found = frames.parsed(frames.written(made), len(made), 16, "x")
    assert [(each.kind, each.codec, each.offset, list(each.pieces())) for each in found] == [
        (each.kind, each.codec, each.offset, list(each.pieces())) for each in made
    ]


LIES = {
    "a kind that is unknown": (head(kind=2) + length(3) + ID, 1, "unknown kind"),
    "a codec that is unknown": (head(codec=2) + length(3) + ID, 1, "unknown kind"),
    "more frames than there are": (head() + length(3) + ID, 60, "more frames"),
    "four thousand million frames": (head() + length(3) + ID, 2**32 - 1, "more frames"),
    "fewer frames than there are": (head() * 2 + length(3, 3) + ID * 2, 1, "number of pieces"),
    "four thousand million pieces": (head(pieces=2**32 - 1) + length(3) + ID, 1, "number of pieces"),
    "no piece": (head(pieces=0, size=0, stored=17), 1, "do not fit"),
    "a piece without an id": (head() + length(3), 1, "number of pieces"),
    "half an id": (head() + length(3) + ID[:16], 1, "number of pieces"),
    "something behind": (head() + length(3) + ID + b"x", 1, "number of pieces"),
    "an empty piece": (head(pieces=2) + length(3, 0) + ID * 2, 1, "do not fill"),
    "pieces that are longer than the frame": (head(pieces=2) + length(3, 3) + ID * 2, 1, "do not fill"),
    "pieces that are shorter": (head() + length(2) + ID, 1, "do not fill"),
    "a length that wraps": (head(pieces=2) + length(4, 2**32 - 1) + ID * 2, 1, "do not fill"),
    "a frame of 4 GB": (head(size=2**32 - 1, stored=100) + length(2**32 - 1) + ID, 1, "do not fit"),
    "a frame above 8 MiB": (head(size=(8 << 20) + 1, stored=100) + length((8 << 20) + 1) + ID, 1, "do not fit"),
    "more sealed than expanded": (head(stored=20) + length(3) + ID, 1, "do not fit"),
    "less sealed than a tag": (head(stored=16) + length(3) + ID, 1, "do not fit"),
    "frames that are longer than the pack": (head() * 2 + length(3, 3) + ID * 2, 2, "do not fill it"),
    "nothing": (b"", 0, "do not fill it"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_directory_that_lies_is_refused(lie: str) -> None:
    directory, number, what = LIES[lie]
    store = MemoryStore()
    with pytest.raises(StoreDamaged, match=what):
        Reader(store, KEYS).load(pack(store, directory, SEALED, number=number))


def test_more_pieces_than_a_pack_may_hold_are_refused() -> None:
    store, count = MemoryStore(), 200_001
    many = head(pieces=count, size=count, stored=99) + length(1) * count + bytes(32) * count
    with pytest.raises(StoreDamaged, match="number of pieces"):
        Reader(store, KEYS).load(pack(store, many, b"x" * 99))


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (ZstdCompressor().compress(bytes(64 << 20)), "the format allows"),
        (ZstdCompressor().compress(bytes(300 << 20)), "the format allows"),
        (ZstdCompressor(write_content_size=False).compress(bytes(1 << 20)), "does not say"),
        (b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f", "the format allows"),
        (b"[]", "cannot be expanded"),
        (b"", "cannot be expanded"),
    ],
    ids=["64 MiB of zeros", "300 MiB of zeros", "no size", "a size of 8 EiB", "JSON", "empty"],
)
def test_a_directory_that_expands_to_more_than_it_may_is_not_expanded(record: bytes, what: str) -> None:
    store = MemoryStore()
    made = pack(store, record, SEALED, packed=False)
    with pytest.raises(StoreDamaged, match=what):
        PackReader(store, KEYS, made).frames()


def test_a_frame_that_expands_to_more_than_it_says_is_not_expanded() -> None:
    bomb = ZstdCompressor().compress(bytes(256 << 20))
    sealed = SEAL.close("data", 0, bomb)
    size = 8 << 20
    store = MemoryStore()
    made = pack(store, head(codec=1, stored=len(sealed), size=size) + length(size) + ID, sealed)
    reader = Reader(store, KEYS)
    reader.load(made)
    with pytest.raises(StoreDamaged, match="expands to another size"):
        reader.get("data", ID)


def test_a_piece_that_is_not_what_its_id_says_is_refused() -> None:
    store = MemoryStore()
    reader = Reader(store, KEYS)
    reader.load(pack(store, head() + length(3) + b"\7" * 32, SEALED))
    with pytest.raises(StoreDamaged, match="not what its id says"):
        reader.get("data", b"\7" * 32)


@pytest.mark.parametrize(
    "record",
    [
        ["5a" * 32, LARGEST + 1, 100], ["5a" * 32, 40 << 20, (16 << 20) + 1], ["5a" * 32, 2**70, 100],
        ["5a" * 32, 1000, -5], ["5a" * 32, 40, 16], ["5a" * 32, 1000, 1000],
    ],
)  # fmt: skip
def test_a_pack_of_a_size_that_was_never_written_is_refused_before_it_is_asked_for(record: list[object]) -> None:
    with pytest.raises(ValueError, match="pack"):
        Pack.parsed(record)


@settings(max_examples=times(150), deadline=None)
@given(st.binary(max_size=200), st.integers(0, 9) | st.integers(0, 2**32 - 1))
def test_no_bytes_end_in_anything_but_frames_or_damage(record: bytes, number: int) -> None:
    with suppress(StoreDamaged):
        frames.parsed(record, number, 16, "x")


def test_no_changed_byte_of_a_pack_goes_unseen() -> None:
    store, random = MemoryStore(), Random(8)
    writer = Writer(store, KEYS)
    ids = [writer.add("data", random.randbytes(20)), writer.add("tree", b"[" * 90)]
    (placed,) = writer.finish()
    key = placed.pack.key(KEYS)
    good = store.get(key)
    for at in range(len(good)):
        bad = MemoryStore()
        bad.put(key, good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with pytest.raises(StoreDamaged):
            _read(bad, placed.pack, ids)
    for cut in range(0, len(good), 7):
        bad = MemoryStore()
        bad.put(key, good[:cut])
        with pytest.raises(StoreDamaged):
            _read(bad, placed.pack, ids)


def _read(store: MemoryStore, pack: Pack, ids: list[bytes]) -> None:
    reader = Reader(store, KEYS)
    reader.load(pack)
    reader.get("data", ids[0])
    reader.get("tree", ids[1])
