"""One entry of a state, found by its path and read without a plan: what `persist get` looks for."""

from collections.abc import Iterator
from typing import cast

from persist.bucket import trees
from persist.bucket.blobs import FrameWanted, Reader, stream
from persist.bucket.content import DEEPEST, Content
from persist.bucket.keys import SIZE
from persist.bucket.sealing import HINT
from persist.bucket.trees import Entry
from persist.fill.atlas import Atlas
from persist.store import StoreDamaged
from town.terminal import shown

_HOLE = 1 << 20  # bytes of zeros that are given at a time


def find(atlas: Atlas, top: Entry, names: tuple[bytes, ...]) -> Entry | None:
    """What lies below a directory at those names; None where there is nothing. Raises ObjectMissing, StoreDamaged."""
    at: Entry | None = top
    for name in names:
        if at is None or at.kind != "dir" or at.content is None:
            return None
        at = _named(atlas, at.content, name)
    return at


def _named(atlas: Atlas, listing: Content, name: bytes) -> Entry | None:
    for entry in trees.read(cast(Reader, atlas), listing):
        if entry.name >= name:  # names ascend: nothing further on is read
            return entry if entry.name == name else None
    return None


def contents(atlas: Atlas, entry: Entry) -> Iterator[bytes]:
    """What a file holds, holes as zeros, a piece at a time. Raises ObjectMissing, StoreDamaged, perhaps at the end."""
    at = 0
    for offset, piece in data(atlas, entry):
        yield from _zeros(offset - at)
        yield piece
        at = offset + len(piece)
    yield from _zeros(entry.size - at)


def data(atlas: Atlas, entry: Entry) -> Iterator[tuple[int, bytes]]:
    """The same without its holes: where each piece lies in the file, and the piece. Raises as `contents` does."""
    assert entry.content is not None
    pieces = _pieces(atlas, entry.content)
    extents = ((0, entry.size),) if entry.data is None else entry.data
    view = memoryview(b"")
    for offset, length in extents:
        at = offset
        while at < offset + length:
            view = view or memoryview(next(pieces, b""))
            if not view:
                raise StoreDamaged(f"{shown(entry.name)} holds fewer bytes than its entry says")
            some = view[: offset + length - at]
            yield at, bytes(some)
            at, view = at + len(some), view[len(some) :]
    if view or next(pieces, None) is not None:
        raise StoreDamaged(f"{shown(entry.name)} holds more bytes than its entry says")


def _zeros(length: int) -> Iterator[bytes]:
    while length > 0:
        yield bytes(min(length, _HOLE))
        length -= _HOLE


def _pieces(atlas: Atlas, content: Content) -> Iterator[bytes]:
    """The pieces of a content in their order, several downloaded ahead."""

    def wanted() -> Iterator[FrameWanted]:
        for id_ in _leaves(atlas, content):
            frame, offset, length = atlas.find(id_)
            want = atlas.wanted(frame)
            yield FrameWanted(want.pack, want.number, want.frame, (id_, offset, length))

    for want, data in stream(atlas.store, atlas.keys, wanted()):
        id_, offset, length = cast(tuple[bytes, int, int], want.tag)
        piece = data[offset : offset + length]
        if want.frame.kind != "data" or atlas.keys.id("data", piece) != id_:
            raise StoreDamaged("a piece is not what its id says", hint=HINT)
        yield piece


def _leaves(atlas: Atlas, content: Content) -> Iterator[bytes]:
    if content.depth == 0:
        yield from content.ids
        return
    for id_ in content.ids:
        listed = atlas.get("tree", id_)
        if not listed or len(listed) % SIZE or content.depth > DEEPEST:
            raise StoreDamaged("a list of pieces has a length that it cannot have")
        ids = tuple(listed[at : at + SIZE] for at in range(0, len(listed), SIZE))
        yield from _leaves(atlas, Content(ids, content.depth - 1))
