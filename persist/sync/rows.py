"""The tree half of an index: the rows of one declared path. What SQL there is about directories and names is here.

A row of a listing is a tuple, for there are as many as files: name, inode, ctime (ns; 0: not to be trusted), the
directory it leads to, sums of files, bytes and names of linked files at and below it, its line as the format has it.
"""

import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from persist.sync.bulk import HELD, Bulk, weight
from persist.sync.index import Index
from town import files

Row = tuple[bytes, int, int, int | None, int, int, int, bytes]
_INSERT = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ROW = "SELECT name, inode, ctime, child, files, bytes, links, line FROM entries"
_ABOVE = (
    "SELECT dirs.parent, entries.name, entries.inode, ctime, child, files, bytes, links, line FROM dirs "
    "JOIN entries ON entries.dir = dirs.parent AND entries.name = dirs.name WHERE dirs.id = ?"
)
_BUFFERED = 5000  # rows that are written together
_CHAIN = 1 << 16  # hashes of directories that are kept


class Directory(NamedTuple):
    """A directory as the index knows it."""

    id: int
    tree: int
    volume: int
    inode: int
    generation: int
    parent: int
    name: bytes
    prunes: bool


class Part(NamedTuple):
    """What of one subvolume belongs to a tree: from the directory `dir` down, exact as of `transid` (0: it is not)."""

    dir: int
    volume: int
    transid: int


def find_tree(index: Index, path: str) -> tuple[int, str, str] | None:
    """A declared path: its number, the rule of what is left out, the commit that holds it as it is here."""
    found = index.db.execute("SELECT id, rule, state FROM trees WHERE path = ?", (path,)).fetchone()
    return (found[0], found[1], found[2]) if found else None


def trees(index: Index) -> list[tuple[int, str]]:
    """The number of every declared path, and the commit that holds it as the index knows it (empty: none does)."""
    return index.db.execute("SELECT id, state FROM trees").fetchall()


def new_tree(index: Index, path: str, rule: str) -> "Rows":
    """Begin a declared path, with nothing in it; what the index knew of it goes."""
    if (before := find_tree(index, path)) is not None:
        drop_tree(index, before[0])
    done = index.db.execute("INSERT INTO trees(path, rule, state) VALUES (?, ?, '')", (path, rule))
    assert done.lastrowid is not None
    return Rows(index, done.lastrowid)


def drop_tree(index: Index, tree: int) -> None:
    """Forget a declared path."""
    Rows(index, tree).drop_below(-tree)
    index.db.execute("DELETE FROM trees WHERE id = ?", (tree,))


def _directory(row: Sequence[Any]) -> Directory:
    number, tree, volume_, inode, generation, parent, name, prunes = row
    return Directory(number, tree, volume_, inode, generation, parent, name, bool(prunes))


generation_of = files.generation


