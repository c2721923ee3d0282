"""A btrfs image on a loop device that goes away by itself: when its descriptor closes, even by SIGKILL, it detaches."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# include/uapi/linux/loop.h
_CTL_GET_FREE, _CONFIGURE, _FLAG_AUTOCLEAR = 0x4C82, 0x4C0A, 4


class _Config(ctypes.Structure):
    """struct loop_config: the backing file, the block size, struct loop_info64 (flags lie 52 bytes into it)."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("before", ctypes.c_ubyte * 52),
        ("flags", ctypes.c_uint32),
        ("after", ctypes.c_ubyte * 176),
        ("reserved", ctypes.c_uint64 * 8),
    )


def attach(image: Path, *, read_only: bool = False) -> tuple[str, int]:
    """Attach `image` to a free loop device. Returns its path and the descriptor that keeps it attached.

    A device is read-only where its image is open for reading alone; unlike `blockdev --setro`, that ends with it.
    """
    with image.open("rb" if read_only else "r+b") as backing:
        for _ in range(64):
            with Path("/dev/loop-control").open("rb") as control:
                number = fcntl.ioctl(control, _CTL_GET_FREE)
            device = f"/dev/loop{number}"
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            config = _Config(fd=backing.fileno(), block_size=0, flags=_FLAG_AUTOCLEAR)
            try:
                fcntl.ioctl(fd, _CONFIGURE, config)
                return device, fd
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:  # EBUSY: somebody else took it meanwhile
                    raise
    raise OSError(errno.EBUSY, "no free loop device after 64 tries")


@contextmanager
def attached(image: Path, *, read_only: bool = False) -> Iterator[str]:
    """`with attached(image) as device:`"""
    device, fd = attach(image, read_only=read_only)
    try:
        yield device
    finally:
        os.close(fd)
