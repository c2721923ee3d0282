"""Whether two files hold the same bytes: by where they lie, by the ids of their pieces, else by reading both."""

import hashlib
import os
from collections.abc import Iterator
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
Where = tuple[Node, Child]


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
        held = _held(one, here, keys), _held(other, there, keys)
        if None not in held:
            return held[0] == held[1]
    return _same_stream(_stream(one, here), _stream(other, there))


def digest(tree: Tree, where: Where, other: Tree) -> object:
    """What is equal for files of both trees that hold the same. Raises OSError, StoreDamaged."""
    keys = _keys(tree, other)
    if keys is not None and (held := _held(tree, where, keys)) is not None:
        return held
    found = hashlib.blake2b()
    for piece in _stream(tree, where):
        found.update(piece)
    return found.digest()


def _keys(one: Tree, other: Tree) -> AgentKeys | None:
    """The keys by which pieces of both have ids that can be compared; None: none do (another epoch, or no store)."""
    found = {id(tree.keys): tree.keys for tree in (one, other) if isinstance(tree, Stored)}
    keys = list(found.values())
    return keys[0] if keys and all(each.place == keys[0].place for each in keys) else None


def _held(tree: Tree, where: Where, keys: AgentKeys) -> Content | None:
    """The ids of what a file holds; None where it has holes, which others may have elsewhere."""
    if isinstance(tree, Stored):
        return tree.content(where[1])
    assert isinstance(tree, Disk)
    with tree.opened(where[0], where[1].name) as fd:
        content, _, holes = contents.stored(_Ids(keys), fd, os.fstat(fd))
    return content if holes is None else None


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


def _stream(tree: Tree, where: Where) -> Iterator[bytes]:
    if isinstance(tree, Stored):
        yield from tree.pieces(where[1])
        return
    assert isinstance(tree, Disk)
    with tree.opened(where[0], where[1].name) as fd:
        while piece := os.read(fd, _PIECE):
            yield piece


def _same_stream(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    """Whether two streams are the same, however each is cut."""
    here = there = b""
    while True:
        here = here or next(one, b"")
        there = there or next(other, b"")
        if not here or not there:
            return here == there
        count = min(len(here), len(there))
        if here[:count] != there[:count]:
            return False
        here, there = here[count:], there[count:]
