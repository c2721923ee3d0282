"""Pieces by their id: `Writer` sends those that the store does not have, `Reader` finds them again and checks each.

`stream` (persist.bucket.streaming) reads many frames in the order of the packs, for a restore.
"""

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from persist.bucket.frames import Frame
from persist.bucket.frames import Kind as Piece
from persist.bucket.keys import AgentKeys
from persist.bucket.packs import Pack, PackReader
from persist.bucket.sealing import HINT
from persist.bucket.sending import Group, Placed, Sender, Sent
from persist.bucket.streaming import Frames, FrameWanted, directories, stream
from persist.store import Store, StoreDamaged

__all__ = ["FrameWanted", "Frames", "Piece", "Placed", "Reader", "Writer", "directories", "stream"]
GROUP = 512 << 10  # bytes: small pieces are collected until a frame holds this many
MOST = 16_384  # pieces of one frame
CACHED = 32 << 20  # bytes of expanded frames that a reader keeps
_RUN = 8 << 20  # bytes, expanded, of neighbouring frames that are read at once


class Writer:
    """Takes pieces from one thread, sends those that the store does not have. With no store it only counts (a dry run).

    `known(id)` says what the store has. Usable as a context manager: what leaves it by an exception stops the threads.
    """

    def __init__(
        self,
        store: Store | None,
        keys: AgentKeys,
        known: Callable[[bytes], bool] = lambda _: False,
        *,
        random: Callable[[int], bytes] = os.urandom,
        progress: Sent | None = None,
    ) -> None:
        from blake3 import blake3

        self._store, self._keys, self._random, self._progress = store, keys, random, progress
        self._blake3 = blake3
        self._secret: dict[Piece, bytes] = {"data": keys.data, "tree": keys.tree}
        self._known = known
        self._mine: set[bytes] = set()  # handed over already
        self._groups: dict[Piece, _Growing] = {"data": _Growing(), "tree": _Growing()}
        self._sender: Sender | None = None
        self._stop: weakref.finalize[[], Writer] | None = None
        self._placed: list[Placed] = []  # by senders that have finished

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop is not None:
            self._stop()

    def add(self, kind: Piece, piece: bytes) -> bytes:
        """The id of a piece (not empty, 8 MiB at most), which will be durable in a pack when `finish` has returned.

        Raises what stopped the threads: StoreFull, StoreUnreachable and others.
        """
        id_ = self._blake3(piece, key=self._secret[kind]).digest()
        if id_ in self._mine or self._known(id_):
            return id_
        self._mine.add(id_)
        size = len(piece)
        if size >= GROUP:
            self._put(Group(kind, (id_,), (piece,), size))
            return id_
        group = self._groups[kind]
        group.ids.append(id_)
        group.pieces.append(piece)
        group.size += size
        if group.size >= GROUP or len(group.ids) >= MOST:
            self._flush(kind)
        return id_

    def finish(self) -> list[Placed]:
        """Send what is left; every pack that this writer ever sent, each durable. More may be added afterwards."""
        self._flush("data")
        self._flush("tree")
        if self._sender is not None:
            assert self._stop is not None
            self._placed += self._sender.finish()
            self._stop.detach()
            self._sender = None
        return self._placed

    @property
    def durable(self) -> list[Placed]:
        """Every pack that is durable by now, also after a failure: what is in them need not be sent again."""
        return [*self._placed, *(self._sender.durable if self._sender is not None else ())]

    def _flush(self, kind: Piece) -> None:
        group = self._groups[kind]
        if group.ids:
            self._groups[kind] = _Growing()
            self._put(Group(kind, tuple(group.ids), tuple(group.pieces), group.size))

    def _put(self, group: Group) -> None:
        if self._sender is None:
            self._sender = Sender(self._store, self._keys, self._random, self._progress)
            # Also when the writer is dropped, or the program ends: a thread in C code must not outlive it.
            self._stop = weakref.finalize(self, self._sender.stop)
        self._sender.put(group)


class _Growing:
    __slots__ = ("ids", "pieces", "size")

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.pieces: list[bytes] = []
        self.size = 0


@dataclass(frozen=True, slots=True)
class _Expanded:
    data: bytes
    places: dict[bytes, tuple[int, int]]  # id: start and end


