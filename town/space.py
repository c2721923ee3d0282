"""Room on a btrfs, by kind: what data may still take, and what metadata may. Either can be full with the other empty.

Ioctl numbers and structures: include/uapi/linux/btrfs.h. Space of what was deleted counts as used until the kernel's
cleaner is done with it and a commit came after.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from town.btrfs import BtrfsFailed

_FS_INFO, _SPACE_INFO, _DEV_INFO = 0x8400941F, 0xC0109414, 0xD000941E
_DATA, _METADATA, _RESERVE = 1 << 0, 1 << 2, 1 << 49  # BTRFS_BLOCK_GROUP_*, BTRFS_SPACE_INFO_GLOBAL_RSV
_DUP = 1 << 5
_COPIES = {1 << 4: 2, 1 << 6: 2, 1 << 9: 3, 1 << 10: 4}  # RAID1, RAID10, RAID1C3, RAID1C4: each on another device
_PARITY = {1 << 7: 1, 1 << 8: 2}  # RAID5, RAID6
_NEVER_ALLOCATED = 1 << 20  # bytes at the start of each device


class Kind(NamedTuple):
    """Bytes of data, or of metadata, each counted once: what is used, and what could still be written."""

    used: int
    room: int

    @property
    def all(self) -> int:
        """What there could be of this kind if nothing else took the space that is not allocated yet."""
        return self.used + self.room


class Space(NamedTuple):
    """A filesystem's room; on one with mixed block groups both kinds are the same."""

    data: Kind
    metadata: Kind


def of(fd: int) -> Space:
    """The room on the filesystem that `fd` lies on. Raises BtrfsFailed."""
    spaces, devices = _spaces(fd), list(_unallocated(fd))
    reserve = sum(total for flags, total, _ in spaces if flags & _RESERVE)
    metadata = _kind([space for space in spaces if space[0] & _METADATA], devices)
    # What the kernel keeps for itself to be able to delete at all is nobody's room.
    metadata = Kind(metadata.used, max(0, metadata.room - reserve))
    return Space(_kind([space for space in spaces if space[0] & _DATA], devices), metadata)


def node_size(fd: int) -> int:
    """Bytes of one metadata block of the filesystem that `fd` lies on. Raises BtrfsFailed."""
    return int(struct.unpack_from("=I", _asked(fd, _FS_INFO, bytearray(1024)), 32)[0])


def _kind(spaces: list[tuple[int, int, int]], devices: list[int]) -> Kind:
    spaces = [space for space in spaces if not space[0] & _RESERVE]
    if not spaces:
        return Kind(0, 0)
    inside = sum(total - used for _, total, used in spaces)
    # While a filesystem is converted there are several profiles: new blocks get the one with the most space.
    flags = max(spaces, key=lambda space: space[1])[0]
    return Kind(sum(used for _, _, used in spaces), inside + _allocatable(devices, flags))


def _allocatable(devices: list[int], flags: int) -> int:
    """What a profile could make of the unallocated bytes of each device."""
    if flags & _DUP:
        return sum(devices) // 2
    devices = sorted(devices)
    for bit, parity in _PARITY.items():
        if flags & bit:
            return sum(devices) * max(0, len(devices) - parity) // len(devices)
    copies = next((copies for bit, copies in _COPIES.items() if flags & bit), 1)
    # No device takes two copies of one block: however large the largest ones are, the others set the limit.
    limits = [sum(devices[: len(devices) - largest]) // (copies - largest) for largest in range(copies)]
    return min(limits)


def _spaces(fd: int) -> list[tuple[int, int, int]]:
    """(flags, total, used) in bytes of each kind of block group, the global reserve among them."""
    slots = 64
    found = _asked(fd, _SPACE_INFO, bytearray(struct.pack("=QQ", slots, 0) + bytes(slots * 24)))
    count = struct.unpack_from("=Q", found, 8)[0]
    return [struct.unpack_from("=QQQ", found, 16 + index * 24) for index in range(min(count, slots))]


def _unallocated(fd: int) -> Iterator[int]:
    """The bytes of each device that belong to no block group yet."""
    highest = struct.unpack_from("=Q", _asked(fd, _FS_INFO, bytearray(1024)))[0]
    for number in range(1, highest + 1):
        try:
            found = bytearray(struct.pack("=Q", number) + bytes(4088))
            fcntl.ioctl(fd, _DEV_INFO, found)
        except OSError as error:
            if error.errno == errno.ENODEV:  # a number that a device had once
                continue
            raise BtrfsFailed(f"btrfs: its devices: {os.strerror(error.errno or 0)}") from error
        used, total = struct.unpack_from("=QQ", found, 24)
        yield max(0, total - used - _NEVER_ALLOCATED)


def _asked(fd: int, number: int, arguments: bytearray) -> bytearray:
    try:
        fcntl.ioctl(fd, number, arguments)
    except OSError as error:
        raise BtrfsFailed(f"btrfs: its space: {os.strerror(error.errno or 0)}") from error
    return arguments
