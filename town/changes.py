"""Which inodes of a btrfs subvolume changed since a transaction: one tree search, whose cost is that of the changes.

The kernel leaves out leaves that are older; of the others it gives everything, so each inode item is looked at for the
transaction that wrote it. Creating, writing, renaming, linking, chmod, attributes and the end of a mapped write all
write it. Exact on a snapshot; on a living subvolume what is not committed yet is missing. Needs CAP_SYS_ADMIN.
Sources: include/uapi/linux/btrfs_tree.h (struct btrfs_inode_item, btrfs_inode_ref, btrfs_inode_extref).
"""

import fcntl
import struct
from collections.abc import Iterator
from typing import NamedTuple

from town import btrfs
from town.btrfs import FIRST_INODE

_TREE_SEARCH_V2 = 0xC0709411
_BUFFER = 1 << 20
_INODE_ITEM, _INODE_REF, _INODE_EXTREF = 1, 12, 13
_LAST_OBJECT = (1 << 64) - 256  # BTRFS_LAST_FREE_OBJECTID
_ALL = (1 << 64) - 1
_HEADER = struct.Struct("=QQQII")  # transid of the leaf, objectid, offset, type, length
_HEADER_AND_STARTS = struct.Struct("=QQ")
_TIME, _CTIME, _MTIME, _OTIME = struct.Struct("=QI"), 124, 136, 148  # seconds, ns; where they stand in the inode item
_NLINK_MODE = struct.Struct("=IIII")  # nlink, uid, gid, mode; 40 bytes into the inode item
_ARGUMENTS = struct.Struct("=7Q4I4QQ")  # a key of 104 bytes, the size of the buffer behind it
_COUNT = struct.Struct("=I")
_MOST = (1 << 32) - 1
_U64, _U16 = struct.Struct("=Q"), struct.Struct("=H")

Ref = tuple[int, bytes]  # the inode of a directory, the name in it


class Changed(NamedTuple):
    """An inode that was written: when it was made (a transaction), its type and mode, its number of names."""

    inode: int
    generation: int
    mode: int
    names: int
    refs: tuple[Ref, ...]  # all its names; empty when they did not lie beside it: `refs` finds them
    size: int = 0  # bytes, as it is on the disk: what was not written out yet is missing
    changed: int = 0  # ctime, ns since the epoch


def since(fd: int, transid: int, *, changed: int = 0) -> Iterator[Changed]:
    """Inodes of the subvolume that `fd` lies in that were written after transaction `transid`, by number.

    What has no name any more (deleted while open) is left out, and so is what changed last before `changed` (ctime,
    ns since the epoch). Raises OSError.
    """
    found: tuple[int, int, int, int, int, int] | None = None
    names: list[Ref] = []
    for objectid, kind, offset, buffer, at, length in _items(fd, transid + 1):
        if kind == _INODE_ITEM:
            if found is not None:
                yield _changed(found, names)
            generation, written = _HEADER_AND_STARTS.unpack_from(buffer, at)
            nlink, _, _, mode = _NLINK_MODE.unpack_from(buffer, at + 40)
            found = None
            if written > transid and nlink:
                size, (seconds, fraction) = _U64.unpack_from(buffer, at + 16)[0], _TIME.unpack_from(buffer, at + _CTIME)
                if (at_last := seconds * 10**9 + fraction) >= changed:
                    found = (objectid, generation, mode, nlink, size, at_last)
            names = []
        elif found is not None and objectid == found[0]:
            if kind == _INODE_REF:
                names += _names(offset, buffer, at, length)
            elif kind == _INODE_EXTREF:
                names += _far_names(buffer, at, length)
    if found is not None:
        yield _changed(found, names)


def refs(fd: int, inode: int) -> list[Ref]:
    """All names of an inode of the subvolume that `fd` lies in. Raises OSError."""
    found: list[Ref] = []
    for key, item in btrfs.search(fd, 0, (inode, _INODE_REF)):
        found += _names(key.offset, item, 0, len(item))
    for _, item in btrfs.search(fd, 0, (inode, _INODE_EXTREF)):
        found += _far_names(item, 0, len(item))
    return found


def ref(fd: int, inode: int) -> Ref | None:
    """The name of a directory, which has but one; None when it is gone. Raises OSError."""
    for key, item in btrfs.search(fd, 0, (inode, _INODE_REF), items=1):
        return next(_names(key.offset, item, 0, len(item)), None)
    return None


