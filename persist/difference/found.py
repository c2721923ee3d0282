"""What differs, collected and given out sorted by path: in a private database on disk, whatever its length.

It is sqlite's temporary kind, which has no name and is gone with the connection. What is in one side alone is removed
or created; where both are one file (`key`: one inode of subvolumes that were one, or the same content), it was renamed.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from persist.difference.nodes import PATH_MAX, Node
from persist.difference.things import Thing

Place = tuple[int, bytes]  # the number of a pair of trees, and a path in it
Sort = Literal["removed", "changed", "renamed", "created", "too deep"]
_SCHEMA = """
CREATE TABLE alone(
    no INTEGER PRIMARY KEY, side INTEGER, path BLOB, kind TEXT, size INTEGER, what TEXT, key BLOB, pair INTEGER,
    slot INTEGER, place TEXT
);
CREATE TABLE changes(key BLOB, sort TEXT, path BLOB, kind TEXT, size INTEGER, what TEXT, before BLOB);
CREATE TABLE deep(path BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
"""
_MOST = 20_000  # files of one side that are looked at for another name of theirs on the other
_AT_MOST = 8 << 30  # bytes that are read for it
_PAIRED = """
SELECT one.no, one.pair, one.path, other.no, other.pair, other.path, other.kind, other.size, other.what FROM
    (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY path) AS nth FROM alone WHERE side = 0 AND key NOTNULL) one
    JOIN
    (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY path) AS nth FROM alone WHERE side = 1 AND key NOTNULL)
    other ON one.key = other.key AND one.nth = other.nth
"""
_REPLACED = """
SELECT one.no, other.no, other.path, other.kind, other.size, other.place FROM alone one JOIN alone other
    ON one.slot = other.slot AND one.side = 0 AND other.side = 1
"""
_TWINS = """
SELECT no, pair, side, path, size FROM alone WHERE pair NOTNULL AND kind = 'file' AND size IN (
    SELECT size FROM alone WHERE pair NOTNULL AND kind = 'file' AND size > 0
    GROUP BY size HAVING count(DISTINCT side) = 2
)
ORDER BY size, side, path LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `what`: in what they differ; `before`: the path in the first home, of what was renamed.

    `number`: of `too deep`, how many differences lie below a path that no program can name.
    """

    sort: Sort
    path: bytes
    kind: str = "directory"
    size: int = 0
    what: tuple[str, ...] = ()
    before: bytes | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """A name that is one thing's in the first side and another's in the second; in what those two differ."""

    number: int
    what: tuple[str, ...]


class Found:
    """Takes differences in any order, one database for all of a comparison."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", "cache_size = -16000"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Forget all of it."""
        self._db.close()

    def alone(
        self, side: int, at: tuple[Node, bytes], thing: Thing, *, what: tuple[str, ...] = (),
        key: bytes | None = None, pair: int | None = None, slot: Slot | None = None,
    ) -> None:  # fmt: skip
        """Something that is in one side (0 or 1) alone, or there only under that name; `what`: see Change.

        `key`: what it is, wherever it stands. `pair`: a number for `twins`, which may find that by its content. `slot`:
        the other side has something else under that name.
        """
        if (path := self._path(at)) is not None:
            number, place = (None, "") if slot is None else (slot.number, " ".join(slot.what))
            row = (side, path, thing.kind, thing.size, " ".join(what), key, pair, number, place)
            self._db.execute(
                "INSERT INTO alone(side, path, kind, size, what, key, pair, slot, place)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def changed(self, at: tuple[Node, bytes], thing: Thing, what: tuple[str, ...]) -> None:
        """Something that both sides have, and that differs; `thing`: what it is in the second."""
        if (path := self._path(at)) is not None:
            self._put("changed", path, thing.kind, thing.size, " ".join(what), None)

    def _path(self, at: tuple[Node, bytes]) -> bytes | None:
        """The path; None where no program can name it: then it is counted at the last directory that one can."""
        node, name = at
        deep = node.deep or (node if node.length + len(name) >= PATH_MAX else None)
        if deep is None:
            return node.path(name)
        place = deep.path()
        self._db.execute("INSERT INTO deep VALUES (?, 1) ON CONFLICT(path) DO UPDATE SET number = number + 1", (place,))
        return None

    def _put(self, sort: Sort, path: bytes, kind: str, size: int, what: str, before: bytes | None) -> None:
        row = (_key(path), sort, path, kind, size, what, before)
        self._db.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def twins(self, digest: Callable[[int, Place], object]) -> None:
        """Of files that no inode tells of: give those of both sides that hold the same a key.

        `digest(side, place)` says what a file holds. What is beyond a bound stays removed and created.
        """
        left = _AT_MOST
        for no, pair, side, path, size in self._db.execute(_TWINS, (_MOST,)).fetchall():
            left -= size
            if left < 0:
                return
            if (held := digest(side, (pair, path))) is not None:
                key = b"=" + repr((size, held)).encode()
                self._db.execute("UPDATE alone SET key = ? WHERE no = ?", (key, no))

    def settle(self, differences: Callable[[Place, Place], tuple[str, ...]]) -> None:
        """All was told: find what was renamed. `differences`: in what two things that hold the same differ."""
        for row in self._db.execute(_PAIRED).fetchall():
            one, pair, before, other, beside, path, kind, size, what = row
            if pair is not None:
                what = " ".join(differences((pair, before), (beside, path)))
            self._put("renamed", path, kind, size, what, before)
            self._db.execute("DELETE FROM alone WHERE no IN (?, ?)", (one, other))
        self._db.execute("CREATE INDEX slots ON alone(slot)")
        for one, other, path, kind, size, what in self._db.execute(_REPLACED).fetchall():
            if what:
                self._put("changed", path, kind, size, what, None)
            self._db.execute("DELETE FROM alone WHERE no IN (?, ?)", (one, other))
        for side, path, kind, size in self._db.execute("SELECT side, path, kind, size FROM alone"):
            self._put("created" if side else "removed", path, kind, size, "", None)
        self._db.execute("CREATE INDEX sorted ON changes(key)")

    def counts(self) -> dict[str, int]:
        """How many there are of each sort."""
        return dict(self._db.execute("SELECT sort, count(*) FROM changes GROUP BY sort ORDER BY sort"))

    def below(self, change: Change) -> tuple[int, int]:
        """Of what lies below a directory and is of the same sort: files (all that is no directory), their bytes."""
        start, end = _key(change.path) + b"\0", _key(change.path) + b"\1"
        found: tuple[int, int] = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM changes"
            " WHERE key >= ? AND key < ? AND sort = ? AND kind != 'directory'",
            (start, end, change.sort),
        ).fetchone()
        return found

    def __iter__(self) -> Iterator[Change]:
        """Everything, by path: a directory before what lies in it. After `settle`."""
        rows = self._db.execute("SELECT sort, path, kind, size, what, before FROM changes ORDER BY key, sort DESC")
        for sort, path, kind, size, what, before in rows:
            yield Change(sort, path, kind, size, tuple(what.split()), before)
        for path, number in self._db.execute("SELECT path, number FROM deep ORDER BY path"):
            yield Change("too deep", path, number=number)


def _key(path: bytes) -> bytes:
    """What paths are sorted by: `a/b` stands before `a-b`. No name holds a NUL."""
    return path.replace(b"/", b"\0")
