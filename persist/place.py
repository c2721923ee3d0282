"""The directory that a person names for a mount, or for files: real, and its whole way out of every agent's reach."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from town import acl, files
from town.acl import Writer
from town.failure import Failure, Unsafe
from town.spec import Spec
from town.terminal import shell_word, shown


class NotEmpty(Failure):
    """The directory for the mount holds something, or is none."""


@contextmanager
def opened(town: Spec, place: Path, *, make: bool = True) -> Iterator[int | None]:
    """The directory to mount on: real, empty, and out of every agent's reach.

    Made where it is missing; with `make` false nothing is, and it is None then. Raises NotEmpty, Unsafe, OSError.
    """
    fd = _reached(town, place, make=make)
    if fd is None:
        yield None
        return
    with files.opened(fd):
        if place == Path("/") or files.names(fd):
            raise NotEmpty(f"{shown(str(place))} is not empty", hint="name an empty or a new directory")
        refuse_agents(town, fd, place)
        yield fd


def directory(town: Spec, place: Path) -> int:
    """A directory that is there and that no agent can change, nor put another in its place; open.

    Raises FileNotFoundError, NotEmpty for what is no directory, Unsafe, OSError.
    """
    fd = _reached(town, place, make=False)
    if fd is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
        refuse_agents(town, fd, place)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _reached(town: Spec, place: Path, *, make: bool) -> int | None:
    """The directory, open, each above it looked at; None where one is missing and not to be made."""
    fd, where = os.open("/", files.DIRECTORY), Path("/")
    try:
        for part in place.parts[1:]:
            refuse_agents(town, fd, where)
            where = where / part
            below = entered(fd, part, where, make=make)
            os.close(fd)
            if below is None:
                return None
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def entered(fd: int, part: str, where: Path, *, make: bool, mode: int = 0o755) -> int | None:
    """One component of a path that a person gave, open; None where it is missing and not to be made.

    Raises NotEmpty, Unsafe.
    """
    try:
        try:
            return files.open_beneath(fd, part)
        except FileNotFoundError:
            if not make:
                return None
            return files.make_dirs(fd, PurePosixPath(part), mode=mode, owner=(os.geteuid(), os.getegid()))
    except NotADirectoryError as error:
        raise NotEmpty(f"{shown(str(where))} is not a directory", hint="name an empty or a new directory") from error
    except Unsafe as error:
        real = shell_word(os.path.realpath(where))
        raise Unsafe(f"{shown(str(where))} is a symbolic link", hint=f"if that is meant, give {real}") from error


def refuse_agents(town: Spec, fd: int, where: Path) -> None:
    """Raises Unsafe when an agent could put something else where `where` is, or below it.

    Who is in a group, and may be in it later, is not known here: write access for any group but root's is too much.
    Whoever has it can move the mount's directory away, in a mount namespace that is older than the mount.
    """
    found = os.fstat(fd)
    sticky = bool(found.st_mode & stat.S_ISVTX)  # there, only the owner of an entry can put another in its place
    others = [writer for writer in acl.writers(fd) if not (sticky and writer.kind == "everybody")]
    if found.st_uid in {agent.uid for agent in town.agents} or any(map(_is_not_root, others)):
        raise Unsafe(
            f"{shown(str(where))} can be changed by an agent, or by a group that an agent may be in (owner uid "
            f"{found.st_uid}, group {found.st_gid}, mode {found.st_mode & 0o7777:04o})",
            hint="name a directory whose parents nobody but root, or a person who owns them, can write to, such as one "
            f"below /srv; getfacl {shell_word(str(where))} shows who can",
        )


def _is_not_root(writer: Writer) -> bool:
    return writer.kind == "everybody" or writer.id != 0
