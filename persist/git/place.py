"""Where the parts of a repository lie: the work tree, its own git directory, the one that it shares with others."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from persist.git import Unknown
from town import files, kernel
from town.failure import Failure

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
STAY = files.BENEATH | kernel.RESOLVE_NO_XDEV
_SMALL = 64 << 10
_SECTION = re.compile(rb"\[\s*([A-Za-z0-9.-]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Open directories. `own` has HEAD and index, `shared` the refs; the same but for a linked work tree."""

    top: int
    own: int
    shared: int
    hash: str  # of its objects: sha1 or sha256
    modes: bool  # whether the permission to execute is tracked


@contextmanager
def opened(home: int, path: bytes, called: bytes) -> Iterator[Place]:
    """The work tree at `path` below an open home, which its owner calls `called`. Raises Unknown, OSError, Unsafe."""
    with ExitStack() as stack:
        top = stack.enter_context(_below(home, _parts(path)))
        try:
            own, at = stack.enter_context(files.opened(files.enter(top, ".git"))), path + b"/.git"
        except NotADirectoryError:
            at = _elsewhere(called, path, read(top, b".git", _SMALL))
            own = stack.enter_context(_below(home, _parts(at)))
        shared = own
        with suppress(FileNotFoundError):
            said = read(own, b"commondir", _SMALL).rstrip(b"\n")
            shared = stack.enter_context(_below(home, _parts(_joined(called, at, said))))
        read(own, b"HEAD", _SMALL)  # else it is no git directory
        said_of = _config(shared)
        if said_of.get(b"extensions.refstorage", b"files") != b"files":
            raise Unknown("its refs are of another format")
        hash_ = said_of.get(b"extensions.objectformat", b"sha1").decode("ascii", "replace")
        if hash_ not in ("sha1", "sha256"):
            raise Unknown("its objects are of another format")
        yield Place(top, own, shared, hash_, said_of.get(b"core.filemode") != b"false")


def read(directory: int, path: bytes, most: int) -> bytes:
    """A regular file below an open directory, whole. Raises FileNotFoundError, Unknown, OSError, Unsafe."""
    with files.opened(kernel.openat2(directory, path, FLAGS, 0, STAY)) as fd:
        try:
            return files.read_fd(fd, most, "")
        except files.Unreadable as error:
            raise Unknown("one of its files is too large, or none") from error


@contextmanager
def _below(fd: int, parts: Sequence[bytes]) -> Iterator[int]:
    fd = os.dup(fd)
    try:
        for part in parts:
            below = files.enter(fd, part)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part]


def _elsewhere(called: bytes, path: bytes, text: bytes) -> bytes:
    """Where a file `.git` says that the git directory is, relative to the home."""
    if not text.startswith(b"gitdir: "):
        raise Unknown("its .git is a file that says nothing")
    return _joined(called, path, text.removeprefix(b"gitdir: ").rstrip(b"\n"))


def _joined(called: bytes, at: bytes, said: bytes) -> bytes:
    """A path in the home that a file there says: absolute, or relative to the directory `at`."""
    found = os.path.normpath(os.path.join(called, at, said))
    if not called or not found.startswith(called + b"/"):
        raise Unknown("its git directory is outside the home")
    return found[len(called) + 1 :]


def _config(shared: int) -> dict[bytes, bytes]:
    """The plain values of a configuration: no include is followed."""
    found: dict[bytes, bytes] = {}
    section = b""
    with suppress(FileNotFoundError, Failure):
        for line in map(bytes.strip, read(shared, b"config", _SMALL).splitlines()):
            if (match := _SECTION.match(line)) is not None:
                section = match[1].lower()
            elif b"=" in line and not line.startswith((b"#", b";")):
                key, _, value = line.partition(b"=")
                found[section + b"." + key.strip().lower()] = value.strip().strip(b'"').lower()
    return found
