"""What a restore writes into the index as it goes, so that the first sync after it costs what changed since."""

import os
import re
from pathlib import PurePosixPath
from uuid import UUID

from persist.sync import declared, rows
from persist.sync.index import Index
from persist.sync.rows import Directory, Rows
from town import btrfs, changes, files, subvolumes

_SIZE = re.compile(rb'"size":([0-9]+)')  # a quote within a string has a backslash before it, so this is the key
_LINK = b'"link":"'
_NO_RULE = "\0"  # no spec says this: the next sync reads the path in full


class Restored:
    """The rows of one declared path that is being restored."""

    def __init__(self, index: Index, path: PurePosixPath, commit: str, into: int) -> None:
        entry = next((entry for entry in declared.entries(index.agent) if entry.path == path), None)
        self._left_out = declared.left_out(entry) if entry else frozenset()
        self._rows: Rows = rows.new_tree(index, str(path), declared.rule(self._left_out) if entry else _NO_RULE)
        self._index, self._commit = index, commit
        self._ids: dict[int, int] = {}  # inode of a directory: its number
        self._directories: list[tuple[int, int, bytes]] = []  # inode, inode of the parent, name
        self._sums: dict[int, list[int]] = {}  # inode of a directory: files, bytes, links below it
        self._since = 0  # a transaction before which the most was not there
        if btrfs.is_btrfs(into):
            with files.opened(subvolumes.root_of(into)) as root:
                self._since = max(0, btrfs.info(root).generation - 1)
        self._links: list[tuple[int, int, bytes]] = []  # inode, number of the directory, name

    def directory(self, inode: int, parent: int, name: bytes, line: bytes) -> None:
        """A directory; `parent` is an inode too, 0 for that of the declared path. `line`: as its listing has it."""
        self._directories.append((inode, parent, name))
        self._rows.put(self._id(parent), (name, inode, 0, self._id(inode), 0, 0, 0, line))

    def file(self, inode: int, parent: int, name: bytes, line: bytes) -> None:
        """Anything else."""
        size = int(found[1]) if (found := _SIZE.search(line)) else 0
        linked = int(_LINK in line)
        sums = self._sums.setdefault(parent, [0, 0, 0])
        sums[0], sums[1], sums[2] = sums[0] + 1, sums[1] + size, sums[2] + linked
        number = self._id(parent)
        self._rows.put(number, (name, inode, 0, None, 1, size, linked, line))
        if linked:
            self._links.append((inode, number, name))

    def _id(self, inode: int) -> int:
        if inode == 0:
            return -self._rows.tree
        if inode not in self._ids:
            self._ids[inode] = self._rows.fresh()
        return self._ids[inode]

    def finish(self, into: int) -> None:
        """Everything was given, and is on the disk below the open directory `into`."""
        uuid, transid = UUID(int=0), 0
        if on_btrfs := btrfs.is_btrfs(into):
            transid = btrfs.commit(into)
            with files.opened(subvolumes.root_of(into)) as root:
                uuid = btrfs.info(root).uuid
        volume = rows.volume(self._index, uuid.bytes if on_btrfs else b"")
        born = self._born(into) if on_btrfs else {}
        for inode, parent, name in self._directories:
            self._rows.add_directory(Directory(self._ids[inode], self._rows.tree, volume, inode, born.get(inode, 0),
                                               self._id(parent), name, self._prunes(parent, name)))  # fmt: skip
        for inode, number, name in self._links:
            self._rows.add_link(volume, inode, number, name)
        self._add_up()
        self._rows.flush()
        self._rows.set_part(self._id(os.fstat(into).st_ino), volume, transid)
        self._rows.set_state(self._commit)
        if self._holds_left_out():
            self._rows.set_rule(_NO_RULE)

    def _born(self, into: int) -> dict[int, int]:
        """Inode to generation of the directories."""
        found = {inode: generation for inode, generation, _ in changes.generations(into, self._since)
                 if inode in self._ids}  # fmt: skip
        for inode in self._ids.keys() - found.keys():  # made by a restore that was interrupted
            found[inode] = subvolumes.born(into, inode)
        return found

    def _add_up(self) -> None:
        """Sums of every directory into the row that its parent has of it, from the deepest up."""
        above = {inode: (parent, name) for inode, parent, name in self._directories}
        depth: dict[int, int] = {0: 0}
        for inode in above:
            trail = []
            while inode not in depth:
                trail.append(inode)
                inode = above[inode][0]  # noqa: PLW2901
            at = depth[inode]
            for each in reversed(trail):
                at += 1
                depth[each] = at
        self._rows.flush()
        for inode in sorted(above, key=lambda inode: -depth[inode]):
            parent, name = above[inode]
            files, size, links = self._sums.get(inode, (0, 0, 0))
            sums = self._sums.setdefault(parent, [0, 0, 0])
            sums[0], sums[1], sums[2] = sums[0] + files, sums[1] + size, sums[2] + links
            self._index.db.execute("UPDATE entries SET files = ?, bytes = ?, links = ? WHERE dir = ? AND name = ?",
                                   (files, size, links, self._id(parent), name))  # fmt: skip

    def _prunes(self, parent: int, name: bytes) -> bool:
        """Whether something below could be left out: the top, and the first components of what is."""
        return bool(self._left_out) and (parent == 0 or any(os.fsencode(p.parts[0]) == name for p in self._left_out))

    def _holds_left_out(self) -> bool:
        """Whether the state holds what is left out by now: then the next sync reads the path in full."""
        return any(self._row(tuple(map(os.fsencode, path.parts))) for path in self._left_out)

    def _row(self, names: tuple[bytes, ...]) -> bool:
        top = self._rows.top()
        at = top.id if top else 0
        for name in names:
            row = self._rows.get(at, name)
            if row is None:
                return False
            at = row[3] or 0
        return True
