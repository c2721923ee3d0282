"""Pieces by their id: `Writer` packs new ones and sends the packs, `Reader` finds them again and checks each."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal

from persist.bucket.keys import AgentKeys
from persist.bucket.packs import Frame, Pack, PackReader, PackWriter
from persist.bucket.sealing import HINT
from persist.store import Store, StoreDamaged

Piece = Literal["data", "tree"]
GROUP = 512 << 10  # small blobs are collected until a frame holds this many bytes
_CACHED = 64 << 20  # bytes of expanded frames that a reader keeps


class Writer:
    """Takes pieces, sends those that the store does not have. With no store it only counts (a dry run)."""

    def __init__(
        self,
        store: Store | None,
        keys: AgentKeys,
        known: dict[bytes, Pack] | None = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store, self._keys, self._random = store, keys, random
        self._known: dict[bytes, Pack | None] = dict(known or {})  # None: in a pack that is not sent yet
        self._pack = PackWriter(keys, random)
        self._groups: dict[Piece, list[tuple[bytes, bytes]]] = {"data": [], "tree": []}
        self._sizes: dict[Piece, int] = {"data": 0, "tree": 0}
        self.used: set[Pack] = set()  # packs of before that hold a piece of this state
        self.sent: list[Pack] = []

    def add(self, kind: Piece, piece: bytes) -> bytes:
        """The id of a piece, which will be in a pack when `finish` has returned."""
        id_ = self._keys.id(kind, piece)
        if id_ in self._known:
            pack = self._known[id_]
            if pack is not None:
                self.used.add(pack)
            return id_
        self._known[id_] = None
        self._groups[kind].append((id_, piece))
        self._sizes[kind] += len(piece)
        if self._sizes[kind] >= GROUP:
            self._frame(kind)
        return id_

    def finish(self) -> list[Pack]:
        """Send what is left; every pack that this writer sent, durable in the store."""
        self._frame("data")
        self._frame("tree")
        self._send()
        return self.sent

    def _frame(self, kind: Piece) -> None:
        if self._groups[kind]:
            self._pack.add(kind, self._groups[kind])
            self._groups[kind], self._sizes[kind] = [], 0
            if self._pack.full:
                self._send()

    def _send(self) -> None:
        if self._pack.empty:
            return
        pack, data = self._pack.closed()
        if self._store is not None:
            self._store.put(self._pack.key, data)
        self.sent.append(pack)
        self._pack = PackWriter(self._keys, self._random)


class Reader:
    """The pieces of some packs, found by id; keeps the frames that were read last."""

    def __init__(self, store: Store, keys: AgentKeys) -> None:
        self._store, self._keys = store, keys
        self._readers: list[PackReader] = []
        self._frames: list[tuple[PackReader, int, Frame]] = []
        self._where: dict[bytes, tuple[int, int, int]] = {}  # id: frame, offset in it, length
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0

    def load(self, pack: Pack) -> Iterable[bytes]:
        """Learn what a pack holds; the ids in it. Raises ObjectMissing, StoreDamaged."""
        reader = PackReader(self._store, self._keys, pack)
        ids = []
        for number, frame in enumerate(reader.frames()):
            position, offset = len(self._frames), 0
            self._frames.append((reader, number, frame))
            for id_, length in frame.blobs:
                self._where.setdefault(id_, (position, offset, length))
                offset += length
                ids.append(id_)
        return ids

    def get(self, kind: Piece, id_: bytes) -> bytes:
        """The piece of that id. Raises ObjectMissing, StoreDamaged."""
        if id_ not in self._where:
            raise StoreDamaged("a piece that a listing names is in none of the commit's packs", hint=HINT)
        position, offset, length = self._where[id_]
        piece = self._frame(position)[offset : offset + length]
        if self._keys.id(kind, piece) != id_:
            raise StoreDamaged("a piece is not what its id says", hint=HINT)
        return piece

    def _frame(self, position: int) -> bytes:
        if position in self._cache:
            self._cache.move_to_end(position)
            return self._cache[position]
        reader, number, frame = self._frames[position]
        data = reader.read(number, frame)
        self._cache[position] = data
        self._cached += len(data)
        while self._cached > _CACHED and len(self._cache) > 1:
            self._cached -= len(self._cache.popitem(last=False)[1])
        return data
