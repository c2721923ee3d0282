"""A declared directory, read into the store: a tree of any depth, by a fixed number of descriptors.

No symlink is followed and no mount is entered. The way back up is `..`, checked against what was entered. In a
snapshot a nested subvolume is an empty directory with inode 2: then the living one is opened, and read as it changes.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from persist.bucket import trees
from persist.bucket.blobs import Writer
from persist.bucket.keys import AgentKeys
from persist.bucket.trees import Entry, Kind, Role, Xattrs
from persist.sync import contents
from persist.sync.notes import Notes
from persist.sync.sources import Source
from town import btrfs, files
from town.failure import Failure, TryLater, Unsafe
from town.process import Person
from town.terminal import shown

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOATIME
_READS = 3  # how often a file that changes is read


class KeepsMoving(TryLater):
    """Directories were moved about while they were read. Trying again may help."""


class SourceUnreadable(Failure):
    """The disk gave an error for something in a declared directory."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A declared directory in the store: its entry, the files (all that is no directory) and bytes below it."""

    entry: Entry
    files: int
    bytes: int


@dataclass(slots=True)
class _Level:
    name: bytes
    found: os.stat_result
    frozen: bool  # in a snapshot, where nothing changes
    path: tuple[bytes, ...] | None  # None: below everything that could be left out
    entries: list[Entry] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)
    xattrs: Xattrs = ()


