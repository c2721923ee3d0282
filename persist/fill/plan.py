"""What is to be made, in sqlite: entries, and the pieces of their contents in the order in which packs hold them.

A plan is made once, from listings that were read whole and checked, and only read afterwards; how far it was carried
out stands elsewhere (`persist.fill.ledger`). Nothing of it is kept in memory.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from persist.bucket.blobs import FrameWanted
from persist.fill import atlas
from persist.fill.atlas import WANTED, Atlas
from persist.store import StoreDamaged
from town.failure import Failure
from town.terminal import shown, size

FILE, DIR, SYMLINK, FIFO = range(4)
TOP = 0  # the number of the directory that is filled; entries are numbered from 1
_CACHE = 16_000  # KiB
_SCHEMA = """
CREATE TABLE plan.entries(
    no INTEGER PRIMARY KEY, dir INTEGER, name BLOB, kind INTEGER, mode INTEGER, mtime, owner INTEGER, grp INTEGER,
    size INTEGER, filled INTEGER, held INTEGER, id BLOB, odd INTEGER, line BLOB, first INTEGER
);
CREATE TABLE plan.pieces(entry INTEGER, place BLOB, id BLOB, PRIMARY KEY (entry, place)) WITHOUT ROWID;
CREATE TABLE plan.links(link TEXT, no INTEGER, what BLOB);
CREATE TABLE plan.spans(dir INTEGER, place BLOB, first BLOB, last BLOB);
CREATE TABLE plan.work(
    seq INTEGER PRIMARY KEY, frame INTEGER, offset INTEGER, length INTEGER, id BLOB, entry INTEGER, at INTEGER,
    last INTEGER
);
"""
_WORK = """
INSERT INTO plan.work(frame, offset, length, id, entry, at, last)
SELECT b.frame AS frame, b.offset AS offset, b.length, NULL, e.no AS entry, 0 AS at, 1
    FROM plan.entries e JOIN main.blobs b ON b.id = e.id WHERE e.held = 1 AND e.first IS NULL
UNION ALL
SELECT frame, offset, length, id, entry, at,
    ROW_NUMBER() OVER (PARTITION BY entry ORDER BY frame DESC, offset DESC, at DESC) = 1
    FROM (
        SELECT b.frame, b.offset, b.length, p.id, p.entry,
            SUM(b.length) OVER (PARTITION BY p.entry ORDER BY p.place) - b.length AS at
        FROM plan.pieces p JOIN main.blobs b ON b.id = p.id JOIN plan.entries e ON e.no = p.entry
        WHERE e.first IS NULL
    )
ORDER BY frame, offset, entry, at
"""
_FRAMES = f"""
CREATE TABLE plan.frames AS SELECT {WANTED.replace("f.size", "f.size AS expanded")} FROM main.frames f
    JOIN main.packs p ON p.no = f.pack WHERE f.no IN (SELECT DISTINCT frame FROM plan.work) ORDER BY f.no
