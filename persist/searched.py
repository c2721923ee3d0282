"""What lies in a home as the filesystem itself knows it: one tree search for each subvolume, the events of `walk`.

Nothing is opened but what was written in the last minutes, whose size is not in the tree yet. No name, no depth and no
mount of the agent's plays a part; the cost is that of what was written since, whatever else lies there.
Needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH.
"""

import os
import stat
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress

from persist import transactions
from persist.walk import KINDS, Directory, Entered, Entry, Kind
from town import btrfs, changes, files, kernel, mounts, subvolumes
from town.changes import Changed, Ref
from town.failure import Failure
from town.subvolumes import Place

_DIRTY = (
    300 * 10**9
)  # ns: written data is on the disk after 35 s at most (vm.dirty_expire_centisecs), and then in the tree


def ready(home: int, *, written: bool = False) -> bool:
    """Make what was done so far visible to a search; whether one can be made: btrfs, a subvolume, enough rights.

    `written`: also that files were written to, which the tree has only once their data is on the disk. For who looks
    for what is new; it takes as long as `sync`.
    """
    if not btrfs.is_subvolume(home):
        return False
    with suppress(Failure, OSError):
        if written:
            kernel.syncfs(home)
        subvolumes.inside(home, btrfs.number(home))
        transactions.commit(home)
        return True
    return False


def mounted(home: int) -> list[bytes]:
    """Paths, relative to an open directory, where something is mounted as this process sees it."""
    path = os.fsencode(os.readlink(f"/proc/self/fd/{home}"))
    if not path.startswith(b"/"):
        return []
    prefix = path.rstrip(b"/") + b"/"
    return [mount.target[len(prefix) :] for mount in mounts.table() if mount.target.startswith(prefix)]


def search(
    home: int, enter: Entered, covered: Collection[bytes] = (), *, since: int = 0, changed: int = 0
) -> Iterator[Entry | Directory]:
    """What lies below an open subvolume, or what of it was written after transaction `since`.

    What changed last before `changed` (ctime, ns) is left out, and costs a tenth of what is told.

    Each Directory comes before what lies in it, entries in no order. `covered` are paths that are left out with all
    below them. After `ready`. Raises OSError, btrfs.BtrfsFailed.
    """
    top = Directory(b"", None, 0, 0, True)
    yield top
    waiting = [(btrfs.number(home), top)]
    while waiting:
        number, directory = waiting.pop()
        with suppress(FileNotFoundError), files.opened(_root(home, number)) as root:
            found = _Subvolume(root, number, directory, _Borders(enter, covered), (since, changed))
            yield from found.run()
            for below, place in subvolumes.within(root, number):
                inside = yield from found.nested(below, place)
                if inside is not None:
                    waiting.append((below, inside))


def _root(home: int, number: int) -> int:
    try:
        return subvolumes.opened_root(home, number)
    except OSError as error:  # deleted in this very moment: ESTALE
        raise FileNotFoundError(error.errno, error.strerror) from error


class _Borders:
    """Where a search does not go."""

    def __init__(self, enter: Entered, covered: Collection[bytes]) -> None:
        self._enter, self._covered = enter, frozenset(covered)
        self._names = {path.rpartition(b"/")[2] for path in covered}

    def covers(self, above: Directory, name: bytes) -> bool:
        """Whether something is mounted there."""
        return name in self._names and above.path(name) in self._covered

    def enters(self, above: Directory, name: bytes) -> bool:
        return not self.covers(above, name) and self._enter(above, name)


class _Subvolume:
    """One subvolume, searched: its directories by inode, None for those that are left out."""

    def __init__(self, fd: int, number: int, top: Directory, borders: _Borders, since: tuple[int, int]) -> None:
        self._fd, self._number, self._borders = fd, number, borders
        self._since, self._changed = since
        self._known: dict[int, Directory | None] = {btrfs.FIRST_INODE: top}
        self._settled = time.time_ns() - _DIRTY

    def run(self) -> Iterator[Entry | Directory]:
        for found in changes.since(self._fd, self._since, changed=self._changed):
            if found.inode == btrfs.FIRST_INODE:
                continue  # told of where it hangs
            if stat.S_ISDIR(found.mode):
                directory = yield from self._resolved(found.inode, found.refs)
                if found.size == 0 and found.generation > self._since and directory is not None:
                    # A directory's size is that of the names in it.
                    yield from _told(directory, "directory", found.changed)
            else:
                yield from self._names(found)

    def nested(self, number: int, place: Place) -> Generator[Entry | Directory, None, Directory | None]:
        """A subvolume right inside this one: told of, and where it hangs; None where nobody goes in."""
        above = yield from self._resolved(place.directory)
        if above is None or not self._borders.enters(above, place.name):
            return None
        directory = _below(above, place.name, subvolume=True)
        yield directory
        with suppress(FileNotFoundError), files.opened(_root(self._fd, number)) as fd:
            made = btrfs.info(fd)
            if made.origin_generation > self._since:
                yield from _told(directory, "subvolume", int(made.made * 10**9))
        return directory

    def _names(self, found: Changed) -> Iterator[Entry | Directory]:
        kind, counted = KINDS.get(stat.S_IFMT(found.mode), "unreadable"), False
        for parent, name in found.refs or changes.refs(self._fd, found.inode):
            above = yield from self._resolved(parent)
            if above is not None and not self._borders.covers(above, name):
                yield Entry(above, name, kind, 0 if counted else self._size(found), found.changed)
                counted = True

    def _size(self, found: Changed) -> int:
        if found.changed < self._settled or not stat.S_ISREG(found.mode):
            return found.size
        handle = subvolumes.handle(self._number, found.inode, found.generation & 0xFFFFFFFF)
        with suppress(OSError), files.opened(kernel.open_by_handle_at(self._fd, handle, os.O_PATH)) as fd:
            return os.fstat(fd).st_size
        return found.size

    def _resolved(self, inode: int, refs: tuple[Ref, ...] = ()) -> Generator[Directory, None, Directory | None]:
        """A directory by its number, those above it first where they are new; None when it is left out, or gone."""
        trail: dict[int, bytes] = {}
        while inode not in self._known:
            found = refs[0] if refs else changes.ref(self._fd, inode)
            refs = ()
            if found is None or inode in trail:  # gone, or moved below itself between two looks
                self._known[inode] = None
                break
            trail[inode] = found[1]
            inode = found[0]
        above = self._known[inode]
        for number, name in reversed(trail.items()):
            above = _below(above, name) if above is not None and self._borders.enters(above, name) else None
            self._known[number] = above
            if above is not None:
                yield above
        return above


def _told(directory: Directory, kind: Kind, changed: int) -> Iterator[Entry]:
    assert directory.above is not None
    yield Entry(directory.above, directory.name, kind, 0, changed)


def _below(above: Directory, name: bytes, *, subvolume: bool = False) -> Directory:
    length = above.length + len(name) + (above.above is not None)
    return Directory(name, above, above.depth + 1, length, subvolume)
