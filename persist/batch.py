"""What is kept of one filesystem, in one moment: subvolumes by snapshots, plain directories copied from such.

Everything is made in an entry that is still hidden (persist/shelving.py), where nobody but root comes; whatever goes
wrong, the entry goes as a whole.
"""

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from persist import nested
from persist.adopt.comparing import Differs
from town import btrfs, files, moment, subvolumes
from town.failure import TryLater
from town.moment import Wanted
from town.spec import Agent
from town.subvolumes import Place
from town.terminal import counted

_PARTS, _LINKS, _NAME = ".parts", ".links", "s"  # while it is made
_ROOT, _WAY = (0, 0), 0o711
_ATTEMPTS = 3


class KeepsChanging(TryLater):
    """A directory that is copied file by file changed all the while. Trying again may help."""


@dataclass(slots=True)
class _Part:
    """A subvolume of which a snapshot is taken. `place`: where it hangs in what `above` is the snapshot of."""

    root: int
    number: int
    name: str = ""  # what its snapshot is called in the entry
    above: "_Part | None" = None
    place: Place | None = None
    copy: int = -1
    transid: int = 0
    kept: bool = False  # it is in the snapshot that it is nested in


@dataclass(slots=True)
class Batch:
    """Add what is to be kept, then `make` it, once. Descriptors that are added stay open until then."""

    entry: int
    agent: Agent
    stack: ExitStack
    notes: list[str] = field(default_factory=list)
    _parts: list[_Part] = field(default_factory=list)
    _copies: list[tuple[int, PurePosixPath, _Part | None]] = field(default_factory=list)
    _filled: int = 0
    _left: int = 0

    def add(self, fd: int, path: PurePosixPath) -> None:
        """Keep an open directory as `path` in the entry; a subvolume's path has one component."""
        if btrfs.is_btrfs(fd) and btrfs.is_subvolume(fd) and len(path.parts) == 1:
            self._part(fd, str(path))
        else:
            self._copies.append((os.dup(fd), path, self._around(fd) if btrfs.is_btrfs(fd) else None))
            self.stack.callback(os.close, self._copies[-1][0])

    def _around(self, fd: int) -> _Part:
        """The subvolume that a plain directory lies in, to copy it from its snapshot."""
        number = btrfs.number(fd)
        there = next((part for part in self._parts if part.number == number), None)
        return there or self._part(self._held(subvolumes.opened_root(fd, number)), "")

    def _part(self, fd: int, name: str, above: _Part | None = None, place: Place | None = None) -> _Part:
        part = _Part(self._held(os.dup(fd)), btrfs.number(fd), name, above, place)
        self._parts.append(part)
        return part

    def _held(self, fd: int) -> int:
        return self.stack.enter_context(files.opened(fd))

    def make(self) -> dict[str, int]:
        """Make all of it, read-only; the transaction that each part with a name is of. Raises OSError, BtrfsFailed."""
        self._add_nested()
        if self._parts:
            self._take()
            for part in self._parts:
                self._put(part)
            for part in self._parts:
                self._fill(part)
        for fd, path, around in self._copies:
            self._copy(fd, path, around)
            if len(path.parts) == 1:
                with files.opened(files.enter(self.entry, str(path))) as copy:
                    nested.close(copy)
        if self._parts:
            self._show()
        self._tell()
        return {part.name: part.transid for part in self._parts if part.name}

    def _add_nested(self) -> None:
        """As much of what is nested as is snapshotted at once; the rest is after that."""
        for above in self._parts:  # grows meanwhile
            if above.name or above.above is not None:
                for number, place in subvolumes.within(above.root, above.number):
                    if len(self._parts) >= moment.MOST:
                        return
                    try:
                        fd = subvolumes.opened_root(above.root, number)
                    except OSError:  # gone meanwhile
                        continue
                    with files.opened(fd):
                        self._part(fd, "", above, place)

    def _take(self) -> None:
        places = [self._made(PurePosixPath(_PARTS, str(number))) for number in range(len(self._parts))]
        transids = moment.taken(
            [Wanted(part.root, place, _NAME, False) for part, place in zip(self._parts, places, strict=True)]
        )
        for part, place, transid in zip(self._parts, places, transids, strict=True):
            part.copy, part.transid = self._held(files.enter(place, _NAME)), transid
        if len(set(transids)) > 1:
            self.notes.append(f"not of one moment, but of {max(transids) - min(transids) + 1} transactions in a row")

    def _made(self, path: PurePosixPath) -> int:
        return self._held(files.make_dirs(self.entry, path, mode=0o700, owner=_ROOT))

    def _put(self, part: _Part) -> None:
        """The snapshot of what is nested goes to where that was; of what moved meanwhile, no more is kept."""
        if part.above is None or part.place is None:
            return
        here = self._made(PurePosixPath(_PARTS, str(self._parts.index(part))))
        above, name = part.above.copy, part.place.name
        try:
            with files.opened(subvolumes.opened_inode(above, btrfs.number(above), part.place.directory)) as directory:
                times = os.fstat(directory)
                if os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino == btrfs.EMPTY_INODE:
                    os.rmdir(name, dir_fd=directory)
                    os.rename(_NAME, name, src_dir_fd=here, dst_dir_fd=directory)
                    os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))
                    part.kept = True
        except OSError as error:
            # Renamed between the look and the snapshot: found, and snapshotted, a moment later.
            if error.errno not in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
                raise

    def _fill(self, part: _Part) -> None:
        """What is nested in it and was not snapshotted at once."""
        if part.name or part.kept:
            self._left += nested.fill(part.root, part.copy, self._met)

    def _met(self, _fd: int) -> None:
        self._filled += 1

    def _copy(self, fd: int, path: PurePosixPath, part: _Part | None) -> None:
        """A plain directory, from a snapshot of what it lies in where there is one."""
        for attempt in range(_ATTEMPTS):
            try:
                with files.opened(self._way(path.parent)) as above, files.opened(_seen(fd, part)) as source:
                    self._copied(source, above, path.name)
            except Differs as error:
                if attempt == _ATTEMPTS - 1:
                    raise KeepsChanging(error.what, hint=error.hint) from error
            else:
                break
        if part is not None:
            where = btrfs.path_in(fd) or b""
            self._left += sum(inner.path.startswith(where) for inner in btrfs.nested(fd))

    def _copied(self, source: int, above: int, name: str) -> None:
        from persist.adopt import copying

        if os.fstat(above).st_ino == os.fstat(self.entry).st_ino:
            os.close(btrfs.create(above, name))  # a part as a whole is a subvolume, whatever it was
        else:
            os.mkdir(name, 0o700, dir_fd=above)
        os.mkdir(_LINKS, 0o700, dir_fd=self.entry)
        try:
            with (
                files.opened(files.enter(above, name)) as into,
                files.opened(files.enter(self.entry, _LINKS)) as links,
            ):
                copying.copy(source, into, links, self.agent, lambda _files, _bytes: None)
        except BaseException:
            subvolumes.remove(above, name)
            raise
        finally:
            files.remove_tree(self.entry, _LINKS)

    def _way(self, path: PurePosixPath) -> int:
        """A directory on the way in the entry, made where it is missing; root's, as below persist_dir."""
        if not path.parts:
            return os.dup(self.entry)
        return files.make_dirs(self.entry, path, mode=_WAY, owner=_ROOT, parents=(_WAY, _ROOT))

    def _show(self) -> None:
        """Everything under its name, and read-only; what was only copied from goes."""
        for number, part in enumerate(self._parts):
            if part.name:
                here = self._made(PurePosixPath(_PARTS, str(number)))
                os.rename(_NAME, part.name, src_dir_fd=here, dst_dir_fd=self.entry)
                nested.close(part.copy)
        subvolumes.remove(self.entry, _PARTS)

    def _tell(self) -> None:
        if self._filled:
            self.notes.append(f"{counted(self._filled, 'nested subvolume')} in it: each a moment later than the rest")
        if self._left:
            self.notes.append(f"{counted(self._left, 'nested subvolume')}, with what lies in them, are not in it")


def _seen(fd: int, part: _Part | None) -> int:
    """An open directory in the snapshot of what it lies in. Raises FileNotFoundError where it is not there."""
    if part is None:
        return os.dup(fd)
    try:
        return subvolumes.opened_inode(part.copy, btrfs.number(part.copy), os.fstat(fd).st_ino)
    except OSError as error:  # ESTALE
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
