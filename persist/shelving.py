"""What lies in a directory of kept homes, made and taken away: whole under its name, or hidden.

An entry is made as `.new-…` and renamed, and renamed to `.deleting-…` before anything of it goes. Whoever works on one
holds a lock on it, which ends with the process: what a kill left is told from what is being made, and the next takes
it away.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath

from persist import places, prune
from persist.prune import InUse, Old
from town import btrfs, files, kernel, locks, subvolumes
from town.failure import Failure, Unsafe
from town.spec import Spec
from town.terminal import shown

NEW = b".new-"
_ROOT_ONLY, _ROOT = 0o700, (0, 0)
_ATTEMPTS = 100


class NameTaken(Failure):
    """A kept home of the agent has that name already."""


@contextmanager
def agent(town: Spec, top: int, name: str) -> Iterator[int]:
    """@agents-snapshots/AGENT at an open top level; made where it is missing. Raises OSError, Unsafe."""
    assert town.town.btrfs is not None, "only a town with [town.btrfs] has a top level"
    path = PurePosixPath(town.town.btrfs.snapshots, name)
    fd = files.make_dirs(top, path, mode=_ROOT_ONLY, owner=_ROOT, parents=(_ROOT_ONLY, _ROOT))
    with files.opened(fd):
        yield fd


@contextmanager
def entry(above: int, name: str) -> Iterator[int]:
    """A new directory, root's alone, open; named `name` and durable when the block ends well, gone when it does not.

    Raises NameTaken, before anything is made where that can be; OSError.
    """
    refuse_taken(above, name)
    with _hidden(above) as (fd, hidden):
        try:
            yield fd
            settle(fd)
            try:
                kernel.renameat2(above, hidden, above, name)
            except FileExistsError as error:
                raise _taken(name) from error
            settle(above)
        except BaseException:
            with suppress(OSError, btrfs.BtrfsFailed):  # what went wrong before is what the caller wants to hear of
                subvolumes.remove(above, hidden)
                settle(above)
            raise


def refuse_taken(above: int, name: str) -> None:
    """Raises NameTaken."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=above, follow_symlinks=False)
        raise _taken(name)


def _taken(name: str) -> NameTaken:
    return NameTaken(f"a kept home is named {shown(name)} already", hint="give it another --name")


def free_name(above: int, name: str) -> str:
    """That name, or with .1, .2, … where it is taken."""
    taken = set(files.names(above))
    names = (name if number == 0 else f"{name}.{number}" for number in range(len(taken) + 1))
    return next(free for free in names if os.fsencode(free) not in taken)


@contextmanager
def _hidden(above: int) -> Iterator[tuple[int, bytes]]:
    """A new directory under a hidden name, locked as long as the block lasts."""
    for _ in range(_ATTEMPTS):
        name = NEW + secrets.token_hex(6).encode()
        os.mkdir(name, _ROOT_ONLY, dir_fd=above)
        with files.opened(files.enter(above, name)) as fd:
            # In this moment another command may take it for what a kill left.
            if locks.free(fd) and is_at(above, name, fd):
                yield fd, name
                return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def is_at(above: int, name: bytes, fd: int) -> bool:
    """Whether what an open directory has under a name is what `fd` has open."""
    with suppress(FileNotFoundError):
        found, here = os.stat(name, dir_fd=above, follow_symlinks=False), os.fstat(fd)
        return (found.st_dev, found.st_ino) == (here.st_dev, here.st_ino)
    return False


def remove(above: int, name: bytes, path: str, *, within: int | None = None) -> None:
    """Take an entry away, with all in it, durably. `path`: what `above` is in its filesystem, without a slash before.

    `within`: the open entry that it is a part of, and whose lock counts. Raises InUse before anything was done,
    OSError or BtrfsFailed where it could not go on: `sweep` does.
    """
    with ExitStack() as stack:
        fd = stack.enter_context(files.opened(files.enter(above, name))) if within is None else within
        if not locks.free(fd):
            raise InUse(f"{shown(name)} is being read by another command", hint="wait until that has ended")
        prune.refuse_in_use(Old(above, above, path), name)
        hidden = places.DELETING + secrets.token_hex(6).encode()
        try:
            kernel.renameat2(above, name, above, hidden)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            hidden = name  # metadata is full: deleting needs no room, a rename does
        settle(above)
        subvolumes.remove(above, hidden)
    settle(above)


def sweep(above: int) -> int:
    """Take away what kills left in a directory of kept homes; how much could not be. Raises OSError."""
    left = 0
    for name in files.names(above):
        if not name.startswith((NEW, places.DELETING)):
            continue
        try:
            with files.opened(files.enter(above, name)) as fd:
                if locks.free(fd) and is_at(above, name, fd):
                    subvolumes.remove(above, name)
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            continue
        except (OSError, btrfs.BtrfsFailed):
            left += 1
    return left


def settle(fd: int) -> None:
    """Make what was made, renamed and deleted durable. Raises OSError, BtrfsFailed."""
    if btrfs.is_btrfs(fd):
        btrfs.commit(fd)
    else:
        kernel.syncfs(fd)