class Rows:
    """One declared path. Rows and directories that are added are written in batches: whatever reads flushes first."""

    def __init__(self, index: Index, tree: int) -> None:
        self.index, self.tree = index, tree
        self._db: sqlite3.Connection = index.db
        self.writes = 0  # rows that were put, moved or removed
        self._next = int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM dirs").fetchone()[0])
        self._dirs: list[tuple[object, ...]] = []
        self._rows: list[tuple[object, ...]] = []
        self._held = 0  # bytes of those
        self.bulk: Bulk | None = None  # counts what hard links repeat, where that has an end
        self._links: list[tuple[object, ...]] = []
        self._chain: dict[int, bytes] = {}
        self._noted = self._db.execute("SELECT 1 FROM notes WHERE tree = ? LIMIT 1", (tree,)).fetchone() is not None
        self.touched: set[tuple[int, int]] | None = set()  # linked files of which a name changed; None: all

    def flush(self) -> None:
        """Write what waits."""
        if not (self._dirs or self._rows or self._links):
            return
        if self._dirs:
            self._db.executemany("INSERT INTO dirs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._dirs)
            self._dirs.clear()
        if self._rows:
            self._db.executemany(_INSERT, self._rows)
            self._rows.clear()
            self._held = 0
        if self._links:
            self._db.executemany("INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?, ?)", self._links)
            self._links.clear()

    # Directories.

    def fresh(self) -> int:
        """A number for a new directory."""
        self._next += 1
        return self._next - 1

    def add_directory(self, directory: Directory) -> None:
        """A directory that is new here."""
        self._dirs.append((directory.id, self.tree, directory.volume, directory.inode, directory.generation,
                           directory.parent, directory.name, int(directory.prunes)))  # fmt: skip
        if len(self._dirs) >= _BUFFERED:
            self.flush()

    def directory(self, number: int) -> Directory | None:
        """A directory by its number."""
        self.flush()
        found = self._db.execute("SELECT * FROM dirs WHERE id = ?", (number,)).fetchone()
        return None if found is None else _directory(found)

    def known(self, volume: int, inode: int, generation: int | None = None) -> Directory | None:
        """A directory of this tree by its inode; with `generation`, that one and none that had the number before."""
        self.flush()
        one = "" if generation is None else " AND generation = ?"
        found = self._db.execute(f"SELECT * FROM dirs WHERE volume = ? AND inode = ? AND tree = ?{one}",  # noqa: S608
                                 (volume, inode, self.tree, *(() if generation is None else (generation,))),
                                 ).fetchone()  # fmt: skip
        return None if found is None else _directory(found)

    def top(self) -> Directory | None:
        """The declared directory itself."""
        self.flush()
        found = self._db.execute("SELECT child FROM entries WHERE dir = ?", (-self.tree,)).fetchone()
        return None if found is None or found[0] is None else self.directory(found[0])

    def identify(self, number: int, volume: int, inode: int, generation: int) -> None:
        """Say which inode a directory is."""
        self.flush()
        self._db.execute("UPDATE dirs SET volume = ?, inode = ?, generation = ? WHERE id = ?",
                         (volume, inode, generation, number))  # fmt: skip

    def move(self, number: int, parent: int, name: bytes) -> None:
        """Put a directory, with all below it, under another name."""
        self.writes += 1
        self._chain.clear()
        self._db.execute("UPDATE dirs SET parent = ?, name = ? WHERE id = ?", (parent, name, number))

    def names(self, number: int, most: int | None = None) -> list[bytes] | None:
        """The names that lead to a directory from the declared one; None when they are more than `most`."""
        self.flush()
        found: list[bytes] = []
        while True:
            parent, name = self._db.execute("SELECT parent, name FROM dirs WHERE id = ?", (number,)).fetchone()
            if parent < 0:
                return found[::-1]
            if most is not None and len(found) >= most:
                return None
            found.append(name)
            number = parent

    def depth(self, number: int, memo: dict[int, int]) -> int:
        """How many directories lie above one; numbers below 0 (above the top) have none."""
        trail: list[int] = []
        while number not in memo and number >= 0:
            trail.append(number)
            number = self._db.execute("SELECT parent FROM dirs WHERE id = ?", (number,)).fetchone()[0]
        depth = memo.get(number, 0)
        for each in reversed(trail):
            depth += 1
            memo[each] = depth
        return depth

    def hashed(self, directory: int, name: bytes) -> bytes:
        """A hash of the path of a name: it says where something is, and is as short for a path of any length."""
        from hashlib import blake2b  # loads OpenSSL: 4 ms

        trail: list[tuple[int, bytes]] = []
        while directory not in self._chain:
            parent, its = self._db.execute("SELECT parent, name FROM dirs WHERE id = ?", (directory,)).fetchone()
            if parent < 0:
                self._chain[directory] = b""
                break
            trail.append((directory, its))
            directory = parent
        above = self._chain[directory]
        if len(self._chain) > _CHAIN:
            self._chain.clear()
        for each, its in reversed(trail):
            above = self._chain[each] = blake2b(above + its, digest_size=16).digest()
        return blake2b(above + name, digest_size=16).digest()

    # Listings.

    def put(self, directory: int, row: Row) -> None:
        """A name of a directory, new or in the place of another."""
        self.writes += 1
        self._rows.append((directory, *row))
        self._held += weight(row)
        if len(self._rows) >= _BUFFERED or self._held >= HELD:
            self.flush()
        if self.bulk is not None:
            self.bulk.add(row)

    def put_all(self, directory: int, rows: Sequence[Row]) -> None:
        """Some names of a directory, new or in the place of others."""
        self.writes += len(rows)
        self._rows += [(directory, *row) for row in rows]
        self._held += sum(map(weight, rows))
        if len(self._rows) >= _BUFFERED or self._held >= HELD:
            self.flush()
        if self.bulk is not None:
            for row in rows:
                if row[6]:  # else it counts for nothing
                    self.bulk.add(row)

    def get(self, directory: int, name: bytes) -> Row | None:
        """A name of a directory."""
        self.flush()
        found: Row | None = self._db.execute(f"{_ROW} WHERE dir = ? AND name = ?", (directory, name)).fetchone()
        return found

    def listing(self, directory: int) -> Iterator[Row]:
        """The rows of a directory, by name. Nothing may be changed before the last is taken."""
        self.flush()
        return self._db.execute(f"{_ROW} WHERE dir = ? ORDER BY name", (directory,))

    def lines(self, directory: int) -> Iterator[bytes]:
        """The lines of its listing, in order, of what was flushed."""
        rows = self._db.execute("SELECT line FROM entries WHERE dir = ? ORDER BY name", (directory,))
        return (row[0] for row in rows)

    def above(self, number: int) -> tuple[int, Row]:
        """The directory above one, and the row that it has there, of what was flushed."""
        parent, *row = self._db.execute(_ABOVE, (number,)).fetchone()
        name, inode, ctime, child, files, size, links, line = row
        return parent, (name, inode, ctime, child, files, size, links, line)

    def between(self, directory: int, first: bytes, last: bytes) -> tuple[dict[bytes, Row], bytes]:
        """The rows of a directory whose names lie between two, both included; up to which name they are all there."""
        self.flush()
        rows: Iterable[Row] = self._db.execute(
            f"{_ROW} WHERE dir = ? AND name BETWEEN ? AND ? ORDER BY name", (directory, first, last)
        )
        found, held = dict[bytes, Row](), 0
        for row in rows:
            found[row[0]] = row
            held += weight(row)
            if held >= HELD:
                return found, row[0]
        return found, last

    def brief(self, directory: int) -> dict[bytes, tuple[int, int | None]]:
        """Of a directory: name to inode and directory it leads to."""
        self.flush()
        rows = self._db.execute("SELECT name, inode, child FROM entries WHERE dir = ?", (directory,))
        return {name: (inode, child) for name, inode, child in rows}

    def sums(self, directory: int) -> tuple[int, int, int]:
        """Files, bytes and names of linked files below a directory, of what was flushed."""
        said = "SELECT coalesce(sum(files), 0), coalesce(sum(bytes), 0), coalesce(sum(links), 0) FROM entries"
        files, bytes_, links = self._db.execute(f"{said} WHERE dir = ?", (directory,)).fetchone()
        return files, bytes_, links

    def remove(self, directory: int, name: bytes, *, linked: bool) -> None:
        """A name that is gone. What it led to stays until `drop`."""
        self.writes += 1
        if linked:
            self.remove_link(directory, name)
        self.flush()
        self._db.execute("DELETE FROM entries WHERE dir = ? AND name = ?", (directory, name))

    def there(self, number: int) -> bool:
        """Whether a directory is (still) in the index."""
        return self._db.execute("SELECT 1 FROM dirs WHERE id = ?", (number,)).fetchone() is not None

    def drop(self, number: int) -> None:
        """Forget a directory and all below it, but not its name in the one above."""
        self.drop_below(number)
        self._db.execute("DELETE FROM dirs WHERE id = ?", (number,))
        self._db.execute("DELETE FROM parts WHERE dir = ?", (number,))

    def drop_below(self, number: int) -> None:
        """Forget all that lies in a directory."""
        self.flush()
        self._chain.clear()
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS doomed(id INTEGER PRIMARY KEY)")
        self._db.execute("DELETE FROM doomed")
        self._db.execute(
            "WITH RECURSIVE below(id) AS (VALUES(?) UNION SELECT child FROM entries JOIN below ON dir = below.id "
            "WHERE child IS NOT NULL) INSERT INTO doomed SELECT id FROM below",
            (number,),
        )
        for table, column in (("entries", "dir"), ("links", "dir"), ("notes", "dir"), ("parts", "dir"), ("dirs", "id")):
            kept = " AND id != ?" if table in ("parts", "dirs") else ""
            self._db.execute(
                f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM doomed WHERE 1{kept})",  # noqa: S608
                (number,) if kept else (),
            )

    # Names of files that have several.

    def add_link(self, volume: int, inode: int, directory: int, name: bytes) -> None:
        """A name of a file that has, or had, several."""
        self._links.append((self.tree, volume, inode, directory, name))
        self.touch([(volume, inode)])

    def remove_link(self, directory: int, name: bytes) -> None:
        """It is no such name any more."""
        self.flush()
        marks = (directory, name)
        self.touch(self._db.execute("SELECT volume, inode FROM links WHERE dir = ? AND name = ?", marks).fetchall())
        self._db.execute("DELETE FROM links WHERE dir = ? AND name = ?", marks)

    def touch(self, files: Iterable[tuple[int, int]]) -> None:
        """A name of these linked files (volume, inode) changed."""
        if self.touched is not None:
            self.touched.update(files)

    def linked(self, volume: int, inode: int) -> list[tuple[int, bytes]]:
        """The names of a file."""
        self.flush()
        return self._db.execute("SELECT dir, name FROM links WHERE tree = ? AND volume = ? AND inode = ?",
                                (self.tree, volume, inode)).fetchall()  # fmt: skip

    def links_below(self, number: int) -> list[tuple[int, int]]:
        """(volume, inode) of the linked files with a name below a directory: only where there are some is looked."""
        self.flush()
        return self._db.execute(
            "WITH RECURSIVE below(id) AS (VALUES(?) UNION SELECT child FROM entries JOIN below ON dir = below.id "
            "WHERE child IS NOT NULL AND links > 0) "
            "SELECT DISTINCT volume, inode FROM links JOIN below ON dir = below.id",
            (number,),
        ).fetchall()

    def all_links(self) -> Iterator[tuple[int, int]]:
        """(volume, inode) of all linked files. No name of one may be added or removed before the last is taken."""
        self.flush()
        return self._db.execute("SELECT DISTINCT volume, inode FROM links WHERE tree = ?", (self.tree,))

    # Parts.

    def parts(self) -> list[Part]:
        """The parts of this tree."""
        rows = self._db.execute("SELECT dir, volume, transid FROM parts WHERE tree = ?", (self.tree,))
        return [Part(*row) for row in rows]

    def set_part(self, directory: int, volume: int, transid: int) -> None:
        """Say as of which transaction a part is exact."""
        self.flush()
        self._db.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", (directory, self.tree, volume, transid))

    def set_state(self, name: str) -> None:
        """Say which commit holds this tree as it is here."""
        self._db.execute("UPDATE trees SET state = ? WHERE id = ?", (name, self.tree))

    def set_rule(self, rule: str) -> None:
        """Say what was left out."""
        self._db.execute("UPDATE trees SET rule = ? WHERE id = ?", (rule, self.tree))

    # Notes.

    def note(self, kind: str, directory: int, name: bytes) -> None:
        """Something that is not kept whole."""
        self._noted = True
        self._db.execute("INSERT OR IGNORE INTO notes VALUES (?, ?, ?, ?)", (self.tree, kind, directory, name))

    def forget_notes(self, directory: int, name: bytes) -> None:
        """What was noted of a name of a directory."""
        if self._noted:
            self._db.execute("DELETE FROM notes WHERE dir = ? AND name = ?", (directory, name))

    def forget_notes_but(self, directory: int, names: Container[bytes]) -> None:
        """What was noted of any name of a directory that is not one of these."""
        if self._noted:
            noted = self._db.execute("SELECT DISTINCT name FROM notes WHERE dir = ?", (directory,)).fetchall()
            for (name,) in noted:
                if name not in names:
                    self.forget_notes(directory, name)

    def notes(self) -> list[tuple[str, int, int, bytes]]:
        """For each kind: how many, and a first one as directory and name."""
        return self._db.execute("SELECT kind, count(*), dir, min(name) FROM notes WHERE tree = ? GROUP BY kind",
                                (self.tree,)).fetchall()  # fmt: skip
