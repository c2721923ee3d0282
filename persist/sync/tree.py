"""One declared path: whether it is as the index knows it, at the cost of one question to the filesystem."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from persist.sync import declared, nests, rows, volumes
from persist.sync.index import Index
from persist.sync.readers import Readers
from persist.sync.rows import Part, Row, Rows, generation_of
from persist.sync.sources import Source, Sources, SourceUnreadable, TooMany
from town.spec import Persist
from town.terminal import shown

if TYPE_CHECKING:
    from persist.bucket.commits import Top
    from persist.sync.contents import Sink
    from town.process import Person

OTHERS = 1000  # changed inodes of a subvolume, none of them of interest, after which they are not looked at again


class Work:
    """What the scans of all declared paths share. `without_deep`: see Context."""

    __slots__ = ("index", "person", "readers", "sink", "sources", "took", "without_deep")

    def __init__(
        self, index: Index, sources: Sources, sink: "Sink", person: "Person", readers: Readers,
        took: Callable[[int, int], None], *, without_deep: bool = False,
    ) -> None:  # fmt: skip
        self.without_deep = without_deep
        self.index, self.sources, self.sink = index, sources, sink
        self.person, self.readers, self.took = person, readers, took


class Result(NamedTuple):
    """A declared path as it is now: its row, and its number in the index.

    `same`: that is what the index knew, as the state `state` of the store; `fresh`: it was read in full; `notes`: what
    is to be said.
    """

    path: PurePosixPath
    row: Row
    number: int
    state: str
    same: bool
    fresh: bool
    notes: tuple[str, ...]

    @property
    def files(self) -> int:
        """All that is no directory."""
        return self.row[4]

    @property
    def top(self) -> "Top":
        """What a commit says of it."""
        import json

        from persist.bucket import trees
        from persist.bucket.commits import Top

        return Top(self.path, trees.parsed(json.loads(self.row[7]), "the index"), self.row[4], self.row[5])


def updated(work: Work, entry: Persist, source: Source) -> Result:
    """Bring the index up to date with a declared directory that is open. Raises KeepsMoving, SourceUnreadable."""
    try:
        return _Tree(work, entry, source).run()
    except OSError as error:
        raise SourceUnreadable(error.strerror or shown(str(error))) from error


class _Tree:
    def __init__(self, work: Work, entry: Persist, source: Source) -> None:
        self._work, self._entry, self._source = work, entry, source
        self._rule = declared.rule(declared.left_out(entry))
        self._state = ""
        self._rows, self._ruled = self._found()

    def _found(self) -> tuple[Rows, bool]:
        """The rows of this path, and whether what is left out is what was left out then."""
        path, fd = str(self._entry.path), self._source.fd
        found = rows.find_tree(self._work.index, path)
        if found is not None:
            known = Rows(self._work.index, found[0])
            top = known.top()
            volume = volumes.number(self._work.index, self._source, top.volume if top is not None else 0)
            here = (volume, os.fstat(fd).st_ino, generation_of(fd))
            if top is not None and (top.volume, top.inode, top.generation) == here:
                self._state = found[2]
                return known, found[1] == self._rule
        return rows.new_tree(self._work.index, path, self._rule), True

    def _row(self) -> Row | None:
        return self._rows.get(-self._rows.tree, os.fsencode(self._entry.path.name))

    def run(self) -> Result:
        before = self._row()
        if before is not None and self._ruled and self._rests():
            return Result(self._entry.path, before, self._rows.tree, self._state, True, False, self._said())
        from persist.sync.parts import Parts

        parts = Parts(self._work, self._entry, self._source, self._rows, ruled=self._ruled)
        parts.run(before)
        if not self._ruled:
            self._rows.set_rule(self._rule)
        row = self._row()
        assert row is not None
        said = tuple(parts.notes.lines(self._rows))
        same = before is not None and before[4:] == row[4:]
        return Result(self._entry.path, row, self._rows.tree, self._state, same, before is None, said)

    def _said(self) -> tuple[str, ...]:
        if not self._rows.notes():
            return ()
        from persist.sync.notes import Notes

        return tuple(Notes().lines(self._rows))

    def _rests(self) -> bool:
        """Whether the filesystem says that nothing changed in any part. Raises OSError."""
        return all(self._is_same(part) for part in self._rows.parts())

    def _is_same(self, part: Part) -> bool:
        directory = self._rows.directory(part.dir)
        if directory is None or directory.parent < 0:
            return directory is not None and self._is_unchanged(part, self._source)
        with nests.opened(self._work, self._source, self._rows, directory) as source:
            return source is not None and self._is_unchanged(part, source)

    def _is_unchanged(self, part: Part, source: Source) -> bool:
        if not source.frozen or not 0 < part.transid <= source.volume.transid:
            return False
        if volumes.number(self._work.index, source, part.volume) != part.volume:
            return False
        with suppress(TooMany):
            return not self._work.sources.changed(source.volume, part.transid)
        return False
