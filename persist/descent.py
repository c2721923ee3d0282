"""A way through everything below a directory, in and out again, with one descriptor however deep it is.

For who does something to all of it (a copy, a new owner): each directory is met twice, before and after what lies in
it. No symlink is followed and no mount is entered; nested btrfs subvolumes are. The owner may change the tree
meanwhile: the way back is `..`, checked against what was entered.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from persist.walk import DEEPEST, Directory, KeepsChanging
from town import btrfs, files, kernel
from town.failure import Failure, Unsafe
from town.terminal import shown

PEEK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_STAY = files.BENEATH | kernel.RESOLVE_NO_XDEV
_LONGEST = 160  # bytes of a path in a message
_FEW = 5


class Moved(KeepsChanging):
    """A directory was moved while it was gone through. Trying again may help."""


class TooDeep(Failure):
    """The tree has more levels than any program makes; whoever goes on making some would never be done with."""


class Entered(NamedTuple):
    """A directory, open, before what lies in it."""

    directory: Directory
    fd: int


class Met(NamedTuple):
    """Something that is no directory: `fd` is open with O_PATH, a symlink itself, until the next event."""

    directory: Directory
    name: bytes
    fd: int


class Left(NamedTuple):
    """The same directory, when all that lies in it was met."""

    directory: Directory
    fd: int


Event = Entered | Met | Left
Told = Callable[[bytes], None]
Deeper = Callable[[Directory, int, bytes], None]


def descend(top: int, *, gone: Told, mounted: Told, deeper: Deeper | None = None) -> Iterator[Event]:
    """Everything at and below the open directory `top`.

    `gone` and `mounted` are told the path of what vanished meanwhile (or was met before), and of what has something
    else mounted on it; they may raise. `deeper` is given each directory that lies too deep: the one that it is in, that
    open, and its name; it is not gone into. Without `deeper`, TooDeep is raised. Raises Moved, OSError.
    """
    way = _Way(top, gone, mounted, deeper)
    try:
        yield from way.run()
    finally:
        os.close(way.fd)


def peek(directory: int, name: bytes) -> int:
    """What has that name in an open directory, a symlink itself, with O_PATH: nothing is asked of it. Raises OSError.

    EXDEV: something else is mounted there.
    """
    return kernel.openat2(directory, name, PEEK, 0, _STAY)


@dataclass(slots=True)
class Few:
    """The first of many paths, and how many there are: no owner of a tree can make the list of them long."""

    first: list[bytes] = field(default_factory=list)
    count: int = 0

    def add(self, directory: Directory, name: bytes = b"") -> None:
        """One more: something in a directory, or the directory itself."""
        self.count += 1
        if len(self.first) < _FEW:
            self.first.append(directory.path(name))

    def join(self, other: "Few", before: bytes = b"") -> None:
        """Add others; `before`: what their paths begin with here."""
        self.count += other.count
        self.first += [before + path for path in other.first][: _FEW - len(self.first)]

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        more = f" and {self.count - _FEW:,} more" if self.count > _FEW else ""
        return ", ".join(short(path) or "the directory itself" for path in self.first) + more


def short(path: bytes) -> str:
    """A path as a message has it: safe to print, its end where it is long."""
    return shown(path) if len(path) <= _LONGEST else "…" + shown(path[-_LONGEST:])


@dataclass(slots=True)
class _Level:
    directory: Directory
    identity: tuple[int, int]
    left: list[bytes] = field(default_factory=list)


class _Way:
    def __init__(self, top: int, gone: Told, mounted: Told, deeper: Deeper | None) -> None:
        self._gone, self._mounted, self._deeper = gone, mounted, deeper
        self.fd = files.enter(top, ".")
        self._trail: list[_Level] = []
        self._entered: set[tuple[int, int]] = set()

    def run(self) -> Iterator[Event]:
        level = self._level(Directory(b"", None, 0, 0, btrfs.is_subvolume(self.fd)))
        yield from self._begun(level)
        while True:
            if level.left:
                if (below := self._opened(level, level.left.pop())) is not None:
                    self._trail.append(level)
                    level = below
                    yield from self._begun(level)
                continue
            yield Left(level.directory, self.fd)
            if not self._trail:
                return
            level = self._trail.pop()
            self._up(level)

    def _level(self, directory: Directory) -> _Level:
        found = os.fstat(self.fd)
        level = _Level(directory, (found.st_dev, found.st_ino))
        self._entered.add(level.identity)
        return level

    def _begun(self, level: _Level) -> Iterator[Event]:
        yield Entered(level.directory, self.fd)
        for entry in files.scan(self.fd):
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                level.left.append(name)
            else:
                yield from self._met(level, name)

    def _met(self, level: _Level, name: bytes) -> Iterator[Event]:
        try:
            fd = peek(self.fd, name)
        except OSError as error:
            self._told(level.directory.path(name), error)
            return
        with files.opened(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):  # since it was listed
                level.left.append(name)
            else:
                yield Met(level.directory, name, fd)

    def _opened(self, level: _Level, name: bytes) -> _Level | None:
        """The directory of that name, where the way goes on; None where there is none to go on with."""
        above = level.directory
        try:
            fd = files.enter(self.fd, name)
        except (Unsafe, NotADirectoryError):
            self._gone(above.path(name))
            return None
        except OSError as error:
            self._told(above.path(name), error)
            return None
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) in self._entered and not btrfs.is_placeholder(fd):
            os.close(fd)
            self._gone(above.path(name))
            return None
        if above.depth >= DEEPEST:
            os.close(fd)
            self._refuse(above, name)
            return None
        os.close(self.fd)
        self.fd = fd
        length = above.length + len(name) + 1
        return self._level(Directory(name, above, above.depth + 1, length, btrfs.is_subvolume(fd)))

    def _refuse(self, above: Directory, name: bytes) -> None:
        if self._deeper is None:
            what = f"{short(above.path(name))} lies deeper than {DEEPEST:,} directories"
            raise TooDeep(what, hint="look what made it, and rm")
        self._deeper(above, self.fd, name)

    def _told(self, path: bytes, error: OSError) -> None:
        match error.errno:
            case errno.EXDEV:
                self._mounted(path)
            case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
                self._gone(path)
            case _:
                raise error

    def _up(self, level: _Level) -> None:
        above = os.open("..", files.DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = above
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) != level.identity:
            raise Moved(
                "a directory was moved while it was gone through", hint="stop the agent's processes, then try again"
            )
