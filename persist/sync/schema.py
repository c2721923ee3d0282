"""The local index of one agent: its tables, its file, and what happens when it is damaged.

    STATE/index/AGENT.sqlite (root, 0600)

Nothing hangs on it but time: lost, damaged or of another version it is thrown away, and the next sync reads
everything once, uploads nothing that the store has, and makes it anew. Sync and restore write it in one transaction.
"""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path, PurePosixPath

from town import cli, files
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

VERSION = 1
_PATIENCE = 60.0  # seconds to wait for a restore or a sync that writes
_CACHE = 32 << 10  # KiB of pages

# An inode number means something in one subvolume only, and is given again after a deletion, so a directory is known
# by (volume, inode, generation). A file hangs on its directory: one that was made anew has a new inode item.
TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- subvolumes by their UUID; an empty one stands for everything that is no btrfs
CREATE TABLE volumes(id INTEGER PRIMARY KEY, uuid BLOB NOT NULL UNIQUE);
-- declared paths; `rule`: what is left out; `state`: the commit that holds exactly this
CREATE TABLE trees(id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, rule TEXT NOT NULL, state TEXT NOT NULL);
-- a subvolume, or the part of it that belongs to a tree: from its directory `dir` down, exact as of `transid`
CREATE TABLE parts(dir INTEGER PRIMARY KEY, tree INTEGER NOT NULL, volume INTEGER NOT NULL, transid INTEGER NOT NULL);
-- a directory: the top of a tree has the parent -tree; `prunes`: something below it is left out
CREATE TABLE dirs(id INTEGER PRIMARY KEY, tree INTEGER NOT NULL, volume INTEGER NOT NULL, inode INTEGER NOT NULL,
  generation INTEGER NOT NULL, parent INTEGER NOT NULL, name BLOB NOT NULL, prunes INTEGER NOT NULL);
CREATE INDEX dirs_by_inode ON dirs(volume, inode);
-- the listings: what a name is, the directory it leads to, sums of what lies below, its line; of a top: in dir -tree
CREATE TABLE entries(dir INTEGER NOT NULL, name BLOB NOT NULL, inode INTEGER NOT NULL, ctime INTEGER NOT NULL,
  child INTEGER, files INTEGER NOT NULL, bytes INTEGER NOT NULL, links INTEGER NOT NULL, line BLOB NOT NULL,
  PRIMARY KEY(dir, name)) WITHOUT ROWID;
-- names of files that have several
CREATE TABLE links(tree INTEGER NOT NULL, volume INTEGER NOT NULL, inode INTEGER NOT NULL, dir INTEGER NOT NULL,
  name BLOB NOT NULL, PRIMARY KEY(tree, volume, inode, dir, name)) WITHOUT ROWID;
CREATE INDEX links_by_dir ON links(dir);
-- what is not kept whole, to be said at each sync
CREATE TABLE notes(tree INTEGER NOT NULL, kind TEXT NOT NULL, dir INTEGER NOT NULL, name BLOB NOT NULL,
  PRIMARY KEY(tree, kind, dir, name)) WITHOUT ROWID;
CREATE INDEX notes_by_dir ON notes(dir);
-- what the store has
CREATE TABLE packs(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
  directory INTEGER NOT NULL);
CREATE TABLE blobs(id BLOB PRIMARY KEY, pack INTEGER NOT NULL) WITHOUT ROWID;
"""


class IndexFailed(Failure):
    """The local index cannot be written: its disk is full or read-only, or another process holds it."""


def place(spec: Spec, agent: Agent) -> Path:
    """Where the index of an agent lies."""
    return spec.state_dir / "index" / f"{agent.name}.sqlite"


def connected(spec: Spec, agent: Agent) -> sqlite3.Connection:
    """The index of an agent, made when it is missing, made anew when it is damaged or of another version."""
    path = place(spec, agent)
    _make_place(spec)
    with suppress(FileExistsError):  # ours alone from its first moment; the journal gets the same mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    for attempt in (1, 2):
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        try:
            if _ready(connection):
                return connection
            why = "is of another version"
        except sqlite3.OperationalError as error:
            connection.close()
            raise failed(spec, agent, error) from error
        except sqlite3.DatabaseError as error:
            why = f"is damaged ({shown(str(error))})"
        connection.close()
        assert attempt == 1, "an empty file is a database"
        thrown_away(spec, agent, why)
    raise AssertionError("not reached")


def copied(spec: Spec, agent: Agent) -> sqlite3.Connection:
    """The same in memory, for a dry run: nothing on the disk is changed or made."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    path = place(spec, agent)
    if path.exists():
        with suppress(sqlite3.Error):
            there = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=_PATIENCE)
            try:
                there.backup(memory)
            finally:
                there.close()
    try:
        if _ready(memory):
            return memory
    except sqlite3.Error:
        pass
    memory.close()
    memory = sqlite3.connect(":memory:", isolation_level=None)
    _ready(memory)
    return memory


def thrown_away(spec: Spec, agent: Agent, why: str) -> None:
    """Remove an index that cannot be used, and say so."""
    path = place(spec, agent)
    for name in (path, path.with_name(f"{path.name}-journal")):
        with suppress(FileNotFoundError):
            os.unlink(name)
    if why:
        cli.warn("persist", f"{agent.name}: the local index {why}: it is made anew, and everything is read once")
        _make_empty(path)


def failed(spec: Spec, agent: Agent, error: sqlite3.Error) -> IndexFailed:
    """What sqlite said, as a failure."""
    path = place(spec, agent)
    return IndexFailed(
        f"{shown(str(path))} cannot be used: {shown(str(error))}",
        hint=f"make room on its disk; it can always be made anew: rm {shell_word(str(path))}",
    )


def _make_empty(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _make_place(spec: Spec) -> None:
    with files.opened(files.open_dir(spec.state_dir.parent)) as above:
        where = PurePosixPath(spec.state_dir.name, "index")
        os.close(files.make_dirs(above, where, mode=0o700, owner=(os.geteuid(), os.getegid())))


def _ready(connection: sqlite3.Connection) -> bool:
    """Whether it is an index of this version, which an empty one becomes. Raises sqlite3.Error."""
    connection.execute(f"PRAGMA cache_size = -{_CACHE}")
    # Atomic in any case; durable it need not be: what is lost is read again.
    connection.execute("PRAGMA synchronous = NORMAL")
    # Debian's sqlite overwrites with zeros whatever is deleted: twice the writing, for a file that only root reads.
    connection.execute("PRAGMA secure_delete = OFF")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        return True
    return bool(version == VERSION)


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))
