"""The listings of a declared path, read whole into a plan before anything is made.

Directories are not walked one by one: what is wanted next is kept in sqlite by the frame that holds it, and frames are
read in the order of the packs, each as seldom as can be. So lies are found before a byte is written.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from persist.bucket import trees
from persist.bucket.blobs import stream
from persist.bucket.content import DEEPEST as DEEPEST_LIST
from persist.bucket.content import INLINE, Content
from persist.bucket.keys import SIZE
from persist.bucket.sealing import HINT
from persist.bucket.trees import Entry
from persist.fill.atlas import Atlas
from persist.fill.facts import ROLES, Totals
from persist.fill.plan import DIR, FIFO, FILE, SYMLINK, TOP, Making
from persist.store import StoreDamaged
from town.terminal import shown

DEEPEST = 20_000  # levels of directories
MOST_DIRECTORIES = 10_000_000  # a commit does not say how many there are, and few listings can claim many
_LIST_MAX = 4096  # ids of one list
_CACHED = 16 << 20  # bytes of expanded frames that are kept
_AHEAD = 16 << 20  # bytes that are downloaded ahead
_PIECE_LEAST = 64 << 10  # bytes: files are cut into pieces four times as large, and readers need not know where
_BATCH = 2000
_KINDS = {"file": FILE, "dir": DIR, "symlink": SYMLINK, "fifo": FIFO}
_PLAIN_DIR = frozenset({"content", "kind", "mode", "mtime", "name"})
_PLAIN_FILE = _PLAIN_DIR | {"size"}
_decoded = json.JSONDecoder().raw_decode
_NEAR = 1 << 62  # ns: what sqlite holds as a number
_PENDING = """
CREATE TEMP TABLE IF NOT EXISTS pending(
    frame INTEGER, seq INTEGER, offset INTEGER, length INTEGER, id BLOB, of_file INTEGER, entry INTEGER, place BLOB,
    depth INTEGER, split INTEGER, level INTEGER, PRIMARY KEY (frame, seq)
) WITHOUT ROWID
"""


class Listings:
    """Reads the listings below one directory into a plan that is being made."""

    def __init__(self, atlas: Atlas, making: Making, *, files: int, bytes_: int) -> None:
        """`files` and `bytes_`: how much there may be."""
        self._atlas, self._making, self._db = atlas, making, making.db
        self._most = (files, bytes_)
        self._most_pieces = INLINE * files + bytes_ // _PIECE_LEAST + INLINE
        self.files = self.bytes = self.directories = self.fetched = 0
        self._pieces = self._next = self._seq = 0
        self._lists = [0, 0]  # of listings, of files
        self._rows: list[tuple[Any, ...]] = []
        self._wanted: list[tuple[Any, ...]] = []
        self._links: list[tuple[Any, ...]] = []
        self._parts: list[tuple[Any, ...]] = []
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0
        self._db.execute(_PENDING)
        self._db.execute("DELETE FROM pending")

    def below(self, listing: Content) -> None:
        """Everything below a directory with that listing, which is the top. Raises ObjectMissing, StoreDamaged."""
        self._want(listing, entry=TOP, of_file=False, level=0)
        self._read()

    def one(self, entry: Entry) -> None:
        """A single entry, which the top will hold alone."""
        self._add(entry, trees.line_of(entry), TOP, 0)
        self._read()

    def totals(self) -> Totals:
        """What was found."""
        return Totals(self.files, self.directories, self.bytes)

    def _read(self) -> None:
        self._flush()
        while frames := [
            row[0] for row in self._db.execute("SELECT DISTINCT frame FROM pending ORDER BY frame LIMIT 5000")
        ]:
            for number, data in self._frames(frames):
                self._frame(number, memoryview(data))

    def _frames(self, frames: list[int]) -> Iterator[tuple[int, bytes]]:
        for number in frames:
            if number in self._cache:
                self._cache.move_to_end(number)
                yield number, self._cache[number]
        wanted = [self._atlas.wanted(number) for number in frames if number not in self._cache]
        for want, data in stream(self._atlas.store, self._atlas.keys, wanted, ahead_bytes=_AHEAD):
            if want.frame.kind != "tree":
                raise StoreDamaged("a piece of a file stands where a listing belongs", hint=HINT)
            self.fetched += want.frame.stored
            assert isinstance(want.tag, int)
            self._cache[want.tag] = data
            self._cached += len(data)
            while self._cached > _CACHED and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
            yield want.tag, data

    def _frame(self, number: int, data: memoryview) -> None:
        """All that is wanted of a frame; what it names in turn may lie in it too."""
        from blake3 import blake3

        key = self._atlas.keys.tree
        while rows := self._db.execute(
            "SELECT seq, offset, length, id, of_file, entry, place, depth, split, level FROM pending"
            " WHERE frame = ? ORDER BY seq LIMIT 1000",
            (number,),
        ).fetchall():
            self._db.execute("DELETE FROM pending WHERE frame = ? AND seq <= ?", (number, rows[-1][0]))
            for _, offset, length, id_, of_file, entry, place, depth, split, level in rows:
                piece = data[offset : offset + length]
                if blake3(piece, key=key).digest() != id_:
                    raise StoreDamaged("a piece is not what its id says", hint=HINT)
                if depth:
                    self._list(bytes(piece), depth, place, of_file, entry, level)
                else:
                    self._listing(bytes(piece), entry, place if split else None, level)
            self._flush()

    def _want(self, listing: Content, *, entry: int, of_file: bool, level: int) -> None:
        split = listing.depth > 0 or len(listing.ids) > 1
        for at, id_ in enumerate(listing.ids):
            self._pend(id_, of_file, entry, at.to_bytes(2, "big"), (listing.depth, split, level))

    def _pend(self, id_: bytes, of_file: bool, entry: int, place: bytes, how: tuple[int, bool, int]) -> None:
        self._lists[of_file] += 1
        # A list holds at least one piece, and a piece of a listing at least one name.
        if self._lists[of_file] > (self._most_pieces if of_file else self._most[0] + MOST_DIRECTORIES):
            raise _bomb()
        frame, offset, length = self._atlas.find(id_)
        self._seq += 1
        self._wanted.append((frame, self._seq, offset, length, id_, of_file, entry, place, *how))

    def _list(self, data: bytes, depth: int, place: bytes, of_file: bool, entry: int, level: int) -> None:
        if not data or len(data) % SIZE or len(data) > _LIST_MAX * SIZE or depth > DEEPEST_LIST:
            raise StoreDamaged("a list of pieces has a length that it cannot have")
        ids = [data[at : at + SIZE] for at in range(0, len(data), SIZE)]
        if not of_file and len(set(ids)) < len(ids):  # names ascend, so no part of a listing comes twice
            raise StoreDamaged("a listing names something twice")
        for at, id_ in enumerate(ids):
            where = place + at.to_bytes(2, "big")
            if depth > 1 or not of_file:
                self._pend(id_, of_file, entry, where, (depth - 1, True, level))
            else:
                self._part(entry, where, id_)

    def _part(self, entry: int, place: bytes, id_: bytes) -> None:
        self._pieces += 1
        if self._pieces > self._most_pieces:
            raise StoreDamaged("a file holds more pieces than one of its size can have")
        self._parts.append((entry, place, id_))
        if len(self._parts) >= _BATCH:
            self._flush_parts()

    def _listing(self, data: bytes, directory: int, place: bytes | None, level: int) -> None:
        before = first = b""
        for line in data.splitlines():
            try:
                fields, end = _decoded(line.decode("ascii"))
                if end != len(line):
                    raise ValueError("more than one record")
            except (ValueError, RecursionError) as error:
                raise StoreDamaged("a line of a listing is not a record that this format knows") from error
            name = self._plain(fields, line, directory, level)
            if name is None:
                entry = trees.parsed(fields, "an entry of a listing")
                self._add(entry, line, directory, level)
                name = entry.name
            if name <= before:
                raise StoreDamaged(f"a listing names {shown(name)} twice, or out of order")
            before, first = name, first or name
        if place is not None:
            self._db.execute("INSERT INTO plan.spans VALUES (?, ?, ?, ?)", (directory, place, first, before))
        if len(self._rows) >= _BATCH:
            self._flush_rows()
        self._check_most()

    def _plain(self, fields: Any, line: bytes, directory: int, level: int) -> bytes | None:
        """Add what most entries are, and return its name: a directory, or a small file, with nothing odd. Else None."""
        # The same checks as those of trees.parsed, without an object for each entry: there are a million.
        if type(fields) is not dict:
            return None
        if fields.keys() == _PLAIN_FILE and fields["kind"] == "file":
            size, kind = fields["size"], FILE
        elif fields.keys() == _PLAIN_DIR and fields["kind"] == "dir":
            size, kind = 0, DIR
        else:
            return None
        mode, mtime, held = fields["mode"], fields["mtime"], fields["content"]
        if not (type(mode) is type(mtime) is type(size) is int and type(held) is list):
            return None
        if not (0 <= mode <= 0o7777 and -_NEAR < mtime < _NEAR and 0 <= size < _NEAR and len(held) <= 1):
            return None
        try:
            name = trees.checked_name(fields["name"].encode("latin-1"))
            id_ = bytes.fromhex(held[0]) if held else None
        except (ValueError, TypeError, AttributeError):
            return None
        if (id_ is not None and len(id_) != SIZE) or (size and id_ is None):
            return None
        self._next += 1
        if kind == FILE:
            self.files += 1
            self.bytes += size
        elif id_ is not None:
            self._pend(id_, False, self._next, b"", (0, False, self._entered(level)))
        else:
            self._entered(level)
        count = len(held) if kind == FILE else 0
        row = (self._next, directory, name, kind, mode, mtime, 0, 0, size, size, count, id_ if count else None, 0, line)
        self._rows.append((*row, None))
        return name

    def _add(self, entry: Entry, line: bytes, directory: int, level: int) -> None:
        self._next += 1
        number, held, id_, filled = self._next, 0, None, 0
        if entry.kind == "dir":
            self._deeper(entry, number, level)
        else:
            self.files += 1
            self.bytes += entry.size
        if entry.kind == "file":
            held, id_ = self._held(entry, number)
            filled = entry.size if entry.data is None else sum(length for _, length in entry.data)
        if entry.link:
            self._links.append((entry.link, number, _what(entry)))
        mtime = entry.mtime if -_NEAR < entry.mtime < _NEAR else str(entry.mtime)
        odd = bool(entry.xattrs) or entry.data is not None
        self._rows.append(
            (
                number, directory, entry.name, _KINDS[entry.kind], entry.mode, mtime, ROLES.index(entry.owner),
                ROLES.index(entry.group), entry.size, filled, held, id_, odd, line, None,
            )
        )  # fmt: skip

    def _deeper(self, entry: Entry, number: int, level: int) -> None:
        assert entry.content is not None
        self._want(entry.content, entry=number, of_file=False, level=self._entered(level))

    def _entered(self, level: int) -> int:
        """The level of a directory that is found in one of `level`."""
        self.directories += 1
        if level >= DEEPEST:
            raise StoreDamaged(f"directories lie deeper than {DEEPEST:,} levels")
        return level + 1

    def _held(self, entry: Entry, number: int) -> tuple[int, bytes | None]:
        """How many pieces a file has (0, 1, or 2 for more), and the only one."""
        content = entry.content
        assert content is not None
        if content.depth:
            self._want(content, entry=number, of_file=True, level=0)
            return 2, None
        if len(content.ids) <= 1:
            return len(content.ids), (content.ids or (None,))[0]
        for at, id_ in enumerate(content.ids):
            self._part(number, at.to_bytes(2, "big"), id_)
        return 2, None

    def _check_most(self) -> None:
        if self.files > self._most[0] or self.bytes > self._most[1]:
            raise StoreDamaged("the listings hold more than their commit says")
        if self.directories > MOST_DIRECTORIES:
            raise _bomb()

    def _flush(self) -> None:
        self._flush_rows()
        self._flush_parts()
        self._check_most()
        self._db.executemany("INSERT INTO pending VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._wanted)
        self._db.executemany("INSERT INTO plan.links VALUES (?, ?, ?)", self._links)
        self._wanted, self._links = [], []

    def _flush_rows(self) -> None:
        marks = ", ".join("?" * 15)
        self._db.executemany(f"INSERT INTO plan.entries VALUES ({marks})", self._rows)  # noqa: S608 - only marks
        self._rows = []
        self._making.refuse_full()

    def _flush_parts(self) -> None:
        self._db.executemany("INSERT INTO plan.pieces VALUES (?, ?, ?)", self._parts)
        self._parts = []


def _what(entry: Entry) -> bytes:
    """What names of one file must agree on."""
    said = repr((entry.kind, entry.size, entry.content, entry.data, entry.target))
    return hashlib.sha256(os.fsencode(said)).digest()


def _bomb() -> StoreDamaged:
    return StoreDamaged(f"the listings hold more than {MOST_DIRECTORIES:,} directories, or lists of more pieces")