class Scanner:
    """Reads declared directories of one agent into a writer."""

    def __init__(self, writer: Writer, keys: AgentKeys, person: Person) -> None:
        self._writer, self._keys, self._person = writer, keys, person
        self._trail: list[_Level] = []
        self._left_out: frozenset[tuple[bytes, ...]] = frozenset()
        self._first: dict[tuple[int, int], Entry] = {}  # a file with several names: what the first of them says
        self._files = self._bytes = 0
        self._back: int | None = None  # the directory of the snapshot that holds the nested subvolume that we are in
        self.notes = Notes()

    def scan(self, name: bytes, source: Source, left_out: frozenset[PurePosixPath]) -> Scanned:
        """Store everything below an open directory but `left_out`. Raises KeepsMoving, SourceUnreadable."""
        self._left_out = frozenset(tuple(map(os.fsencode, path.parts)) for path in left_out)
        self._trail, self._first, self._files, self._bytes = [], {}, 0, 0
        self._source = source
        self._fd = os.open(".", files.DIRECTORY, dir_fd=source.fd)
        try:
            entry = self._walked(self._level(name, self._fd, frozen=source.frozen, path=()))
        except OSError as error:
            raise SourceUnreadable(f"{_short(self._trail_path())}: {error.strerror or error}") from error
        finally:
            os.close(self._fd)
            self._close_back()
        return Scanned(entry, self._files, self._bytes)

    def _close_back(self) -> None:
        if self._back is not None:
            os.close(self._back)
            self._back = None

    def _walked(self, level: _Level) -> Entry:
        while True:
            if level.left:
                level = self._down(level.left.pop(), level)
            else:
                entry = self._closed(level)
                if not self._trail:
                    return entry
                below, level = level, self._trail.pop()
                self._up(level, crossed=level.frozen and not below.frozen)
                level.entries.append(entry)

    def _down(self, name: bytes, level: _Level) -> _Level:
        """Go into a directory; when nothing lies below it, finish it from here."""
        opened = self._opened(name, level)
        if opened is None:
            return level
        fd, frozen = opened
        self._trail.append(level)
        try:
            path = None if level.path is None or not self._left_out else (*level.path, name)
            below = self._level(name, fd, frozen=frozen, path=path)
        except BaseException:
            os.close(fd)
            raise
        if not below.left:
            os.close(fd)
            self._trail.pop()
            level.entries.append(self._closed(below))
            return level
        if frozen == level.frozen:
            os.close(self._fd)
        else:  # `..` of a nested subvolume leads up in the living tree, not back into the snapshot
            self._back = self._fd
        self._fd = fd
        return below

    def _up(self, level: _Level, *, crossed: bool) -> None:
        if crossed:
            assert self._back is not None
            above, self._back = self._back, None
        else:
            above = os.open("..", files.DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = above
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) != (level.found.st_dev, level.found.st_ino):
            raise KeepsMoving(
                f"{_short(self._trail_path())}: directories were moved about while they were read",
                hint="let the agent's processes rest, then sync again",
            )

    def _opened(self, name: bytes, level: _Level) -> tuple[int, bool] | None:
        try:
            fd = files.enter(self._fd, name)
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            return None  # gone, or replaced since it was listed
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.notes.add("mount", self._where(level, name))
            return None
        inode = os.fstat(fd).st_ino
        nested = inode == btrfs.EMPTY_INODE if level.frozen else inode == btrfs.FIRST_INODE and btrfs.is_btrfs(fd)
        if nested:
            self.notes.add("subvolume", self._where(level, name))
        if not (nested and level.frozen):
            return fd, level.frozen
        os.close(fd)
        return self._living(level, name)

    def _living(self, level: _Level, name: bytes) -> tuple[int, bool] | None:
        """The nested subvolume itself: the same names, from the living directory down."""
        fd = os.dup(self._source.living)
        try:
            for part in (*self._names(level), name):
                below = files.enter(fd, part)
                os.close(fd)
                fd = below
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            os.close(fd)
            return None  # gone since the snapshot: the next sync sees where it went
        except BaseException:
            os.close(fd)
            raise
        return fd, False

    def _level(self, name: bytes, fd: int, *, frozen: bool, path: tuple[bytes, ...] | None) -> _Level:
        """List a directory and store the files in it."""
        level = _Level(name, os.fstat(fd), frozen, path)
        level.xattrs, _ = contents.xattrs(fd)
        plain = []
        for found in files.scan(fd):
            below = os.fsencode(found.name)
            if path is not None and self._left_out and (*path, below) in self._left_out:
                continue
            if found.is_dir(follow_symlinks=False):
                level.left.append(below)
            else:
                plain.append((found.inode(), below, found.is_file(follow_symlinks=False)))
        level.left.sort(reverse=True)  # taken from the end
        for _, below, is_file in sorted(plain):  # in the order of the inodes, which is often that of the disk
            entry = self._file(level, fd, below) if is_file else self._other(level, fd, below)
            if entry is not None:
                level.entries.append(entry)
                self._files += 1
                self._bytes += entry.size
        return level

    def _file(self, level: _Level, directory: int, name: bytes) -> Entry | None:
        try:
            fd = os.open(name, _FILE, dir_fd=directory)
        except OSError as error:
            # Gone or replaced since it was listed: by a symlink (ELOOP), a socket or a device without a driver.
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV):
                raise
            return None if error.errno == errno.ENOENT else self._other(level, directory, name)
        with files.opened(fd):
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode):
                return self._once(level, name, found, lambda: self._regular(level, fd, name, found))
        return self._other(level, directory, name)

    def _regular(self, level: _Level, fd: int, name: bytes, found: os.stat_result) -> Entry:
        for _ in range(_READS):
            content, size, data = contents.stored(self._writer, fd, found, self._keys.chunks)
            if level.frozen or _same(found, after := os.fstat(fd)):
                break
            found = after
        else:
            self.notes.add("changing", self._where(level, name))
        xattrs, capable = contents.xattrs(fd)
        if capable:
            self.notes.add("capability", self._where(level, name))
        entry = self._made(level, name, "file", found, xattrs)
        return replace(entry, size=size, content=content, data=data)

    def _other(self, level: _Level, directory: int, name: bytes) -> Entry | None:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return self._once(level, name, found, lambda: self._symlink(level, directory, name, found))
            if stat.S_ISFIFO(found.st_mode):
                return self._once(level, name, found, lambda: self._fifo(level, directory, name, found))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # gone, or replaced between two calls
                raise
            return None
        if stat.S_ISREG(found.st_mode):  # it is a file now: the next sync has it
            self.notes.add("changing", self._where(level, name))
        else:
            self.notes.add("socket" if stat.S_ISSOCK(found.st_mode) else "device", self._where(level, name))
        return None

    def _symlink(self, level: _Level, directory: int, name: bytes, found: os.stat_result) -> Entry:
        target = os.readlink(name, dir_fd=directory)
        return replace(self._made(level, name, "symlink", found, ()), mode=0o777, target=target)

    def _fifo(self, level: _Level, directory: int, name: bytes, found: os.stat_result) -> Entry:
        xattrs, _ = contents.xattrs(f"/proc/self/fd/{directory}/{os.fsdecode(name)}")
        return self._made(level, name, "fifo", found, xattrs)

    def _once(self, level: _Level, name: bytes, found: os.stat_result, make: Callable[[], Entry]) -> Entry:
        """The entry of a file: of one with several names it is made once, so that all of them say the same.

        What they share is a hash of the first of them in the order of the walk, for inode numbers do not last.
        """
        if found.st_nlink == 1:
            return make()
        inode = (found.st_dev, found.st_ino)
        if inode not in self._first:
            link = hashlib.blake2b(self._where(level, name), digest_size=16).hexdigest()
            self._first[inode] = replace(make(), link=link)
        return replace(self._first[inode], name=name)

    def _closed(self, level: _Level) -> Entry:
        """The entry of a directory whose entries are all there."""
        listing = trees.write(self._writer, level.entries)
        return replace(self._made(level, level.name, "dir", level.found, level.xattrs), content=listing)

    def _made(self, level: _Level, name: bytes, kind: Kind, found: os.stat_result, xattrs: Xattrs) -> Entry:
        owner, group = self._role(found.st_uid, self._person.uid), self._role(found.st_gid, self._person.gid)
        mode = stat.S_IMODE(found.st_mode)
        kept = trees.kept_mode(mode, owner, group)
        if kept != mode:
            self.notes.add("bits", self._where(level, name))
        return Entry(name, kind, kept, found.st_mtime_ns, owner, group, xattrs)

    @staticmethod
    def _role(found: int, agents: int) -> Role:
        return "agent" if found == agents else "root" if found == 0 else "other"

    def _names(self, level: _Level) -> list[bytes]:
        """The names that lead to a level from the declared directory, which has none itself."""
        return [above.name for above in (*self._trail, level)][1:]

    def _where(self, level: _Level, name: bytes) -> bytes:
        return b"/".join((*self._names(level), name))

    def _trail_path(self) -> bytes:
        return b"/".join(level.name for level in self._trail) or b"."


def _short(path: bytes) -> str:
    return shown(path if len(path) <= 300 else b"..." + path[-300:])


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size, after.st_mtime_ns, after.st_ctime_ns,
    )  # fmt: skip
