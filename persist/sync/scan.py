"""A directory and all below it, read into the index: a tree of any depth, by a fixed number of descriptors.

No symlink is followed, no mount and no nested subvolume is entered (those are parts of their own). The way back up is
`..`, checked against what was entered. What the index knows of a directory is kept where the file is the same.
"""

import errno
import os
import stat
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from persist.bucket import trees
from persist.bucket.content import Content
from persist.sync import contents
from persist.sync.entries import Entries
from persist.sync.level import Held, Level, Path
from persist.sync.listing import Dirty, content_of
from persist.sync.notes import Notes
from persist.sync.readers import THREADS, Readers
from persist.sync.rows import Directory, Row, Rows, generation_of
from persist.sync.sources import KeepsMoving, SourceUnreadable
from town import btrfs, files
from town.failure import Unsafe
from town.terminal import shown

__all__ = ["DEEPEST", "Context", "Path", "Scanner", "by_ctime", "by_number"]

DEEPEST = 20_000  # levels
_AT_ONCE = 5000  # names of a directory that are looked at together
_NOTHING = Content(())


def by_ctime(directory: int, name: bytes, inode: int, row: Row) -> bool:
    """Whether a name of an open directory, listed with that inode, is what the index says: by inode, ctime and size."""
    if inode != row[1] or row[2] == 0:
        return False
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    is_size = not stat.S_ISREG(found.st_mode) or found.st_size == row[5]
    return is_size and (found.st_ino, found.st_ctime_ns, found.st_nlink > 1) == (row[1], row[2], row[6] > 0)


def by_number(changed: Container[int], directory: int, name: bytes, inode: int, row: Row) -> bool:
    """The same in a snapshot, where it is known which inodes changed."""
    del directory, name
    return inode == row[1] and inode not in changed


@dataclass(slots=True)
class Context:
    """What all scans of one declared path share."""

    rows: Rows
    entries: Entries
    sink: contents.Sink
    dirty: Dirty
    notes: Notes
    readers: Readers
    left_out: frozenset[Path]
    took: Callable[[int, int], None] = lambda _files, _bytes: None  # progress
    without_deep: bool = False  # what lies too deep is left out, and said; else it is refused

    @classmethod
    def parts_of(cls, left_out: frozenset[PurePosixPath]) -> frozenset[Path]:
        """Paths as tuples of bytes."""
        return frozenset(tuple(map(os.fsencode, path.parts)) for path in left_out)

    def path(self, number: int) -> Path | None:
        """The path of a directory from the declared one, where something below it could be left out."""
        deepest = max(map(len, self.left_out), default=0)
        names = self.rows.names(number, deepest) if deepest else None
        return None if names is None else tuple(names)

    def prunes(self, path: Path | None) -> bool:
        """Whether something below a path is left out."""
        return path is not None and any(
            len(other) > len(path) and other[: len(path)] == path for other in self.left_out
        )


