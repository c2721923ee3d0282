"""What this machine remembers of one agent, so that a sync costs what changed: inodes and listings, pieces and packs.

    with Index.opened(spec, agent) as index:
        with index.restored(PurePosixPath("projects"), str(name), into) as rows:
            rows.take(plan, (b"projects", line), inodes, generations)   # what a restore made of its plan

Both halves can be made anew: the tree half by reading everything, the blob half from the packs of the store
(`rebuild`). For one thread; one transaction (`writing`) from the first change to the end: what fails leaves no trace.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from persist.sync import schema
from town.failure import Failure
from town.spec import Agent, Spec

if TYPE_CHECKING:
    from persist.bucket.blobs import Placed, Reader
    from persist.bucket.commits import Commit
    from persist.bucket.packs import Pack
    from persist.sync.restored import Restored

_BATCH = 500  # parameters of one statement


class Seen(NamedTuple):
    """A state of the store: its name, when it was made, what it holds; the agent's numbers; declared path → files."""

    name: str
    time: str
    files: int
    bytes: int
    numbers: list[int]
    tops: dict[str, int]


class Index:
    """The index of one agent, open."""

    def __init__(self, spec: Spec, agent: Agent, connection: sqlite3.Connection) -> None:
        self.spec, self.agent, self.db = spec, agent, connection
        self._empty: bool | None = None
        self.used: set[int] = set()  # packs whose pieces `has` was asked for and found

    @classmethod
    def opened(cls, spec: Spec, agent: Agent, *, copy: bool = False) -> "Index":
        """The agent's index; `copy`: of what it holds now, in memory, for a dry run. Raises IndexFailed."""
        return cls(spec, agent, (schema.copied if copy else schema.connected)(spec, agent))

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all of it at the end of the block, or nothing when it is left by an exception."""
        self.begin()
        try:
            yield
        except BaseException:
            self.undo()
            raise
        self.keep()

    def begin(self) -> None:
        """Begin a transaction. Raises IndexFailed when another process writes for too long."""
        with self._named():
            self.db.execute("BEGIN IMMEDIATE")

    def keep(self) -> None:
        """Make everything since `begin` last. Raises IndexFailed."""
        with self._named():
            self.db.execute("COMMIT")

    def undo(self) -> None:
        """Forget everything since `begin`."""
        self._empty = None
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise schema.failed(self.spec, self.agent, error) from error

    # What holds for the whole index.

    def get(self, key: str) -> str:
        """A note by its name; empty when there is none."""
        found = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else ""

    def set(self, key: str, value: str) -> None:
        """Replace a note."""
        self.db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                        (key, value))  # fmt: skip

    @property
    def state(self) -> "Seen | None":
        """The state of the store that was seen last; None when the index was made anew since."""
        text = self.get("state")
        return Seen(**json.loads(text)) if text else None

    def saw(self, name: str, commit: "Commit") -> None:
        """Remember a state of the store: what a sync that finds nothing changed says of it."""
        tops = {str(top.path): top.files for top in commit.root}
        seen = Seen(name, commit.time.isoformat(), commit.files, commit.bytes, [commit.uid, commit.gid], tops)
        text = json.dumps(seen._asdict())
        if text != self.get("state"):
            self.set("state", text)

    def clear(self, *, blobs: bool) -> None:
        """Forget every tree, so that all is read again; with `blobs` also what the store has."""
        for table in ("parts", "dirs", "entries", "links", "notes", "trees"):
            self.db.execute(f"DELETE FROM {table}")  # noqa: S608
        if blobs:
            self.db.execute("DELETE FROM blobs")
            self.db.execute("DELETE FROM packs")
            self._empty = None

    # The blob half.

    def has(self, id_: bytes) -> bool:
        """Whether a pack that is known to be whole holds the piece of that id."""
        if self._empty is None:
            self._empty = self.db.execute("SELECT 1 FROM blobs LIMIT 1").fetchone() is None
        if self._empty:
            return False
        found = self.db.execute("SELECT pack FROM blobs WHERE id = ?", (id_,)).fetchone()
        if found is None:
            return False
        self.used.add(found[0])
        return True

    def packs(self) -> Mapping[str, "Pack"]:
        """The packs that are known, by id."""
        from persist.bucket.packs import Pack

        return {row[0]: Pack(*row) for row in self.db.execute("SELECT id, size, directory FROM packs")}

    def used_packs(self) -> list[str]:
        """The packs whose pieces `has` was asked for and found."""
        rows = self.db.execute("SELECT id, number FROM packs")
        return [id_ for id_, number in rows if number in self.used]

    def builds_on(self, ids: Collection[str]) -> bool:
        """Whether `has` said yes for a piece of one of these packs."""
        numbers = self.db.execute("SELECT id, number FROM packs")
        return any(number in self.used for id_, number in numbers if id_ in ids)

    def place(self, placed: Iterable["Placed"]) -> None:
        """Learn which pieces lie in which packs."""
        rows: list[tuple[bytes, int]] = []
        for each in placed:
            number = self._number(each.pack)
            rows += [(id_, number) for id_ in each.ids]
        # In the order of the ids: neighbours in the table are written together.
        rows.sort()
        self.db.executemany("INSERT INTO blobs VALUES (?, ?) ON CONFLICT(id) DO NOTHING", rows)
        self._empty = None

    def learn(self, pack: "Pack", ids: Iterable[bytes]) -> None:
        """Learn what lies in one pack."""
        from persist.bucket.blobs import Placed

        self.place([Placed(pack, tuple(ids))])

    def forget_packs(self, ids: Collection[str]) -> None:
        """What lies in these packs is known no more."""
        wanted = list(ids)
        for at in range(0, len(wanted), _BATCH):
            some = wanted[at : at + _BATCH]
            marks = ", ".join("?" * len(some))
            # A look at every piece; rare.
            self.db.execute(f"DELETE FROM blobs WHERE pack IN (SELECT number FROM packs WHERE id IN ({marks}))", some)  # noqa: S608
            self.db.execute(f"DELETE FROM packs WHERE id IN ({marks})", some)  # noqa: S608
        self._empty = None

    def rebuild(self, reader: "Reader", packs: Iterable["Pack"]) -> list["Failure"]:
        """Learn what packs hold from the store: one ranged read each. What could not be read: it counts as unknown.

        Raises StoreUnreachable and others that say nothing about a pack.
        """
        from persist.store import StoreDamaged

        broken: list[Failure] = []
        for pack in packs:
            try:
                self.learn(pack, reader.load(pack))
            except StoreDamaged as damaged:
                broken.append(damaged)
        return broken

    def _number(self, pack: "Pack") -> int:
        self.db.execute("INSERT INTO packs(id, size, directory) VALUES (?, ?, ?) ON CONFLICT(id) DO NOTHING",
                        (pack.id, pack.size, pack.directory))  # fmt: skip
        number: int = self.db.execute("SELECT number FROM packs WHERE id = ?", (pack.id,)).fetchone()[0]
        return number

    # The tree half is in persist.sync.rows; a restore writes it by this.

    @contextmanager
    def restored(self, path: PurePosixPath, commit: str, into: int) -> Iterator["Restored"]:
        """Takes the rows of a declared path that a restore has written whole into the open directory `into`.

        One transaction to forget what was known of the path, one for all else. Before the block ends: the rows given
        and the filesystem synced (syncfs); and only root can reach `into` until it has ended, after which it may be
        moved within its subvolume. `commit`: the state it is of.
        """
        from persist.sync.restored import Restored, forget

        with self.writing():
            forget(self, path)
        with self.writing():
            rows = Restored(self, path, commit, into)
            yield rows
            rows.finish(into)
