"""What a file holds: copied (shared, where the filesystem can), compared byte by byte; holes stay holes."""

import errno
import fcntl
import os
import struct
from contextlib import suppress

_FICLONE, _GET_FLAGS, _SET_FLAGS = 0x40049409, 0x80086601, 0x40086602  # include/uapi/linux/fs.h
_NO_COW = 0x00800000  # FS_NOCOW_FL: what shares its data must have it too
_PIECE = 1 << 20
_NOT_HERE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY, errno.ENOSYS, errno.EPERM}


def copy(source: int, target: int, size: int) -> None:
    """The first `size` bytes of an open file into an empty one. Raises OSError."""
    keep_in_place(source, target)
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    at = 0
    while (at := data(source, at, size)) < size:
        end = min(size, _hole(source, at, size))
        _range(source, target, at, end)
        at = end
    os.ftruncate(target, size)


def keep_in_place(source: int, target: int) -> None:
    """Give an empty file, or a directory, btrfs's mark for data that is overwritten in place, where `source` has it."""
    flags, there = bytearray(8), bytearray(8)
    with suppress(OSError):  # another filesystem: no such mark
        fcntl.ioctl(source, _GET_FLAGS, flags)
        if struct.unpack_from("=I", flags)[0] & _NO_COW:
            fcntl.ioctl(target, _GET_FLAGS, there)
            fcntl.ioctl(target, _SET_FLAGS, struct.pack("=Q", struct.unpack_from("=I", there)[0] | _NO_COW))


def same(one: int, other: int, size: int) -> bool:
    """Whether two open files of that size hold the same. Raises OSError."""
    at = 0
    while (at := min(data(one, at, size), data(other, at, size))) < size:
        count = min(_PIECE, size - at)
        piece = os.pread(one, count, at)
        if not piece or piece != os.pread(other, count, at):
            return False
        at += len(piece)
    return True


def _range(source: int, target: int, at: int, end: int) -> None:
    """Copy between two places; a file that became shorter ends it."""
    while at < end:
        try:
            done = os.copy_file_range(source, target, min(end - at, 1 << 30), at, at)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            piece = os.pread(source, min(end - at, _PIECE), at)
            done = os.pwrite(target, piece, at) if piece else 0
        if done == 0:
            return
        at += done


def data(fd: int, at: int, size: int) -> int:
    """Where data goes on at or behind `at`; `size` where none does."""
    return _sought(fd, at, os.SEEK_DATA, size)


def _hole(fd: int, at: int, size: int) -> int:
    return _sought(fd, at, os.SEEK_HOLE, size)


def _sought(fd: int, at: int, whence: int, size: int) -> int:
    if at >= size:
        return size
    try:
        return min(size, os.lseek(fd, at, whence))
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but holes, or it became shorter
            return size
        raise
