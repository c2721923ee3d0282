"""What an interrupted restore left, looked at before the next goes on there: what its mark is worth.

A kill loses nothing that was written. A disk that was torn away and mounted again, without a boot in between, loses
what was not on it yet: names, contents, parts of a file whose size and time are right (btrfs with no-holes writes the
size with the first part that arrives). So what no checkpoint covers is read back and held against the pieces' ids.
No id of a mount would tell: mount ids and device numbers are given anew as soon as they are free.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persist.bucket import trees
from persist.fill.facts import cannot
from persist.fill.levels import Levels
from persist.fill.plan import FILE, Plan

if TYPE_CHECKING:
    from persist.bucket.keys import AgentKeys

Extents = tuple[tuple[int, int], ...]
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What lies there is not what was written; EIO: btrfs reads no block whose checksum is wrong.
_LOST = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EIO}
_ENDED = f"""
SELECT e.dir, e.name, e.size, e.mtime FROM work w CROSS JOIN entries e ON e.no = w.entry
WHERE w.last = 1 AND e.kind = {FILE} AND w.seq <= ?
"""  # noqa: S608 - constants
_BEGUN = f"""
SELECT e.dir, e.name, MAX(w.at + w.length) FROM work w CROSS JOIN entries e ON e.no = w.entry
WHERE e.kind = {FILE} AND e.held != 1 AND w.seq <= ? GROUP BY w.entry HAVING MAX(w.last) = 0
"""  # noqa: S608 - constants
_PIECES = """
SELECT e.no, e.dir, e.name, e.odd, COALESCE(w.id, e.id), w.at, w.length
FROM work w CROSS JOIN entries e ON e.no = w.entry WHERE w.seq > ? AND w.seq <= ? ORDER BY w.entry, w.at
"""


@dataclass(frozen=True, slots=True)
class Left:
    """What a run before wrote, up to the row `after` of its plan; up to `kept` it was on the disk for certain."""

    plan: Plan
    levels: Levels
    after: int
    kept: int

    def holds(self, keys: "AgentKeys") -> bool:
        """Whether all of it is there still. Raises CannotMake where it cannot be looked at, Unsafe."""
        return self._ended() and self._begun() and self._written(keys.data)

    def _ended(self) -> bool:
        """Every file that was ended is there, of its size and time, which are set last."""
        for above, name, size, mtime in self.plan.db.execute(_ENDED, (self.after,)):
            found = self._stat(above, name)
            if found is None or (found.st_size, found.st_mtime_ns) != (size, int(mtime)):
                return False
        return True

    def _begun(self) -> bool:
        """Every file that was not ended yet is there, as long as what was written of it."""
        for above, name, end in self.plan.db.execute(_BEGUN, (self.after,)):
            found = self._stat(above, name)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size < end:
                return False
        return True

    def _written(self, key: bytes) -> bool:
        """Every piece that no checkpoint covers is in its file."""
        from blake3 import blake3

        fd, before, extents = -1, None, None
        try:
            for entry, above, name, odd, id_, at, length in self.plan.db.execute(_PIECES, (self.kept, self.after)):
                if entry != before:
                    if fd >= 0:
                        os.close(fd)
                    fd, before, extents = -1, entry, self._extents(entry, odd)
                    fd = self._opened(above, name)
                if fd < 0 or blake3(_read(fd, name, extents, at, length), key=key).digest() != id_:
                    return False
        finally:
            if fd >= 0:
                os.close(fd)
        return True

    def _stat(self, above: int, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.levels.open(above), follow_symlinks=False)
        except OSError as error:
            _lost(name, error)
            return None

    def _opened(self, above: int, name: bytes) -> int:
        """A descriptor; -1 where it is gone."""
        try:
            return os.open(name, _READ, dir_fd=self.levels.open(above))
        except OSError as error:
            _lost(name, error)
            return -1

    def _extents(self, entry: int, odd: int) -> Extents | None:
        """Where a sparse file holds something; None: all of it, from its beginning."""
        return trees.parsed(json.loads(self.plan.line(entry)), "an entry of a listing").data if odd else None


def _lost(name: bytes, error: OSError) -> None:
    if error.errno not in _LOST:
        raise cannot(name, error) from error


def _read(fd: int, name: bytes, extents: Extents | None, at: int, length: int) -> bytes:
    """A piece, as it lies in an open file; less where something is missing."""
    try:
        return b"".join(_pread(fd, size, start) for start, size in _places(extents, at, length))
    except OSError as error:
        _lost(name, error)
        return b""


def _pread(fd: int, length: int, at: int) -> bytes:
    found = bytearray()
    while len(found) < length and (some := os.pread(fd, length - len(found), at + len(found))):
        found += some
    return bytes(found)


def _places(extents: Extents | None, at: int, length: int) -> Iterator[tuple[int, int]]:
    """(offset, length) in the file of what lies at `at` in what it holds, holes left out."""
    if extents is None:
        yield at, length
        return
    start = 0  # where the extent begins in what the file holds
    for offset, size in extents:
        first, last = max(at, start), min(at + length, start + size)
        if first < last:
            yield offset + first - start, last - first
        start += size
