"""What deleting subvolumes would free, without quota groups: their extents, less those that something else holds too.

Read from the filesystem's own trees, no file is opened. Every reference to an extent is an item in a leaf. A leaf that
is younger than the last snapshot of its subvolume is that subvolume's alone; where all references of an extent (the
extent tree counts them) were met in such leaves, nothing else holds it. Any other extent is looked for in the nearest
relatives (what the subvolume is a snapshot of, and other snapshots of that); where it is in none, the kernel is asked
which subvolumes lead to it (BTRFS_IOC_LOGICAL_INO_V2), a hundred times as slow. Needs CAP_SYS_ADMIN; exact as of the
last commit. Sources: include/uapi/linux/btrfs_tree.h (struct btrfs_root_item, btrfs_file_extent_item,
btrfs_extent_item).
"""

import ctypes
import errno
import fcntl
import struct
import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from town import btrfs, files, subvolumes
from town.btrfs import ROOT_TREE
from town.terminal import size

_TREE_SEARCH_V2, _LOGICAL_INO_V2, _IGNORE_OFFSET = 0xC0709411, 0xC038943B, 1
_EXTENT_TREE, _EXTENT_ITEM, _ROOT_ITEM, _EXTENT_DATA, _INLINE = 2, 168, 132, 108, 0
_BUFFER, _ANSWER = 1 << 18, 1 << 16
_ALL, _LAST = (1 << 64) - 1, (1 << 64) - 256
_HEADER, _ARGUMENTS, _COUNT = struct.Struct("=QQQII"), struct.Struct("=7Q4I4QQ"), struct.Struct("=I")
_EXTENT, _EXTENT_AT = struct.Struct("=QQ"), 21  # disk_bytenr and disk_num_bytes in a file extent item
_USED_AT, _SNAPSHOT_AT = 192, 200  # bytes_used and last_snapshot in a root item
_UUID, _PARENT, _NO_PARENT = slice(247, 263), slice(263, 279), bytes(16)
_RELATIVES = 3
_U64, _CONTAINER = struct.Struct("=Q"), struct.Struct("=4I")
_MOST = 1_000_000  # extents that are held in memory
_TOO_MANY = 1000  # references: an agent can make millions of one extent, and the kernel would look at each
_FEWEST, _MANY = 8, 2048  # items of the extent tree that are asked for at a time


class Freed(NamedTuple):
    """Bytes that would come free: `data` and `metadata` for certain, `doubtful` besides where nothing shares them.

    `whole`: all was looked at; else it is that much or more.
    """

    data: int = 0
    metadata: int = 0
    doubtful: int = 0
    whole: bool = True

    @property
    def least(self) -> int:
        return self.data + self.metadata

    def __str__(self) -> str:
        least, most = size(self.least), size(self.least + self.doubtful)
        if not self.whole:
            return f"{least} or more"
        return least if least == most else f"{least} to {most}"


class _OutOfTime(Exception):
    pass


class _Root(NamedTuple):
    uuid: bytes
    parent: bytes
    used: int  # bytes of metadata
    shared: int  # leaves of a later transaction are its alone


class _Tree(NamedTuple):
    """The extents of a subvolume, one for each reference, and how many of its bytes of items are its alone."""

    alone: "array[int]"  # pairs: address and size, met in a leaf of its own
    other: "array[int]"  # the same of other leaves
    share: float  # of its metadata that is its alone


