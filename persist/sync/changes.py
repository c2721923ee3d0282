"""A part of a declared path brought up to date by what the filesystem says has changed: no walk.

Changed directories are listed again and compared by inode; a changed file is read again, in every directory that names
it; what moved keeps its rows. A directory that the index does not know is read in full: what was moved in has children
whose own transaction is old. What left the path is dropped, so that it is unknown should it come back.
"""

import os
import stat
from collections.abc import Iterable, Mapping

from persist.sync import contents
from persist.sync.listing import content_of
from persist.sync.rows import Directory, Row
from persist.sync.scan import Context, Path, Scanner
from persist.sync.sources import Volume
from town import btrfs, changes, files, subvolumes
from town.btrfs import EMPTY_INODE
from town.changes import Changed, Ref


class Update:
    """Brings one part up to date: what lies below the directory `top` of the index, in the snapshot of `volume`."""

    def __init__(self, context: Context, top: Directory, volume: Volume, changed: Mapping[int, Changed]) -> None:
        assert volume.snapshot is not None
        self._context, self._rows, self._dirty = context, context.rows, context.dirty
        self._top, self._volume, self._fd = top, top.volume, volume.snapshot
        self._subvolume = btrfs.info(self._fd).id
        self._changed = changed  # of the whole subvolume, by inode
        self._inside: dict[int, bool] = {top.inode: True, 0: False}
        self._listed: dict[int, tuple[os.stat_result, tuple[tuple[bytes, bytes], ...]]] = {}

    def run(self) -> None:
        """Bring the rows up to date. Raises what reading raises."""
        directories, names = self._wanted()
        for directory in directories:
            self._relist(directory)
        for number, some in names.items():
            if number not in self._listed:
                self._reread(number, some)
        self._describe()

    def _wanted(self) -> tuple[list[Directory], dict[int, list[bytes]]]:
        """The directories to list again, and in others the names to read again."""
        directories: list[Directory] = []
        names: dict[int, list[bytes]] = {}
        known: dict[int, Directory | None] = {}
        for found in self._changed.values():
            if stat.S_ISDIR(found.mode):
                directory = self._rows.known(self._volume, found.inode, found.generation)
                if directory and self._is_inside(found.inode):
                    directories.append(directory)
                continue
            for parent, name in found.refs or changes.refs(self._fd, found.inode):
                if parent not in known:
                    known[parent] = self._rows.known(self._volume, parent) if self._is_inside(parent) else None
                if (holder := known[parent]) is not None:
                    names.setdefault(holder.id, []).append(name)
        return directories, names

    def _is_inside(self, inode: int) -> bool:
        """Whether a directory lies in the part, in the snapshot."""
        trail = []
        while inode not in self._inside:
            trail.append(inode)
            found = self._changed.get(inode)
            refs: tuple[Ref, ...] = found.refs if found else ()
            inode = refs[0][0] if refs and refs[0][0] != inode else changes.parent(self._fd, inode)
        inside = self._inside[inode]
        self._inside.update(dict.fromkeys(trail, inside))
        return inside

    def _open(self, inode: int) -> int:
        return subvolumes.opened_inode(self._fd, self._subvolume, inode)

    def _relist(self, directory: Directory) -> None:
        """A changed directory: what is new in it is taken, what is gone leaves."""
        with files.opened(self._open(directory.inode)) as fd:
            self._listed[directory.id] = os.fstat(fd), contents.xattrs(fd)[0]
            path = self._context.path(directory.id)
            known = self._rows.brief(directory.id)
            there, plain = set[bytes](), []
            for found in files.scan(fd):
                name = os.fsencode(found.name)
                if path is not None and (*path, name) in self._context.left_out:
                    continue
                there.add(name)
                inode, child = known.get(name, (0, None))
                if found.is_dir(follow_symlinks=False):
                    self._directory(directory, fd, (name, child), path)
                elif inode != found.inode() or child is not None or inode in self._changed:
                    plain.append((found.inode(), name, found.is_file(follow_symlinks=False)))
            for name in known.keys() - there:
                self._lose(directory.id, name)
            self._rows.forget_notes_but(directory.id, there)
            self._read(directory.id, fd, plain)

    def _directory(self, above: Directory, fd: int, named: tuple[bytes, int | None], path: Path | None) -> None:
        """A directory in one that changed: the one of before, one that was moved here, or a new one."""
        name, child = named
        # Not by the number that the listing gave: of a nested subvolume it is that of another tree.
        inode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
        if inode == EMPTY_INODE:
            if child is None or child not in self._dirty.nested_known:
                self._lose(above.id, name)
                self._rows.put(above.id, self._dirty.begin_nested(above.id, name))
                self._dirty.add(above.id)
            return
        found = self._changed.get(inode)
        if child is not None and self._same(child, inode, found):
            return
        self._lose(above.id, name)
        below = None if path is None else (*path, name)
        row = self._moved(above, name, inode, below)
        self._rows.put(above.id, row or self._new(above, fd, name, below))
        self._dirty.add(above.id)

    def _same(self, child: int, inode: int, found: Changed | None) -> bool:
        known = self._rows.directory(child)
        return (
            known is not None
            and (known.volume, known.inode) == (self._volume, inode)
            and (found is None or found.generation == known.generation)
        )

    def _moved(self, above: Directory, name: bytes, inode: int, path: Path | None) -> Row | None:
        found = self._changed.get(inode)
        known = None if found is None else self._rows.known(self._volume, inode, found.generation)
        if known is None:
            return None
        if known.prunes or self._context.prunes(path):  # other things are left out below it now
            return None
        return self._attached(known, above.id, name)

    def _attached(self, known: Directory, parent: int, name: bytes) -> Row | None:
        row = self._dirty.row_of(known)
        if row is None:
            return None
        self._lose(known.parent, known.name, only=known.id)
        return self._dirty.move(known, parent, name)

    def _new(self, above: Directory, fd: int, name: bytes, path: Path | None) -> Row:
        """A directory that nobody knows, read in full."""
        scanner = Scanner(self._context, self._volume, frozen=True, attach=self._attached)
        with files.opened(os.open(name, files.DIRECTORY, dir_fd=fd)) as below:
            made = scanner.made(below, above.id, name, path)
            return scanner.scan(below, made, path if self._context.left_out else None, None)

    def _reread(self, number: int, names: Iterable[bytes]) -> None:
        """Changed files in a directory that did not change itself."""
        directory = self._rows.directory(number)
        if directory is None:
            return
        known = {name: row for name in names if (row := self._rows.get(number, name)) is not None and row[3] is None}
        if not known:
            return  # left out, or of a kind that is not kept
        with files.opened(self._open(directory.inode)) as fd:
            self._read(number, fd, [(row[1], name, True) for name, row in known.items()])

    def _read(self, number: int, fd: int, plain: list[tuple[int, bytes, bool]]) -> None:
        if self._context.entries.cold:
            self._context.readers.look(fd, plain)
        entries = self._context.entries
        took = entries.files, entries.bytes
        for inode, name, is_file in sorted(plain):
            before = self._rows.get(number, name)
            if before is not None and before[3] is None and before[6]:
                self._rows.remove_link(number, name)
            self._rows.forget_notes(number, name)
            row = entries.file(number, fd, name, inode) if is_file else entries.other(number, fd, name)
            self._took(number, name, before, row)
        self._context.took(entries.files - took[0], entries.bytes - took[1])

    def _took(self, number: int, name: bytes, before: Row | None, row: Row | None) -> None:
        """What a name was, and what it is now."""
        if row is None:
            self._lose(number, name)
        elif row != before:
            if before is not None and before[3] is not None:
                self._lose(number, name)
            self._rows.put(number, row)
            if before is None or before[3:] != row[3:]:
                self._dirty.add(number)

    def _lose(self, directory: int, name: bytes, *, only: int | None = None) -> None:
        """A name that is not there any more; `only`: if it led to that directory."""
        row = self._rows.get(directory, name)
        if row is not None and (only is None or row[3] == only):
            self._dirty.gone(directory, name)
            self._dirty.add(directory)

    def _describe(self) -> None:
        """Mode, time, owner and attributes of the directories that were listed again, wherever they stand by now."""
        for number, (found, xattrs) in self._listed.items():
            directory = self._rows.directory(number)
            row = self._rows.get(directory.parent, directory.name) if directory else None
            if directory is None or row is None or row[3] != number:
                continue  # it left
            self._rows.forget_notes(directory.parent, directory.name)
            line = self._context.entries.directory(directory.parent, directory.name, found, xattrs, content_of(row[7]))
            if line != row[7]:
                self._rows.put(directory.parent, (*row[:7], line))
                self._dirty.add(directory.parent)
