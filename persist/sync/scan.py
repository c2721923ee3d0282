"""A declared directory, read into the store: a tree of any depth, by a fixed number of descriptors.

No symlink is followed and no mount is entered. The way back up is `..`, checked against what was entered. In a
snapshot a nested subvolume is an empty directory with inode 2: then the living one is opened, and read as it changes.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import PurePosixPath

from persist.bucket import trees
from persist.bucket.blobs import Writer
from persist.bucket.keys import AgentKeys
from persist.bucket.trees import Entry
from persist.sync import contents
from persist.sync.entries import Entries, Level
from persist.sync.notes import Notes
from persist.sync.sources import Source
from town import btrfs, files
from town.failure import Failure, TryLater, Unsafe
from town.process import Person
from town.terminal import shown


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


DEEPEST = 20_000  # levels


class Scanner:
    """Reads declared directories of one agent into a writer."""

    def __init__(self, writer: Writer, keys: AgentKeys, person: Person) -> None:
        self._writer, self._keys, self._person = writer, keys, person
        self._trail: list[Level] = []
        self._left_out: frozenset[tuple[bytes, ...]] = frozenset()
        self._files = self._bytes = 0
        self._back: int | None = None  # the directory of the snapshot that holds the nested subvolume that we are in
        self._living_dirs: set[tuple[int, int]] = set()  # gone into in nested subvolumes, which may change meanwhile
        self.notes = Notes()

    def scan(self, name: bytes, source: Source, left_out: frozenset[PurePosixPath]) -> Scanned:
        """Store everything below an open directory but `left_out`. Raises KeepsMoving, SourceUnreadable."""
        self._left_out = frozenset(tuple(map(os.fsencode, path.parts)) for path in left_out)
        self._trail, self._files, self._bytes = [], 0, 0
        self._entries = Entries(self._writer, self._keys, self._person, self.notes)
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

    def _walked(self, level: Level) -> Entry:
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

    def _down(self, name: bytes, level: Level) -> Level:
        """Go into a directory; when nothing lies below it, finish it from here."""
        opened = self._opened(name, level)
        if opened is None:
            return level
        fd, frozen = opened
        if self._passed(fd, frozen):
            os.close(fd)
            return level
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

    def _passed(self, fd: int, frozen: bool) -> bool:
        """Whether a living directory was gone into before (somebody moves it about). Raises OSError far down."""
        if len(self._trail) >= DEEPEST:
            os.close(fd)
            raise OSError(errno.ELOOP, f"directories lie deeper than {DEEPEST:,} levels")
        if frozen:
            return False
        found = os.fstat(fd)
        before = (found.st_dev, found.st_ino) in self._living_dirs
        self._living_dirs.add((found.st_dev, found.st_ino))
        return before

    def _up(self, level: Level, *, crossed: bool) -> None:
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

    def _opened(self, name: bytes, level: Level) -> tuple[int, bool] | None:
        try:
            fd = files.enter(self._fd, name)
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            return None  # gone, or replaced since it was listed
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.notes.add("mount", level.where(name))
            return None
        inode = os.fstat(fd).st_ino
        nested = inode == btrfs.EMPTY_INODE if level.frozen else inode == btrfs.FIRST_INODE and btrfs.is_btrfs(fd)
        if nested:
            self.notes.add("subvolume", level.where(name))
        if not (nested and level.frozen):
            return fd, level.frozen
        os.close(fd)
        return self._living(level, name)

    def _living(self, level: Level, name: bytes) -> tuple[int, bool] | None:
        """The nested subvolume itself: the same names, from the living directory down."""
        fd = os.dup(self._source.living)
        try:
            for part in (*level.names(), name):
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

    def _level(self, name: bytes, fd: int, *, frozen: bool, path: tuple[bytes, ...] | None) -> Level:
        """List a directory and store the files in it."""
        level = Level(name, self._trail[-1] if self._trail else None, os.fstat(fd), frozen, path)
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
            entry = self._entries.file(level, fd, below) if is_file else self._entries.other(level, fd, below)
            if entry is not None:
                level.entries.append(entry)
                self._files += 1
                self._bytes += entry.size
        return level

    def _closed(self, level: Level) -> Entry:
        """The entry of a directory whose entries are all there."""
        return self._entries.directory(level, trees.write(self._writer, level.entries))

    def _trail_path(self) -> bytes:
        return b"/".join(level.name for level in self._trail) or b"."


def _short(path: bytes) -> str:
    return shown(path if len(path) <= 300 else b"..." + path[-300:])