def parent(fd: int, inode: int) -> int:
    """The directory that holds a directory; 0 for the root of the subvolume, or what is gone. Raises OSError."""
    if inode == FIRST_INODE:
        return 0
    return next((key.offset for key, _ in btrfs.search(fd, 0, (inode, _INODE_REF), items=1)), 0)


def generations(fd: int, transid: int) -> Iterator[tuple[int, int, int]]:
    """(inode, generation, mode) of what was written after `transid`: `since` without names."""
    return ((found.inode, found.generation, found.mode) for found in since(fd, transid))


def times(fd: int, transid: int) -> Iterator[int]:
    """When each inode that was written after transaction `transid` changed last (ctime, ns since the epoch).

    A read that changed its atime writes an inode too, and leaves this as it was. Of the subvolume's root directory it
    is the mtime: to rename the subvolume changes the other. Raises OSError.
    """
    for inode, kind, _, buffer, at, _ in _items(fd, transid + 1):
        if kind == _INODE_ITEM and _HEADER_AND_STARTS.unpack_from(buffer, at)[1] > transid:
            seconds, fraction = _TIME.unpack_from(buffer, at + (_MTIME if inode == FIRST_INODE else _CTIME))
            yield int(seconds * 10**9 + fraction)


def births(fd: int, transid: int, upto: int = _ALL) -> Iterator[tuple[int, int]]:
    """In which transaction, and when (ns since the epoch), inodes were made that leaves of after `transid` hold.

    Of leaves up to the transaction `upto`.

    A transaction in which an inode was made ran at that very time, which no program can set. Raises OSError.
    """
    for _, _, _, buffer, at, _ in _items(fd, transid + 1, upto, last=_INODE_ITEM):
        seconds, fraction = _TIME.unpack_from(buffer, at + _OTIME)
        yield _U64.unpack_from(buffer, at)[0], seconds * 10**9 + fraction


def _changed(found: tuple[int, int, int, int, int, int], names: list[Ref]) -> Changed:
    return Changed(*found[:4], tuple(names) if len(names) == found[3] else (), *found[4:])


def _names(parent: int, buffer: bytes | bytearray, at: int, length: int) -> Iterator[Ref]:
    end = at + length
    while at < end:
        size = _U16.unpack_from(buffer, at + 8)[0]
        yield parent, bytes(buffer[at + 10 : at + 10 + size])
        at += 10 + size


def _far_names(buffer: bytes | bytearray, at: int, length: int) -> Iterator[Ref]:
    end = at + length
    while at < end:
        size = _U16.unpack_from(buffer, at + 16)[0]
        yield _U64.unpack_from(buffer, at)[0], bytes(buffer[at + 18 : at + 18 + size])
        at += 18 + size


def _items(
    fd: int, least: int, most: int = _ALL, *, last: int = _INODE_EXTREF
) -> Iterator[tuple[int, int, int, bytearray, int, int]]:
    """Inodes and their names, in order, of leaves written in the transactions `least` to `most`.

    Each is a key, a buffer, where in it, a length. `last`: of that type at most.
    """
    objectid, kind, offset = FIRST_INODE, 0, 0
    buffer = bytearray(_ARGUMENTS.size + _BUFFER)
    while True:
        # btrfs_ioctl_search_args_v2. The key is one range over (objectid, type, offset): types cannot be left out.
        _ARGUMENTS.pack_into(buffer, 0, 0, objectid, _LAST_OBJECT, offset, _ALL, least, most, kind, 255, _MOST, 0,
                             0, 0, 0, 0, _BUFFER)  # fmt: skip
        fcntl.ioctl(fd, _TREE_SEARCH_V2, buffer)
        count, at = _COUNT.unpack_from(buffer, 64)[0], _ARGUMENTS.size
        if count == 0:
            return
        for _ in range(count):
            _, objectid, offset, kind, length = _HEADER.unpack_from(buffer, at)
            at += _HEADER.size
            if kind <= last:  # most are not: entries of directories, extents
                yield objectid, kind, offset, buffer, at, length
            at += length
        objectid, kind, offset = _next(objectid, kind, offset)


def _next(objectid: int, kind: int, offset: int) -> tuple[int, int, int]:
    if offset < _ALL:
        return objectid, kind, offset + 1
    return (objectid, kind + 1, 0) if kind < 255 else (objectid + 1, 0, 0)
