"""What a thing in a home is besides its content, and in what two things differ.

Times are left out: a copy, a restore or a `touch` alone is no difference that a person looks for.
"""

import errno
import os
import stat
from dataclasses import dataclass, replace
from typing import Literal

from persist.bucket import trees
from persist.bucket.trees import Entry, Role
from town.process import Person

Kind = Literal["file", "directory", "symlink", "fifo", "socket", "device"]
What = Literal["type", "content", "mode", "owner", "xattr", "acl"]
Attributes = tuple[tuple[bytes, bytes], ...]
_ACL = (b"system.posix_acl_access", b"system.posix_acl_default")
# The kernel, or the policy of the machine, gives these by itself.
_BY_THE_KERNEL = (b"security.selinux", b"security.ima", b"security.evm")
_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}
_STORED: dict[str, Kind] = {"file": "file", "dir": "directory", "symlink": "symlink", "fifo": "fifo"}


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing. `owner`: uid and gid, or roles where a state of the store is looked at; `size` in bytes, of a file."""

    kind: Kind
    mode: int  # permission bits
    owner: tuple[int, int] | tuple[Role, Role]
    size: int = 0
    attributes: Attributes = ()
    lists: Attributes = ()  # ACLs
    says: tuple[bytes, int, int] = (b"", 0, 0)  # where a symlink points; of a device its type and number

    @property
    def is_directory(self) -> bool:
        return self.kind == "directory"


def of(fd: int) -> Thing:
    """What a descriptor (O_PATH will do) is of. Raises OSError."""
    found = os.fstat(fd)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "device")
    attributes = [] if kind == "symlink" else _attributes(fd)
    target = os.fsencode(os.readlink("", dir_fd=fd)) if kind == "symlink" else b""
    return Thing(
        kind=kind,
        mode=0o777 if kind == "symlink" else stat.S_IMODE(found.st_mode),
        owner=(found.st_uid, found.st_gid),
        size=found.st_size if kind == "file" else 0,
        attributes=tuple(each for each in attributes if each[0] not in _ACL),
        lists=tuple(each for each in attributes if each[0] in _ACL),
        says=(target, *((stat.S_IFMT(found.st_mode), found.st_rdev) if kind == "device" else (0, 0))),
    )


def _attributes(fd: int) -> list[tuple[bytes, bytes]]:
    place = f"/proc/self/fd/{fd}"
    try:
        names = sorted(map(os.fsencode, os.listxattr(place)))
        return [(name, os.getxattr(place, name)) for name in names if name not in _BY_THE_KERNEL]
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):  # none here, or taken away meanwhile
            return []
        raise


def of_entry(entry: Entry) -> Thing:
    """What an entry of a state in the store says."""
    return Thing(
        kind=_STORED[entry.kind],
        mode=entry.mode,
        owner=(entry.owner, entry.group),
        size=entry.size,
        attributes=tuple(each for each in entry.xattrs if each[0] not in _ACL),
        lists=tuple(each for each in entry.xattrs if each[0] in _ACL),
        says=(entry.target, 0, 0),
    )


def as_stored(thing: Thing, agent: Person) -> Thing | None:
    """A thing on a disk as a sync would keep it (docs/formats/store.md); None: it keeps none of that kind."""
    if thing.kind in ("socket", "device"):
        return None
    owner, group = (_role(found, own) for found, own in zip(thing.owner, (agent.uid, agent.gid), strict=True))
    kept = tuple(each for each in thing.attributes if trees.kept_xattr(each[0]))
    mode = thing.mode if thing.kind == "symlink" else trees.kept_mode(thing.mode, owner, group)
    return replace(thing, owner=(owner, group), mode=mode, attributes=kept)


def _role(found: int | Role, own: int) -> Role:
    return "agent" if found == own else "root" if found == 0 else "other"


def differences(one: Thing, other: Thing) -> tuple[What, ...]:
    """In what two things differ; what files hold is not looked at here."""
    if one.kind != other.kind:
        return ("type",)
    found: list[What] = []
    if one.says != other.says:
        found.append("content")
    if one.mode != other.mode:
        found.append("mode")
    if one.owner != other.owner:
        found.append("owner")
    if one.attributes != other.attributes:
        found.append("xattr")
    if one.lists != other.lists:
        found.append("acl")
    return tuple(found)
