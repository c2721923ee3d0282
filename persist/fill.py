"""An empty directory, filled from the store: what a listing says is made, by descriptors, in a fixed number of them.

`into` is a directory that only root can reach, so a name stays what it was made as. Names come from listings that were
authenticated, and are checked all the same: one component each, ascending, so nothing is written outside or twice.
"""

import errno
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from persist.bucket import content, trees
from persist.bucket.blobs import Reader
from persist.bucket.commits import Top
from persist.bucket.trees import Entry, Role
from persist.store import StoreDamaged
from town import files, terminal
from town.failure import Failure, Unsafe
from town.files import opened
from town.process import Person
from town.terminal import shown

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ACL = (b"system.posix_acl_access", b"system.posix_acl_default")
_ACL_USER, _ACL_GROUP = 0x02, 0x08  # acl(5) entries that name an id; include/uapi/linux/posix_acl.h
_ACL_ENTRY = struct.Struct("<HHI")


class CannotMake(Failure):
    """The filesystem refused something that the store holds: full, without ACLs, or with shorter limits."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What was brought back: files (all that is no directory), directories, bytes (apparent)."""

    files: int
    directories: int
    bytes: int

    def __str__(self) -> str:
        return f"{terminal.counted(self.files, 'file')}, {terminal.size(self.bytes)}"


@dataclass(slots=True)
class _Level:
    entry: Entry
    identity: tuple[int, int]
    left: Iterator[Entry] = field(default_factory=lambda: iter(()))


