"""Whether two files hold the same bytes: by where they lie, by the ids of their pieces, else by reading both.

What is a hole is never read: a file of exbibytes may hold one byte.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from itertools import zip_longest
from typing import cast

from persist.adopt import content as bytes_
from persist.bucket.blobs import Writer
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys
from persist.difference import extents
from persist.difference.disk import Disk
from persist.difference.nodes import Child, Node, Tree
from persist.difference.stored import Stored
from persist.sync import contents

_PIECE = 1 << 20
_BLOCK = 64 << 10
_ZEROS = bytes(_BLOCK)
Where = tuple[Node, Child]
Stream = Iterator[tuple[int, bytes]]  # where in a file, and what; between them are holes
Held = tuple[Content, contents.Extents | None]


def same(one: Tree, other: Tree, places: tuple[Where, Where]) -> bool:
    """Whether a file of each side holds the same. Raises OSError, StoreDamaged."""
    here, there = places
    if here[1].thing.size != there[1].thing.size:
        return False
    if here[1].thing.size == 0:
        return True
    if isinstance(one, Disk) and isinstance(other, Disk):
        with one.opened(here[0], here[1].name) as first, other.opened(there[0], there[1].name) as second:
            shared = one.filesystem is not None and one.filesystem == other.filesystem
            return (extents.same if shared else bytes_.same)(first, second, here[1].thing.size)
    keys = _keys(one, other)
    if keys is not None:
        held, beside = _held(one, here, keys), _held(other, there, keys)
        if held is not None and beside is not None and (held == beside or not _sparse(held, beside)):
            return held == beside
    sides = zip_longest(_blocks(_stream(one, here)), _blocks(_stream(other, there)))
    return all(block == other_block for block, other_block in sides)


def digest(tree: Tree, where: Where, other: Tree) -> object:
    """What is equal for files of both trees that hold the same. Raises OSError, StoreDamaged."""
    keys = _keys(tree, other)
    if keys is not None and (held := _held(tree, where, keys)) is not None and not _sparse(held):
        return held[0]
    found = hashlib.blake2b()
    for at, block in _blocks(_stream(tree, where)):
        found.update(at.to_bytes(8, "little") + block)
    return found.digest()


def _keys(one: Tree, other: Tree) -> AgentKeys | None:
    """The keys by which pieces of both have ids that can be compared; None: none do (another epoch, or no store)."""
    found = {id(tree.keys): tree.keys for tree in (one, other) if isinstance(tree, Stored)}
    keys = list(found.values())
    return keys[0] if keys and all(each.place == keys[0].place for each in keys) else None


def _held(tree: Tree, where: Where, keys: AgentKeys) -> Held | None:
    """The ids of what a file holds, and where it does, if it has holes; None: in too many pieces to be said so."""
    if isinstance(tree, Stored):
        entry = where[1].entry
        return None if entry is None or entry.content is None else (entry.content, entry.data)
    assert isinstance(tree, Disk)
    try:
        with tree.opened(where[0], where[1].name) as fd:
            content, _, extents = contents.stored(_Ids(keys), fd, os.fstat(fd))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return None
    return content, extents


def _sparse(*held: Held) -> bool:
    """Whether any has holes: the same bytes may have others elsewhere, and so other ids."""
    return any(extents is not None for _, extents in held)


class _Ids:
    """Takes pieces as a sync would send them, and sends nothing: what is wanted are their ids."""

    opened = True

    def __init__(self, keys: AgentKeys) -> None:
        self._keys = keys

    def learn(self) -> None:
        """Nothing was said."""

    @property
    def writer(self) -> Writer:
        """What takes pieces."""
        return cast(Writer, self)

    @property
    def seed(self) -> int:
        """What moves the boundaries of chunks."""
        return self._keys.chunks

    def add(self, kind: str, piece: bytes) -> bytes:
        """The id of a piece."""
        return self._keys.id(kind, piece)


def _stream(tree: Tree, where: Where) -> Stream:
    if isinstance(tree, Stored):
        yield from tree.pieces(where[1])
        return
    assert isinstance(tree, Disk)
    with tree.opened(where[0], where[1].name) as fd:
        size, at = os.fstat(fd).st_size, 0
        while (at := bytes_.data(fd, at, size)) < size and (piece := os.pread(fd, min(_PIECE, size - at), at)):
            yield at, piece
            at += len(piece)


def _blocks(stream: Stream) -> Stream:
    """All of a stream that is not zeros, in blocks that depend on nothing but what the file holds."""
    at, block = 0, bytearray()
    for offset, piece in stream:
        done = 0
        while done < len(piece):
            start = (offset + done) % _BLOCK
            if not block or offset + done - start != at:
                if block and block != _ZEROS:
                    yield at, bytes(block)
                at, block = offset + done - start, bytearray(_BLOCK)
            count = min(_BLOCK - start, len(piece) - done)
            block[start : start + count] = piece[done : done + count]
            done += count
    if block and block != _ZEROS:
        yield at, bytes(block)
