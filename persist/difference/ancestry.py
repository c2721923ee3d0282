"""Two subvolumes of one origin: since when they are two, and what of each was written after that.

A snapshot knows of what it is one (parent UUID) and in which transaction it was taken; what was written in either
later has a later transaction, and everything else is the same in both, under the same inode number and generation. No
agent can forge any of it. So two homes are compared at the cost of what changed, and what was renamed is known by its
inode. Needs CAP_SYS_ADMIN.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

from persist.difference.nodes import Node
from town import btrfs, changes, files, subvolumes
from town.btrfs import FIRST_INODE
from town.changes import Changed

_MOST = 64  # snapshots of snapshots
_MANY = 200_000  # changed inodes: above, a look at every name is not slower, and needs no memory
_LAST = (1 << 64) - 1
_ABOVE = 25_000  # levels: a chain of names that is longer has no end


@contextmanager
def common(one: int, other: int) -> Iterator["Common | None"]:
    """What two open directories have in common; None when they lie in no subvolumes of one origin. Raises OSError."""
    if not (btrfs.is_btrfs(one) and btrfs.is_btrfs(other)):
        yield None
        return
    with ExitStack() as stack:
        roots = [stack.enter_context(files.opened(subvolumes.root_of(fd))) for fd in (one, other)]
        parted = _parted(dict(_line(roots[0])), dict(_line(roots[1])))
        yield None if parted is None else Common(roots[0], roots[1], parted)


def _parted(one: dict[bytes, int], other: dict[bytes, int]) -> int | None:
    """The transaction after which the two are not the same; None when they never were."""
    nearest = next((uuid for uuid in one if uuid in other), None)
    return None if nearest is None else min(one[nearest], other[nearest])


def _line(root: int) -> Iterator[tuple[bytes, int]]:
    """A subvolume and what it is a snapshot of, and that in turn: UUIDs, and the transaction up to which both agree."""
    found = btrfs.info(root)
    yield found.uuid_bytes, _LAST
    for _ in range(_MOST):
        if not any(found.parent_bytes):
            return
        yield found.parent_bytes, found.origin_generation
        number = subvolumes.by_uuid(root, found.parent_bytes)
        if number is None:  # it was deleted, and what it came from is not known any more
            return
        with files.opened(subvolumes.opened_root(root, number)) as above:
            found = btrfs.info(above)


class Common:
    """Two subvolumes that were one. Sides are 0 and 1; directories are inodes of the side."""

    def __init__(self, one: int, other: int, parted: int) -> None:
        self._fds = (one, other)
        found = [_written(fd, parted) for fd in self._fds]
        # Of more than can be held nothing is known: then every name is looked at.
        self._written: tuple[dict[int, Changed], dict[int, Changed]] | None = None
        if found[0] is not None and found[1] is not None:
            self._written = (found[0], found[1])
        self._below: tuple[dict[int, set[bytes]], dict[int, set[bytes]]] = ({}, {})
        for side in (0, 1):
            self._mark_all(side)

    def _mark_all(self, side: int) -> None:
        """Note every directory on the way to what was written, and to nested subvolumes, which change by themselves."""
        fd = self._fds[side]
        for _, place in subvolumes.within(fd, btrfs.number(fd)):
            self.mark(side, place.directory, place.name)
        for inode, found in (self._written[side] if self._written is not None else {}).items():
            for directory, name in found.refs or changes.refs(fd, inode):
                self.mark(side, directory, name)

    def mark(self, side: int, directory: int, name: bytes) -> None:
        """Something of that name in a directory is to be looked at."""
        below = self._below[side]
        while True:
            names = below.setdefault(directory, set())
            if name in names:
                return
            first = not names
            names.add(name)
            if directory == FIRST_INODE or not first:
                return
            above = self._refs(side, directory)
            if not above:  # it is gone, or hangs nowhere
                return
            directory, name = above[0]

    def _refs(self, side: int, inode: int) -> list[changes.Ref]:
        found = self._written[side].get(inode) if self._written is not None else None
        return list(found.refs) if found is not None and found.refs else changes.refs(self._fds[side], inode)

    def written(self, side: int, inode: int) -> bool:
        """Whether an inode of that side was written since they are two."""
        return self._written is None or inode in self._written[side]

    def names(self, one: int, other: int) -> set[bytes] | None:
        """The names in a directory of both sides that are to be looked at; None: all that are listed."""
        if one != other or self.written(0, one) or self.written(1, other):
            return None
        return self._below[0].get(one, set()) | self._below[1].get(other, set())

    def untouched(self, directories: tuple[int, int], name: bytes, inodes: tuple[int | None, int | None]) -> bool:
        """Whether a name that both list needs no look: one inode, and nothing at or below it was written."""
        one, other = inodes
        if one is None or one != other or self.written(0, one) or self.written(1, other):
            return False
        return not any(name in self._below[side].get(directories[side], ()) for side in (0, 1))

    def same(self, one: int, other: int) -> bool:
        """Whether an inode of each side is the same one."""
        if one != other:
            return False
        if not (self.written(0, one) or self.written(1, other)):
            return True
        return self._born(0, one) == self._born(1, other) is not None

    def lives(self, side: int, inode: int) -> bool:
        """Whether an inode of that side is in the other side too, wherever."""
        born = self._born(side, inode)
        return born is not None and self._born(1 - side, inode) == born

    def _born(self, side: int, inode: int) -> int | None:
        """The generation in which an inode was made; None when there is none."""
        if self._written is not None and (found := self._written[side].get(inode)) is not None:
            return found.generation
        try:
            return subvolumes.born(self._fds[side], inode)
        except FileNotFoundError:
            return None

    def place(self, side: int, inode: int, root: Node) -> tuple[Node, bytes] | None:
        """Where an inode of that side is: a directory below `root`, and its name there; None: elsewhere."""
        refs = self._refs(side, inode)
        if not refs:
            return None
        directory, name = refs[0]
        above: list[tuple[int, bytes]] = []
        while directory != root.inode:
            refs = [] if directory == FIRST_INODE else self._refs(side, directory)
            if not refs or len(above) > _ABOVE:
                return None
            above.append((directory, refs[0][1]))
            directory = refs[0][0]
        node = root
        for number, part in reversed(above):
            node = Node.below(node, part, number)
        return node, name


def _written(fd: int, parted: int) -> dict[int, Changed] | None:
    """By inode, what was written after a transaction; None when it is too much."""
    if parted == _LAST:  # it is one subvolume
        return {}
    found = {each.inode: each for each in islice(changes.since(fd, parted), _MANY + 1)}
    return found if len(found) <= _MANY else None
