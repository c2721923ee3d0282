"""What the packs of one place hold: which pack has which piece, in a temporary database of this process.

The database is sqlite's own temporary file: unlinked, root's, in memory while it is small. A piece takes some 60 bytes
there, so that a million files need 80 MB of disk and no memory that grows with them.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from persist.bucket.blobs import Reader
from persist.bucket.frames import Frame
from persist.bucket.keys import AgentKeys
from persist.bucket.packs import Pack, PackReader
from persist.store import Store, StoreDamaged

_AT_ONCE = 8  # directories that are read at once
_CACHED = 96 << 20  # bytes of listings: all of 100,000 files, which a walk would else fetch again and again
_ROWS = 20_000  # that are written at once, in the order of the ids
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -32768;
CREATE TABLE piece (id BLOB, pack INTEGER, frame INTEGER, start INTEGER, length INTEGER, PRIMARY KEY (id, pack))
    WITHOUT ROWID;
CREATE TABLE need (id BLOB PRIMARY KEY, at INTEGER) WITHOUT ROWID;
"""


class Holdings:
    """The pieces of some packs of one agent in one epoch. `db` has the tables `piece` and `need`."""

    def __init__(self, store: Store, keys: AgentKeys) -> None:
        self.store, self.keys = store, keys
        self.packs: list[Pack] = []  # a pack's number is its place here
        self.numbers: dict[str, int] = {}  # id of a pack: its number
        self.db = sqlite3.connect("", isolation_level=None)
        self.db.executescript(_TABLES)
        self.db.execute("BEGIN")  # for good: nothing of it is to outlive the process, and a commit writes to the disk
        self._frames: list[tuple[Frame, ...]] = []
        self._reader = Reader(store, keys, kind="tree", cache=_CACHED)

    def close(self) -> None:
        """Throw the database away."""
        self.db.close()

    def learn(self, packs: Iterable[Pack]) -> None:
        """Read the directories of packs. Raises ObjectMissing, StoreDamaged."""
        for _pack, found in self.tried(packs):
            if isinstance(found, StoreDamaged):
                raise found

    def tried(self, packs: Iterable[Pack]) -> Iterator[tuple[Pack, StoreDamaged | None]]:
        """Read the directories of packs; each with what is wrong with it, of which nothing is learned then."""
        wanted = iter(sorted({pack for pack in packs if pack.id not in self.numbers}))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            while some := list(islice(wanted, _AT_ONCE)):
                for pack, found in zip(some, threads.map(self._opened, some), strict=True):
                    if isinstance(found, StoreDamaged):
                        yield pack, found
                    else:
                        self._add(pack, found)
                        yield pack, None

    def _opened(self, pack: Pack) -> tuple[Frame, ...] | StoreDamaged:
        try:
            return PackReader(self.store, self.keys, pack).frames()
        except StoreDamaged as damaged:
            return damaged

    def _add(self, pack: Pack, frames: tuple[Frame, ...]) -> None:
        number = len(self.packs)
        self.packs.append(pack)
        self.numbers[pack.id] = number
        # The ids are in the database soon; in memory a frame is only where it lies, but for listings, which are read.
        self._frames.append(tuple(replace(frame, ids=b"", lengths=()) for frame in frames))
        bare = self._frames[-1]
        self._reader.learn(pack, tuple(frame if frame.kind == "tree" else bare[at] for at, frame in enumerate(frames)))
        rows = (
            (id_, number, at, start, size) for at, frame in enumerate(frames) for id_, start, size in frame.pieces()
        )
        while some := sorted(islice(rows, _ROWS)):
            self.db.executemany("INSERT OR IGNORE INTO piece VALUES (?, ?, ?, ?, ?)", some)

    def frame(self, pack: int, number: int) -> Frame:
        """Where a frame of a pack lies; without its ids and lengths."""
        return self._frames[pack][number]

    def frames(self, pack: int) -> tuple[Frame, ...]:
        """All frames of a pack; without their ids and lengths."""
        return self._frames[pack]

    def holders(self, id_: bytes) -> tuple[int, ...]:
        """The numbers of the packs that hold a piece."""
        return tuple(pack for (pack,) in self.db.execute("SELECT pack FROM piece WHERE id = ?", (id_,)))

    def tree(self, id_: bytes) -> bytes:
        """A piece of a listing, or a list of ids. Raises ObjectMissing, StoreDamaged."""
        return self._reader.get("tree", id_)

    def in_frame(self, pack: int, number: int) -> list[tuple[bytes, int, int]]:
        """(id, where it begins in the expanded frame, its length) of each piece of a frame."""
        self.db.execute("CREATE INDEX IF NOT EXISTS piece_by_frame ON piece(pack, frame)")
        of = "SELECT id, start, length FROM piece WHERE pack = ? AND frame = ?"
        return self.db.execute(of, (pack, number)).fetchall()

    def forget_frame(self, pack: int, number: int) -> None:
        """What this frame held counts as held there no more."""
        self.db.execute("DELETE FROM piece WHERE pack = ? AND frame = ?", (pack, number))
        if self.frame(pack, number).kind == "tree":
            self._reader.forget(self.packs[pack], number)

    @property
    def pieces(self) -> int:
        """How many pieces there are; one that two packs hold counts twice."""
        found: int = self.db.execute("SELECT count(*) FROM piece").fetchone()[0]
        return found
