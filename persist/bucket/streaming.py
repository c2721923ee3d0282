"""Many frames in the order of the packs, for a restore: some threads download ahead, one decrypts and expands.

Neighbouring frames come by one ranged read. Memory is bounded whatever the store sends; every frame that comes out was
authenticated, and what goes wrong is raised at the consumer, behind the frames that came before it.
"""

import atexit
import ctypes
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from persist.bucket.frames import Frame
from persist.bucket.keys import AgentKeys
from persist.bucket.packs import Pack, PackReader
from persist.store import Store

AHEAD = 48 << 20  # bytes, sealed, that are downloaded or being downloaded before they are wanted
EXPANDED = 16 << 20  # bytes that are expanded before they are wanted
RANGE = 16 << 20  # sealed bytes of one ranged read
_GAP = 128 << 10  # bytes between two wanted frames that are read along: cheaper than another request
_AT_ONCE = 8  # directories that are read at once
_M_MMAP_THRESHOLD, _LARGE = -3, 4 << 20
_PATIENCE = 5.0  # seconds that a stop waits for the thread that expands, whose longest step takes some ms


@dataclass(frozen=True, slots=True)
class FrameWanted:
    """One frame of a pack that somebody wants; `tag` is theirs."""

    pack: Pack
    number: int
    frame: Frame
    tag: object = None


@dataclass(slots=True, eq=False)
class _Range:
    reader: PackReader
    frames: list[FrameWanted]
    start: int
    end: int
    sealed: bytes | memoryview | None = None
    error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return self.sealed is not None or self.error is not None


class Frames:
    """The frames that `stream` gives, one after the other. Close it to end early; it closes itself when it is left."""

    def __init__(self, source: "_Stream") -> None:
        self._source, self._over = source, False
        atexit.register(source.stop)  # where the program ends first: a thread in C code must not outlive it

    def __iter__(self) -> "Frames":
        return self

    def __next__(self) -> tuple[FrameWanted, bytes]:
        if self._over:
            raise StopIteration
        try:
            item = self._source.next()
        except BaseException:
            self.close()
            raise
        if item is None:
            self.close()
            raise StopIteration
        return item

    def close(self) -> None:
        """End the threads; nothing more comes."""
        self._over = True
        atexit.unregister(self._source.stop)
        self._source.stop()

    def __del__(self) -> None:
        self.close()


