"""Files as they lie in memory. A snapshot has inodes of its own, of which nothing is cached: what an agent wrote just
now would come from the disk again. So a file is read from the living subvolume where that provably is the same.

It is when its ctime, looked at *after* it was read, lay well before the snapshot: nothing has changed it since, neither
content nor mode nor names. A change sets the ctime before the data (a mapped write when the page becomes writable,
which the snapshot ended), and no agent can set it. The living file is opened by its number: no name that an agent can
swap, no mount, no FIFO. Only what is in memory is taken (RWF_NOWAIT, preadv2(2)); the rest comes from the snapshot.
"""

import os
import stat

from persist.bucket.content import SMALL
from persist.sync import contents
from town import kernel, subvolumes

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOATIME | os.O_NOCTTY
_MISSES = 200  # more than hits: then it is not tried for every file


class Warm:
    """The living side of one snapshot. `before`: ns since the epoch; a younger ctime proves nothing."""

    def __init__(self, living: int, subvolume: int, before: int) -> None:
        self._living, self._subvolume, self._before = living, subvolume, before
        self._views = memoryview(bytearray(SMALL + 1))
        self._missed = 0
        self._asked = 0

    @property
    def cold(self) -> bool:
        """Whether files had to be read from the snapshot more often than not."""
        return self._missed > _MISSES // 8

    def read(self, inode: int) -> tuple[os.stat_result, bytes, tuple[tuple[bytes, bytes], ...], bool] | None:
        """A regular file of the snapshot, neither empty nor large, with one name: what it is and holds, its extended
        attributes, whether it has capabilities. None where that is not in memory, or not provably the same.
        """
        self._asked += 1
        if self._missed > _MISSES and self._asked % 16:
            return None
        try:
            fd = kernel.open_by_handle_at(self._living, subvolumes.handle(self._subvolume, inode), _FLAGS)
        except OSError:  # gone, a socket, or somebody holds a lease on it
            return None
        try:
            return self._read(fd)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _read(self, fd: int) -> tuple[os.stat_result, bytes, tuple[tuple[bytes, bytes], ...], bool] | None:
        size = os.fstat(fd).st_size
        if not 0 < size <= SMALL:
            return None
        try:
            got = os.preadv(fd, [self._views[: size + 1]], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            got = -1
        self._missed = max(0, self._missed - 1) if got == size else self._missed + 1
        if got != size:
            return None
        data = bytes(self._views[:size])
        xattrs, capable = contents.xattrs(fd)
        found = os.fstat(fd)
        same = found.st_ctime_ns < self._before and stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        # With fewer blocks than bytes it may have holes, which are looked for elsewhere.
        return (found, data, xattrs, capable) if same and found.st_blocks * 512 >= size else None
