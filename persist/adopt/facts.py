"""What a thing in a home is besides its content, as it is to be where it is kept; and what cannot be moved there.

Owners stay as they are: nobody gets to read by a move what was another's. A home is mounted nosuid and nodev, and the
place that data is kept in may be not, so what would first come to life there is left out or refused, and said.
"""

import errno
import os
import stat
import struct
from typing import NamedTuple, Protocol

from persist.descent import short
from persist.walk import Directory
from town.failure import Failure

ACCESS_LIST = "system.posix_acl_access"
_CAPABILITY = "security.capability"
# The kernel, or the policy of the machine, gives these by itself.
_BY_THE_KERNEL = ("security.selinux", "security.ima", "security.evm")
_REVISION, _OF_A_NAMESPACE = struct.Struct("<I"), 0x03000000  # struct vfs_ns_cap_data, include/uapi/linux/capability.h
_READ = os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC


class CannotMove(Failure):
    """Something in the directory cannot be kept elsewhere as it is. Nothing was moved."""


class Owner(Protocol):
    """Whose things are copied: set-uid and set-gid bits that lend rights of this one stay."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...


class Facts(NamedTuple):
    """Everything that a copy has to have too; `lends`: bits or capabilities that it will not have."""

    mode: int  # with the type
    uid: int
    gid: int
    rdev: int
    size: int  # of a regular file, else 0
    mtime: int  # ns
    attributes: tuple[tuple[str, bytes], ...]
    link: str  # of a symlink: where it points
    lends: bool = False

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


def of(fd: int, agent: Owner, *, top: bool = False) -> Facts:
    """What a copy of the thing that `fd` has open (O_PATH will do) is to be. `top`: it is the declared directory.

    Raises OSError.
    """
    found = os.fstat(fd)
    mode, attributes = _mode(found, agent), _attributes(fd, found)
    capable = [name for name, value in attributes if name == _CAPABILITY and not _namespaced(value)]
    if top:
        # A home is 0700, the directory above where this is kept lets others through: so it is closed itself.
        mode &= ~0o077
    kept = [(name, value) for name, value in attributes if name not in capable and not (top and name == ACCESS_LIST)]
    regular = stat.S_ISREG(found.st_mode)
    return Facts(
        mode=mode,
        uid=found.st_uid,
        gid=found.st_gid,
        rdev=found.st_rdev,
        size=found.st_size if regular else 0,
        mtime=found.st_mtime_ns,
        attributes=tuple(kept),
        link=os.readlink("", dir_fd=fd) if stat.S_ISLNK(found.st_mode) else "",
        lends=bool(capable) or (regular and mode & 0o6000 != found.st_mode & 0o6000),
    )


def _mode(found: os.stat_result, agent: Owner) -> int:
    """Set-uid and set-gid of a file stay only where they lend the agent's own rights."""
    mode = found.st_mode
    if stat.S_ISREG(mode):
        mode &= ~stat.S_ISUID if found.st_uid != agent.uid else ~0
        mode &= ~stat.S_ISGID if found.st_gid != agent.gid else ~0
    return mode


def _attributes(fd: int, found: os.stat_result) -> list[tuple[str, bytes]]:
    if stat.S_ISLNK(found.st_mode):  # they have none of a user's (xattr(7))
        return []
    place = f"/proc/self/fd/{fd}"
    try:
        names = sorted(name for name in os.listxattr(place) if name not in _BY_THE_KERNEL)
        return [(name, os.getxattr(place, name)) for name in names]
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):  # none here, or taken away meanwhile
            return []
        raise


def _namespaced(capability: bytes) -> bool:
    """Whether file capabilities count in a user namespace alone: those an agent can give by itself."""
    if len(capability) < _REVISION.size:
        return False
    revision: int = _REVISION.unpack_from(capability)[0]
    return revision & 0xFF000000 == _OF_A_NAMESPACE and capability[-4:] != bytes(4)


def refusal(found: os.stat_result, agent: Owner) -> str:
    """Why a thing cannot be moved, as what follows its name; empty where it can."""
    whiteout = stat.S_ISCHR(found.st_mode) and found.st_rdev == 0  # what any user may make: overlayfs marks by it
    if (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)) and not whiteout:
        return "is a device"
    if not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1 and found.st_uid != agent.uid:
        return f"is a hard link to a file of uid {found.st_uid}, which has other names too"
    return ""


def opened(fd: int, directory: Directory, name: bytes) -> int:
    """A regular file that is open with O_PATH, for reading; its name is for the message. Raises CannotMove, OSError."""
    try:
        return os.open(f"/proc/self/fd/{fd}", _READ)
    except BlockingIOError as error:
        raise CannotMove(
            f"{short(directory.path(name))} is held by a lease of a process",
            hint="stop the agent's processes, then adopt again",
        ) from error
