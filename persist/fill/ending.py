"""What comes before the files of a plan, and after them: directories first; then names that hold nothing, links, facts.

The end looks at every directory once more: it must hold exactly what the plan says, whichever run made it.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Protocol

from persist.bucket import trees
from persist.bucket.trees import Entry
from persist.fill.facts import Facts, cannot, naming
from persist.fill.levels import Levels
from persist.fill.plan import DIR, FIFO, FILE, SYMLINK, TOP, Plan
from persist.fill.writing import NEW
from town import files
from town.failure import Unsafe

_AT_ONCE = 20_000  # names of one directory that are held in memory
_BARE = f"kind IN ({SYMLINK}, {FIFO}) OR (kind = {FILE} AND held = 0)"


class Rows(Protocol):
    """Where an index takes what was made: inode, inode of the directory, name, line of the listing."""

    def directory(self, inode: int, parent: int, name: bytes, line: bytes) -> None:
        """A directory."""
        ...

    def file(self, inode: int, parent: int, name: bytes, line: bytes) -> None:
        """Anything else; each name of a file."""
        ...


class Ending:
    """The parts of a restore that need no store. Each may be done again: what is there then is made anew."""

    def __init__(self, plan: Plan, levels: Levels, facts: Facts, *, again: bool) -> None:
        self._plan, self._levels, self._facts, self._again = plan, levels, facts, again

    def directories(self) -> None:
        """Every directory, above before below, root's and closed while it is filled."""
        for number, above, name in self._plan.db.execute(
            f"SELECT no, dir, name FROM entries WHERE kind = {DIR} ORDER BY no"  # noqa: S608 - constants
        ):
            del number
            with naming(name):
                try:
                    os.mkdir(name, 0o700, dir_fd=self._levels.open(above))
                except FileExistsError:
                    if not self._again:
                        raise

    def names(self) -> None:
        """Symlinks, FIFOs, and files that hold nothing; then the other names of files that have several."""
        for above, line in self._plan.db.execute(
            f"SELECT dir, line FROM entries WHERE ({_BARE}) AND first IS NULL ORDER BY no"  # noqa: S608 - constants
        ):
            entry = _entry(line)
            with naming(entry.name):
                directory = self._levels.open(above)
                self._anew(directory, entry.name, lambda at=directory, made=entry: self._make(at, made))  # type: ignore[misc]
        for above, name, first, old in self._plan.db.execute(
            "SELECT e.dir, e.name, f.dir, f.name FROM entries e JOIN entries f ON f.no = e.first ORDER BY e.no"
        ):
            with naming(name):
                self._link((first, old), (above, name))

    def _make(self, directory: int, entry: Entry) -> None:
        match entry.kind:
            case "symlink":
                os.symlink(entry.target, entry.name, dir_fd=directory)
                self._facts.give_name(directory, entry)
            case "fifo":
                os.mkfifo(entry.name, 0o600, dir_fd=directory)
                self._facts.give_name(directory, entry)
            case _:
                with files.opened(os.open(entry.name, NEW, 0o600, dir_fd=directory)) as fd:
                    os.ftruncate(fd, entry.size)
                    self._facts.give(fd, entry)

    def _link(self, old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
        self._levels.open(new[0])
        source, target = self._levels.open(old[0]), self._levels.open(new[0])

        def link() -> None:
            os.link(old[1], new[1], src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

        self._anew(target, new[1], link)

    def _anew(self, directory: int, name: bytes, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            if not self._again:
                raise
            os.unlink(name, dir_fd=directory)
            make()

    def facts(self, rows: Rows | None) -> None:
        """Owner, mode and time of every directory, which nothing is made in any more. Raises Unsafe, CannotMake."""
        look = rows is not None or self._again
        if look:
            self._directory(TOP, self._levels.known[TOP], rows)
        for number, name, mode, mtime, owner, group, odd in self._plan.db.execute(
            f"SELECT no, name, mode, mtime, owner, grp, odd FROM entries WHERE kind = {DIR} ORDER BY no"  # noqa: S608
        ):
            try:
                fd = self._levels.open(number)
                if look:
                    self._directory(number, fd, rows)
                if odd or self._again:
                    self._facts.give(fd, _entry(self._plan.line(number)))
                else:
                    self._facts.give_plain(fd, mode, int(mtime), (owner, group))
            except OSError as error:
                raise cannot(name, error) from error

    def _directory(self, number: int, fd: int, rows: Rows | None) -> None:
        """Compare a directory with the plan, and tell an index what lies in it."""
        parent, found = os.fstat(fd).st_ino, 0
        for name, kind, line, inode in self._pairs(number, fd):
            found += 1
            if rows is not None:
                (rows.directory if kind == DIR else rows.file)(inode, parent, name, line)
        count = self._plan.db.execute("SELECT COUNT(*) FROM entries WHERE dir = ?", (number,)).fetchone()[0]
        if found != count:
            raise Unsafe("a directory that was restored does not hold what it should")

    def _pairs(self, number: int, fd: int) -> Iterator[tuple[bytes, int, bytes, int]]:
        """(name, kind, line, inode) of what lies in a directory. Raises Unsafe for what the plan does not know."""
        one = "SELECT kind, line FROM entries WHERE dir = ? AND name = ?"
        some = self._plan.db.execute(
            "SELECT name, kind, line FROM entries WHERE dir = ? LIMIT ?", (number, _AT_ONCE + 1)
        ).fetchall()
        known = {name: (kind, line) for name, kind, line in some} if len(some) <= _AT_ONCE else None
        for entry in files.scan(fd):
            name = os.fsencode(entry.name)
            said = known.get(name) if known is not None else self._plan.db.execute(one, (number, name)).fetchone()
            if said is None or _kind(entry) != said[0]:
                raise Unsafe("a directory that was restored holds something else than it should")
            yield name, said[0], said[1], entry.inode()


def _kind(entry: "os.DirEntry[str]") -> int:
    """By the directory's own word, without a call for each."""
    if entry.is_file(follow_symlinks=False):
        return FILE
    if entry.is_dir(follow_symlinks=False):
        return DIR
    return SYMLINK if entry.is_symlink() else FIFO


def _entry(line: bytes) -> Entry:
    return trees.parsed(json.loads(line), "an entry of a listing")
