"""@agents-ballast: metadata that is there to be destroyed, when the filesystem has no room left for the rollback.

On a btrfs whose metadata is full, a snapshot and a destroy still work and a rename does not. The hook destroys this
subvolume then, and has room at a cost that does not depend on any home. It holds extended attributes, one to a
metadata block: they are neither compressed nor shared, and the whole of it is made in some 50 ms.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from town import btrfs, files, kernel, space
from town.btrfs import BtrfsFailed
from town.spec import Btrfs
from town.terminal import shown, size

SIZE = 16 << 20  # bytes of metadata, each block counted once
# What must be left beside it: a ballast that took the last room would bring about what it is there to cure.
_MARGIN = 8 << 20
# What of a metadata block an attribute cannot have: the block's header, its item, struct btrfs_dir_item and the name.
_BESIDE = 101 + 25 + 30 + 40


class NoRoom(BtrfsFailed):
    """The filesystem has no room for the ballast. Trying again helps once something was deleted."""


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


def make(top: int, names: Btrfs) -> None:
    """Make the ballast: root's, 0700, writable (a hook that must destroy it needs no step before), durable at return.

    It is filled under another name first, so what has its name is whole. Raises NoRoom, or another BtrfsFailed when
    something has its name already, and then leaves nothing of it.
    """
    beside = f"{names.ballast}.new"
    _clear(top, beside)
    if not fits(top):
        raise _no_room(top, names)
    try:
        with _filled(top, beside):
            kernel.renameat2(top, beside, top, names.ballast)
    except BaseException as error:
        with suppress(BtrfsFailed, OSError):  # the next `make` clears it
            _clear(top, beside)
        reason = error.__cause__ if isinstance(error, BtrfsFailed) else error
        if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(top, names) from error
        if isinstance(error, OSError):
            raise BtrfsFailed(f"btrfs: {shown(names.ballast)}: {error.strerror}") from error
        raise
    btrfs.commit(top)


@contextmanager
def _filled(top: int, name: str) -> Iterator[None]:
    before = os.umask(0o077)
    try:
        fd = btrfs.create(top, name)
    finally:
        os.umask(before)
    with files.opened(fd):
        _fill(fd)
        yield


def _fill(fd: int) -> None:
    block = space.node_size(fd)
    value = bytes(block - _BESIDE)
    for number in range(SIZE // block):
        os.setxattr(fd, f"trusted.nuketown.ballast.{number:06}", value)


def _no_room(top: int, names: Btrfs) -> NoRoom:
    room = size(space.of(top).metadata.room)
    return NoRoom(
        f"there is no room for {shown(names.ballast)}: it needs {size(SIZE + _MARGIN)} of metadata, {room} is left",
        hint="look at btrfs filesystem usage; free some (old snapshots of any kind count), then run persist tidy",
    )


def _clear(top: int, name: str) -> None:
    """What a `make` that was cut off left: nothing else has that name."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=top, follow_symlinks=False)
        btrfs.delete(top, name)
        btrfs.commit(top)
