"""A home read into packs: everything in it that the format keeps, by the reader of a sync, with an index of its own.

Nothing of it is remembered. What the format does not keep (sockets, devices, set-uid of others …) is said.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from persist.bucket import trees
from persist.bucket.blobs import Writer
from persist.bucket.commits import Top
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys
from persist.bucket.trees import Entry
from persist.sync import schema, tree
from persist.sync.index import Index
from persist.sync.readers import Readers
from persist.sync.sources import Source, Volume
from persist.sync.tree import Work
from town import btrfs, files
from town.failure import Unsafe
from town.process import Person
from town.spec import Agent, Persist, Spec

if TYPE_CHECKING:
    from persist.sync.sources import Sources

# A sync says so of what is no snapshot; nobody changes what is read here.
_LIVING, _NESTED = "read while it may change, restored as a directory", "a directory in the file"


@dataclass(frozen=True, slots=True)
class Packed:
    """What a directory became, and what is to be said of it."""

    top: Top
    notes: tuple[str, ...]


class Packing:
    """Reads directories into one writer. `person`: who the role `agent` stands for."""

    def __init__(
        self, town: Spec, keys: AgentKeys, writer: Writer, person: Person, took: Callable[[int, int], None]
    ) -> None:  # fmt: skip
        self._sink = _Sink(keys, writer)
        self._stack = ExitStack()
        connection = sqlite3.connect("", isolation_level=None)  # sqlite's temporary kind: on disk, without a name
        self._stack.callback(connection.close)
        for statement in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE"):
            connection.execute(f"PRAGMA {statement}")
        connection.executescript(schema.TABLES)
        readers = Readers()
        self._stack.callback(readers.close)
        # Whose index it is only messages say that speak of its file, and this one has none.
        index = Index(town, cast(Agent, None), connection)
        self._work = Work(index, cast("Sources", _Nested()), self._sink, person, readers, took, without_deep=True)

    def __enter__(self) -> "Packing":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def directory(self, fd: int, path: PurePosixPath) -> Packed:
        """An open directory that nobody changes, with all below it. Raises SourceUnreadable, KeepsMoving …"""
        result = tree.updated(self._work, Persist(path, "bind"), _source(fd))
        return Packed(result.top, tuple(note.replace(_LIVING, _NESTED) for note in result.notes))

    def file(self, path: PurePosixPath, data: bytes, now: int) -> Top:
        """A directory with one file in it, both called `path`, which holds so much."""
        writer, name = self._sink.writer, os.fsencode(path.name)
        held = Content((writer.add("data", data),))
        entry = Entry(name, "file", 0o600, now, "root", "root", size=len(data), content=held)
        listing = trees.write(writer, [entry])
        return Top(path, Entry(name, "dir", 0o700, now, "root", "root", content=listing), 1, len(data))


class _Sink:
    """Where pieces go."""

    opened = True

    def __init__(self, keys: AgentKeys, writer: Writer) -> None:
        self.writer, self.seed = writer, keys.chunks

    def learn(self) -> None:
        """Nothing was said."""


class _Nested:
    """What a sync's sources are to its reader, for a home that nobody changes: the subvolumes that are nested in it."""

    def __init__(self) -> None:
        self.began = time.time_ns()

    def living(self, mount: int, uuid: bytes, inode: int) -> None:
        """No other place is known."""
        del mount, uuid, inode

    @contextmanager
    def nested(self, top: int, names: Sequence[bytes]) -> Iterator[Source | None]:
        """A nested subvolume below an open directory; None where there is none."""
        fd = os.dup(top)
        try:
            for name in names:
                below = files.enter(fd, name)
                os.close(fd)
                fd = below
            found: Any = _source(fd)
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            found = None
        with suppress(GeneratorExit):
            try:
                yield found
            finally:
                os.close(fd)


def _source(fd: int) -> Source:
    """A directory as a sync would read one that is no snapshot: each subvolume in it is a part of its own."""
    uuid = btrfs.info(fd).uuid_bytes if btrfs.is_btrfs(fd) and btrfs.is_subvolume(fd) else b""
    return Source(fd, False, fd, Volume(uuid))