def stream(
    store: Store, keys: AgentKeys, wanted: Iterable[FrameWanted], *, ahead_bytes: int = AHEAD, threads: int = 4
) -> Frames:
    """Each wanted frame with its pieces, one after the other, in the order given: pack by pack, by offset.

    The first are downloaded from now on; `wanted` is read in the caller's and the consumer's thread, as it goes.
    `ahead_bytes` bounds what is downloaded ahead; 16 MiB more may be expanded. Raises ObjectMissing, StoreDamaged and
    what the store raises, in order.
    """
    source = _Stream(_ranges(store, keys, wanted, min(RANGE, ahead_bytes // max(1, threads - 1))), ahead_bytes, threads)
    _give_back_large_blocks()
    frames = Frames(source)
    try:
        source.start()
    except BaseException:
        frames.close()
        raise
    return frames


def _give_back_large_blocks() -> None:
    """Have glibc return blocks of 4 MiB and more when they are freed.

    By itself it raises that limit to 32 MiB as they are freed, and each thread's arena keeps what it had: 170 MB where
    100 are enough. See M_MMAP_THRESHOLD in mallopt(3); another C library may not know it.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def directories(
    store: Store, keys: AgentKeys, packs: Iterable[Pack], *, threads: int = _AT_ONCE
) -> Iterator[tuple[Pack, tuple[Frame, ...]]]:
    """What each pack holds, in the order given; several are read at once. Raises ObjectMissing, StoreDamaged."""
    left = list(packs)
    for at in range(0, len(left), threads):
        some = left[at : at + threads]
        found: list[tuple[Frame, ...] | BaseException] = [()] * len(some)
        running = [
            threading.Thread(target=_directory, args=(store, keys, pack, found, place), daemon=True)
            for place, pack in enumerate(some)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        for pack, frames in zip(some, found, strict=True):
            if isinstance(frames, BaseException):
                raise frames
            yield pack, frames


def _directory(
    store: Store, keys: AgentKeys, pack: Pack, found: list[tuple[Frame, ...] | BaseException], place: int
) -> None:
    try:
        found[place] = PackReader(store, keys, pack).frames()
    except BaseException as error:
        found[place] = error


def _ranges(store: Store, keys: AgentKeys, wanted: Iterable[FrameWanted], most: int) -> Iterator[_Range]:
    """Neighbours together, up to `most` bytes; a frame that is larger is read alone."""
    at: _Range | None = None
    for want in wanted:
        start, end = want.frame.offset, want.frame.offset + want.frame.stored
        if at is not None and at.reader.pack == want.pack and 0 <= start - at.end <= _GAP and end - at.start <= most:
            at.frames.append(want)
            at.end = end
            continue
        if at is not None:
            yield at
        same = at is not None and at.reader.pack == want.pack
        reader = at.reader if at is not None and same else PackReader(store, keys, want.pack)
        at = _Range(reader, [want], start, end)
    if at is not None:
        yield at


@dataclass(slots=True, eq=False)
class _Out:
    wanted: FrameWanted
    data: bytes


@dataclass(slots=True, eq=False)
class _State:
    order: deque[_Range] = field(default_factory=deque)  # not opened yet
    todo: deque[_Range] = field(default_factory=deque)  # not downloaded yet
    out: deque[_Out | BaseException] = field(default_factory=deque)
    ahead: int = 0
    expanded: int = 0


class _Stream:
    def __init__(self, ranges: Iterator[_Range], ahead: int, threads: int) -> None:
        self._ranges, self._ahead, self._threads = ranges, ahead, threads
        self._changed = threading.Condition()
        self._state = _State()
        self._coming: _Range | None = None  # the next range, for which there was no room yet
        self._all = self._stopped = False
        self._started: list[threading.Thread] = []

    def next(self) -> tuple[FrameWanted, bytes] | None:
        """The next frame; None at the end."""
        self._top_up()
        state = self._state
        with self._changed:
            self._changed.wait_for(lambda: state.out or not state.order)
            if not state.out:
                return None
            item = state.out.popleft()
            if isinstance(item, BaseException):
                raise item
            state.expanded -= len(item.data)
            self._changed.notify_all()
            return item.wanted, item.data

    def start(self) -> None:
        """Begin to download."""
        self._top_up()

    def stop(self) -> None:
        """End the threads; one that waits for the store ends when its request does."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._started[:1]:
            thread.join(_PATIENCE)

    def _top_up(self) -> None:
        """Order what there is room for; at least one range, so that it always goes on."""
        while not self._all:
            if self._coming is None:
                self._coming = next(self._ranges, None)
            if (coming := self._coming) is None:
                self._all = True
                return
            length = coming.end - coming.start
            with self._changed:
                if self._state.order and self._state.ahead + length > self._ahead:
                    return
                self._state.ahead += length
                self._state.order.append(coming)
                self._state.todo.append(coming)
                self._coming = None
                self._changed.notify_all()
            self._start()

    def _start(self) -> None:
        if not self._started:
            self._run(self._open_all, "persist-open")
        if len(self._started) <= self._threads:
            self._run(self._download, "persist-fetch")

    def _run(self, target: object, name: str) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._started.append(thread)
        thread.start()

    def _download(self) -> None:
        while (job := self._next_todo()) is not None:
            try:
                job.sealed = job.reader.fetch(job.start, job.end - job.start)
            except BaseException as error:
                job.error = error
            with self._changed:
                self._changed.notify_all()

    def _next_todo(self) -> _Range | None:
        with self._changed:
            self._changed.wait_for(lambda: self._state.todo or self._stopped)
            return None if self._stopped else self._state.todo.popleft()

    def _open_all(self) -> None:
        while (job := self._next_loaded()) is not None:
            try:
                self._open(job)
            except BaseException as error:
                with self._changed:
                    self._state.out.append(error)
                    self._changed.notify_all()
                return
            with self._changed:
                self._state.ahead -= job.end - job.start
                self._state.order.popleft()
                self._changed.notify_all()

    def _next_loaded(self) -> _Range | None:
        state = self._state
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(state.order and state.order[0].settled))
            return None if self._stopped else state.order[0]

    def _open(self, job: _Range) -> None:
        if job.error is not None:
            raise job.error
        assert job.sealed is not None
        sealed = memoryview(job.sealed)
        for want in job.frames:
            self._room(want.frame.size)
            start = want.frame.offset - job.start
            data = job.reader.opened(want.number, want.frame, sealed[start : start + want.frame.stored])
            with self._changed:
                self._state.out.append(_Out(want, data))
                self._changed.notify_all()
        job.sealed = None

    def _room(self, size: int) -> None:
        state = self._state
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not state.expanded or state.expanded + size <= EXPANDED)
            if self._stopped:
                raise _StoppedError
            state.expanded += size


class _StoppedError(BaseException):
    """Nobody wants the rest."""
