"""@agents-ballast: metadata that is there to be destroyed, when the filesystem has no room left for the rollback.

On a btrfs whose metadata is full, a snapshot and a destroy still work and a rename does not. The hook destroys this
subvolume then, and has room at a cost that does not depend on any home. It holds extended attributes, one to a
metadata block: they are neither compressed nor shared, and the whole of it is made in some 50 ms.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from persist import rollback
from town import btrfs, files, kernel, space
from town.btrfs import BtrfsFailed
from town.failure import TryLater, Unsafe
from town.spec import Btrfs
from town.terminal import shown
from town.terminal import size as size_of

SIZE = 16 << 20  # bytes of metadata, each block counted once
# What must be left beside it: a ballast that took the last room would bring about what it is there to cure.
_MARGIN = 8 << 20
# In a pinch: with a ballast of 4 MiB a rollback still worked on every full disk. It takes a third of the room: the boot
# that follows has to live on the rest, until a tidy.
_LEAST, _SHARE = 4 << 20, 3
_PATIENCE = 20.0  # seconds for another that makes it
# What of a metadata block an attribute cannot have: the block's header, its item, struct btrfs_dir_item and the name.
_BESIDE = 101 + 25 + 30 + 40
_ROOT_ITEM = 132  # include/uapi/linux/btrfs_tree.h
_ATTRIBUTE = "trusted.nuketown.ballast.{:06}"


class NoRoom(BtrfsFailed):
    """The filesystem has no room for the ballast. Trying again helps once something was deleted."""


class Busy(TryLater):
    """Another command makes the ballast. Trying again helps."""


def fits(top: int) -> bool:
    """Whether there is room for the ballast and something beside it, as far as the filesystem's own numbers say."""
    return space.of(top).metadata.room >= SIZE + _MARGIN


