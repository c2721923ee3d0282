"""The tree of subvolumes, as the filesystem itself knows it: what hangs where, reached by numbers and never by a path.

An agent can put a subvolume below a path that is too long to have a name, below ten thousand directories, under any
name of 255 bytes. None of that matters here: the root tree says which directory holds a subvolume's name, and a file
handle opens that directory. Needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH. Sources: include/uapi/linux/btrfs_tree.h,
struct btrfs_fid in fs/btrfs/export.h of Linux, open_by_handle_at(2).
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from town import btrfs, files, kernel
from town.btrfs import EMPTY_INODE, FIRST_INODE, ROOT_BACKREF, ROOT_REF, ROOT_TREE
from town.files import DIRECTORY

_SNAP_DESTROY = 0x5000940F
_INODE_ITEM, _ROOT_ITEM = 1, 132
_PARENT_UUID = slice(263, 279)
_UUID_TREE, _UUID_KEY = 9, 251  # BTRFS_UUID_TREE_OBJECTID, BTRFS_UUID_KEY_SUBVOL
_ORPHANS, _ORPHAN_ITEM = (1 << 64) - 5, 48  # BTRFS_ORPHAN_OBJECTID
_HANDLE_KIND, _HANDLE_SIZE = 0x4D, 20  # FILEID_BTRFS_WITHOUT_PARENT: inode, tree, generation
_HANDLE = struct.Struct("=IiQQI")


class Place(NamedTuple):
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


def within(fd: int, number: int) -> Iterator[tuple[int, Place]]:
    """The subvolumes right inside the subvolume `number`: their numbers, and where each hangs. Raises OSError."""
    for key, item in btrfs.search(fd, ROOT_TREE, (number, ROOT_REF)):
        directory, _, length = struct.unpack_from("=QQH", item)  # struct btrfs_root_ref
        yield key.offset, Place(number, directory, item[18 : 18 + length])


def by_uuid(fd: int, uuid: bytes) -> int | None:
    """The number of the subvolume of that UUID; None when there is none (any more). Raises OSError."""
    first, second = struct.unpack("=QQ", uuid)
    for key, item in btrfs.search(fd, _UUID_TREE, (first, _UUID_KEY)):
        if key.offset == second:
            return int(struct.unpack_from("=Q", item)[0])
    return None


def origin(fd: int, number: int) -> int | None:
    """The subvolume that the subvolume `number` is a snapshot of; None: of nothing, or of one that is gone.

    Raises OSError.
    """
    for _, item in btrfs.search(fd, ROOT_TREE, (number, _ROOT_ITEM)):
        if len(item) >= _PARENT_UUID.stop and any(item[_PARENT_UUID]):  # struct btrfs_root_item
            return by_uuid(fd, item[_PARENT_UUID])
    return None


def opened_inode(mount: int, subvolume: int, inode: int) -> int:
    """A directory by its numbers, through the mount that `mount` lies in. Raises OSError: ESTALE when it is gone.

    The kernel finds the way up from it, not down to it: no name and no length of a path plays a part.
    """
    flags = DIRECTORY & ~os.O_NOFOLLOW
    try:
        return kernel.open_by_handle_at(mount, handle(subvolume, inode), flags)
    except OSError as error:
        # Linux before 6.2 compares the generation in any case (btrfs_get_dentry in fs/btrfs/export.c).
        if error.errno != errno.ESTALE or (generation := _generation(mount, subvolume, inode)) is None:
            raise
    return kernel.open_by_handle_at(mount, handle(subvolume, inode, generation), flags)


def handle(subvolume: int, inode: int, generation: int = 0) -> bytes:
    """The struct file_handle of an inode; 0 stands for any generation of it, from Linux 6.2 on."""
    return _HANDLE.pack(_HANDLE_SIZE, _HANDLE_KIND, inode, subvolume, generation)


def _generation(fd: int, subvolume: int, inode: int) -> int | None:
    """What the kernel has as the inode's generation, 32 bits of it; None when it is gone."""
    with suppress(FileNotFoundError):  # the subvolume is
        for _, item in btrfs.search(fd, subvolume, (inode, _INODE_ITEM), items=1):
            return int(struct.unpack_from("=Q", item)[0]) & 0xFFFFFFFF
    return None


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


def remove(directory: int, name: str | bytes) -> None:
    """Remove `name` in an open directory, whatever it is, with all below it: subvolumes too, also read-only ones.

    For what nobody but root can reach. Raises OSError; a mount in it is one.
    """
    name = os.fsencode(name)
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not btrfs.is_btrfs(directory) or found.st_ino not in (FIRST_INODE, EMPTY_INODE):
        files.remove_tree(directory, name, other=remove)
    elif found.st_ino == FIRST_INODE:
        _remove_whole(directory, name)
    else:  # what a snapshot shows where a subvolume was
        os.rmdir(name, dir_fd=directory)


def _remove_whole(directory: int, name: bytes) -> None:
    """A subvolume, from the innermost outwards."""
    with files.opened(files.enter(directory, name)) as fd:
        trail = [btrfs.number(fd)]
        while trail:
            below = inside(fd, trail[-1])
            if below is not None:
                trail.append(below)
                continue
            number = trail.pop()
            if trail and (hangs := place(fd, number)) is not None:
                with files.opened(opened_inode(fd, hangs.parent, hangs.directory)) as above:
                    _destroy(above, hangs)
    destroy(directory, name)


def _destroy(above: int, hangs: Place) -> None:
    """The same where the subvolume that it hangs in may be read-only: its owner can make it so."""
    try:
        destroy(above, hangs.name)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        with files.opened(opened_root(above, hangs.parent)) as root:
            btrfs.set_read_only(root, False)
        destroy(above, hangs.name)


def owner(fd: int, number: int) -> int:
    """The uid that the root directory of the subvolume `number` belongs to; 0 when it is gone. Raises OSError."""
    with suppress(FileNotFoundError):
        for _, item in btrfs.search(fd, number, (FIRST_INODE, _INODE_ITEM), items=1):
            return int(struct.unpack_from("=I", item, 44)[0])  # struct btrfs_inode_item
    return 0


def being_freed(fd: int) -> frozenset[int]:
    """Ids of the deleted subvolumes that still hold their space: the kernel's cleaner frees it in the background."""
    return frozenset(key.offset for key, _ in btrfs.search(fd, ROOT_TREE, (_ORPHANS, _ORPHAN_ITEM)))
