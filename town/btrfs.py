"""btrfs: subvolumes, snapshots, commits. libbtrfsutil where it has the call, ioctls where it does not.

Everything is relative to an open directory: libbtrfsutil is given `/proc/self/fd/N/name`, whose first part is the
descriptor itself, so no name above can be swapped. Ioctl numbers: include/uapi/linux/btrfs.h.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import btrfsutil

from town import kernel
from town.failure import Failure
from town.files import opened
from town.terminal import shown

if TYPE_CHECKING:
    from uuid import UUID

MAGIC = 0x9123683E  # BTRFS_SUPER_MAGIC, statfs(2)
FIRST_INODE = 256  # of every subvolume
EMPTY_INODE = 2  # what a snapshot shows where a nested subvolume was
_START_SYNC, _WAIT_SYNC = 0x80089418, 0x40089416
_TREE_SEARCH_V2, _INO_LOOKUP = 0xC0709411, 0xD0009412
ROOT_TREE, ROOT_BACKREF, ROOT_REF, _LAST = 1, 144, 156, (1 << 64) - 1
TOP_LEVEL = 5


class NotBtrfs(Failure):
    """The operation needs btrfs and the directory is on something else."""


class BtrfsFailed(Failure):
    """The filesystem refused: full, read-only or damaged. The kernel's own word is in the message."""


class Nested(NamedTuple):
    """A subvolume right inside another. `above` is its directory there, None when that is too deep to have a path."""

    id: int
    name: bytes
    above: bytes | None

    @property
    def path(self) -> bytes:
        """Relative to the outer subvolume; a path that nothing can open starts with `…/`."""
        return self.name if self.above == b"" else (self.above or "…/".encode()) + self.name


class Subvolume(NamedTuple):
    """What the filesystem knows of one subvolume; times in whole seconds since the epoch."""

    id: int
    uuid_bytes: bytes
    parent_bytes: bytes  # all zero: it is a snapshot of nothing
    generation: int
    origin_generation: int  # its generation when it was made (otransid)
    changed: int  # transid of the last change of an inode in it (ctransid)
    read_only: bool
    made: float

    @property
    def uuid(self) -> "UUID":
        """Its UUID."""
        from uuid import UUID

        return UUID(bytes=self.uuid_bytes)

    @property
    def parent_uuid(self) -> "UUID | None":
        """The UUID of what it is a snapshot of; None: of nothing."""
        from uuid import UUID

        return UUID(bytes=self.parent_bytes) if any(self.parent_bytes) else None


def is_btrfs(fd: int) -> bool:
    """Whether a descriptor lies on btrfs."""
    return kernel.filesystem_type(fd) == MAGIC


def is_subvolume(fd: int) -> bool:
    """Whether a descriptor has the root directory of a subvolume open."""
    return os.fstat(fd).st_ino == FIRST_INODE and is_btrfs(fd)


def is_placeholder(fd: int) -> bool:
    """Whether it is the empty directory that a snapshot shows where a subvolume was: all of them are one inode."""
    return os.fstat(fd).st_ino == EMPTY_INODE and is_btrfs(fd)


def number(fd: int) -> int:
    """The id of the subvolume that `fd` lies in."""
    with _named("the subvolume"):
        return int(btrfsutil.subvolume_id(fd))


def info(fd: int) -> Subvolume:
    """What the filesystem says of the subvolume whose root directory `fd` has open."""
    with _named("the subvolume"):
        found = btrfsutil.subvolume_info(fd)
    return Subvolume(
        id=found.id,
        uuid_bytes=found.uuid,
        parent_bytes=found.parent_uuid,
        generation=found.generation,
        origin_generation=found.otransid,
        changed=found.ctransid,
        read_only=bool(found.flags & 1),
        made=found.otime,
    )


def nested(fd: int) -> list[Nested]:
    """The subvolumes right inside the one that `fd` lies in, however deep: read from the root tree, not by walking.

    What a snapshot of it leaves out. Needs CAP_SYS_ADMIN.
    """
    with _named("the subvolume"):
        outer = btrfsutil.subvolume_id(fd)
        return [_nested(fd, outer, number, item) for number, item in _references(fd, outer)]


def _references(fd: int, outer: int) -> Iterator[tuple[int, bytes]]:
    """ROOT_REF items (outer, 156, inner)."""
    return ((key.offset, item) for key, item in search(fd, ROOT_TREE, (outer, ROOT_REF)))


class Key(NamedTuple):
    """The key of an item in a btrfs tree."""

    objectid: int
    kind: int
    offset: int


