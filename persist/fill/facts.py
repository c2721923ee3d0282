"""What a thing that was made must have besides its content: owner, attributes, mode and time; and what went wrong."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from persist.bucket import trees
from persist.bucket.trees import Entry, Role
from town import terminal
from town.failure import Failure
from town.process import Person
from town.terminal import shown

_ACL = (b"system.posix_acl_access", b"system.posix_acl_default")
_ACL_USER, _ACL_GROUP = 0x02, 0x08  # acl(5) entries that name an id; include/uapi/linux/posix_acl.h
_ACL_ENTRY = struct.Struct("<HHI")
_CURES = {
    errno.ENOSPC: "make room on the disk, then restore again",
    errno.EDQUOT: "make room on the disk, then restore again",
    errno.ENOTSUP: "restore to a filesystem that has extended attributes and ACLs, such as btrfs",
}
ROLES: tuple[Role, ...] = ("agent", "root", "other")


class CannotMake(Failure):
    """The filesystem refused something that the store holds: full, without ACLs, or with shorter limits."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What was brought back: files (all that is no directory), directories, bytes (apparent); and what it took."""

    files: int
    directories: int
    bytes: int
    fetched: int = field(default=0, compare=False)  # bytes of the store's objects
    requests: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        held = f"{terminal.counted(self.files, 'file')}, {terminal.size(self.bytes)}"
        if not self.requests:
            return held
        took = f"{terminal.size(self.fetched)} in {terminal.counted(self.requests, 'request')}, {self.seconds:.1f} s"
        return f"{held}; {took}"


class Facts:
    """Gives open files and names what an entry says of them. `owner` is who the role "agent" stands for here.

    `before`: who it stood for where the state was made, for ACLs name numbers. `plain`: for a person's own copy, in
    which no file lends its owner's rights.
    """

    def __init__(self, owner: Person, before: Person, *, plain: bool = False) -> None:
        self._owner, self._before, self._plain = owner, before, plain
        # An owner that was neither the agent nor root has no number here. Root's: nobody gains what they did not have.
        self.uids = (owner.uid, 0, 0)
        self.gids = (owner.gid, 0, 0)
        self.mine = (os.geteuid(), os.getegid())  # what is made is whose from the first

    def mode(self, mode: int, owner: Role, group: Role) -> int:
        """Permission bits; set-uid and set-gid only where they lend the agent's own rights."""
        return mode & 0o1777 if self._plain else trees.kept_mode(mode, owner, group)

    def give(self, fd: int, entry: Entry) -> None:
        """To an open file or directory. Mode after owner and ACL, which change it; time last."""
        found = os.fstat(fd)
        uid, gid = self.uids[ROLES.index(entry.owner)], self.gids[ROLES.index(entry.group)]
        if (found.st_uid, found.st_gid) != (uid, gid):
            os.fchown(fd, uid, gid)
        for name, value in entry.xattrs:
            os.setxattr(fd, name, self._mapped(name, value))
        mode = self.mode(entry.mode, entry.owner, entry.group)
        if entry.xattrs or (uid, gid) != (0, 0) or stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def give_plain(self, fd: int, mode: int, mtime: int, roles: tuple[int, int]) -> None:
        """The same to what root made a moment ago, 0700, and that has no attributes; `roles`: places in ROLES."""
        owner, group = roles
        uid, gid = self.uids[owner], self.gids[group]
        if (uid, gid) != self.mine:
            os.fchown(fd, uid, gid)
        kept = self.mode(mode, ROLES[owner], ROLES[group])
        if kept != 0o700:
            os.fchmod(fd, kept)
        os.utime(fd, ns=(mtime, mtime))

    def give_name(self, directory: int, entry: Entry) -> None:
        """The same to a symlink or a FIFO, which cannot be opened for it."""
        uid, gid = self.uids[ROLES.index(entry.owner)], self.gids[ROLES.index(entry.group)]
        os.chown(entry.name, uid, gid, dir_fd=directory, follow_symlinks=False)
        if entry.kind == "fifo":
            place = os.fsencode(f"/proc/self/fd/{directory}/") + entry.name
            for name, value in entry.xattrs:
                os.setxattr(place, name, self._mapped(name, value), follow_symlinks=False)
            os.chmod(entry.name, self.mode(entry.mode, entry.owner, entry.group), dir_fd=directory)
        os.utime(entry.name, ns=(entry.mtime, entry.mtime), dir_fd=directory, follow_symlinks=False)

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
def naming(name: bytes) -> Iterator[None]:
    """An OSError inside becomes CannotMake that names `name`."""
    try:
        yield
    except OSError as error:
        raise cannot(name, error) from error


def cannot(name: bytes, error: OSError) -> CannotMake:
    """The failure for something that the filesystem refused."""
    return CannotMake(f"{shown(name)} cannot be made: {error.strerror}", hint=_CURES.get(error.errno or 0, ""))
