"""A declared path whose subvolume changed, or that is new: brought up to date part by part.

A part is what of one subvolume belongs to the path. By what the filesystem says has changed where there is a base,
else by a look at every name.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from persist.sync import declared, nests, volumes
from persist.sync.bulk import Bulk
from persist.sync.changes import Update
from persist.sync.entries import Entries
from persist.sync.listing import Dirty
from persist.sync.notes import Notes
from persist.sync.rows import Directory, Row, Rows, generation_of
from persist.sync.scan import Context, Path, Scanner, by_ctime, by_number
from persist.sync.sources import Source, TooMany, Volume
from persist.sync.tree import OTHERS, Work
from persist.sync.warm import Warm
from town import btrfs, kernel
from town.changes import Changed
from town.spec import Persist

_YOUNG = 2 * 10**9  # ns: a file that was written so short before it was read may be written again at the same ctime


class Parts:
    """Brings the rows of one declared path up to date. `ruled`: what is left out is what was left out before."""

    def __init__(self, work: Work, entry: Persist, source: Source, known: Rows, *, ruled: bool) -> None:
        self._work, self._entry, self._source, self._rows, self._ruled = work, entry, source, known, ruled
        self.notes = Notes()
        self._depths: dict[int, int] = {}  # where nothing moves
        self._context = Context(
            known, Entries(work.sink, work.person, known, self.notes), work.sink, Dirty(known), self.notes,
            work.readers, Context.parts_of(declared.left_out(entry)), work.took,
            work.without_deep,
        )  # fmt: skip

    def run(self, before: Row | None) -> None:
        """Read what is new or changed; `before`: what the index says of the declared directory."""
        self._rows.bulk = Bulk(self._rows)
        if before is None:
            self._rows.touched = None  # every linked file is new
        top = self._rows.top() or self._made()
        self._part(top, self._source, (), before)
        self._nested(top)
        self._context.dirty.settle(self._work.sink)
        self._rows.bulk.check()
        self._rows.flush()

    def _made(self) -> Directory:
        fd, name = self._source.fd, os.fsencode(self._entry.path.name)
        volume = volumes.volume(self._work.index, self._source.volume.uuid)
        number, inode, generation = self._rows.fresh(), os.fstat(fd).st_ino, generation_of(fd)
        tree, prunes = self._rows.tree, self._context.prunes(())
        made = Directory(number, tree, volume, inode, generation, -tree, name, prunes)
        self._rows.add_directory(made)
        return made

    def _part(self, directory: Directory, source: Source, path: Path | None, before: Row | None) -> None:
        """Bring a directory of the index, which `source` has open, up to date down to the next subvolumes."""
        known = next((part for part in self._rows.parts() if part.dir == directory.id), None)
        since = known.transid if known is not None and known.volume == directory.volume else 0
        trusted = self._work.sources.began - _YOUNG
        if not source.frozen:
            # A page that is dirty already takes a store through a mapping without a new ctime. Written back, it does
            # not: then the next store is a fault, which sets it.
            kernel.syncfs(source.fd)
        warm = Warm(source.living, btrfs.number(source.living), trusted) if source.frozen else None
        self._context.entries.part(directory.volume, frozen=source.frozen, trusted=trusted, warm=warm)
        unchanged: Callable[[int, bytes, int, Row], bool] = by_ctime
        if source.frozen and before is not None and 0 < since <= source.volume.transid:
            with suppress(TooMany):
                found = self._work.sources.changed(source.volume, since)
                if self._ruled:
                    self._by_changes(directory, source.volume, found)
                    return
                unchanged = partial(by_number, found)
        above, frozen = self._above(directory), source.frozen
        scanner = Scanner(self._context, directory.volume, frozen=frozen, unchanged=unchanged, above=above)
        row = scanner.scan(source.fd, directory, path, before)
        if row != before:
            self._rows.put(directory.parent, row)
            self._context.dirty.add(directory.parent)
        transid = source.volume.transid if source.frozen else 0
        if (since, known is not None) != (transid, True):
            self._rows.set_part(directory.id, directory.volume, transid)

    def _above(self, directory: Directory) -> int:
        """How many directories lie above one, where that is asked."""
        if not self._work.without_deep:
            return 0
        self._rows.flush()
        return self._rows.depth(directory.id, self._depths) - 1

    def _by_changes(self, directory: Directory, volume: Volume, found: Mapping[int, Changed]) -> None:
        before = self._rows.writes
        if found:
            Update(self._context, directory, volume, found).run()
        # Where nothing happened nothing is written: the same search finds the same nothing next time.
        if self._rows.writes > before or len(found) > OTHERS:
            self._rows.set_part(directory.id, directory.volume, volume.transid)

    def _nested(self, top: Directory) -> None:
        """Subvolumes in this one, and in those: each has a snapshot and a base of its own."""
        dirty, done = self._context.dirty, {top.id}
        waiting = sorted(dirty.nested_known - done)
        dirty.drop()
        while waiting or dirty.nested:
            fresh = not waiting
            number = waiting.pop() if waiting else dirty.nested.pop()
            directory = self._rows.directory(number)
            if number in done or directory is None:
                continue
            done.add(number)
            self._subvolume(directory, fresh=fresh)
            dirty.drop()

    def _subvolume(self, directory: Directory, *, fresh: bool) -> None:
        with nests.opened(self._work, self._source, self._rows, directory) as source:
            if source is None:
                self._context.dirty.gone(directory.parent, directory.name)
                self._context.dirty.add(directory.parent)
                return
            if fresh or not source.frozen:
                self.notes.add("subvolume" if source.frozen else "living", directory.parent, directory.name)
            volume = volumes.number(self._work.index, source, directory.volume)
            before = self._rows.get(directory.parent, directory.name)
            if directory.volume != volume:
                self._rows.touch(self._rows.links_below(directory.id))
                self._rows.drop_below(directory.id)
                self._rows.identify(directory.id, volume, os.fstat(source.fd).st_ino, generation_of(source.fd))
                directory, before = self._rows.directory(directory.id) or directory, None
            path = self._context.path(directory.id)
            self._part(directory, source, path, before)
