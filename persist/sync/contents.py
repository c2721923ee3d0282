"""What one file holds, read from an open descriptor: its bytes as pieces, its holes, its attributes."""

import errno
import os
from typing import Protocol

from persist.bucket import content, trees
from persist.bucket.blobs import Writer
from persist.bucket.content import Content

Extents = tuple[tuple[int, int], ...]
LARGEST_XATTRS = trees.LARGEST_XATTRS  # bytes of names and values of one file
MOST_EXTENTS = trees.MOST_EXTENTS  # of a sparse file
_NARROW = 64 << 10  # a hole below this many bytes is stored as zeros: it saves less than it costs to say


class Sink(Protocol):
    """Where pieces go: a session with the store, which the first piece opens."""

    @property
    def opened(self) -> bool:
        """Whether the store is open."""
        ...

    def learn(self) -> None:
        """Tell the index again what the store said, where it was asked."""
        ...

    @property
    def writer(self) -> Writer:
        """What takes pieces."""
        ...

    @property
    def seed(self) -> int:
        """What moves the boundaries of chunks."""
        ...


def stored(sink: Sink, fd: int, found: os.stat_result) -> tuple[Content, int, Extents | None]:
    """Store what the file `fd` holds; its content, its size in bytes as read, and its data where it has holes."""
    size = found.st_size
    extents = _extents(fd, size) if found.st_blocks * 512 < size else None
    if extents is None and size <= content.SMALL:
        data = _all(fd, size)
        return Content((sink.writer.add("data", data),) if data else ()), len(data), None
    reader = _Extents(fd, ((0, size),) if extents is None else extents)
    held = content.write(sink.writer, "data", content.chunks(reader, sink.seed))
    # What was read, not what was there before: an entry always fits its content, also of a file that shrank meanwhile.
    return (held, sum(map(_length, reader.done)), None) if extents is None else (held, size, tuple(reader.done))


def xattrs(fd: int | str) -> tuple[trees.Xattrs, bool]:
    """The extended attributes that are kept, sorted, and whether there are file capabilities, which are not.

    `fd` is a descriptor, or a path whose last component is not followed.
    """
    follow = isinstance(fd, int)
    try:
        listed = os.listxattr(fd, follow_symlinks=follow)
        if not listed:
            return (), False
        names = [os.fsencode(name) for name in listed]
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT):
            return (), False
        raise
    kept = []
    for name in sorted(filter(trees.kept_xattr, names)):
        try:
            kept.append((name, os.getxattr(fd, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOENT):  # removed meanwhile
                raise
    if sum(len(name) + len(value) for name, value in kept) > LARGEST_XATTRS:
        raise OSError(
            errno.EFBIG, f"the extended attributes of something in it hold more than {LARGEST_XATTRS:,} bytes"
        )
    return tuple(kept), b"security.capability" in names


def _all(fd: int, size: int) -> bytes:
    data = os.pread(fd, size + 1, 0)  # one more, to see that it grew
    while 0 < len(data) < size and (more := os.pread(fd, size + 1 - len(data), len(data))):
        data += more
    return data


def _extents(fd: int, size: int) -> Extents | None:
    """Where a sparse file has data, as (offset, length); None when it has no hole worth keeping."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                raise
            break
        if found and start - sum(found[-1]) < _NARROW:
            found[-1] = (found[-1][0], at - found[-1][0])
        elif start < at:
            found.append((start, at - start))
        if len(found) > MOST_EXTENTS:
            raise OSError(errno.EFBIG, f"a sparse file in it has more than {MOST_EXTENTS:,} pieces")
    return None if found == [(0, size)] else tuple(found)


def _length(extent: tuple[int, int]) -> int:
    return extent[1]


class _Extents:
    """The data of a file, holes left out, as one stream for the chunker; `done` says what was read."""

    def __init__(self, fd: int, extents: Extents) -> None:
        self._fd = fd
        self._left = list(reversed(extents))
        self.done: list[tuple[int, int]] = []

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of `buffer`; 0 at the end."""
        if not self._left:
            return 0
        offset, length = self._left.pop()
        got = os.preadv(self._fd, [buffer[: min(length, len(buffer))]], offset)
        if got == 0:  # the file ends here now
            self._left.clear()
            return 0
        if got < length:
            self._left.append((offset + got, length - got))
        if self.done and sum(self.done[-1]) == offset:
            self.done[-1] = (self.done[-1][0], self.done[-1][1] + got)
        else:
            self.done.append((offset, got))
        return got