class Scanner:
    """Reads one directory with all below it.

    `unchanged` says whether a file is as the index has it. `attach`: a directory that the index knows from elsewhere is
    not read, and stands at (directory, name) now; its row, or None when it must be read after all. `above`: so many
    directories lie above it, which count among those that may lie in one another.
    """

    def __init__(
        self,
        context: Context,
        volume: int,
        *,
        frozen: bool,
        unchanged: Callable[[int, bytes, int, Row], bool] = by_ctime,
        attach: Callable[[Directory, int, bytes], Row | None] | None = None,
        above: int = 0,
    ) -> None:
        self._context, self._rows, self._entries = context, context.rows, context.entries
        self._volume, self._frozen, self._attach = volume, frozen, attach
        self._unchanged, self._above = unchanged, above
        self._trail: list[Level] = []
        self._held = Held(self._rows, 2 * _AT_ONCE)
        self._living_dirs: set[tuple[int, int]] = set()  # gone into, where directories may move meanwhile

    def scan(self, fd: int, directory: Directory, path: Path | None, before: Row | None) -> Row:
        """Read an open directory; the row for the one above. `before`: what the index says of it, None when it is new.

        Raises KeepsMoving, SourceUnreadable.
        """
        self._trail, self._held = [], Held(self._rows, 2 * _AT_ONCE)
        self._fd = os.open(".", files.DIRECTORY, dir_fd=fd)
        try:
            return self._walked(self._level(directory, self._fd, path, before))
        except OSError as error:
            raise SourceUnreadable(f"{_short(self._trail_path())}: {error.strerror or error}") from error
        finally:
            os.close(self._fd)

    def _walked(self, level: Level) -> Row:
        while True:
            if level.left:
                if self._context.readers.cold:
                    self._tell_ahead(level)
                level = self._down(level.left.pop(), level)
            else:
                row = self._closed(level)
                if not self._trail:
                    return row
                below, level = level, self._trail.pop()
                self._up(level)
                self._took(level, row, below)

    def _tell_ahead(self, level: Level) -> None:
        """The readers keep some directories ahead of this thread."""
        wanted = level.left[-2 * THREADS : len(level.left) - level.ahead]
        self._context.readers.ahead(self._fd, wanted[::-1], frozen=self._frozen)
        level.ahead = max(level.ahead, min(len(level.left), 2 * THREADS)) - 1  # one is gone into now

    def _took(self, level: Level, row: Row, below: Level) -> None:
        """A directory below is done: its row."""
        self._held.take(level, row, self._trail)
        level.settled &= below.settled
        level.differs |= row != below.before

    def _down(self, name: bytes, level: Level) -> Level:
        """Go into a directory; when nothing lies below it, finish it from here."""
        fd = self._opened(name, level)
        if fd is None:
            return level
        try:
            found = os.fstat(fd)
            if self._is_too_deep(level, name) or self._passed(found):
                self._lost(level, name)
                os.close(fd)
                return level
            path = None if level.path is None or not self._context.left_out else (*level.path, name)
            directory, before, attached = self._identified(name, level, fd, found, path)
            if attached is not None:
                os.close(fd)
                self._held.take(level, attached, self._trail)
                level.unsure |= attached[6] > 0
                return level
            self._trail.append(level)
            below = self._level(directory, fd, path, before)
        except BaseException:
            os.close(fd)
            raise
        if below.left:
            os.close(self._fd)
            self._fd = fd
            return below
        os.close(fd)
        self._trail.pop()
        self._took(level, self._closed(below), below)
        return level

    def _identified(
        self, name: bytes, level: Level, fd: int, found: os.stat_result, path: Path | None
    ) -> tuple[Directory, Row | None, Row | None]:
        """Which directory of the index this is: the one of that name, one that was moved here, or a new one."""
        inode, generation = found.st_ino, generation_of(fd)
        _, child = level.known.get(name, (0, None))
        if child is not None:
            known = self._rows.directory(child)
            if known is not None and (known.volume, known.inode, known.generation) == (self._volume, inode, generation):
                return known, self._rows.get(level.id, name), None
            self._lost(level, name)
        level.differs = True
        prunes = self._context.prunes(path)
        if level.before is not None or self._attach is not None:
            moved = self._rows.known(self._volume, inode, generation)
            if moved is not None and moved.prunes == prunes:
                if self._attach is None:
                    before = self._context.dirty.move(moved, level.id, name)
                    return moved._replace(parent=level.id, name=name), before, None
                if not prunes and (row := self._attach(moved, level.id, name)) is not None:
                    return moved, None, row
        return self.made(fd, level.id, name, path), None, None

    def made(self, fd: int, parent: int, name: bytes, path: Path | None) -> Directory:
        """An open directory that is new to the index."""
        inode, prunes = os.fstat(fd).st_ino, self._context.prunes(path)
        number, tree = self._rows.fresh(), self._rows.tree
        made = Directory(number, tree, self._volume, inode, generation_of(fd), parent, name, prunes)
        self._rows.add_directory(made)
        return made

    def _lost(self, level: Level, name: bytes) -> None:
        """What was listed cannot be taken: the index keeps nothing of it."""
        if name in level.known:
            level.differs = True
            self._context.dirty.gone(level.id, name)

    def _is_too_deep(self, level: Level, name: bytes) -> bool:
        """Whether a directory is left out for that. Raises OSError where none may be: a sync leaves out nothing."""
        if self._above + len(self._trail) < DEEPEST:
            return False
        if not self._context.without_deep:
            raise OSError(errno.ELOOP, f"directories lie deeper than {DEEPEST:,} levels")
        self._context.notes.add("deep", level.id, name)
        return True

    def _passed(self, found: os.stat_result) -> bool:
        """Whether a living directory was gone into before (somebody moves it about)."""
        if self._frozen:
            return False
        before = (found.st_dev, found.st_ino) in self._living_dirs
        self._living_dirs.add((found.st_dev, found.st_ino))
        return before

    def _up(self, level: Level) -> None:
        above = os.open("..", files.DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = above
        if self._frozen:
            return
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) != (level.found.st_dev, level.found.st_ino):
            raise KeepsMoving(
                f"{_short(self._trail_path())}: directories were moved about while they were read",
                hint="let the agent's processes rest, then sync again",
            )

    def _opened(self, name: bytes, level: Level) -> int | None:
        """The directory, open; None for what is gone, and for a nested subvolume, whose row is there then."""
        try:
            # In a snapshot, which nobody else sees, no name changes and nothing is mounted.
            fd = os.open(name, files.DIRECTORY, dir_fd=self._fd) if self._frozen else files.enter(self._fd, name)
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            self._lost(level, name)  # gone, or replaced since it was listed
            return None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._context.notes.add("mount", level.id, name)
            self._lost(level, name)
            return None
        inode = os.fstat(fd).st_ino
        nested = inode == btrfs.EMPTY_INODE if self._frozen else inode == btrfs.FIRST_INODE and btrfs.is_btrfs(fd)
        if not nested:
            return fd
        os.close(fd)
        self._nested(level, name)
        return None

    def _nested(self, level: Level, name: bytes) -> None:
        """The row of a nested subvolume, which is read as a part of its own."""
        _, known = level.known.get(name, (0, None))
        row = self._rows.get(level.id, name) if known in self._context.dirty.nested_known else None
        if row is None:
            self._lost(level, name)
            row = self._context.dirty.begin_nested(level.id, name)
            level.settled, level.differs = False, True
        level.unsure = True
        self._held.take(level, row, self._trail)

    def _level(self, directory: Directory, fd: int, path: Path | None, before: Row | None) -> Level:
        """List a directory and store the files in it."""
        level = Level(directory.id, directory.parent, directory.name, os.fstat(fd), path, before)
        level.xattrs, _ = contents.xattrs(fd)
        if before is not None:
            level.known = self._rows.brief(level.id)
        plain = []
        for found in files.scan(fd):
            below = os.fsencode(found.name)
            if path is not None and (*path, below) in self._context.left_out:
                continue
            if found.is_dir(follow_symlinks=False):
                level.left.append(below)
            else:
                plain.append((found.inode(), below, found.is_file(follow_symlinks=False)))
        level.left.sort(reverse=True)  # taken from the end
        if before is not None:
            self._gone(level, {name for _, name, _ in plain}.union(level.left))
        self._files(level, fd, plain)
        return level

    def _gone(self, level: Level, there: set[bytes]) -> None:
        for name in level.known:
            if name not in there:
                self._lost(level, name)
        self._rows.forget_notes_but(level.id, there)

    def _files(self, level: Level, fd: int, plain: list[tuple[int, bytes, bool]]) -> None:
        """Rows of what is no directory: as they were, where the file is, else read, in the order of the inodes."""
        if self._context.entries.cold:
            self._context.readers.look(fd, plain)
        if level.before is not None:
            plain = list(self._changed(level, fd, plain))
        plain.sort()  # the order of the inodes is often that of the disk
        before = self._entries.files, self._entries.bytes
        for inode, name, is_file in plain:
            if level.before is not None:
                self._rows.forget_notes(level.id, name)
            row = self._entries.file(level.id, fd, name, inode) if is_file else self._entries.other(level.id, fd, name)
            if row is None:
                self._lost(level, name)
            else:
                self._add(level, row)
        self._context.took(self._entries.files - before[0], self._entries.bytes - before[1])

    def _add(self, level: Level, row: Row) -> None:
        """A row that was made now."""
        if level.known.get(row[0], (0, None))[1] is not None:  # a directory was there
            self._lost(level, row[0])
        level.differs = True
        self._keep(level, row)

    def _keep(self, level: Level, row: Row) -> None:
        level.unsure |= row[6] > 0
        self._held.take(level, row, self._trail)

    def _changed(
        self, level: Level, fd: int, plain: list[tuple[int, bytes, bool]]
    ) -> Iterator[tuple[int, bytes, bool]]:
        """Those that are not as the index says; the rows of the others are taken as they are."""
        plain.sort(key=lambda each: each[1])
        at = 0
        while at < len(plain):
            some = plain[at : at + _AT_ONCE]
            rows, last = self._rows.between(level.id, some[0][1], some[-1][1])
            for inode, name, is_file in some:
                if name > last:
                    break
                at += 1
                row = rows.get(name)
                if row is not None and row[3] is None and self._unchanged(fd, name, inode, row):
                    self._keep(level, row)
                else:
                    if row is not None and row[6] and row[3] is None:
                        self._rows.remove_link(level.id, name)
                    yield inode, name, is_file

    def _closed(self, level: Level) -> Row:
        """The row of a directory whose rows are all there."""
        rows, before = level.rows, level.before
        same = before is not None and not level.differs and level.settled
        level.settled = same or (level.settled and not level.unsure and not level.spilled)
        if not same:
            self._rows.put_all(level.id, rows)
        if before is not None:
            self._rows.forget_notes(level.parent, level.name)
        if same:
            assert before is not None
            sums, content = before[4:7], content_of(before[7])
        elif level.settled:
            rows.sort()
            sums = (sum(row[4] for row in rows), sum(row[5] for row in rows), sum(row[6] for row in rows))
            content = trees.write_lines(self._context.sink.writer, [row[7] for row in rows])
        else:
            self._context.dirty.add(level.id)
            sums, content = (0, 0, 0), _NOTHING
        self._held.release(level)
        line = self._entries.directory(level.parent, level.name, level.found, level.xattrs, content)
        return level.name, level.found.st_ino, 0, level.id, *sums, line

    def _trail_path(self) -> bytes:
        return b"/".join(level.name for level in self._trail[1:]) or b"."


def _short(path: bytes) -> str:
    return shown(path if len(path) <= 300 else b"..." + path[-300:])
