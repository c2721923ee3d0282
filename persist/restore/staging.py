"""A place where something is made whole before anybody sees it under its name.

A staging is a directory of root's, 0700, with a hidden name; what is made lies inside it. An agent that owns the
directory above may rename or move the staging away, but never reach into it: the work goes on by descriptor.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from town import btrfs, files, kernel, subvolumes
from town.failure import Unsafe

INSIDE = "whole"
TOKEN = "token"  # noqa: S105 - a name
_ACLS = ("system.posix_acl_default", "system.posix_acl_access")


Make = Callable[[int], int]  # makes `INSIDE` in an open staging, and opens it


def plain(stage: int) -> int:
    """`INSIDE` as a directory of the staging's own subvolume."""
    os.mkdir(INSIDE, 0o700, dir_fd=stage)
    return files.enter(stage, INSIDE)


def subvolume(stage: int) -> int:
    """`INSIDE` as a subvolume of its own where the filesystem has such, else `plain`."""
    if not btrfs.is_btrfs(stage):
        return plain(stage)
    fd = btrfs.create(stage, INSIDE)
    os.fchmod(fd, 0o700)
    return fd


def hidden(agent: str = "") -> str:
    """A fresh hidden name, `.nuketown-TOKEN` or `.nuketown-TOKEN-AGENT` (`persist.restore.found.HIDDEN`)."""
    return f".nuketown-{secrets.token_hex(6)}" + (f"-{agent}" if agent else "")


@contextmanager
def opened(directory: int, make: Make = plain) -> Iterator[tuple[int, int]]:
    """A staging in `directory`: its descriptor, and one of what `make` made in it. Removed at the end.

    Raises Unsafe when somebody swapped it while it was being made.
    """
    with kept(directory, hidden(), make=make, keep=lambda _error: False) as stage:
        yield stage.fd, stage.inside


@dataclass(slots=True)
class Stage:
    """A staging, open: itself, and `INSIDE` in it. `stays`: what lies in it now is not for the next to remove."""

    name: str
    fd: int
    inside: int
    stays: bool = False

    def named(self, directory: int, name: str) -> None:
        """Give the staging itself a name in the directory that holds it, and leave it there. Raises FileExistsError."""
        kernel.renameat2(directory, self.name, directory, name)
        self.name, self.stays = name, True


@contextmanager
def kept(
    directory: int,
    name: str,
    token: str = "",
    *,
    again: bool = False,
    make: Make = plain,
    keep: Callable[[BaseException], bool],
) -> Iterator[Stage]:
    """A staging of that name; left where it is when the block is left by an exception that `keep` is true of.

    With `token` that lies in it too; with `again` it must be there, and the token: else nobody knows what it is. Raises
    Gone, Unsafe when somebody swapped it while it was being made, OSError.
    """
    if not again:
        os.mkdir(name, 0o700, dir_fd=directory)
    with _stage(directory, name, again=again) as stage:
        leave, made = False, Stage(name, stage, -1)
        try:
            with _inside(stage, token, None if again else make) as made.inside:
                yield made
        except BaseException as error:
            leave = keep(error)
            raise
        finally:
            if not leave and not made.stays:
                _remove(directory, name, stage)


class Gone(Unsafe):
    """A staging of an interrupted restore is not there any more, or not as it was left."""


@contextmanager
def _stage(directory: int, name: str, *, again: bool) -> Iterator[int]:
    try:
        fd = files.enter(directory, name)
    except (OSError, Unsafe) as error:
        if again:
            raise _gone() from error
        raise
    with files.opened(fd):
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or (again and stat.S_IMODE(found.st_mode) != 0o700):
            raise _gone() if again else _swapped()
        if not again:
            _make_plain(fd)
        yield fd


@contextmanager
def _inside(stage: int, token: str, make: Make | None) -> Iterator[int]:
    """`INSIDE`, made, or without `make` as it was left."""
    try:
        if make is None and _token(stage) != token.encode():
            raise _gone()
        fd = files.enter(stage, INSIDE) if make is None else make(stage)
        if make is not None and token:
            with _or_closed(fd):
                files.write_beneath(stage, TOKEN, token.encode(), mode=0o600)
    except FileNotFoundError as error:
        raise _gone() from error
    with files.opened(fd):
        yield fd


@contextmanager
def _or_closed(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


def _token(stage: int) -> bytes:
    with files.opened(files.enter(stage, TOKEN, os.O_RDONLY | os.O_NONBLOCK)) as fd:
        return files.read_fd(fd, 1000, TOKEN)


def _remove(directory: int, name: str, stage: int) -> None:
    # What cannot be removed now (or was moved away by the agent) is removed by the next restore, or the boot.
    for below in (INSIDE, TOKEN):
        with suppress(OSError):
            subvolumes.remove(stage, below)
    with suppress(OSError):
        os.rmdir(name, dir_fd=directory)


def _make_plain(fd: int) -> None:
    """What lies in a directory takes its group and its default ACL, which the owner of the one above may have set."""
    os.fchown(fd, os.geteuid(), os.getegid())
    os.fchmod(fd, 0o700)
    for name in _ACLS:
        try:
            os.removexattr(fd, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise


def _gone() -> Gone:
    return Gone("what an interrupted restore left is not there any more, or not as it was left")


def _swapped() -> Unsafe:
    return Unsafe("a staging directory was swapped while it was being made", hint="stop the agent's processes")


def shown(stage: int, parent: int, name: str) -> None:
    """Give what is on the disk already its name in `parent`, if that is free. Raises FileExistsError, OSError."""
    kernel.renameat2(stage, INSIDE, parent, name)


Told = AbstractContextManager[object]  # what is on record of it while it gets its name


def publish(stage: int, inside: int, parent: int, name: str, told: Told | None = None) -> None:
    """Give what was made its name in `parent`, if that is free, once all its data is on the disk.

    The source cannot be swapped: nobody but root may change what lies in the staging. The caller looks where the
    name ended up, for the owner of `parent` may move it. Raises FileExistsError, OSError.
    """
    # Without this a power cut could keep the rename and lose the contents: the name stands for a whole directory.
    kernel.syncfs(inside)
    with told or nullcontext():
        kernel.renameat2(stage, INSIDE, parent, name)


def exchange(stage: int, inside: int, parent: int, name: str, told: Told | None = None) -> None:
    """Like `publish`, where something has the name: that lies in the staging then, as `INSIDE`. Raises OSError."""
    kernel.syncfs(inside)
    with told or nullcontext():
        kernel.renameat2(stage, INSIDE, parent, name, kernel.RENAME_EXCHANGE)


def made(
    base: int,
    parent: int,
    name: str,
    *,
    mode: int,
    owner: tuple[int, int],
    make: Make = plain,
    told: Callable[[int], Told] = nullcontext,
) -> int:
    """Open the directory `name` in `parent`, made where it is missing: it has its owner and mode before its name.

    The staging lies in `base`, where the next restore looks for leftovers; `told` is given what was made there. Raises
    Unsafe on a symlink, OSError.
    """
    with suppress(FileNotFoundError):
        return files.enter(parent, name)
    with opened(base, make) as (stage, inside):
        os.fchown(inside, *owner)
        os.fchmod(inside, mode)
        try:
            with told(inside):
                kernel.renameat2(stage, INSIDE, parent, name)
        except FileExistsError:  # somebody else made it meanwhile
            return files.enter(parent, name)
        return os.dup(inside)
