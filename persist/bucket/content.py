"""A byte stream as pieces: what a file or a listing holds, named by a few ids however long it is.

Up to 64 ids stand where they are needed; of more, lists are made (32 bytes an id), themselves pieces, named in turn:
`depth` says how many times. Lists end where an id says so, so that an insertion changes one list and not all after it.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from persist.bucket.blobs import Piece, Reader, Writer
from persist.bucket.keys import SIZE
from persist.store import StoreDamaged
from town.failure import Failure

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

INLINE = 64  # ids that stand where they are needed
DEEPEST = 4
SMALL = 512 << 10  # bytes up to which a file is one piece
_MIN, _AVERAGE, _MAX = 256 << 10, 1 << 20, 4 << 20  # bytes of the chunks of larger ones
_LIST_MAX = 4096  # ids of one list


class Input(Protocol):
    """Something to read from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of `buffer`; how many bytes, 0 at the end."""
        ...


class Content(NamedTuple):
    """A byte stream: ids of its pieces, or at a depth above 0 of lists of ids."""

    ids: tuple[bytes, ...]
    depth: int = 0

    @property
    def record(self) -> dict[str, object]:
        """The keys of a record that say it."""
        listed: dict[str, object] = {"content": [id_.hex() for id_ in self.ids]}
        return listed | {"depth": self.depth} if self.depth else listed

    @classmethod
    def parsed(cls, fields: dict[str, Any]) -> "Content":
        """From the keys `content` and `depth`. Raises KeyError, ValueError, TypeError."""
        ids, depth = tuple(bytes.fromhex(id_) for id_ in fields["content"]), fields.get("depth", 0)
        if not 0 <= depth <= DEEPEST or len(ids) > INLINE or any(len(id_) != SIZE for id_ in ids):
            raise ValueError("a content that this format cannot write")
        return cls(ids, depth)


def write(writer: Writer, kind: Piece, pieces: Iterable[bytes]) -> Content:
    """Store a stream that is cut already; no piece is empty."""
    found, depth = [writer.add(kind, piece) for piece in pieces], 0
    while len(found) > INLINE:
        found, depth = [writer.add("tree", b"".join(group)) for group in _lists(found)], depth + 1
    return Content(tuple(found), depth)


def read(reader: Reader, kind: Piece, content: Content) -> Iterator[bytes]:
    """The pieces of a stream, in order. Raises ObjectMissing, StoreDamaged."""
    if content.depth == 0:
        yield from (reader.get(kind, id_) for id_ in content.ids)
        return
    for id_ in content.ids:
        yield from read(reader, kind, _listed(reader, id_, content.depth))


def ids(reader: Reader, content: Content) -> Iterator[bytes]:
    """The id of every piece of a stream, lists of ids among them; reads those lists only, each once at each depth.

    Raises as `read` does. So lists that name each other over and over take no time that grows with the depth.
    """
    left, done = [content], set[tuple[int, bytes]]()
    while left:
        at = left.pop()
        yield from at.ids
        for id_ in at.ids if at.depth else ():
            if (at.depth, id_) not in done:
                done.add((at.depth, id_))
                left.append(_listed(reader, id_, at.depth))


def _listed(reader: Reader, id_: bytes, depth: int) -> Content:
    listed = reader.get("tree", id_)
    if not listed or len(listed) % SIZE or len(listed) > _LIST_MAX * SIZE:
        raise StoreDamaged("a list of pieces has a length that it cannot have")
    return Content(tuple(listed[at : at + SIZE] for at in range(0, len(listed), SIZE)), depth - 1)


def chunks(stream: Input, seed: int) -> Iterator[bytes]:
    """A long stream cut where its content says so (FastCDC), so that an insertion moves few boundaries."""
    for chunk in _chunker(seed).cut_stream(stream):
        yield bytes(chunk.data)


@lru_cache(maxsize=4)
def _chunker(seed: int) -> "FastCDC":
    from pyfastcdc import FastCDC

    # The package falls back to pure Python by itself, 200 times slower: better to stop and say so.
    if not FastCDC.__module__.startswith("pyfastcdc.cy"):
        raise Failure("pyfastcdc is installed without its compiled part", hint="install a wheel of it, or a compiler")
    return FastCDC(_AVERAGE, min_size=_MIN, max_size=_MAX, normalized_chunking=2, seed=seed)


def _lists(ids: list[bytes]) -> Iterator[list[bytes]]:
    """Groups of some 256 ids: a list ends behind an id whose first byte is 0, at the latest after 4096."""
    group: list[bytes] = []
    for id_ in ids:
        group.append(id_)
        if (id_[0] == 0 and len(group) >= 16) or len(group) == _LIST_MAX:
            yield group
            group = []
    if group:
        yield group
