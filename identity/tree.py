"""The files below identities/, by descriptor: no link in the repository leads a read or a write out of it.

What lies there came with git, perhaps from a stranger's branch, and git carries links. The SOPS files are not meant:
the spec names them itself, and they may be links.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from identity.places import IDENTITIES, Places
from town import files
from town.failure import Unsafe
from town.terminal import shell_word, shown

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO holds nobody up


class Linked(Unsafe):
    """A symbolic link stands where a file or a directory of identities/ belongs."""


def read(where: Places, name: str | PurePosixPath, limit: int) -> bytes | None:
    """What a file holds, at most `limit` bytes; None when there is none. Raises Linked, files.Unreadable."""
    said = shown(str(where.path(name)))
    try:
        with (
            _root(where) as root,
            _unlinked(where, name),
            files.opened(files.open_beneath(root, str(name), _READ)) as fd,
        ):
            return files.read_fd(fd, limit, said)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise files.Unreadable(f"{said} cannot be read: {error.strerror}") from error


def found(where: Places, name: str | PurePosixPath) -> os.stat_result | None:
    """What stands at a name, a link itself at the end of it; None when nothing does. Raises Linked, OSError."""
    try:
        with _above(where, name) as directory:
            return os.stat(PurePosixPath(name).name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(where: Places, name: str | PurePosixPath, data: bytes, *, mode: int | None = None) -> None:
    """Make a file hold `data`, durably; a link at its name is replaced. The directories must be there.

    Without `mode` it is that of the file that is there, or 0644. Raises Linked, files.Unwritable.
    """
    before = None if mode is not None else found(where, name)
    if mode is None:
        mode = stat.S_IMODE(before.st_mode) if before is not None and stat.S_ISREG(before.st_mode) else 0o644
    try:
        with _above(where, name) as directory:
            files.write_beneath(directory, PurePosixPath(name).name, data, mode=mode)
    except OSError as error:
        raise files.Unwritable(f"{shown(str(where.path(name)))} cannot be written: {error.strerror}") from error


def remove(where: Places, name: str | PurePosixPath) -> None:
    """Remove a file or a link, durably. Raises Linked, OSError."""
    with _above(where, name) as directory:
        os.unlink(PurePosixPath(name).name, dir_fd=directory)
        os.fsync(directory)


def make_directory(where: Places, name: str | PurePosixPath) -> None:
    """Make a directory and those above it, durably, as far as they are not there. Raises Linked, OSError."""
    with _root(where) as root:
        for depth in range(1, len(PurePosixPath(name).parts) + 1):
            _make_one(where, root, PurePosixPath(*PurePosixPath(name).parts[:depth]))


def _make_one(where: Places, root: int, name: PurePosixPath) -> None:
    with _unlinked(where, name):
        try:
            os.close(files.open_beneath(root, name))
        except FileNotFoundError:
            with files.opened(files.open_beneath(root, name.parent)) as above:
                os.mkdir(name.name, dir_fd=above)
                os.fsync(above)


def half_written(where: Places) -> Iterator[PurePosixPath]:
    """The names below identities/ that begin with a dot and end in `.new`; links to directories are not entered."""
    with _root(where) as root, _unlinked(where, IDENTITIES):
        try:
            top = files.open_beneath(root, IDENTITIES)
        except FileNotFoundError:
            return
        with files.opened(top):
            for place, _, names, _ in os.fwalk(".", dir_fd=top):
                yield from (IDENTITIES / place / one for one in names if one.startswith(".") and one.endswith(".new"))


@contextmanager
def _root(where: Places) -> Iterator[int]:
    """The directory of the spec: whoever started this named it, links included."""
    with files.opened(os.open(where.root, files.DIRECTORY & ~os.O_NOFOLLOW)) as fd:
        yield fd


@contextmanager
def _above(where: Places, name: str | PurePosixPath) -> Iterator[int]:
    """The directory that a name is in."""
    parent = PurePosixPath(name).parent
    with _root(where) as root, _unlinked(where, parent), files.opened(files.open_beneath(root, parent)) as fd:
        yield fd


@contextmanager
def _unlinked(where: Places, name: str | PurePosixPath) -> Iterator[None]:
    try:
        yield
    except Linked:
        raise
    except Unsafe as error:
        link = _link(where, PurePosixPath(name))
        raise Linked(
            f"{shown(str(link))} is a symbolic link: no file of identity is written or read through one",
            hint=f"look where it leads with: ls -l {shell_word(str(link))} - then remove it, and bring back with git "
            "what belongs there",
        ) from error


def _link(where: Places, name: PurePosixPath) -> PurePosixPath:
    """Which part of a name is the link."""
    every = [PurePosixPath(*name.parts[:depth]) for depth in range(1, len(name.parts) + 1)]
    return next((PurePosixPath(where.path(one)) for one in every if where.path(one).is_symlink()), name)
