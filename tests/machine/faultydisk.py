"""A btrfs that really fails: its disk is a file on an ext4 that is shut down, is full, or is made read-only.

EXT4_IOC_SHUTDOWN (include/uapi/linux/ext4.h) ends all I/O of a filesystem, as a disk that is pulled does: from then on
the loop device on a file of it answers EIO to reads and writes. Mounting it again brings back what was flushed.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from demo import loopback
from town import kernel, process

_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2
_MS_RDONLY, _MS_REMOUNT = 1, 32  # mount(2)


class Disk:
    """The outer filesystem, mounted at `outer`, and the device on the file in it."""

    def __init__(self, outer: Path, device: str, stack: ExitStack) -> None:
        self._outer, self._own, self._loop = outer, device, stack
        self.device = ""
        self.attach()

    def attach(self) -> None:
        """Mount the outer one, and put a device on the file in it."""
        kernel.mount(self._own, str(self._outer), "ext4", 0, "")
        self._loop.callback(kernel.umount, str(self._outer))
        image = self._outer / "disk.img"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(200 << 20)
            process.run(["mkfs.btrfs", "--quiet", "--metadata", "single", image])
        self.device = self._loop.enter_context(loopback.attached(image))

    def detach(self) -> None:
        """Take both away; nothing may be mounted from the device."""
        self._loop.close()

    def die(self) -> None:
        """From now on every read and write fails."""
        fd = os.open(self._outer, os.O_RDONLY)
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("=I", _NO_LOG_FLUSH))
        os.close(fd)


@contextmanager
def made(base: Path) -> Iterator[Disk]:
    """Such a disk, with a fresh btrfs on it; its files lie below `base`."""
    image, outer = base / "outer.img", base / "outer"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    process.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1", image])
    outer.mkdir()
    with loopback.attached(image) as device, ExitStack() as stack:
        yield Disk(outer, device, stack)


def fill(top: Path) -> None:
    """Take all space for data that the filesystem at `top` has left."""
    fd = os.open(top / "fill", os.O_WRONLY | os.O_CREAT, 0o600)
    at, step = os.fstat(fd).st_size, 64 << 20
    while step >= 4096:
        try:
            os.posix_fallocate(fd, at, step)
            at += step
        except OSError:
            step //= 2
    os.close(fd)


def empty(top: Path) -> None:
    """Give it back."""
    with suppress(FileNotFoundError):
        (top / "fill").unlink()
    os.sync()


def read_only(top: Path, *, value: bool) -> None:
    """Make the whole filesystem at `top` read-only, or writable; a file that is open for writing keeps it as it is."""
    with suppress(OSError):
        kernel.mount("none", str(top), None, _MS_REMOUNT | (_MS_RDONLY if value else 0))
