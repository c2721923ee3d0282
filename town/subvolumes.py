"""The tree of subvolumes, as the filesystem itself knows it: what hangs where, reached by numbers and never by a path.

An agent can put a subvolume below a path that is too long to have a name, below ten thousand directories, under any
name of 255 bytes. None of that matters here: the root tree says which directory holds a subvolume's name, and a file
handle opens that directory. Needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH. Sources: include/uapi/linux/btrfs_tree.h,
struct btrfs_fid in fs/btrfs/export.h of Linux, open_by_handle_at(2).
"""

import fcntl
import os
import struct
from dataclasses import dataclass

from town import btrfs, kernel
from town.btrfs import FIRST_INODE, ROOT_BACKREF, ROOT_REF, ROOT_TREE
from town.files import DIRECTORY

_SNAP_DESTROY = 0x5000940F
_INODE_ITEM = 1
_ORPHANS, _ORPHAN_ITEM = (1 << 64) - 5, 48  # BTRFS_ORPHAN_OBJECTID
_HANDLE_KIND, _HANDLE_SIZE = 0x4D, 20  # FILEID_BTRFS_WITHOUT_PARENT: inode, tree, generation
_HANDLE = struct.Struct("=IiQQI")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subvolume hangs: in which subvolume, in which directory of it (an inode), under which name."""

    parent: int
    directory: int
    name: bytes


def place(fd: int, number: int) -> Place | None:
    """Where the subvolume `number` hangs; None when it is gone or hangs nowhere. Raises OSError."""
    for key, item in btrfs.search(fd, ROOT_TREE, (number, ROOT_BACKREF), items=1):
        directory, _, length = struct.unpack_from("=QQH", item)  # struct btrfs_root_ref
        return Place(key.offset, directory, item[18 : 18 + length])
    return None


def inside(fd: int, number: int) -> int | None:
    """One of the subvolumes right inside the subvolume `number`; None when there is none. Raises OSError."""
    return next((key.offset for key, _ in btrfs.search(fd, ROOT_TREE, (number, ROOT_REF), items=1)), None)


def opened_inode(mount: int, subvolume: int, inode: int) -> int:
    """A directory by its numbers, through the mount that `mount` lies in. Raises OSError: ESTALE when it is gone.

    The kernel finds the way up from it, not down to it: no name and no length of a path plays a part.
    """
    return kernel.open_by_handle_at(mount, handle(subvolume, inode), DIRECTORY & ~os.O_NOFOLLOW)


def handle(subvolume: int, inode: int) -> bytes:
    """The struct file_handle of an inode, whichever generation it has."""
    return _HANDLE.pack(_HANDLE_SIZE, _HANDLE_KIND, inode, subvolume, 0)


def opened_root(mount: int, number: int) -> int:
    """The root directory of the subvolume `number`. Raises OSError."""
    return opened_inode(mount, number, FIRST_INODE)


def root_of(fd: int) -> int:
    """The root directory of the subvolume that `fd` lies in. Raises OSError, BtrfsFailed."""
    return opened_root(fd, btrfs.number(fd))


def born(fd: int, inode: int) -> int:
    """The generation in which an inode of the tree that `fd` lies in was made. Raises OSError, also when it is gone."""
    for _, item in btrfs.search(fd, 0, (inode, _INODE_ITEM), items=1):
        return int(struct.unpack_from("=Q", item)[0])
    raise FileNotFoundError(2, os.strerror(2))


def destroy(directory: int, name: bytes) -> None:
    """Delete the subvolume `name` in an open directory. Raises OSError: ENOTEMPTY while it holds another, EROFS.

    Not durable before `btrfs.commit`. The kernel also does it to one that is mounted elsewhere.
    """
    assert b"/" not in name
    fcntl.ioctl(directory, _SNAP_DESTROY, bytearray(struct.pack("=q4088s", 0, name)))


def being_freed(fd: int) -> frozenset[int]:
    """Ids of the deleted subvolumes that still hold their space: the kernel's cleaner frees it in the background."""
    return frozenset(key.offset for key, _ in btrfs.search(fd, ROOT_TREE, (_ORPHANS, _ORPHAN_ITEM)))
