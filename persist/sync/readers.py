"""Eight readers that go ahead where the disk is slow: they only read, so that the next read finds it in memory.

Whether it is slow is found out by asking: a read that may not wait (RWF_NOWAIT, preadv2(2)) says EAGAIN where the page
is not in memory, and then it shows how long it takes. Where files are in memory, or on a disk that answers at once, one
thread is faster, for Python's lock passes between no others.
"""

import os
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from town import files
from town.failure import Unsafe

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 8
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOATIME
_AHEAD = 4 * THREADS  # directories
_LARGEST = 1 << 20  # bytes of one file that are read ahead: the kernel does it for larger ones
SLOW = 0.0005  # seconds
_IN_A_ROW = 3  # slow ones: a single one may have waited for something else
_EVERY = 8  # directories: of one in so many the first file is asked


class Readers:
    """Threads that start when the first cold file is met."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._room = BoundedSemaphore(_AHEAD)
        self._looked = self._slow = 0

    @property
    def cold(self) -> bool:
        """Whether files had to be waited for."""
        return self._pool is not None

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def look(self, directory: int, plain: Sequence[tuple[int, bytes, bool]]) -> None:
        """Files of an open directory that are about to be read: where they are cold, all are read at once."""
        if self._pool is None:
            self._looked += 1
            if self._looked % _EVERY == 1:
                self._sample(directory, plain)
        if self._pool is not None and len(plain) >= 2 * THREADS:
            names = [name for _, name, is_file in plain if is_file]
            for each in [self._pool.submit(_read, directory, names[at::THREADS]) for at in range(THREADS)]:
                each.result()

    def _sample(self, directory: int, plain: Sequence[tuple[int, bytes, bool]]) -> None:
        name = next((name for _, name, is_file in plain if is_file), None)
        if name is not None:
            self._slow = self._slow + 1 if _is_cold(directory, name) else 0
            if self._slow >= _IN_A_ROW:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(THREADS, "persist-read")

    def ahead(self, directory: int, names: Iterable[bytes], *, frozen: bool) -> None:
        """Directories in an open one that will be gone into: their files are read meanwhile, where there is room."""
        for name in names:
            if self._pool is None or not self._room.acquire(blocking=False):
                return
            try:
                # In a snapshot no name changes; elsewhere no link is followed and no mount entered.
                fd = os.open(name, files.DIRECTORY, dir_fd=directory) if frozen else files.enter(directory, name)
            except (OSError, Unsafe):
                self._room.release()
                continue
            self._pool.submit(_read_all, fd).add_done_callback(self._done)

    def _done(self, _: "Future[None]") -> None:
        self._room.release()


def _is_cold(directory: int, name: bytes) -> bool:
    with suppress(OSError), files.opened(os.open(name, _FILE, dir_fd=directory)) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        try:
            os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            began = time.monotonic()
            os.pread(fd, 1, 0)
            return time.monotonic() - began > SLOW
    return False


def _read(directory: int, names: Iterable[bytes]) -> None:
    for name in names:
        with suppress(OSError), files.opened(os.open(name, _FILE, dir_fd=directory)) as fd:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.pread(fd, _LARGEST, 0)


def _read_all(fd: int) -> None:
    with suppress(OSError), files.opened(fd):
        _read(fd, [os.fsencode(found.name) for found in files.scan(fd) if found.is_file(follow_symlinks=False)])
