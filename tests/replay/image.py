"""Small btrfs images in memory: what of a sparse file is data, written anew beside for each state.

Each image that is built gets a filesystem UUID of its own: the kernel keeps a list of every btrfs it has met, by that
UUID and across all mount namespaces, and would take a second image of one UUID for a stale copy of the first. It is
changed as btrfstune -m does it: the superblocks name the new one, and the old one as metadata_uuid.
"""

import fcntl
import os
import struct
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# struct btrfs_super_block, include/uapi/linux/btrfs_tree.h: checksum at 0, fsid 32, bytenr 48, magic 64,
# incompat_flags 188, csum_type 196, metadata_uuid 571; 4096 bytes, the checksum over all but its own 32.
SUPERBLOCKS = ((0x10000, 4096), (0x4000000, 4096), (0x4000000000, 4096))
_MAGIC, _METADATA_UUID, _CRC32C = b"_BHRfS_M", 1 << 10, 0
_FORGET_DEV = 0x50009405  # BTRFS_IOC_FORGET_DEV


@dataclass(frozen=True, slots=True)
class Image:
    """A sparse file: its size, and every stretch that is data."""

    size: int
    data: tuple[tuple[int, bytes], ...]

    def __len__(self) -> int:
        """How many bytes are data."""
        return sum(len(piece) for _, piece in self.data)


def load(path: Path) -> Image:
    """The image in a file."""
    with path.open("rb") as file:
        size, at, data = os.fstat(file.fileno()).st_size, 0, []
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data.append((start, os.pread(file.fileno(), at - start, start)))
    return Image(size, tuple(data))


def build(image: Image, changes: Iterable[tuple[int, bytes]], path: Path, *, own_uuid: bool = True) -> None:
    """Write the image with changes on top of it to a new file at `path`; what was there is gone."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, image.size)
        for offset, data in (*image.data, *changes):
            os.pwrite(fd, data, offset)
        if own_uuid:
            _rename(fd, image.size)
    finally:
        os.close(fd)


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes, holes counting as zeros."""
    with one.open("rb") as left, other.open("rb") as right:
        while (piece := left.read(1 << 20)) == right.read(1 << 20):
            if not piece:
                return True
    return False


def forget(device: str) -> None:
    """Take a device that is not mounted off the kernel's list of btrfs devices. Not being on it is no error."""
    with open("/dev/btrfs-control", "rb") as control:
        arguments = bytearray(struct.pack("=q4088s", 0, os.fsencode(device)))  # struct btrfs_ioctl_vol_args
        with suppress(FileNotFoundError):
            fcntl.ioctl(control, _FORGET_DEV, arguments)


def _rename(fd: int, size: int) -> None:
    new = uuid.uuid4().bytes
    for offset, length in SUPERBLOCKS:
        block = bytearray(os.pread(fd, length, offset)) if offset + length <= size else bytearray(length)
        if block[64:72] != _MAGIC or struct.unpack_from("<H", block, 196) != (_CRC32C,):
            continue
        (flags,) = struct.unpack_from("<Q", block, 188)
        if not flags & _METADATA_UUID:
            struct.pack_into("<Q", block, 188, flags | _METADATA_UUID)
            block[571:587] = block[32:48]
        block[32:48] = new
        block[:32] = struct.pack("<I28x", crc32c(block[32:]))
        os.pwrite(fd, block, offset)


def _table() -> tuple[int, ...]:
    def step(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value

    return tuple(map(step, range(256)))


_TABLE = _table()


def crc32c(data: bytes | bytearray) -> int:
    """CRC-32C (RFC 3720, B.4), as btrfs stores it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
