"""Simple quotas of btrfs: how much the subvolumes of a group may hold together, and how much they do. Linux 6.7 on.

An extent counts for the subvolume that wrote it, for as long as any snapshot holds it; what was written before quotas
were turned on never counts. A subvolume that is made inside of another joins the groups of that one, unless who makes
it says otherwise: any user may. Needs CAP_SYS_ADMIN. Sources: include/uapi/linux/btrfs.h and btrfs_tree.h,
fs/btrfs/qgroup.c of Linux.
"""

import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from town import btrfs
from town.btrfs import BtrfsFailed, Key

_CTL, _ASSIGN, _CREATE, _LIMIT = 0xC0109428, 0x40189429, 0x4010942A, 0x8030942B
_SIMPLE, _REMOVE, _ADD = 4, 0, 1  # BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA; of _CREATE and _ASSIGN
_TREE = 8  # BTRFS_QUOTA_TREE_OBJECTID
_STATUS, _INFO, _LIMIT_ITEM, _RELATION = 240, 242, 244, 246
_IS_ON, _IS_SIMPLE = 1, 8  # BTRFS_QGROUP_STATUS_FLAG_*
_OF_ALL, _OF_OWN = 1, 2  # BTRFS_QGROUP_LIMIT_MAX_RFER, _MAX_EXCL: with simple quotas both are the same
_LEVEL = 48  # bits of a group's number before its level
_FS_INFO = 0x8400941F
LEAST = (6, 7)  # the Linux that they came with
_FEATURE = Path("/sys/fs/btrfs/features/simple_quota")

Mode = Literal["off", "simple", "full"]


class QuotaFailed(BtrfsFailed):
    """The kernel refused a step with quotas; its own word is in the message."""


class Use(NamedTuple):
    """What a group holds and may hold, in bytes; `limit` None: as much as there is."""

    used: int
    limit: int | None


def known() -> bool:
    """Whether this kernel has simple quotas: its btrfs names the feature; while that is not loaded, by its number."""
    if _FEATURE.parent.exists():
        return _FEATURE.exists()
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= LEAST


def filesystem(fd: int) -> bytes:
    """What tells the btrfs that `fd` lies on from any other that is mounted. Raises BtrfsFailed."""
    found = bytearray(1024)
    _asked(fd, _FS_INFO, found, "the filesystem")
    return bytes(found[16:32])


def group(number: int) -> int:
    """The group of level 1 with that number, as the kernel writes it: `1/NUMBER`."""
    return 1 << _LEVEL | number


def mode(fd: int) -> Mode:
    """Which quotas the filesystem of `fd` has. Raises BtrfsFailed."""
    for _, item in _items(fd, 0, _STATUS):
        flags = struct.unpack_from("=Q", item, 16)[0]
        if flags & _IS_ON:
            return "simple" if flags & _IS_SIMPLE else "full"
    return "off"


def turn_on(fd: int) -> None:
    """Turn simple quotas on. From then on no Linux before 6.7 mounts the filesystem. Raises QuotaFailed.

    Where full ones are on the kernel says nothing and changes nothing: callers look at `mode` first.
    """
    _asked(fd, _CTL, bytearray(struct.pack("=QQ", _SIMPLE, 0)), "simple quotas")


def make(fd: int, of: int) -> None:
    """Make a group; that it is there is no error. Raises QuotaFailed."""
    _unless((errno.EEXIST,), fd, _CREATE, struct.pack("=QQ", _ADD, of))


def limit(fd: int, of: int, most: int | None) -> None:
    """Say how many bytes a group may hold; None: as many as there are. Raises QuotaFailed."""
    # (u64)-1 takes a limit away: a flag that is left out changes nothing (btrfs_limit_qgroup).
    said = struct.pack("=QQQQQQ", of, _OF_ALL, (1 << 64) - 1 if most is None else most, 0, 0, 0)
    _asked(fd, _LIMIT, bytearray(said), _named(of))


def use(fd: int, of: int) -> Use | None:
    """What a group held at the last commit; None when there is no such group. Raises BtrfsFailed."""
    held = next((struct.unpack_from("=Q", item, 8)[0] for _, item in _items(fd, 0, _INFO, of)), None)
    if held is None:
        return None
    for _, item in _items(fd, 0, _LIMIT_ITEM, of):
        flags, most, own = struct.unpack_from("=QQQ", item)
        said = [value for flag, value in ((_OF_ALL, most), (_OF_OWN, own)) if flags & flag]
        return Use(held, min(said, default=None))
    return Use(held, None)


def members(fd: int, of: int) -> frozenset[int]:
    """The numbers of the subvolumes whose groups are in a group of level 1. Raises BtrfsFailed."""
    return frozenset(key.offset for key, _ in _items(fd, of, _RELATION) if not key.offset >> _LEVEL)


def join(fd: int, subvolume: int, of: int) -> None:
    """Let what a subvolume wrote, and writes, count for a group; nothing where it is gone. Raises QuotaFailed."""
    _unless((errno.EEXIST, errno.EINVAL, errno.ENOENT), fd, _ASSIGN, struct.pack("=QQQ", _ADD, subvolume, of))


def leave(fd: int, subvolume: int, of: int) -> None:
    """Let it count no more. Raises QuotaFailed."""
    _unless((errno.ENOENT, errno.EINVAL), fd, _ASSIGN, struct.pack("=QQQ", _REMOVE, subvolume, of))


def _items(fd: int, objectid: int, kind: int, offset: int | None = None) -> Iterator[tuple[Key, bytes]]:
    """Items of the quota tree, all or that of one offset; none where there is no such tree. Raises QuotaFailed."""
    try:
        for key, item in btrfs.search(fd, _TREE, (objectid, kind), first=offset or 0):
            if offset is not None and key.offset != offset:
                return
            yield key, item
    except FileNotFoundError:
        return
    except OSError as error:
        raise QuotaFailed(f"btrfs: quotas cannot be read: {error.strerror}") from error


def _unless(harmless: tuple[int, ...], fd: int, number: int, said: bytes) -> None:
    try:
        _asked(fd, number, bytearray(said), "a group of quotas")
    except QuotaFailed as failure:
        if not isinstance(failure.__cause__, OSError) or failure.__cause__.errno not in harmless:
            raise


def _asked(fd: int, number: int, arguments: bytearray, what: str) -> None:
    try:
        fcntl.ioctl(fd, number, arguments)
    except OSError as error:
        raise QuotaFailed(f"btrfs: {what}: {os.strerror(error.errno or 0)}") from error


def _named(of: int) -> str:
    return f"the limit of {of >> _LEVEL}/{of & ((1 << _LEVEL) - 1)}"