class Filler:
    """Fills one directory with one declared path of a commit."""

    def __init__(self, reader: Reader, owner: Person, before: Person, top: Top) -> None:
        self._reader, self._owner, self._before, self._top = reader, owner, before, top
        self._files = self._directories = self._bytes = 0

    def fill(self, into: int) -> Totals:
        """Fill the empty directory `into`. Raises StoreDamaged, Unsafe when it is not empty, OSError."""
        if files.names(into):
            raise Unsafe("the directory to restore into is not empty")
        # Names of one file are linked from here: a flat place, however deep and however many they are.
        links = f".nuketown-links-{secrets.token_hex(8)}"
        os.mkdir(links, 0o700, dir_fd=into)
        with opened(files.enter(into, links)) as self._links:
            self._fd = os.open(".", files.DIRECTORY, dir_fd=into)
            try:
                self._walk(into, links)
            finally:
                os.close(self._fd)
        if (self._files, self._bytes) != (self._top.files, self._top.bytes):
            raise StoreDamaged("the listings hold another number of files or bytes than their commit says")
        return Totals(self._files, self._directories, self._bytes)

    def _walk(self, into: int, links: str) -> None:
        level, trail = self._level(self._top.entry), list[_Level]()
        while True:
            entry = next(level.left, None)
            if entry is None:
                if not trail:
                    files.remove_tree(into, links)
                with _named(level.entry):
                    self._finish(self._fd, level.entry)
                if not trail:
                    return
                level = trail.pop()
                self._up(level)
            elif entry.kind == "dir":
                self._directories += 1
                os.mkdir(entry.name, 0o700, dir_fd=self._fd)
                below = files.enter(self._fd, entry.name)
                os.close(self._fd)
                self._fd = below
                trail.append(level)
                level = self._level(entry)
            else:
                self._count(entry)
                with _named(entry):
                    self._make(entry)

    def _level(self, entry: Entry) -> _Level:
        assert entry.content is not None
        found = os.fstat(self._fd)
        return _Level(entry, (found.st_dev, found.st_ino), trees.read(self._reader, entry.content))

    def _up(self, level: _Level) -> None:
        above = os.open("..", files.DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = above
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) != level.identity:
            raise Unsafe("a directory was moved while it was being restored")

    def _count(self, entry: Entry) -> None:
        self._files += 1
        self._bytes += entry.size
        if self._files > self._top.files or self._bytes > self._top.bytes:
            raise StoreDamaged("the listings hold more than their commit says")

    def _make(self, entry: Entry) -> None:
        if entry.link and self._linked(entry):
            return
        match entry.kind:
            case "file":
                self._make_file(entry)
            case "symlink":
                os.symlink(entry.target, entry.name, dir_fd=self._fd)
            case "fifo":
                os.mkfifo(entry.name, 0o600, dir_fd=self._fd)
            case _:
                raise StoreDamaged(f"{shown(entry.name)} is of a kind that cannot be made here")
        if entry.kind != "file":
            self._finish_name(entry)
        if entry.link:
            _link((self._fd, entry.name), (self._links, _link_name(entry)))

    def _linked(self, entry: Entry) -> bool:
        try:
            _link((self._links, _link_name(entry)), (self._fd, entry.name))
        except FileNotFoundError:
            return False
        made = os.stat(entry.name, dir_fd=self._fd, follow_symlinks=False)
        if stat.S_IFMT(made.st_mode) != _FORMATS[entry.kind] or (entry.kind == "file" and made.st_size != entry.size):
            raise StoreDamaged(f"{shown(entry.name)} shares its link with something else")
        return True

    def _make_file(self, entry: Entry) -> None:
        with opened(os.open(entry.name, _NEW, 0o600, dir_fd=self._fd)) as fd:
            assert entry.content is not None
            if entry.data is None:
                self._write_all(fd, entry)
            else:
                self._write_extents(fd, entry)
            self._finish(fd, entry)

    def _write_all(self, fd: int, entry: Entry) -> None:
        assert entry.content is not None
        left = entry.size
        for piece in content.read(self._reader, "data", entry.content):
            left -= len(piece)
            if left < 0:
                break
            files.write_all(fd, piece)
        if left:
            raise StoreDamaged(f"{shown(entry.name)} holds another number of bytes than its entry says")

    def _write_extents(self, fd: int, entry: Entry) -> None:
        assert entry.content is not None
        assert entry.data is not None
        os.ftruncate(fd, entry.size)
        pieces, view = content.read(self._reader, "data", entry.content), memoryview(b"")
        for offset, length in entry.data:
            at, end = offset, offset + length
            while at < end:
                if not view:
                    view = memoryview(next(pieces, b""))
                    if not view:
                        raise StoreDamaged(f"{shown(entry.name)} holds fewer bytes than its entry says")
                written = os.pwrite(fd, view[: end - at], at)
                at, view = at + written, view[written:]
        if view or next(pieces, None) is not None:
            raise StoreDamaged(f"{shown(entry.name)} holds more bytes than its entry says")

    def _finish(self, fd: int, entry: Entry) -> None:
        """Owner, attributes, mode and time of an open file or directory; mode after owner and ACL, which change it."""
        os.fchown(fd, self._uid(entry.owner), self._gid(entry.group))
        for name, value in entry.xattrs:
            os.setxattr(fd, name, self._mapped(name, value))
        os.fchmod(fd, trees.kept_mode(entry.mode, entry.owner, entry.group))
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _finish_name(self, entry: Entry) -> None:
        """The same for a symlink or a FIFO, which cannot be opened for it."""
        os.chown(entry.name, self._uid(entry.owner), self._gid(entry.group), dir_fd=self._fd, follow_symlinks=False)
        if entry.kind == "fifo":
            place = os.fsencode(f"/proc/self/fd/{self._fd}/") + entry.name
            for name, value in entry.xattrs:
                os.setxattr(place, name, self._mapped(name, value), follow_symlinks=False)
            os.chmod(entry.name, trees.kept_mode(entry.mode, entry.owner, entry.group), dir_fd=self._fd)
        os.utime(entry.name, ns=(entry.mtime, entry.mtime), dir_fd=self._fd, follow_symlinks=False)

    def _uid(self, role: Role) -> int:
        # An owner that was neither the agent nor root has no number here. Root's: nobody gains what they did not have.
        return self._owner.uid if role == "agent" else 0

    def _gid(self, role: Role) -> int:
        return self._owner.gid if role == "agent" else 0

    def _mapped(self, name: bytes, value: bytes) -> bytes:
        """An ACL with the agent's numbers of before as those of now; the spec fixes the numbers of all others."""
        if name not in _ACL or (self._before.uid, self._before.gid) == (self._owner.uid, self._owner.gid):
            return value
        mapped = bytearray(value)
        with suppress(struct.error):  # a strange length: the kernel refuses it
            for at in range(4, len(value), _ACL_ENTRY.size):
                tag, allowed, id_ = _ACL_ENTRY.unpack_from(value, at)
                if tag == _ACL_USER and id_ == self._before.uid:
                    _ACL_ENTRY.pack_into(mapped, at, tag, allowed, self._owner.uid)
                elif tag == _ACL_GROUP and id_ == self._before.gid:
                    _ACL_ENTRY.pack_into(mapped, at, tag, allowed, self._owner.gid)
        return bytes(mapped)


@contextmanager
def _named(entry: Entry) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotMake(
            f"{shown(entry.name)} cannot be made: {error.strerror}", hint=_CURES.get(error.errno or 0, "")
        ) from error


_CURES = {
    errno.ENOSPC: "make room on the disk, then restore again",
    errno.EDQUOT: "make room on the disk, then restore again",
    errno.ENOTSUP: "restore to a filesystem that has extended attributes and ACLs, such as btrfs",
}


def _link(old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
    os.link(old[1], new[1], src_dir_fd=old[0], dst_dir_fd=new[0], follow_symlinks=False)


def _link_name(entry: Entry) -> bytes:
    return entry.link.encode().hex().encode()[:255]


_FORMATS = {"file": stat.S_IFREG, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO, "dir": stat.S_IFDIR}
