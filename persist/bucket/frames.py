"""What a pack's directory says: its frames, and the pieces in each: mostly ids, hence binary (docs/formats/store.md).

    14 bytes for each frame | 4 bytes, a length, for each piece | 32 bytes, an id, for each piece     (big-endian)

A frame's bytes: kind, codec, pieces (4), sealed bytes (4), expanded bytes (4). Frames lie one after the other in the
pack, and pieces in their frame, so no offset is written and none can be wrong.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from persist.bucket import packing
from persist.bucket.keys import SIZE
from persist.bucket.sealing import HINT, TAG
from persist.store import StoreDamaged

Kind = Literal["data", "tree"]
MOST = 200_000  # pieces of one pack
LARGEST = 16 << 20  # bytes of a directory, expanded or not: 200,000 pieces, each in a frame of its own, are 10 MB
_FRAME = struct.Struct(">BBIII")
_KINDS: tuple[Kind, ...] = ("data", "tree")
_CODECS: tuple[packing.Codec, ...] = ("raw", "zstd")
_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a pack: where it lies, and its pieces, one after the other when it is expanded."""

    kind: Kind
    codec: packing.Codec
    offset: int  # of the sealed bytes in the object
    stored: int  # sealed bytes
    size: int  # bytes when expanded
    ids: bytes  # of the pieces, 32 bytes each
    lengths: Sequence[int]  # bytes of each piece

    def __len__(self) -> int:
        return len(self.lengths)

    def pieces(self) -> Iterator[tuple[bytes, int, int]]:
        """(id, offset in the expanded frame, length) of each piece."""
        offset = 0
        for at, length in enumerate(self.lengths):
            yield self.ids[at * SIZE : (at + 1) * SIZE], offset, length
            offset += length


def written(frames: Iterable[Frame]) -> bytes:
    """The directory of a pack that holds those frames."""
    heads, lengths, ids = [], array("I"), []
    for frame in frames:
        kind, codec = _KINDS.index(frame.kind), _CODECS.index(frame.codec)
        heads.append(_FRAME.pack(kind, codec, len(frame), frame.stored, frame.size))
        lengths.extend(frame.lengths)
        ids.append(frame.ids)
    return b"".join((*heads, _swapped(lengths).tobytes(), *ids))


def parsed(record: bytes, number: int, start: int, what: str) -> tuple[Frame, ...]:
    """The frames of a pack with `number` of them, the first at byte `start`. Raises StoreDamaged that names `what`."""
    try:
        return tuple(_parsed(record, number, start))
    except ValueError as error:
        raise StoreDamaged(f"{what}: its directory says what cannot be: {error}", hint=HINT) from error


def _parsed(record: bytes, number: int, offset: int) -> Iterator[Frame]:
    if number > MOST or number * _FRAME.size > len(record):
        raise ValueError("more frames than it holds")
    heads = [_FRAME.unpack_from(record, at * _FRAME.size) for at in range(number)]
    total = sum(head[2] for head in heads)
    ids = number * _FRAME.size + total * _LENGTH
    if total > MOST or len(record) != ids + total * SIZE:
        raise ValueError("another number of pieces than it holds")
    lengths = array("I")
    lengths.frombytes(record[number * _FRAME.size : ids])
    lengths, at = _swapped(lengths), 0
    for kind, codec, count, stored, size in heads:
        frame = Frame(
            *_named(kind, codec), offset, stored, size,
            record[ids + at * SIZE : ids + (at + count) * SIZE], lengths[at : at + count],
        )  # fmt: skip
        _check(frame)
        yield frame
        offset, at = offset + stored, at + count


def _named(kind: int, codec: int) -> tuple[Kind, packing.Codec]:
    if kind >= len(_KINDS) or codec >= len(_CODECS):
        raise ValueError("an unknown kind of frame")
    return _KINDS[kind], _CODECS[codec]


def _check(frame: Frame) -> None:
    # The smaller of two codecs is used, so a frame is never longer than its pieces; a piece is never empty.
    if not TAG < frame.stored <= frame.size + TAG or frame.size > packing.LARGEST:
        raise ValueError("sizes of a frame that do not fit")
    if not frame.lengths or min(frame.lengths) == 0 or sum(frame.lengths) != frame.size:
        raise ValueError("pieces that do not fill their frame")


def _swapped(numbers: "array[int]") -> "array[int]":
    assert numbers.itemsize == _LENGTH
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
