"""A walk through a tree that its owner may change meanwhile: by descriptors, in a fixed number of them, however deep.

No symlink is followed and no mount is entered or asked anything (a FUSE server of the owner's could hang the walk):
every name is opened with RESOLVE_NO_XDEV first. Nested btrfs subvolumes are no mounts; they are entered and marked.
The way back up is `..`, checked against what was entered; when somebody moved it, the names lead down again.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from town import btrfs, files, kernel
from town.failure import Failure, Unsafe

Kind = Literal["file", "symlink", "fifo", "socket", "device", "directory", "subvolume", "unreadable"]
KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
    stat.S_IFDIR: "directory",
}
_PEEK = os.O_PATH | os.O_NOFOLLOW
_STAY = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS | kernel.RESOLVE_NO_XDEV
DEEPEST = 20_000  # levels: below that a directory counts as unreadable, so that no `mkdir d; cd d` loop holds the walk
MOVES = 100  # how often a tree may be moved about under a walk before it gives up


class KeepsChanging(Failure):
    """The tree was moved about faster than it could be read. Trying again may help."""


@dataclass(slots=True, eq=False)
class Directory:
    """A directory on the way: its name and the one above, never its whole path (that may be megabytes)."""

    name: bytes
    above: "Directory | None"
    depth: int
    length: int  # of the path, in bytes
    subvolume: bool

    def path(self, name: bytes = b"") -> bytes:
        """Relative to the top; `name` is something in it."""
        parts, at = [name] if name else [], self
        while at.above is not None:
            parts.append(at.name)
            at = at.above
        return b"/".join(reversed(parts))


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is no directory, an empty directory (`directory`), or a `subvolume`, empty or not."""

    directory: Directory
    name: bytes
    kind: Kind
    bytes: int  # apparent size; a file with several names counts once
    changed: int = 0  # ctime, ns since the epoch


Entered = Callable[[Directory, bytes], bool]


@dataclass(slots=True)
class _Level:
    directory: Directory
    identity: tuple[int, int]
    left: list[bytes] = field(default_factory=list)
    seen: int = 0


def walk(top: int, enter: Entered, mounted: list[bytes] | None = None) -> Iterator[Entry | Directory]:
    """Everything below the open directory `top`: each Directory before what lies in it, then its entries.

    Paths where something else is mounted are added to `mounted` and not looked at.

    `enter(directory, name)` says whether a directory is gone into at all. What vanishes meanwhile is left out. Raises
    KeepsChanging, OSError.
    """
    walker = _Walker(top, enter, [] if mounted is None else mounted)
    try:
        yield from walker.run()
    finally:
        os.close(walker.fd)


class _Walker:
    def __init__(self, top: int, enter: Entered, mounted: list[bytes]) -> None:
        self.top, self.enter, self.mounted = top, enter, mounted
        self.fd = files.enter(top, ".")
        self.trail: list[_Level] = []
        self.linked: set[tuple[int, int]] = set()
        self.entered: set[tuple[int, int]] = set()
        self.moves = 0

    def run(self) -> Iterator[Entry | Directory]:
        level = _Level(Directory(b"", None, 0, 0, btrfs.is_subvolume(self.fd)), _identity(self.fd))
        yield level.directory
        yield from self._listed(self.fd, level)
        while True:
            if level.left:
                below = self._opened(level.left.pop(), level)
                if isinstance(below, Entry):
                    yield below
                elif below is not None:
                    level = yield from self._gone_into(*below, level)
            elif self.trail:
                level = self.trail.pop()
                self._up(level)
            else:
                return

    def _gone_into(self, fd: int, name: bytes, level: _Level) -> Generator[Entry | Directory, None, _Level]:
        """List a directory; stay above it when nothing lies below it."""
        directory = level.directory
        if self._passed(fd):
            os.close(fd)
            return level
        if directory.depth >= DEEPEST:
            os.close(fd)
            yield Entry(directory, name, "unreadable", 0)
            return level
        keep = False
        try:
            below = _Level(_inside(directory, name, fd), _identity(fd))
            yield below.directory
            yield from self._listed(fd, below)
            if below.directory.subvolume:
                yield Entry(directory, name, "subvolume", 0, os.fstat(fd).st_ctime_ns)
            elif not below.seen:
                yield Entry(directory, name, "directory", 0, os.fstat(fd).st_ctime_ns)
            keep = bool(below.left)
        finally:
            if not keep:
                os.close(fd)
        if not keep:
            return level
        self.trail.append(level)
        os.close(self.fd)
        self.fd = fd
        return below

    def _passed(self, fd: int) -> bool:
        """Whether this directory was gone into before: somebody moves it about, and would have it counted for ever."""
        found = os.fstat(fd)
        before = (found.st_dev, found.st_ino) in self.entered and not btrfs.is_placeholder(fd)
        self.entered.add((found.st_dev, found.st_ino))
        return before

    def _listed(self, fd: int, level: _Level) -> Iterator[Entry]:
        for found in files.scan(fd):
            name = os.fsencode(found.name)
            level.seen += 1
            if found.is_dir(follow_symlinks=False):
                if self.enter(level.directory, name):
                    level.left.append(name)
            elif (entry := self._entry(fd, name, level.directory)) is not None:
                yield entry

    def _entry(self, fd: int, name: bytes, directory: Directory) -> Entry | None:
        try:
            with files.opened(kernel.openat2(fd, name, _PEEK, 0, _STAY)) as there:
                found = os.fstat(there)
        except OSError as error:  # gone, or something is mounted on it
            if error.errno == errno.EXDEV:
                self.mounted.append(directory.path(name))
            return None
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "unreadable")
        return Entry(directory, name, kind, 0 if self._counted(found) else found.st_size, found.st_ctime_ns)

    def _counted(self, found: os.stat_result) -> bool:
        if found.st_nlink == 1:
            return False
        inode = (found.st_dev, found.st_ino)
        before = inode in self.linked
        self.linked.add(inode)
        return before

    def _opened(self, name: bytes, level: _Level) -> tuple[int, bytes] | Entry | None:
        try:
            return files.enter(self.fd, name), name
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            return None  # gone, or replaced since it was listed
        except OSError as error:
            if error.errno == errno.EXDEV:
                self.mounted.append(level.directory.path(name))
                return None
            return Entry(level.directory, name, "unreadable", 0)

    def _up(self, level: _Level) -> None:
        above = os.open("..", files.DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = above
        if _identity(above) != level.identity:
            self._down_again(level)

    def _down_again(self, level: _Level) -> None:
        self.moves += 1
        if self.moves > MOVES:
            raise KeepsChanging(
                "the home was moved about while it was being read", hint="stop the agent's processes, then try again"
            )
        names, at = [], level.directory
        while at.above is not None:
            names.append(at.name)
            at = at.above
        try:
            self._follow(reversed(names))
        except (OSError, Unsafe):
            level.left.clear()  # what was left to see there is gone with it
            return
        if _identity(self.fd) != level.identity:
            level.left.clear()

    def _follow(self, names: Iterable[bytes]) -> None:
        fd = files.enter(self.top, ".")
        os.close(self.fd)
        self.fd = fd
        for name in names:
            below = files.enter(self.fd, name)
            os.close(self.fd)
            self.fd = below


def _inside(directory: Directory, name: bytes, fd: int) -> Directory:
    length = directory.length + len(name) + (directory.above is not None)
    return Directory(name, directory, directory.depth + 1, length, btrfs.is_subvolume(fd))


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino)
