"""What a filesystem holds, as values to compare: each thing that was ever written to, whole; blank; all outside.

A thing at the top level or in @agents-old is known by everything in it: inodes, owners, modes, times, contents, and the
uuid of each subvolume, which a rename leaves as it is and a copy does not.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from uuid import UUID

from town import btrfs, files

HOMES, NEW, OLD, BLANK = b"@agents", b"@agents.new", b"@agents-old", b"@agents-blank"
BALLAST, NEW_BALLAST = b"@agents-ballast", b"@agents-ballast.new"
_OURS = {HOMES, NEW, OLD, BLANK, BALLAST, NEW_BALLAST}
Tree = tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a top level."""

    names: frozenset[bytes]
    outside: tuple[tuple[bytes, Tree], ...]  # what is none of the hook's business
    blank: Tree
    old: tuple[Tree, ...]  # what lies in @agents-old, sorted
    homes: Tree | None  # what has the name @agents, unless it is untouched
    leftover: Tree | None  # the same for @agents.new
    fresh: UUID | None  # of @agents, when it is blank and was never written to

    @property
    def roots(self) -> dict[object, Tree]:
        """What lies in @agents-old, by the uuid of its subvolume."""
        return {tree[0][6] if len(tree[0]) > 6 else tree: tree for tree in self.old}

    @property
    def kept(self) -> list[Tree]:
        """All that was ever written to, wherever it is."""
        return sorted([*self.old, *(tree for tree in (self.homes, self.leftover) if tree is not None)], key=repr)


def look(top: int) -> Seen:
    """Everything on the filesystem whose top level is open."""
    names = frozenset(files.names(top))
    blank = _uuid(top, BLANK)
    return Seen(
        names=names,
        outside=tuple((name, tree(top, name)) for name in sorted(names - _OURS)),
        blank=tree(top, BLANK) if BLANK in names else (),
        old=_old(top) if OLD in names else (),
        homes=_written(top, HOMES, blank) if HOMES in names else None,
        leftover=_written(top, NEW, blank) if NEW in names else None,
        fresh=_uuid(top, HOMES) if HOMES in names and _untouched(top, HOMES, blank) else None,
    )


def tree(directory: int, name: bytes) -> Tree:
    """`name` and all below it, nested subvolumes included. The outermost may be read-only or not."""
    found: list[tuple[object, ...]] = []
    waiting = [(os.dup(directory), name, b"")]
    while waiting:
        above, entry, path = waiting.pop()
        with files.opened(above):
            status = os.stat(entry, dir_fd=above, follow_symlinks=False)
            # Where a snapshot shows an empty directory for a nested subvolume, its time is that of the look.
            changed = 0 if status.st_ino == btrfs.EMPTY_INODE else status.st_mtime_ns
            fact = (path, status.st_ino, status.st_mode, status.st_uid, status.st_gid, changed)
            found.append((*fact, *_inside(above, entry, status, outermost=not path)))
            if stat.S_ISDIR(status.st_mode):
                with files.opened(files.open_beneath(above, entry)) as fd:
                    waiting += [(os.dup(fd), below, path + b"/" + below) for below in files.names(fd)]
    return tuple(sorted(found, key=repr))


def _inside(above: int, name: bytes, status: os.stat_result, *, outermost: bool) -> tuple[object, ...]:
    if stat.S_ISLNK(status.st_mode):
        return (os.readlink(name, dir_fd=above),)
    if stat.S_ISREG(status.st_mode):
        with files.opened(files.open_beneath(above, name, os.O_RDONLY)) as fd:
            whole = hashlib.sha256(files.read_fd(fd, 1 << 28, "a file"))
            for attribute in sorted(os.listxattr(fd)):
                whole.update(os.fsencode(attribute) + b"\0" + os.getxattr(fd, attribute) + b"\0")
            return (whole.hexdigest(),)
    if stat.S_ISDIR(status.st_mode) and status.st_ino == btrfs.FIRST_INODE:
        with files.opened(files.open_beneath(above, name)) as fd:
            found = btrfs.info(fd)
            # The hook makes a read-only one that it moves writable; nothing else may change that.
            return (found.uuid.hex, None if outermost and name != BLANK else found.read_only)
    return ()


def _old(top: int) -> tuple[Tree, ...]:
    with files.opened(files.open_beneath(top, OLD)) as fd:
        return tuple(sorted((tree(fd, name) for name in files.names(fd)), key=repr))


def _written(top: int, name: bytes, blank: UUID | None) -> Tree | None:
    return None if _untouched(top, name, blank) else tree(top, name)


def _untouched(top: int, name: bytes, blank: UUID | None) -> bool:
    """Empty, blank's child, and never written to since it was made."""
    status = os.stat(name, dir_fd=top, follow_symlinks=False)
    if (status.st_ino, stat.S_ISDIR(status.st_mode)) != (btrfs.FIRST_INODE, True):
        return False
    with files.opened(files.open_beneath(top, name)) as fd:
        found = btrfs.info(fd)
        return (
            files.names(fd) == []
            and blank is not None
            and found.parent_uuid == blank
            and found.generation == found.origin_generation
        )


def _uuid(top: int, name: bytes) -> UUID | None:
    try:
        with files.opened(files.open_beneath(top, name)) as fd:
            return btrfs.info(fd).uuid if btrfs.is_subvolume(fd) else None
    except FileNotFoundError:
        return None
