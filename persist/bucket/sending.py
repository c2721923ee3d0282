"""The way of new pieces to the store: one thread compresses, seals and packs, up to four send what is full.

Everything that waits is bounded, so that a slow store slows the reading and takes no memory. The first failure of any
thread stops all of them and is raised, as it is, to whoever feeds or finishes.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from persist.bucket import frames
from persist.bucket.frames import Kind
from persist.bucket.keys import AgentKeys
from persist.bucket.packs import FULL, Pack, Packed, PackWriter
from persist.store import Store

QUEUED = 8 << 20  # bytes of pieces that wait for the packing thread
UPLOADS = 4  # packs on their way at once
_PATIENCE = 5.0  # seconds that a stop waits for the packing thread, whose longest step takes some ms


class Sent(Protocol):
    """Who wants to know what has been sent, from any thread."""

    def sent(self, bytes_: int) -> None:
        """So many bytes more are durable in the store."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A pack that is durable in the store, and the ids of the pieces in it."""

    pack: Pack
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Pieces that become one frame."""

    kind: Kind
    ids: tuple[bytes, ...]
    pieces: tuple[bytes, ...]
    size: int


class _StoppedError(BaseException):
    """Another thread failed, or nobody wants the result any more."""


class Sender:
    """Takes groups of pieces until `finish`; with no store it packs them and throws the packs away (a dry run)."""

    def __init__(
        self, store: Store | None, keys: AgentKeys, random: Callable[[int], bytes], progress: Sent | None = None
    ) -> None:
        self._store, self._keys, self._random, self._progress = store, keys, random, progress
        self._changed = threading.Condition()
        self._groups: deque[Group] = deque()
        self._waiting = 0  # bytes of pieces in those
        self._sending = 0  # packs that were begun to be sent and are not durable
        self._ended = self._stopped = self._packed = False
        self._failure: BaseException | None = None
        self._placed: list[Placed] = []
        self._pack: PackWriter | None = None
        self._trees: list[Packed] = []  # listings' frames: they go to the end, side by side
        self._trees_size = self._trees_pieces = 0
        self._worker = threading.Thread(target=self._work, name="persist-pack", daemon=True)
        self._worker.start()

    def put(self, group: Group) -> None:
        """Hand over a group; waits while too much waits already. Raises what stopped the threads."""
        with self._changed:
            self._wait(lambda: not self._waiting or self._waiting + group.size <= QUEUED)
            self._groups.append(group)
            self._waiting += group.size
            self._changed.notify_all()

    def finish(self) -> list[Placed]:
        """Every pack, each durable. Raises what stopped the threads."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            self._wait(lambda: self._packed and not self._sending)
        self._worker.join()
        return self.durable

    @property
    def durable(self) -> list[Placed]:
        """The packs that are durable by now."""
        with self._changed:
            return list(self._placed)

    def stop(self) -> None:
        """End the threads without a result. Packs that are on their way may still appear; nothing names them."""
        with self._changed:
            self._stopped = True
            self._groups.clear()
            self._changed.notify_all()
        if self._worker is not threading.current_thread():
            self._worker.join(_PATIENCE)

    def _wait(self, until: Callable[[], bool]) -> None:
        """For the feeding thread: a Ctrl-C here stops the others too."""
        try:
            self._changed.wait_for(lambda: self._failure is not None or self._stopped or until())
        except BaseException:
            self._stopped = True
            self._changed.notify_all()
            raise
        if self._failure is not None:
            raise self._failure
        assert not self._stopped, "a writer that was stopped takes nothing more"

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None and not isinstance(error, _StoppedError):
                self._failure = error
            self._stopped = True
            self._groups.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (group := self._next()) is not None:
                self._add(Packed.of(group.kind, group.ids, group.pieces))
                del group
            self._close_all()
        except BaseException as error:
            self._fail(error)
        with self._changed:
            self._packed = True
            self._changed.notify_all()

    def _next(self) -> Group | None:
        with self._changed:
            self._changed.wait_for(lambda: self._groups or self._ended or self._stopped)
            if self._stopped:
                raise _StoppedError
            if not self._groups:
                return None
            group = self._groups.popleft()
            self._waiting -= group.size
            self._changed.notify_all()
            return group

    def _add(self, frame: Packed) -> None:
        if frame.kind == "tree":
            # Kept back: a restore reads the listings first, in a few large reads where they lie together.
            fits = self._trees_size + frame.stored <= FULL // 2
            if not (fits and self._trees_pieces + len(frame.ids) <= frames.MOST):
                self._close_trees()
            self._trees.append(frame)
            self._trees_size += frame.stored
            self._trees_pieces += len(frame.ids)
            return
        self._into_pack(frame)

    def _into_pack(self, frame: Packed) -> None:
        if self._pack is not None and not self._pack.takes(frame.stored, len(frame.ids)):
            self._close()
        if self._pack is None:
            self._pack = PackWriter(self._keys, self._random)
        self._pack.add(frame)

    def _close_all(self) -> None:
        if self._pack is not None and not self._pack.takes(self._trees_size, self._trees_pieces):
            self._close()
        self._close_trees()

    def _close_trees(self) -> None:
        """The listings that were kept back, into the open pack where all of them fit, else into one of their own."""
        if self._pack is not None and not self._pack.takes(self._trees_size, self._trees_pieces):
            data, self._pack = self._pack, None
            self._fill_trees()
            self._close()
            self._pack = data
            return
        self._fill_trees()
        self._close()

    def _fill_trees(self) -> None:
        for frame in self._trees:
            self._into_pack(frame)
        self._trees = []
        self._trees_size = self._trees_pieces = 0

    def _close(self) -> None:
        if self._pack is None:
            return
        pack, self._pack = self._pack, None
        with self._changed:
            self._changed.wait_for(lambda: self._sending < UPLOADS or self._stopped)
            if self._stopped:
                raise _StoppedError
            self._sending += 1
        found, data = pack.closed()
        placed = Placed(found, tuple(pack.ids))
        threading.Thread(target=self._send, args=(placed, pack.key, [data]), name="persist-send", daemon=True).start()

    def _send(self, placed: Placed, key: str, data: list[bytes]) -> None:
        """One upload; `data` holds the object, and nothing else does, so that it goes when it was sent."""
        try:
            if self._store is not None:
                self._store.put(key, data[0])
            with self._changed:
                self._placed.append(placed)
            if self._progress is not None:
                self._progress.sent(placed.pack.size)
        except BaseException as error:
            self._fail(error)
        data.clear()
        with self._changed:
            self._sending -= 1
            self._changed.notify_all()
