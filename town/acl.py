"""Who may write to a file or directory besides its owner: by its mode, and by its access list (acl(5))."""

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["user", "group", "everybody"]
_NAME = "system.posix_acl_access"  # xattr(7); the layout is that of include/uapi/linux/posix_acl_xattr.h
_DEFAULT = "system.posix_acl_default"
_USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x02, 0x04, 0x08, 0x10, 0x20
_WRITE = 2


class Writer(NamedTuple):
    """A uid, a gid, or everybody (whose `id` means nothing)."""

    kind: Kind
    id: int


def writers(target: int | Path) -> Iterator[Writer]:
    """Everybody who may write to what is open as `target`, or to what a path names: a symlink itself, which nobody may.

    Where there is an access list the group bits of the mode are its mask, and say nothing of the group. Raises OSError.
    """
    found = os.lstat(target) if isinstance(target, Path) else os.fstat(target)
    if stat.S_ISLNK(found.st_mode):
        return
    entries = _entries(target)
    if not entries:
        entries = [(_GROUP_OBJ, found.st_mode >> 3, 0), (_OTHER, found.st_mode, 0)]
    mask = next((rights for tag, rights, _ in entries if tag == _MASK), _WRITE)
    for tag, rights, number in entries:
        if tag == _OTHER and rights & _WRITE:
            yield Writer("everybody", 0)
        elif tag == _USER and rights & mask & _WRITE:
            yield Writer("user", number)
        elif tag in (_GROUP, _GROUP_OBJ) and rights & mask & _WRITE:
            yield Writer("group", found.st_gid if tag == _GROUP_OBJ else number)


def names_user(target: int | Path, uid: int) -> bool:
    """Whether an access list of it, or the one that what is made in it gets, has an entry for that uid."""
    lists = (_entries(target, name) for name in (_NAME, _DEFAULT))
    return any(tag == _USER and number == uid for entries in lists for tag, _, number in entries)


def _entries(target: int | Path, name: str = _NAME) -> list[tuple[int, int, int]]:
    """(tag, rights, uid or gid); none where there is no list, or no such thing on that filesystem."""
    try:
        raw = os.getxattr(target, name)
    except OSError:
        return []
    return list(struct.iter_unpack("<HHI", raw[4:]))
