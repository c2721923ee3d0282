"""What was made of a plan, looked at once more: every directory holds exactly what the plan says.

The plan's rows come by one cursor, in the order of its index by directory and name, beside the directories themselves.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from persist.fill.plan import DIR, FIFO, FILE, SYMLINK, TOP, Plan
from town import files
from town.failure import Unsafe

_AT_ONCE = 20_000  # names of one directory that are held in memory


@dataclass(frozen=True, slots=True)
class Made:
    """What lies where a plan was carried out, by the numbers of its entries, the top's too.

    `inodes`: of each of them; `born`: the generation of each directory, as far as the filesystem says. Twelve bytes an
    entry, for a million is many.
    """

    plan: Path
    inodes: "array[int]"
    born: "array[int]"


class Look:
    """Directories are shown to it in the order of their numbers, the top first; `made` is whole at the end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        highest = plan.db.execute("SELECT COALESCE(MAX(no), 0) FROM entries").fetchone()[0]
        self.made = Made(plan.path, array("Q", bytes(8 * (highest + 1))), array("I", bytes(4 * (highest + 1))))
        found = plan.db.execute("SELECT dir, no, name, kind FROM entries INDEXED BY names ORDER BY dir, name")
        self._groups = groupby(found, key=itemgetter(0))
        self._group = next(self._groups, None)

    def at(self, number: int, fd: int) -> None:
        """Compare a directory, open, with the plan. Raises Unsafe where it holds anything else."""
        if number == TOP:
            self.made.inodes[TOP] = os.fstat(fd).st_ino
        self.made.born[number] = files.generation(fd) & 0xFFFFFFFF
        inodes, said, found = self.made.inodes, self._said(number), 0
        for entry in files.scan(fd):
            name = os.fsencode(entry.name)
            no, kind = said.get(name, _NOTHING) if isinstance(said, dict) else self._one(number, name)
            if not (entry.is_file(follow_symlinks=False) if kind == FILE else _kind(entry) == kind):
                raise Unsafe("a directory that was restored holds something else than it should")
            inodes[no] = entry.inode()
            found += 1
        if found != (len(said) if isinstance(said, dict) else said):
            raise Unsafe("a directory that was restored does not hold what it should")

    def _said(self, number: int) -> dict[bytes, tuple[int, int]] | int:
        """What the plan says a directory holds: name to number and kind; of very many names only how many."""
        if self._group is None or self._group[0] != number:
            return {}
        rows: Iterator[tuple[int, int, bytes, int]] = self._group[1]
        some = {name: (no, kind) for _, no, name, kind in islice(rows, _AT_ONCE)}
        more = sum(1 for _ in rows)
        self._group = next(self._groups, None)
        return len(some) + more if more else some

    def _one(self, number: int, name: bytes) -> tuple[int, int]:
        one = "SELECT no, kind FROM entries WHERE dir = ? AND name = ?"
        found: tuple[int, int] | None = self._plan.db.execute(one, (number, name)).fetchone()
        return _NOTHING if found is None else found


_NOTHING = (0, -1)


def _kind(entry: "os.DirEntry[str]") -> int:
    """By the directory's own word, without a call for each."""
    if entry.is_file(follow_symlinks=False):
        return FILE
    if entry.is_dir(follow_symlinks=False):
        return DIR
    return SYMLINK if entry.is_symlink() else FIFO