class Trees:
    """The subvolumes of the filesystem that `top` lies on, each read once at most."""

    def __init__(self, top: int) -> None:
        self._top, self._until = top, 0.0
        self._known: dict[int, _Tree] = {}
        self._roots: dict[int, _Root] = {}

    def freed(self, numbers: Iterable[int], until: float) -> Freed:
        """What deleting all these subvolumes would free, looked at until then (monotonic). Raises OSError."""
        looking = _Looking(self, self._top, frozenset(numbers))
        self._until = until
        try:
            looking.gather()
            looking.judge()
        except _OutOfTime:
            looking.whole = False
        return Freed(looking.data, looking.metadata, looking.doubtful, looking.whole)

    def hurry(self) -> None:
        """Raises _OutOfTime."""
        if time.monotonic() > self._until:
            raise _OutOfTime

    def root(self, number: int) -> _Root | None:
        """What the root tree says of a subvolume; None: it is gone."""
        return self._all_roots().get(number)

    def _all_roots(self) -> dict[int, _Root]:
        if not self._roots:
            for number, kind, _, buffer, at, length in self._items(self._top, ROOT_TREE):
                if kind == _ROOT_ITEM and number >= btrfs.FIRST_INODE and length >= _PARENT.stop:
                    item = bytes(buffer[at : at + length])
                    (used,), (shared,) = _U64.unpack_from(item, _USED_AT), _U64.unpack_from(item, _SNAPSHOT_AT)
                    self._roots[number] = _Root(item[_UUID], item[_PARENT], used, shared)
        return self._roots

    def relatives(self, number: int) -> list[int]:
        """What it is a snapshot of, then the nearest among its snapshots and those of its origin."""
        roots = self._all_roots()
        if (own := roots.get(number)) is None:
            return []
        parents = [other for other, root in roots.items() if root.uuid == own.parent != _NO_PARENT]
        others = [
            other
            for other, root in roots.items()
            if root.parent == own.uuid or (root.parent == own.parent != _NO_PARENT and other != number)
        ]
        return (parents + sorted(others, key=lambda other: abs(other - number)))[:_RELATIVES]

    def tree(self, number: int) -> _Tree | None:
        """The extents of a subvolume; None: it is gone."""
        if number not in self._known and (root := self.root(number)) is not None:
            try:
                with files.opened(subvolumes.opened_root(self._top, number)) as fd:
                    self._known[number] = self._read(fd, root.shared)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
        return self._known.get(number)

    def _read(self, fd: int, shared: int) -> _Tree:
        alone, other, bytes_ = array("Q"), array("Q"), [0, 0]
        for _, kind, transid, buffer, at, length in self._items(fd, 0):
            own = transid > shared
            bytes_[own] += length + _HEADER.size
            if kind == _EXTENT_DATA and buffer[at + 20] != _INLINE:
                address, size_ = _EXTENT.unpack_from(buffer, at + _EXTENT_AT)
                if address:
                    (alone if own else other).extend((address, size_))
        return _Tree(alone, other, bytes_[True] / max(1, sum(bytes_)))

    def _items(self, fd: int, tree: int) -> Iterator[tuple[int, int, int, bytearray, int, int]]:
        """Every item of a tree: object, type, transaction of its leaf, buffer, where in it, length."""
        objectid, kind, offset = 0, 0, 0
        buffer, unpack, size_ = bytearray(_ARGUMENTS.size + _BUFFER), _HEADER.unpack_from, _HEADER.size
        while True:
            self.hurry()
            count = _search(fd, buffer, tree, (objectid, kind, offset), 0xFFFFFFFF)
            if count == 0:
                return
            at = _ARGUMENTS.size
            for _ in range(count):
                transid, objectid, offset, kind, length = unpack(buffer, at)
                at += size_
                yield objectid, kind, transid, buffer, at, length
                at += length
            objectid, kind, offset = _next(objectid, kind, offset)


def everything(top: int, roots: Iterable[int]) -> list[int]:
    """Those subvolumes, and all nested in them, however deep. Raises OSError."""
    found = list(roots)
    for number in found:  # grows meanwhile
        found += [inner for inner, _ in subvolumes.within(top, number)]
    return found


