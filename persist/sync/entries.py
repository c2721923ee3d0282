"""What one name of a directory is: its entry for the listing, made from what is open and not from the name again."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from persist.bucket import trees
from persist.bucket.blobs import Writer
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys
from persist.bucket.trees import Entry, Kind, Role, Xattrs
from persist.sync import contents
from persist.sync.notes import Notes
from town import files
from town.process import Person

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOATIME
_READS = 3  # how often a file that changes is read


@dataclass(slots=True, eq=False, repr=False)
class Level:
    """A directory on the way down: what was found of it, what its listing holds so far, where to go from it."""

    name: bytes
    above: "Level | None"
    found: os.stat_result
    frozen: bool  # in a snapshot, where nothing changes
    path: tuple[bytes, ...] | None  # None: below everything that could be left out
    xattrs: Xattrs = ()
    entries: list[Entry] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)

    def names(self) -> list[bytes]:
        """The names that lead here from the declared directory, which has none itself."""
        names, at = list[bytes](), self
        while at.above is not None:
            names.append(at.name)
            at = at.above
        return names[::-1]

    def where(self, name: bytes) -> bytes:
        """The path of something in it, from the declared directory."""
        return b"/".join((*self.names(), name))


class Entries:
    """Makes the entries of one declared directory, and stores what its files hold."""

    def __init__(self, writer: Writer, keys: AgentKeys, person: Person, notes: Notes) -> None:
        self._writer, self._keys, self._person, self._notes = writer, keys, person, notes
        self._first: dict[tuple[int, int], Entry] = {}  # a file with several names: what the first of them says

    def file(self, level: Level, directory: int, name: bytes) -> Entry | None:
        """The entry of what was listed as a regular file, its content stored; None when it is gone."""
        try:
            fd = os.open(name, _FILE, dir_fd=directory)
        except OSError as error:
            # Gone or replaced since it was listed: by a symlink (ELOOP), a socket or a device without a driver.
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV):
                raise
            return None if error.errno == errno.ENOENT else self.other(level, directory, name)
        with files.opened(fd):
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode):
                return self._once(level, name, found, lambda: self._regular(level, fd, name, found))
        return self.other(level, directory, name)

    def _regular(self, level: Level, fd: int, name: bytes, found: os.stat_result) -> Entry:
        for _ in range(_READS):
            content, size, data = contents.stored(self._writer, fd, found, self._keys.chunks)
            if level.frozen or _same(found, after := os.fstat(fd)):
                break
            found = after
        else:
            self._notes.add("changing", level.where(name))
        xattrs, capable = contents.xattrs(fd)
        if capable:
            self._notes.add("capability", level.where(name))
        entry = self._made(level, name, "file", found, xattrs)
        return replace(entry, size=size, content=content, data=data)

    def other(self, level: Level, directory: int, name: bytes) -> Entry | None:
        """The entry of a symlink or FIFO; None, and a note, for what is not kept."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return self._once(level, name, found, lambda: self._symlink(level, directory, name, found))
            if stat.S_ISFIFO(found.st_mode):
                return self._once(level, name, found, lambda: self._fifo(level, directory, name, found))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # gone, or replaced between two calls
                raise
            return None
        if stat.S_ISREG(found.st_mode):  # it is a file now: the next sync has it
            self._notes.add("changing", level.where(name))
        else:
            self._notes.add("socket" if stat.S_ISSOCK(found.st_mode) else "device", level.where(name))
        return None

    def _symlink(self, level: Level, directory: int, name: bytes, found: os.stat_result) -> Entry:
        target = os.readlink(name, dir_fd=directory)
        return replace(self._made(level, name, "symlink", found, ()), mode=0o777, target=target)

    def _fifo(self, level: Level, directory: int, name: bytes, found: os.stat_result) -> Entry:
        xattrs, _ = contents.xattrs(f"/proc/self/fd/{directory}/{os.fsdecode(name)}")
        return self._made(level, name, "fifo", found, xattrs)

    def _once(self, level: Level, name: bytes, found: os.stat_result, make: Callable[[], Entry]) -> Entry:
        """The entry of a file: of one with several names it is made once, so that all of them say the same.

        What they share is a hash of the first of them in the order of the walk, for inode numbers do not last.
        """
        if found.st_nlink == 1:
            return make()
        inode = (found.st_dev, found.st_ino)
        if inode not in self._first:
            link = hashlib.blake2b(level.where(name), digest_size=16).hexdigest()
            self._first[inode] = replace(make(), link=link)
        return replace(self._first[inode], name=name)

    def directory(self, level: Level, content: Content) -> Entry:
        """The entry of a directory whose listing is stored."""
        return replace(self._made(level, level.name, "dir", level.found, level.xattrs), content=content)

    def _made(self, level: Level, name: bytes, kind: Kind, found: os.stat_result, xattrs: Xattrs) -> Entry:
        owner, group = self._role(found.st_uid, self._person.uid), self._role(found.st_gid, self._person.gid)
        mode = stat.S_IMODE(found.st_mode)
        kept = trees.kept_mode(mode, owner, group)
        where = level.where(name) if kind != "dir" else b"/".join(level.names()) or b"."  # its level is its own
        if kept != mode:
            self._notes.add("bits", where)
        if "other" in (owner, group):
            self._notes.add("owner", where)
        return Entry(name, kind, kept, found.st_mtime_ns, owner, group, xattrs)

    @staticmethod
    def _role(found: int, agents: int) -> Role:
        return "agent" if found == agents else "root" if found == 0 else "other"


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size, after.st_mtime_ns, after.st_ctime_ns,
    )  # fmt: skip