class Reader:
    """The pieces of some packs, found by id; keeps the frames that were read last. For one thread.

    `kind`: only pieces of this kind are remembered, which saves memory where only listings are read. `cache`: bytes of
    expanded frames that it keeps.
    """

    def __init__(self, store: Store, keys: AgentKeys, *, kind: Piece | None = None, cache: int = CACHED) -> None:
        self._store, self._keys, self._kind, self._most = store, keys, kind, cache
        self._frames: list[tuple[PackReader, int, Frame]] = []
        self._where: dict[bytes, int] = {}  # id: the place of its frame in that list
        self._lost: set[int] = set()  # places of frames that cannot be read
        self._cache: OrderedDict[int, _Expanded] = OrderedDict()
        self._cached = 0

    def load(self, pack: Pack) -> list[bytes]:
        """Learn what a pack holds; the ids of all pieces in it. Raises ObjectMissing, StoreDamaged."""
        return self.learn(pack, PackReader(self._store, self._keys, pack).frames())

    def load_all(self, packs: Iterable[Pack]) -> None:
        """Learn what packs hold; their directories are read several at once. Raises ObjectMissing, StoreDamaged."""
        for pack, frames in directories(self._store, self._keys, packs):
            self.learn(pack, frames)

    def learn(self, pack: Pack, frames: tuple[Frame, ...]) -> list[bytes]:
        """Like `load`, of a directory that was read already."""
        reader, ids = PackReader(self._store, self._keys, pack), list[bytes]()
        for number, frame in enumerate(frames):
            found = [id_ for id_, _, _ in frame.pieces()]
            ids += found
            if self._kind in (None, frame.kind):
                place = len(self._frames)
                self._frames.append((reader, number, frame))
                for id_ in found:
                    self._where.setdefault(id_, place)
        return ids

    def forget(self, pack: Pack, number: int) -> None:
        """A frame cannot be read: what it holds is taken from other packs, where they hold it. Slow, and rare."""
        at = enumerate(self._frames)
        self._lost |= {place for place, (reader, frame, _) in at if (reader.pack, frame) == (pack, number)}
        self._where = {}
        for place, (_, _, frame) in enumerate(self._frames):
            for id_, _, _ in frame.pieces() if place not in self._lost else ():
                self._where.setdefault(id_, place)

    def get(self, kind: Piece, id_: bytes) -> bytes:
        """The piece of that id. Raises ObjectMissing, StoreDamaged."""
        place = self._where.get(id_)
        if place is None:
            raise StoreDamaged("a piece that a listing names is in none of the commit's packs", hint=HINT)
        expanded = self._expanded(place)
        start, end = expanded.places[id_]
        piece = expanded.data[start:end]
        if self._keys.id(kind, piece) != id_:
            raise StoreDamaged("a piece is not what its id says", hint=HINT)
        return piece

    def _expanded(self, place: int) -> _Expanded:
        if place in self._cache:
            self._cache.move_to_end(place)
            return self._cache[place]
        reader, _, first = self._frames[place]
        run = self._run(place)
        last = self._frames[run[-1]][2]
        sealed = memoryview(reader.fetch(first.offset, last.offset + last.stored - first.offset))
        for at in reversed(run):  # the one that is wanted last: it is thrown away last
            _, number, frame = self._frames[at]
            start = frame.offset - first.offset
            self._keep(at, frame, reader.opened(number, frame, sealed[start : start + frame.stored]))
        return self._cache[place]

    def _run(self, place: int) -> range:
        """A frame and those behind it that are worth reading with it: listings lie, and are wanted, together."""
        reader, _, first = self._frames[place]
        end, size, stop = place + 1, first.size, first.offset + first.stored
        while first.kind == "tree" and end < len(self._frames):
            other, _, frame = self._frames[end]
            size += frame.size
            apart = other is not reader or frame.offset != stop or end in self._lost
            if apart or frame.kind != "tree" or size > _RUN:
                break
            end, stop = end + 1, stop + frame.stored
        return range(place, end)

    def _keep(self, place: int, frame: Frame, data: bytes) -> None:
        if place in self._cache:
            return
        self._cache[place] = _Expanded(data, {id_: (at, at + length) for id_, at, length in frame.pieces()})
        self._cached += len(data)
        while self._cached > self._most and len(self._cache) > 1:
            self._cached -= len(self._cache.popitem(last=False)[1].data)
