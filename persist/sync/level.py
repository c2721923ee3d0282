"""The directories on the way down to the one that is read, and the rows that they hold meanwhile."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from persist.bucket import trees
from persist.sync.bulk import HELD, weight
from persist.sync.rows import Row, Rows

Path = tuple[bytes, ...]


@dataclass(slots=True, eq=False, repr=False)
class Level:
    """A directory on the way down: what was found of it, its rows so far, where to go from it."""

    id: int
    parent: int
    name: bytes
    found: os.stat_result
    path: Path | None  # None: below everything that could be left out
    before: Row | None  # what the index says of it
    xattrs: trees.Xattrs = ()
    rows: list[Row] = field(default_factory=list)
    weight: int = 0  # bytes of those
    left: list[bytes] = field(default_factory=list)
    ahead: int = 0  # how many of those, from the end, the readers were told of
    known: dict[bytes, tuple[int, int | None]] = field(default_factory=dict)  # name: inode, directory; as the index has
    settled: bool = True  # its rows are final
    unsure: bool = False  # some may still change: names of linked files, nested subvolumes
    spilled: bool = False  # rows were written already
    differs: bool = False  # from what the index has


class Held:
    """The rows of all levels of one scan: no more than `most`, and no more than HELD bytes, stay in memory."""

    def __init__(self, rows: Rows, most: int) -> None:
        self._rows, self._most = rows, most
        self._count = self._bytes = 0

    def take(self, level: Level, row: Row, above: Sequence[Level]) -> None:
        """A row of a level; when all hold too much, the index gets what they have."""
        level.rows.append(row)
        taken = weight(row)
        level.weight += taken
        self._count += 1
        self._bytes += taken
        if self._count >= self._most or self._bytes >= HELD:
            for each in (*above, level):
                self._spill(each)

    def _spill(self, level: Level) -> None:
        self._rows.put_all(level.id, level.rows)
        level.spilled |= bool(level.rows)
        self.release(level)

    def release(self, level: Level) -> None:
        """The rows of a level are not needed any more."""
        self._count -= len(level.rows)
        self._bytes -= level.weight
        level.rows, level.weight = [], 0
