"""The files of a plan, written as their pieces come from the store: one writer, frame after frame, pack after pack.

A small file is made in as few calls as can be, for 100,000 creations are most of what a restore takes: its mode is
given when it is opened, and what is so already is not set again.
"""

import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persist.bucket import trees
from persist.bucket.blobs import Frames, stream
from persist.bucket.keys import AgentKeys
from persist.bucket.sealing import HINT
from persist.fill.facts import ROLES, Facts, cannot
from persist.fill.ledger import Ledger
from persist.fill.levels import Levels
from persist.fill.plan import Plan, Row
from persist.store import Store, StoreDamaged

if TYPE_CHECKING:
    from persist.progress import Progress

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MORE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = 24  # large files that are open at a time
_AHEAD = 24 << 20  # bytes that are downloaded ahead
_SPECIAL = 0o7000  # mode bits that a change of owner clears


@dataclass(slots=True)
class _Large:
    """A file of several pieces, or with holes or attributes, while it is written."""

    fd: int
    extents: tuple[tuple[int, int], ...] | None


class Writing:
    """Writes all files that hold anything. `again`: some of what is behind the mark may be there already, in part."""

    def __init__(self, plan: Plan, levels: Levels, facts: Facts, ledger: Ledger | None, *, again: bool) -> None:
        from blake3 import blake3

        self._blake3 = blake3
        self._plan, self._levels, self._facts, self._ledger, self._again = plan, levels, facts, ledger, again
        self._large: OrderedDict[int, _Large] = OrderedDict()
        self._masks = [[facts.mode(0o7777, owner, group) for group in ROLES] for owner in ROLES]
        self.fetched = 0

    def fetched_from(self, store: Store, keys: AgentKeys, after: int) -> Frames:
        """What `run` needs behind the row `after`; the first of it is fetched while something else is done."""
        return stream(store, keys, self._plan.frames(after), ahead_bytes=_AHEAD)

    def run(self, frames: Frames, keys: AgentKeys, after: int, progress: "Progress | None") -> None:
        """Everything behind the row `after`. Raises ObjectMissing, StoreDamaged, CannotMake, what the store raises."""
        rows = self._plan.work(after)
        row = next(rows, None)
        mask = os.umask(0)  # a mode that is given when a file is opened is the mode that it gets
        try:
            for want, data in frames:
                files, written, done = 0, 0, 0
                view = memoryview(data)
                self.fetched += want.frame.stored
                while row is not None and row[1] == want.tag:
                    self._row(row, view, keys.data)
                    files, written, done = files + row[6], written + row[3], row[0]
                    row = next(rows, None)
                if progress is not None:
                    progress.add(files, written)
                if self._ledger is not None and done:
                    self._note(done, written)
            if row is not None:
                raise StoreDamaged("the store gave fewer frames than were asked for", hint=HINT)
        finally:
            os.umask(mask)
            for large in self._large.values():
                os.close(large.fd)
            self._large.clear()

    def _note(self, done: int, written: int) -> None:
        assert self._ledger is not None
        # Where a file is open still, what was written of it is written: only descriptors are lost in a kill.
        self._ledger.note(done, written, self._levels.known[0])

    def _row(self, row: Row, frame: memoryview, key: bytes) -> None:
        _, _, offset, length, id_, _, _, _, directory, name, mode, mtime, owner, group, _, held, odd = row
        piece = frame[offset : offset + length]
        if self._blake3(piece, key=key).digest() != id_:
            raise StoreDamaged("a piece is not what its id says", hint=HINT)
        facts = self._facts
        try:
            parent = self._levels.known.get(directory)
            if parent is None:
                parent = self._levels.open(directory)
            if held != 1 or odd:
                self._piece(row, piece, parent)
                return
            kept = mode & self._masks[owner][group]
            fd = self._made(name, kept & 0o777, parent)
            try:
                written = os.write(fd, piece)
                while written < length:
                    written += os.write(fd, piece[written:])
                uid, gid = facts.uids[owner], facts.gids[group]
                if (uid, gid) != facts.mine:
                    os.fchown(fd, uid, gid)
                if kept & _SPECIAL:
                    os.fchmod(fd, kept)
                time = mtime if type(mtime) is int else int(mtime)
                os.utime(fd, ns=(time, time))
            finally:
                os.close(fd)
        except OSError as error:
            raise cannot(name, error) from error

    def _made(self, name: bytes, mode: int, parent: int) -> int:
        try:
            return os.open(name, NEW, mode, dir_fd=parent)
        except FileExistsError:
            if not self._again:
                raise
        os.unlink(name, dir_fd=parent)  # of the run that was cut off: perhaps a part, perhaps linked elsewhere
        return os.open(name, NEW, mode, dir_fd=parent)

    def _piece(self, row: Row, piece: memoryview, parent: int) -> None:
        entry, at, last, size = row[7], row[5], row[6], row[14]
        large = self._large.get(entry)
        if large is None:
            large = self._opened(row, parent)
        if large.extents is None:
            _write_at(large.fd, piece, at)
        else:
            _scatter(large, piece, at)
        if last:
            if large.extents is None:
                os.ftruncate(large.fd, size)
            self._facts.give(large.fd, trees.parsed(json.loads(self._plan.line(entry)), "an entry of a listing"))
            os.close(self._large.pop(entry).fd)

    def _opened(self, row: Row, parent: int) -> _Large:
        entry, name, size, odd = row[7], row[9], row[14], row[16]
        fd = os.open(name, _MORE, 0o600, dir_fd=parent)
        extents = None
        if odd:
            extents = trees.parsed(json.loads(self._plan.line(entry)), "an entry of a listing").data
        if extents is not None:
            os.ftruncate(fd, size)
        self._large[entry] = _Large(fd, extents)
        if len(self._large) > _OPEN:
            os.close(self._large.popitem(last=False)[1].fd)
        return self._large[entry]


def _write_at(fd: int, piece: memoryview, at: int) -> None:
    while piece:
        written = os.pwrite(fd, piece, at)
        piece, at = piece[written:], at + written


def _scatter(large: _Large, piece: memoryview, at: int) -> None:
    """Write a piece that lies at `at` in what a sparse file holds, holes left out."""
    assert large.extents is not None
    start = 0  # where the extent begins in what the file holds
    for offset, length in large.extents:
        if start + length > at and piece:
            inside = at - start
            some = piece[: length - inside]
            _write_at(large.fd, some, offset + inside)
            piece, at = piece[len(some) :], at + len(some)
        start += length
        if not piece:
            return
