"""What one name of a directory is: its row, made from what is open and not from the name again."""

import errno
import os
import stat

from persist.bucket import trees
from persist.bucket.content import Content
from persist.bucket.trees import Role, Xattrs
from persist.sync import contents
from persist.sync.notes import Notes
from persist.sync.rows import Row, Rows
from persist.sync.warm import Warm
from town.process import Person

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOATIME
_READS = 3  # how often a file that changes is read
_REMEMBERED = 20_000  # files with several names whose content is not read again for the next name
_REMEMBERED_BYTES = 64 << 20  # and what those take
_EXTENT = 128  # bytes that an extent takes
_EMPTY = Content(())
Held = tuple[Content, int, contents.Extents | None]


class Entries:
    """Makes the rows of one part of a declared path, and stores what its files hold."""

    def __init__(self, sink: contents.Sink, person: Person, rows: Rows, notes: Notes) -> None:
        self._sink, self._person, self._rows, self._notes = sink, person, rows, notes
        self._first: dict[int, tuple[os.stat_result, dict[str, object]]] = {}
        self._first_bytes = 0
        self.volume, self.frozen, self.trusted = 0, False, 0
        self.files = self.bytes = 0  # that were read
        self._warm: Warm | None = None

    def part(self, volume: int, *, frozen: bool, trusted: int, warm: Warm | None = None) -> None:
        """Begin a part. `frozen`: nothing changes meanwhile; a ctime from `trusted` on (ns) may hide a later change."""
        self.volume, self.frozen, self.trusted, self._warm = volume, frozen, trusted, warm
        self._forget_first()

    def _forget_first(self) -> None:
        self._first.clear()
        self._first_bytes = 0

    @property
    def cold(self) -> bool:
        """Whether it is worth to ask whether files are cold."""
        return self._warm is None or self._warm.cold

    def file(self, at: int, directory: int, name: bytes, inode: int) -> Row | None:
        """What was listed as a regular file in the directory with the number `at`; None when it is gone."""
        if self._warm is not None and (row := self._cached(at, name, inode)) is not None:
            return row
        try:
            fd = os.open(name, _FILE, dir_fd=directory)
        except OSError as error:
            # Gone or replaced since it was listed: by a symlink (ELOOP), a socket or a device without a driver.
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV):
                raise
            return None if error.errno == errno.ENOENT else self.other(at, directory, name)
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode):
                return self._regular(at, fd, name, found)
        finally:
            os.close(fd)
        return self.other(at, directory, name)

    def _cached(self, at: int, name: bytes, inode: int) -> Row | None:
        """A file whose content is in memory; None for all others."""
        assert self._warm is not None
        if (got := self._warm.read(inode)) is None:
            return None
        found, data, xattrs, capable = got
        content = Content((self._sink.writer.add("data", data),))
        return self._made(at, name, found, (content, len(data), None), (xattrs, capable))

    def _regular(self, at: int, fd: int, name: bytes, found: os.stat_result) -> Row:
        if found.st_nlink > 1 and found.st_ino in self._first:
            return self._again(at, name, found.st_ino)
        if found.st_size == 0:
            held: Held = (_EMPTY, 0, None)
        elif self.frozen:
            held = contents.stored(self._sink, fd, found)
        else:
            found, held = self._settled(at, fd, name, found)
        return self._made(at, name, found, held, contents.xattrs(fd))

    def _made(self, at: int, name: bytes, found: os.stat_result, held: Held, kept: tuple[Xattrs, bool]) -> Row:
        (content, size, data), (xattrs, capable) = held, kept
        if capable:
            self._rows.note("capability", at, name)
        self.files += 1
        self.bytes += size
        owner, group, mode = self._who(at, name, found)
        if found.st_nlink == 1:
            line = trees.line(name, "file", mode, found.st_mtime_ns, owner, group,
                              xattrs=xattrs, size=size, content=content, data=data)  # fmt: skip
            ctime = found.st_ctime_ns
            return name, found.st_ino, ctime if ctime < self.trusted else 0, None, 1, size, 0, line
        said = {"kind": "file", "mode": mode, "mtime": found.st_mtime_ns, "owner": owner, "group": group,
                "xattrs": xattrs, "size": size, "content": content, "data": data}  # fmt: skip
        return self._linked(at, name, found, said)

    def _settled(self, at: int, fd: int, name: bytes, found: os.stat_result) -> tuple[os.stat_result, Held]:
        """A file that may change while it is read: as it was found, and what it held."""
        for _ in range(_READS):
            held = contents.stored(self._sink, fd, found)
            if _same(found, after := os.fstat(fd)):
                return found, held
            found = after
        self._notes.add("changing", at, name)
        return found, held

    def other(self, at: int, directory: int, name: bytes) -> Row | None:
        """The row of a symlink or FIFO; None, and a note, for what is not kept."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return self._symlink(at, directory, name, found)
            if stat.S_ISFIFO(found.st_mode):
                return self._fifo(at, directory, name, found)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # gone, or replaced between two calls
                raise
            return None
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):  # it is one now: the next sync has it
            self._notes.add("changing", at, name)
        else:
            self._rows.note("socket" if stat.S_ISSOCK(found.st_mode) else "device", at, name)
        return None

    def _symlink(self, at: int, directory: int, name: bytes, found: os.stat_result) -> Row:
        target = os.readlink(name, dir_fd=directory)
        owner, group, _ = self._who(at, name, found)
        said = {"kind": "symlink", "mode": 0o777, "mtime": found.st_mtime_ns, "owner": owner, "group": group,
                "target": target}  # fmt: skip
        return self._linked(at, name, found, said)

    def _fifo(self, at: int, directory: int, name: bytes, found: os.stat_result) -> Row:
        xattrs, _ = contents.xattrs(f"/proc/self/fd/{directory}/{os.fsdecode(name)}")
        owner, group, mode = self._who(at, name, found)
        said = {"kind": "fifo", "mode": mode, "mtime": found.st_mtime_ns, "owner": owner, "group": group,
                "xattrs": xattrs}  # fmt: skip
        return self._linked(at, name, found, said)

    def _linked(self, at: int, name: bytes, found: os.stat_result, said: dict[str, object]) -> Row:
        """Remembered for its other names, so that all of them say the same. `links` settles what they share."""
        linked = found.st_nlink > 1
        if linked:
            if len(self._first) >= _REMEMBERED or self._first_bytes >= _REMEMBERED_BYTES:
                self._forget_first()
            self._first[found.st_ino] = (found, said)
            self._first_bytes += _weight(said)
            self._rows.add_link(self.volume, found.st_ino, at, name)
        return self._row(name, found, said, linked=linked)

    def _again(self, at: int, name: bytes, inode: int) -> Row:
        found, said = self._first[inode]
        self._rows.add_link(self.volume, inode, at, name)
        self._who(at, name, found)
        return self._row(name, found, said, linked=True)

    def _row(self, name: bytes, found: os.stat_result, said: dict[str, object], *, linked: bool) -> Row:
        line = trees.line(name, **said)  # type: ignore[arg-type]
        ctime = found.st_ctime_ns if found.st_ctime_ns < self.trusted else 0
        size = said.get("size", 0)
        assert isinstance(size, int)
        return name, found.st_ino, ctime, None, 1, size, int(linked), line

    def directory(self, parent: int, name: bytes, found: os.stat_result, xattrs: Xattrs, content: Content) -> bytes:
        """The line of a directory."""
        owner, group, mode = self._who(parent, name, found)
        return trees.line(name, "dir", mode, found.st_mtime_ns, owner, group, xattrs=xattrs, content=content)

    def _who(self, at: int, name: bytes, found: os.stat_result) -> tuple[Role, Role, int]:
        """Owner and group as roles, and the mode that is kept."""
        mode = found.st_mode & 0o7777
        if found.st_uid == self._person.uid and found.st_gid == self._person.gid:
            return "agent", "agent", mode
        owner, group = self._role(found.st_uid, self._person.uid), self._role(found.st_gid, self._person.gid)
        kept = trees.kept_mode(mode, owner, group)
        if kept != mode and not stat.S_ISLNK(found.st_mode):
            self._rows.note("bits", at, name)
        if "other" in (owner, group):
            self._rows.note("owner", at, name)
        return owner, group, kept

    @staticmethod
    def _role(found: int, agents: int) -> Role:
        return "agent" if found == agents else "root" if found == 0 else "other"


def _weight(said: dict[str, object]) -> int:
    xattrs, data = said.get("xattrs") or (), said.get("data") or ()
    assert isinstance(xattrs, tuple)
    assert isinstance(data, tuple)
    return sum(len(name) + len(value) for name, value in xattrs) + _EXTENT * len(data)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size, after.st_mtime_ns, after.st_ctime_ns,
    )  # fmt: skip