"""  # noqa: S608 - constants


_SHARE = 1  # so many times what a plan takes stays free beside it


class NoRoomToPlan(Failure):
    """What is to be made is so much that the plan of it alone would fill the disk. Nothing was made."""


class Making:
    """A plan while it is made: attached to the atlas, as `plan`."""

    def __init__(self, pieces: Atlas, path: Path) -> None:
        with suppress(FileNotFoundError):
            path.unlink()
        self.path, self.db = path, pieces.db
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self.db.execute("ATTACH ? AS plan", (os.fspath(path),))
        self.db.execute(f"PRAGMA plan.page_size = {atlas.PAGE}")
        self.db.execute("PRAGMA plan.journal_mode = OFF")
        self.db.execute("PRAGMA plan.synchronous = OFF")
        self.db.execute("BEGIN")
        for statement in _SCHEMA.split(";")[:-1]:
            self.db.execute(statement)

    def refuse_full(self) -> None:
        """Raises NoRoomToPlan when it takes as much room as it leaves: few bytes may claim any number of names."""
        there, taken = os.statvfs(self.path.parent), self.path.stat().st_size
        if taken * _SHARE > there.f_bavail * there.f_frsize:
            raise NoRoomToPlan(
                f"the plan of what is to be made takes {size(taken)} in {shown(str(self.path.parent))} already, and "
                "there is too little room left beside it",
                hint="make room there; or somebody wrote what claims to be more than it is",
            )

    def finish(self) -> None:
        """Check what only the whole shows, order the work. Raises StoreDamaged."""
        self._index()
        self._settle_links()
        self.db.execute(_WORK)
        self._check_work()
        self.db.execute(_FRAMES)
        for table in ("pieces", "links", "spans"):
            self.db.execute(f"DROP TABLE plan.{table}")

    def close(self, *, whole: bool) -> None:
        """Detach it; what is not whole is thrown away."""
        # Never a rollback: without a journal there is nothing to go back to. What is not whole is removed as it is.
        with nullcontext() if whole else suppress(sqlite3.Error):
            self.db.execute("COMMIT")
            self.db.execute("DETACH plan")
        self.db.execute("PRAGMA shrink_memory")  # the files come next, and need room for what is fetched ahead
        if not whole:
            self.path.unlink()

    def _index(self) -> None:
        try:
            self.db.execute("CREATE UNIQUE INDEX plan.names ON entries(dir, name)")
        except sqlite3.IntegrityError as error:
            raise StoreDamaged("a listing names something twice") from error
        # Names ascend within a piece; here: from one piece of a listing to the next.
        crossed = self.db.execute(
            "SELECT first FROM (SELECT first, LAG(last) OVER (PARTITION BY dir ORDER BY place) AS before"
            " FROM plan.spans) WHERE before >= first LIMIT 1"
        ).fetchone()
        if crossed is not None:
            raise StoreDamaged(f"a listing names {shown(crossed[0])} twice, or out of order")

    def _settle_links(self) -> None:
        """Of the names of one file the first is made, the others are linked to it. They must say the same."""
        self.db.execute("CREATE INDEX plan.linked ON links(link)")
        other = self.db.execute(
            "SELECT MIN(no) FROM plan.links GROUP BY link HAVING COUNT(DISTINCT what) > 1 LIMIT 1"
        ).fetchone()
        if other is not None:
            raise StoreDamaged(f"{self._name(other[0])} shares its link with something else")
        self.db.execute(
            "UPDATE plan.entries SET first = f.no FROM plan.links l,"
            " (SELECT link, MIN(no) AS no FROM plan.links GROUP BY link) f"
            " WHERE l.no = entries.no AND f.link = l.link AND f.no != l.no"
        )

    def _check_work(self) -> None:
        one = self.db.execute
        missing = one(
            "SELECT (SELECT COUNT(*) FROM plan.entries WHERE held = 1 AND first IS NULL)"
            " + (SELECT COUNT(*) FROM plan.pieces p JOIN plan.entries e ON e.no = p.entry WHERE e.first IS NULL)"
            " - (SELECT COUNT(*) FROM plan.work)"
        ).fetchone()[0]
        strange = one(
            "SELECT 1 FROM main.frames WHERE kind != 'data' AND no IN (SELECT DISTINCT frame FROM plan.work) LIMIT 1"
        ).fetchone()
        if missing or strange:
            raise atlas.lacking()
        wrong = (
            one(
                "SELECT e.no FROM plan.work w JOIN plan.entries e ON e.no = w.entry"
                " WHERE e.held = 1 AND w.length != e.filled LIMIT 1"
            ).fetchone()
            or one(
                "SELECT e.no FROM plan.entries e LEFT JOIN (SELECT p.entry, SUM(b.length) AS total FROM plan.pieces p"
                " JOIN main.blobs b ON b.id = p.id GROUP BY p.entry) t ON t.entry = e.no"
                " WHERE e.kind = 0 AND e.held != 1 AND e.first IS NULL AND COALESCE(t.total, 0) != e.filled LIMIT 1"
            ).fetchone()
        )
        if wrong is not None:
            raise StoreDamaged(f"{self._name(wrong[0])} holds another number of bytes than its entry says")

    def _name(self, no: int) -> str:
        return shown(self.db.execute("SELECT name FROM plan.entries WHERE no = ?", (no,)).fetchone()[0])


Row = tuple[int, int, int, int, bytes, int, int, int, int, bytes, int, int, int, int, int, int, int]


class Room(NamedTuple):
    """What a plan will take on the disk: names (directories too), and bytes of files without their holes."""

    names: int
    bytes: int


class Plan:
    """A plan that is whole, to be carried out. For one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        where = f"file:{quote(os.fspath(path))}?mode=ro&immutable=1"
        self.db = atlas.tuned(sqlite3.connect(where, uri=True, isolation_level=None), _CACHE)

    def room(self) -> Room:
        """What it will take; a file with several names once."""
        names, held = self.db.execute(
            "SELECT COUNT(*), COALESCE(SUM(CASE WHEN first IS NULL THEN filled END), 0) FROM entries"
        ).fetchone()
        return Room(names, held)

    def close(self) -> None:
        """Close it; the file stays."""
        self.db.close()

    def work(self, after: int) -> Iterator[Row]:
        """(seq, frame, offset, length, id, at, last, entry, dir, name, mode, mtime, owner, group, size, held, odd)."""
        found = self.db.execute(
            "SELECT w.seq, w.frame, w.offset, w.length, COALESCE(w.id, e.id), w.at, w.last, e.no, e.dir, e.name,"
            " e.mode, e.mtime, e.owner, e.grp, e.size, e.held, e.odd"
            " FROM work w CROSS JOIN entries e ON e.no = w.entry WHERE w.seq > ? ORDER BY w.seq",
            (after,),
        )
        found.arraysize = 500
        while rows := found.fetchmany():
            yield from rows

    def frames(self, after: int) -> Iterator[FrameWanted]:
        """The frames that the work behind a number needs, in its order."""
        first = self.db.execute("SELECT MIN(frame) FROM work WHERE seq > ?", (after,)).fetchone()[0]
        if first is None:
            return
        found = self.db.execute("SELECT * FROM frames WHERE no >= ? ORDER BY no", (first,))
        while rows := found.fetchmany(200):
            for row in rows:
                yield atlas.wanted(row)

    def line(self, no: int) -> bytes:
        """The line of the listing that an entry is."""
        found: bytes = self.db.execute("SELECT line FROM entries WHERE no = ?", (no,)).fetchone()[0]
        return found

    def above(self, no: int) -> tuple[int, bytes]:
        """The directory that holds an entry, and its name there."""
        found: tuple[int, bytes] = self.db.execute("SELECT dir, name FROM entries WHERE no = ?", (no,)).fetchone()
        return found

    def size(self) -> tuple[int, int]:
        """Bytes that the frames take in the store, and rows of work."""
        stored = self.db.execute("SELECT COALESCE(SUM(stored), 0) FROM frames").fetchone()[0]
        return stored, self.db.execute("SELECT COALESCE(MAX(seq), 0) FROM work").fetchone()[0]