class _Looking:
    def __init__(self, trees: Trees, top: int, numbers: frozenset[int]) -> None:
        self._trees, self._top, self._numbers = trees, top, numbers
        self._sizes: dict[int, int] = {}  # by the address of an extent
        self._references: Counter[int] = Counter()  # met in leaves that are nobody else's
        self._elsewhere: set[int] = set()  # met in another leaf
        self.data, self.metadata, self.doubtful, self.whole = 0, 0, 0, True

    def gather(self) -> None:
        """The extents of all the subvolumes, and the metadata that is theirs alone."""
        for number in self._numbers:
            root, tree = self._trees.root(number), self._trees.tree(number)
            if root is None or tree is None:
                continue
            # How full a leaf is, nobody says: the share of the items stands for that of the blocks.
            alone = int(root.used * tree.share)
            self.metadata += alone
            self.doubtful += root.used - alone
            self._sizes.update(zip(tree.alone[::2], tree.alone[1::2], strict=True))
            self._sizes.update(zip(tree.other[::2], tree.other[1::2], strict=True))
            self._references.update(tree.alone[::2])
            self._elsewhere.update(tree.other[::2])
            if len(self._sizes) > _MOST:
                raise _OutOfTime

    def judge(self) -> None:
        """Which of the extents nothing else holds."""
        for address in self._in_relatives():
            del self._sizes[address]
        for address, references in self._counted():
            if address not in self._elsewhere and references <= self._references[address]:
                self.data += self._sizes[address]
            elif references > _TOO_MANY:
                self.whole = False
            elif self._is_ours(address):
                self.data += self._sizes[address]

    def _in_relatives(self) -> set[int]:
        """Extents that a subvolume holds which would stay."""
        found = set[int]()
        for number in self._numbers if self._elsewhere else ():
            for relative in self._trees.relatives(number):
                if relative not in self._numbers and (tree := self._trees.tree(relative)) is not None:
                    found |= self._elsewhere.intersection(tree.alone[::2])
                    found |= self._elsewhere.intersection(tree.other[::2])
        return found

    def _counted(self) -> Iterator[tuple[int, int]]:
        """Each extent, with how many references to it there are: neighbours are asked for together."""
        wanted, buffer, items = sorted(self._sizes), bytearray(_ARGUMENTS.size + _BUFFER), _FEWEST
        at = 0
        while at < len(wanted):
            self._trees.hurry()
            last, place = wanted[at], _ARGUMENTS.size
            for _ in range(_search(self._top, buffer, _EXTENT_TREE, (wanted[at], 0, 0), items)):
                _, last, _, kind, length = _HEADER.unpack_from(buffer, place)
                place += _HEADER.size
                if kind == _EXTENT_ITEM and last in self._sizes:
                    yield last, _U64.unpack_from(buffer, place)[0]
                place += length
            before, at = at, bisect_right(wanted, max(last, wanted[at]))
            items = min(_MANY, items * 2) if at - before > items // 8 else max(_FEWEST, items // 2)

    def _is_ours(self, address: int) -> bool:
        """Whether all subvolumes that lead to an extent are among those that would go."""
        self._trees.hurry()
        answer = ctypes.create_string_buffer(_ANSWER)
        arguments = bytearray(struct.pack("=7Q", address, _ANSWER, 0, 0, 0, _IGNORE_OFFSET, ctypes.addressof(answer)))
        try:
            fcntl.ioctl(self._top, _LOGICAL_INO_V2, arguments)
        except FileNotFoundError:  # gone meanwhile
            return False
        _, _, count, missed = _CONTAINER.unpack_from(answer)
        values = struct.unpack_from(f"={count}Q", answer, _CONTAINER.size)
        return not missed and self._numbers.issuperset(values[2::3])


def _search(fd: int, buffer: bytearray, tree: int, key: tuple[int, int, int], items: int) -> int:
    """Put items of a tree, from a key on, into the buffer behind its arguments; how many."""
    _ARGUMENTS.pack_into(buffer, 0, tree, key[0], _LAST if tree == 0 else _ALL, key[2], _ALL, 0, _ALL, key[1], 255,
                         items, 0, 0, 0, 0, 0, _BUFFER)  # fmt: skip
    fcntl.ioctl(fd, _TREE_SEARCH_V2, buffer)
    return int(_COUNT.unpack_from(buffer, 64)[0])


def _next(objectid: int, kind: int, offset: int) -> tuple[int, int, int]:
    if offset < _ALL:
        return objectid, kind, offset + 1
    return (objectid, kind + 1, 0) if kind < 255 else (objectid + 1, 0, 0)
