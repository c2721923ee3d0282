"""Where every piece of some packs lies: their directories, in a private database on disk.

It is sqlite's temporary kind, which has no name and is gone with the connection. A plan is attached to it while it is
made, so that pieces are found by a join, in bounded memory however many they are.
"""

import sqlite3
from collections.abc import Iterable

from persist.bucket.blobs import FrameWanted, directories
from persist.bucket.frames import Frame, Kind
from persist.bucket.keys import AgentKeys
from persist.bucket.packs import Pack, PackReader
from persist.bucket.sealing import HINT
from persist.store import Store, StoreDamaged

_SCHEMA = """
CREATE TABLE packs(no INTEGER PRIMARY KEY, id TEXT, size INTEGER, directory INTEGER);
CREATE TABLE frames(
    no INTEGER PRIMARY KEY, pack INTEGER, number INTEGER, kind TEXT, codec TEXT, offset INTEGER, stored INTEGER,
    size INTEGER
);
CREATE TABLE blobs(id BLOB PRIMARY KEY, frame INTEGER, offset INTEGER, length INTEGER) WITHOUT ROWID;
"""
WANTED = "p.id, p.size, p.directory, f.number, f.kind, f.codec, f.offset, f.stored, f.size, f.no"
_CACHE = 24_000  # KiB
PAGE = 32 << 10  # bytes: what is written once, and read from one end to the other, takes few calls so
_FRAMES = 4  # that `get` keeps


class Atlas:
    """The pieces of all packs of a state. For one thread. Raises ObjectMissing, StoreDamaged when it is made."""

    def __init__(self, store: Store, keys: AgentKeys, packs: Iterable[Pack]) -> None:
        self.store, self.keys = store, keys
        self.db = tuned(sqlite3.connect("", isolation_level=None), _CACHE)
        self.db.execute(f"PRAGMA page_size = {PAGE}")
        self.db.executescript(_SCHEMA)
        self.read = 0  # bytes of directories
        self._frames: dict[int, bytes] = {}
        try:
            self._load(packs)
        except BaseException:
            self.db.close()
            raise

    def close(self) -> None:
        """Forget all of it."""
        self.db.close()

    def _load(self, packs: Iterable[Pack]) -> None:
        self.db.execute("BEGIN")
        frames = 0
        for no, (pack, found) in enumerate(directories(self.store, self.keys, packs)):
            self.read += pack.directory
            self.db.execute("INSERT INTO packs VALUES (?, ?, ?, ?)", (no, pack.id, pack.size, pack.directory))
            self.db.executemany(
                "INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (frames + at, no, at, frame.kind, frame.codec, frame.offset, frame.stored, frame.size)
                    for at, frame in enumerate(found)
                ),
            )
            rows = [
                (id_, frames + at, offset, length)
                for at, frame in enumerate(found)
                for id_, offset, length in frame.pieces()
            ]
            rows.sort()  # a tree grows faster in its own order
            self.db.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?)", rows)
            frames += len(found)
        self.db.execute("COMMIT")

    def find(self, id_: bytes) -> tuple[int, int, int]:
        """Frame, offset in it, length. Raises StoreDamaged."""
        found: tuple[int, int, int] | None = self.db.execute(
            "SELECT frame, offset, length FROM blobs WHERE id = ?", (id_,)
        ).fetchone()
        if found is None:
            raise lacking()
        return found

    def get(self, kind: Kind, id_: bytes) -> bytes:
        """The piece of that id, as `persist.bucket.blobs.Reader.get` gives it. Raises ObjectMissing, StoreDamaged."""
        number, offset, length = self.find(id_)
        if number not in self._frames:
            want = self.wanted(number)
            data = PackReader(self.store, self.keys, want.pack).read(want.number, want.frame)
            self._frames[number] = data
            while len(self._frames) > _FRAMES:
                self._frames.pop(next(iter(self._frames)))
        piece = self._frames[number][offset : offset + length]
        if self.keys.id(kind, piece) != id_:
            raise StoreDamaged("a piece is not what its id says", hint=HINT)
        return piece

    def wanted(self, frame: int) -> FrameWanted:
        """A frame by its number here, as a stream takes it; the number is its tag."""
        row = self.db.execute(
            f"SELECT {WANTED} FROM frames f JOIN packs p ON p.no = f.pack WHERE f.no = ?",  # noqa: S608 - constants
            (frame,),
        ).fetchone()
        return wanted(row)


def wanted(row: tuple[object, ...]) -> FrameWanted:
    """What a stream takes, from the columns `WANTED`."""
    id_, size, directory, number, kind, codec, offset, stored, expanded, no = row
    pack = Pack(id_, size, directory)  # type: ignore[arg-type]
    frame = Frame(kind, codec, offset, stored, expanded, b"", ())  # type: ignore[arg-type]
    return FrameWanted(pack, number, frame, no)  # type: ignore[arg-type]


def lacking() -> StoreDamaged:
    """The failure for a piece that nobody has."""
    return StoreDamaged("a piece that a listing names is in none of the commit's packs", hint=HINT)


def tuned(db: sqlite3.Connection, cache: int) -> sqlite3.Connection:
    """A database that is made anew after a crash: no journal, no syncs; `cache` in KiB."""
    settings = ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", "secure_delete = OFF")
    for setting in (*settings, f"cache_size = -{cache}"):
        db.execute(f"PRAGMA {setting}")
    return db
