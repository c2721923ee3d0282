"""How much rows take, and what the many names of one file repeat: a listing says all of a file for each of its names.

Attributes and extents that cost an agent once stand in each line, six bytes for one. Without an end to it, 64 KiB of
attributes and ten thousand names are gigabytes in the index and in the store.
"""

import errno
from typing import TYPE_CHECKING

from town.terminal import shown

if TYPE_CHECKING:
    from persist.sync.rows import Row, Rows

MOST = 64 << 20  # bytes of one declared path (docs/formats/store.md)
PLAIN = 1 << 10  # bytes of a line that count for nothing: a file with few pieces and attributes takes less
HELD = 8 << 20  # bytes of rows that are held in memory: a line is as long as the attributes of its file make it
_OFTEN = 16 << 20  # bytes of new lines after which all are counted again
_REPEATED = f"sum(max(length(line) - {PLAIN}, 0))"
_LINKED = "FROM links JOIN entries ON entries.dir = links.dir AND entries.name = links.name WHERE links.tree = ?"


def weight(row: "Row") -> int:
    """How many bytes a row takes in memory, all but what every row takes."""
    return len(row[0]) + len(row[7])


class Bulk:
    """Counts the lines of one declared path for files with several names: only where long ones are new."""

    def __init__(self, rows: "Rows") -> None:
        self._rows = rows
        self._added = 0  # since all were counted

    def add(self, row: "Row") -> None:
        """A row is written. Raises OSError (EFBIG) as `check` does."""
        if row[6] and row[3] is None and len(row[7]) > PLAIN:
            self._added += len(row[7]) - PLAIN
            if self._added >= _OFTEN:
                self.check()

    def check(self) -> None:
        """Raise OSError (EFBIG), which names the file that takes the most, when there is more than `MOST`."""
        if not self._added:
            return
        self._added = 0
        self._rows.flush()
        database, tree = self._rows.index.db, self._rows.tree
        (total,) = database.execute(f"SELECT {_REPEATED} {_LINKED}", (tree,)).fetchone()
        if (total or 0) <= MOST:
            return
        directory, name = database.execute(
            f"SELECT links.dir, min(links.name) {_LINKED} "
            f"GROUP BY links.volume, links.inode ORDER BY {_REPEATED} DESC LIMIT 1",
            (tree,),
        ).fetchone()
        raise OSError(
            errno.EFBIG,
            f"the names of files with several take more than {MOST >> 20} MiB to list, most of it those of "
            f"{self._path(directory, name)}: it has too many names for its attributes and holes",
        )

    def _path(self, directory: int, name: bytes) -> str:
        path = b"/".join([*(self._rows.names(directory) or []), name])
        return shown(path if len(path) <= 300 else b"..." + path[-300:])