def search(
    fd: int, tree: int, wanted: tuple[int, int], *, items: int = 1024, first: int = 0
) -> Iterator[tuple[Key, bytes]]:
    """The items of one object id and kind in a tree (0: the one that `fd` lies in), in the order of their offset.

    From the offset `first` on. Asks for `items` at a time and holds no more. Needs CAP_SYS_ADMIN; raises OSError.
    """
    objectid, kind = wanted
    offset, size = first, 1 << (16 if items > 1 else 12)
    while offset < 1 << 64:
        # btrfs_ioctl_search_args_v2: a key of 104 bytes, a size, a buffer.
        key = struct.pack("=7Q4I4Q", tree, objectid, objectid, offset, _LAST, 0, _LAST, kind, kind, items, 0, *[0] * 4)
        arguments = bytearray(key + struct.pack("=Q", size) + bytes(size))
        fcntl.ioctl(fd, _TREE_SEARCH_V2, arguments)
        count, at = struct.unpack_from("=I", arguments, 64)[0], 112
        if count == 0:
            return
        for _ in range(count):
            _, found, offset, type_, length = struct.unpack_from("=QQQII", arguments, at)
            yield Key(found, type_, offset), bytes(arguments[at + 32 : at + 32 + length])
            at += 32 + length
        offset += 1


def _nested(fd: int, outer: int, number: int, item: bytes) -> Nested:
    directory, _, length = struct.unpack_from("=QQH", item)  # struct btrfs_root_ref
    return Nested(number, item[18 : 18 + length], _path_of(fd, outer, directory))


def _path_of(fd: int, tree: int, inode: int) -> bytes | None:
    if inode == FIRST_INODE:
        return b""
    arguments = bytearray(struct.pack("=QQ", tree, inode) + bytes(4080))  # struct btrfs_ioctl_ino_lookup_args
    try:
        fcntl.ioctl(fd, _INO_LOOKUP, arguments)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOENT):
            return None
        raise
    return bytes(arguments[16:]).partition(b"\0")[0]


def path_in(fd: int) -> bytes | None:
    """Where an open directory lies in its subvolume, with a slash at the end; None where it is too deep for a path.

    Needs CAP_SYS_ADMIN.
    """
    with _named("the subvolume"):
        return _path_of(fd, btrfsutil.subvolume_id(fd), os.fstat(fd).st_ino)


def create(directory: int, name: str) -> int:
    """Make an empty subvolume `name` below `directory`; its descriptor. Not durable before `commit`."""
    with _named(name):
        btrfsutil.create_subvolume(_below(directory, name))
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def snapshot(source: int, directory: int, name: str, *, read_only: bool) -> int:
    """Snapshot the subvolume that `source` has open as `name` below `directory`; its descriptor. Durable at return.

    Nested subvolumes are not in it: each is an empty directory with inode 2 there.
    """
    with _named(name):
        btrfsutil.create_snapshot(source, _below(directory, name), read_only=read_only)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def delete(directory: int, name: str) -> None:
    """Delete the subvolume `name` below `directory`, also a read-only one. It must hold no other.

    The kernel also deletes one that is mounted elsewhere: callers that did not make it look at mountinfo first.
    """
    with _named(name):
        # With CAP_SYS_ADMIN a read-only one need not be made writable, which is a commit of the whole filesystem.
        btrfsutil.delete_subvolume(_below(directory, name))


def set_read_only(fd: int, value: bool) -> None:
    """Make the subvolume that `fd` has open read-only or writable."""
    with _named("the subvolume"):
        btrfsutil.set_subvolume_read_only(fd, value)


def commit(fd: int) -> int:
    """Make what was created, renamed and deleted durable, without waiting for other files' data (5 ms, not 1 s).

    The generation that was committed: whatever is made afterwards has a higher one.
    """
    transaction = bytearray(8)
    with _named("commit"):
        fcntl.ioctl(fd, _START_SYNC, transaction)
        fcntl.ioctl(fd, _WAIT_SYNC, transaction)
    return int(struct.unpack("=Q", transaction)[0])


@contextmanager
def top_level(
    device: str, *, attributes: int = kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV | kernel.MOUNT_NOATIME
) -> Iterator[int]:
    """The top level (subvolid 5) of the filesystem on the block device `device`: a mount that no path leads to.

    Nobody but this process sees it and it is gone when the block ends. Raises BtrfsFailed.
    """
    with _named(device):
        mount = kernel.mount_detached("btrfs", {"source": device, "subvolid": str(TOP_LEVEL)}, attributes)
    with opened(mount), opened(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)) as fd:
        yield fd


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except btrfsutil.BtrfsUtilError as error:
        raise BtrfsFailed(f"btrfs: {shown(name)}: {error.strerror or error}") from error
    except OSError as error:
        raise BtrfsFailed(f"btrfs: {shown(name)}: {error.strerror}") from error


def _below(directory: int, name: str) -> str:
    assert "/" not in name
    return f"/proc/self/fd/{directory}/{name}"