def missing(top: int, names: Btrfs) -> bool:
    """Whether nothing has the ballast's name at the top level. What else could stand there, `layout` looks at."""
    try:
        os.stat(names.ballast, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


def whole(top: int, names: Btrfs) -> bool:
    """Whether there is nothing to make: the ballast is there and of full size, or something else has its name."""
    try:
        with files.opened(files.open_beneath(top, names.ballast)) as fd:
            return not _ours(fd) or _has(fd, SIZE // space.node_size(fd) - 1)
    except FileNotFoundError:
        return False
    except (NotADirectoryError, Unsafe):
        return True


def weight(fd: int, names: Btrfs) -> int:
    """Bytes of metadata that the ballast has, 0 when there is none; at SIZE it is whole.

    Read from the root tree through any descriptor on the filesystem: the top level is not opened. Needs CAP_SYS_ADMIN;
    raises OSError.
    """
    wanted = os.fsencode(names.ballast)
    for key, item in btrfs.search(fd, btrfs.ROOT_TREE, (btrfs.TOP_LEVEL, btrfs.ROOT_REF)):
        # struct btrfs_root_ref: the directory that it lies in, a sequence, the length of the name; the name.
        if item[18:] == wanted and int.from_bytes(item[:8], "little") == btrfs.FIRST_INODE:
            return max(_bytes_used(item) for _, item in btrfs.search(fd, btrfs.ROOT_TREE, (key.offset, _ROOT_ITEM)))
    return 0


def _bytes_used(item: bytes) -> int:
    return int.from_bytes(item[192:200], "little")  # struct btrfs_root_item


def make(top: int, names: Btrfs, *, tight: bool = False) -> None:
    """Make the ballast: root's, 0700, writable (a hook that must destroy it needs no step before), durable at return.

    It is filled under another name first, so what has its name is whole; a smaller one is replaced. With `tight`, where
    there is none and not room for all of it, a smaller one is made in place.
    Raises Busy, NoRoom, or another BtrfsFailed when something else has its name, and then leaves nothing of it.
    """
    with _alone():  # two at once would clear each other's
        beside = f"{names.ballast}.new"
        _clear(top, beside)
        if fits(top):
            with _whole_or_not(top, beside, names), _filled(top, beside, SIZE):
                _put_in_place(top, beside, names.ballast)
        elif tight and missing(top, names) and (size := space.of(top).metadata.room // _SHARE) >= _LEAST:
            # No rename, which would need room as well.
            with _whole_or_not(top, names.ballast, names), _filled(top, names.ballast, min(size, SIZE)):
                pass
        else:
            raise _no_room(top, names)
        btrfs.commit(top)


def give_way(top: int, names: Btrfs) -> bool:
    """Destroy the ballast, for who has no room otherwise; false when there is none. Raises BtrfsFailed, OSError."""
    from persist import room

    try:
        with files.opened(files.open_beneath(top, names.ballast)) as there:
            if not _ours(there):
                return False
    except (FileNotFoundError, NotADirectoryError, Unsafe):
        return False
    btrfs.delete(top, names.ballast)
    room.settled(top)
    return True


@contextmanager
def _alone() -> Iterator[None]:
    """A lock in /run/nuketown: on the disk, whoever can open its top level could hold it for ever."""
    busy = Busy("the ballast is being made by another command", hint="try again")
    until = time.monotonic() + _PATIENCE
    with ExitStack() as lock:
        while True:
            try:
                lock.enter_context(rollback.alone("ballast.lock", busy))
                break
            except Busy:
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)
        yield


@contextmanager
def _whole_or_not(top: int, name: str, names: Btrfs) -> Iterator[None]:
    """What fails in the block leaves nothing of `name`, and is said in the filesystem's words."""
    try:
        yield
    except BaseException as error:
        with suppress(BtrfsFailed, OSError):  # the next `make` clears it
            _clear(top, name)
        reason = error.__cause__ if isinstance(error, BtrfsFailed) else error
        if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(top, names) from error
        if isinstance(error, OSError):
            raise BtrfsFailed(f"btrfs: {shown(names.ballast)}: {error.strerror}") from error
        raise


def _put_in_place(top: int, beside: str, name: str) -> None:
    try:
        with files.opened(files.open_beneath(top, name)) as there:
            replace = _ours(there)
    except (FileNotFoundError, NotADirectoryError, Unsafe):
        replace = False
    kernel.renameat2(top, beside, top, name, kernel.RENAME_EXCHANGE if replace else kernel.RENAME_NOREPLACE)
    if replace:
        _clear(top, beside)


def _ours(fd: int) -> bool:
    """Whether an open directory is a ballast, of whatever size."""
    return btrfs.is_subvolume(fd) and _has(fd, 0)


def _has(fd: int, number: int) -> bool:
    try:
        os.getxattr(fd, _ATTRIBUTE.format(number))
    except OSError as error:
        if error.errno == errno.ENODATA:
            return False
        raise
    return True


@contextmanager
def _filled(top: int, name: str, size: int) -> Iterator[None]:
    before = os.umask(0o077)
    try:
        fd = btrfs.create(top, name)
    finally:
        os.umask(before)
    with files.opened(fd):
        _fill(fd, size)
        yield


def _fill(fd: int, size: int) -> None:
    block = space.node_size(fd)
    value = bytes(block - _BESIDE)
    for number in range(size // block):
        os.setxattr(fd, _ATTRIBUTE.format(number), value)


def _no_room(top: int, names: Btrfs) -> NoRoom:
    room = size_of(space.of(top).metadata.room)
    return NoRoom(
        f"there is no room for {shown(names.ballast)}: it needs {size_of(SIZE + _MARGIN)} of metadata, {room} is left",
        hint="look at btrfs filesystem usage; free some (old snapshots of any kind count), then run persist tidy",
    )


def _clear(top: int, name: str) -> None:
    """What a `make` that was cut off left: nothing else has that name."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=top, follow_symlinks=False)
        btrfs.delete(top, name)
        btrfs.commit(top)
