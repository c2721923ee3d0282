"""Delete one entry of @agents-old with all that is nested in it: by numbers and descriptors, never by a path.

Subvolumes go from the innermost outwards, found through the root tree, in memory that depends on how deeply they are
nested and not on how many there are. Nothing recurses. A kill leaves an entry whose name says that it is half deleted.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from persist import places
from persist.aside import Aside
from town import btrfs, files, kernel, locks, mounts, subvolumes
from town.btrfs import EMPTY_INODE, TOP_LEVEL, BtrfsFailed
from town.failure import Failure, Unsafe
from town.mounts import Mount
from town.subvolumes import Place
from town.terminal import shown

LOOK = "dmesg and lsattr may say why; the rest of it is left for another persist tidy"
_NAME = 255  # bytes, NAME_MAX
_PATIENCE = 1000  # subvolumes that may appear, and steps that may be overtaken, while one entry is deleted


class InUse(Failure):
    """Something of the entry is mounted somewhere: a person looks at it. Nothing of it was deleted."""


class StillWritten(Failure):
    """A process makes new subvolumes in the entry while it is deleted. Trying again helps once it has ended."""


@dataclass(frozen=True, slots=True)
class Old:
    """@agents-old, open, and the mount of the top level that leads there."""

    top: int
    directory: int
    name: str  # of @agents-old, at the top level

    def path(self, entry: bytes) -> bytes:
        """Where an entry lies in the filesystem, as mountinfo writes it."""
        return b"/" + os.fsencode(self.name) + b"/" + entry


def delete(old: Old, entry: Aside, step: Callable[[], None]) -> None:
    """Delete `entry`, durably. `step` is called before each subvolume of it goes.

    Raises InUse before anything was done; StillWritten, Unsafe, BtrfsFailed or OSError where it could not go on: the
    next call does.
    """
    refuse_in_use(old, entry.name)
    with _unread(old, entry):  # closed before the commit: what is open is not freed
        name = _marked(old, entry)
        try:
            refuse_in_use(old, name)  # who mounted it before it had this name is seen now; later nobody does by mistake
        except InUse:
            if name != entry.name:
                kernel.renameat2(old.directory, name, old.directory, entry.name)
            refuse_in_use(old, entry.name)
            raise
        with _named():
            if entry.kind == "subvolume":
                _Tree(old, step).delete(entry.number, Place(TOP_LEVEL, os.fstat(old.directory).st_ino, name))
            else:
                files.remove_tree(old.directory, name, other=lambda *inner: _delete_inner(old, step, *inner))
    btrfs.commit(old.top)


@contextmanager
def _unread(old: Old, entry: Aside) -> Iterator[None]:
    """Hold the lock of an entry, which who reads a home in it holds too (kept.opened). Raises InUse."""
    if entry.kind == "other":
        yield
        return
    with files.opened(files.enter(old.directory, entry.name)) as fd:
        if not locks.free(fd):
            raise InUse(f"{shown(entry.name)} is being read by another command", hint="a later persist tidy deletes it")
        if entry.kind == "subvolume" and btrfs.number(fd) != entry.number:
            raise InUse(f"{shown(entry.name)} is another one by now", hint="a later persist tidy looks at it")
        yield


def refuse_in_use(old: Old, name: bytes) -> None:
    """Raises InUse when mountinfo shows a mount of, or in, the entry `name` of @agents-old."""
    found = sorted({shown(mount.target) for mount in _showing(old.path(name))})
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise InUse(
            f"{shown(name)} is in use: mounted at {', '.join(found[:3])}{more}",
            hint="unmount it; a later persist tidy deletes it",
        )


def _showing(path: bytes) -> Iterator[Mount]:
    """Mounts of a place in a btrfs, and mounts on a directory that lies in it.

    Of this namespace and of the machine's first: what an agent mounts in one of its own must not keep its old homes.
    """
    # Which btrfs it is, is not asked: a second one with the same names costs a later run, a mistake costs a home.
    for table in (mounts.table(), _first_table()):
        by_id = {mount.id: mount for mount in table}
        for mount in table:
            below = by_id.get(mount.parent)
            if (mount.kind == "btrfs" and _within(mount.root, path)) or (
                below is not None and below.kind == "btrfs" and _within(_place_of(mount, below), path)
            ):
                yield mount


def _first_table() -> list[Mount]:
    try:
        return mounts.table(1)
    except OSError:  # a sandbox may hide it
        return []


def _place_of(mount: Mount, below: Mount) -> bytes:
    """Where in the filesystem of `below` another mount lies on it."""
    return below.root.rstrip(b"/") + b"/" + mount.target[len(below.target) :].lstrip(b"/")


def _within(place: bytes, path: bytes) -> bool:
    return place == path or place.startswith(path + b"/")


def _marked(old: Old, entry: Aside) -> bytes:
    """Give the entry the name that says what becomes of it, and return the name that it has then."""
    if entry.deleting:
        return entry.name
    name = places.DELETING + entry.name
    if len(name) > _NAME or _there(old.directory, name):
        name = name[: _NAME - 17] + b"-" + secrets.token_hex(8).encode()
    try:
        kernel.renameat2(old.directory, entry.name, old.directory, name)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return entry.name  # metadata is full: deleting needs no room, a rename does
    return name


def _there(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _delete_inner(old: Old, step: Callable[[], None], directory: int, name: bytes) -> None:
    """A subvolume that was met on the way through a plain directory."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if found.st_ino == EMPTY_INODE:
        os.rmdir(name, dir_fd=directory)
        return
    with files.opened(files.enter(directory, name)) as fd:
        number = btrfs.info(fd).id
    if not stat.S_ISDIR(found.st_mode) or found.st_ino != btrfs.FIRST_INODE:
        raise Unsafe(f"{shown(name)} lies on another filesystem", hint="unmount it")
    _Tree(old, step).delete(number, Place(TOP_LEVEL, os.fstat(directory).st_ino, name))


@dataclass(slots=True)
class _Tree:
    """The deletion of one subvolume and of all that hangs in it."""

    old: Old
    step: Callable[[], None]
    began: int = 0  # what was made in a later generation was made meanwhile
    overtaken: int = 0

    def delete(self, number: int, place: Place) -> None:
        """Delete the subvolume `number`, which hangs at `place`. Raises Unsafe when it hangs elsewhere."""
        self.began = btrfs.commit(self.old.top)
        trail = [number]
        while trail:
            below = subvolumes.inside(self.old.top, trail[-1])
            if below is not None:
                self._refuse_endless(below)
                trail.append(below)
                continue
            found = subvolumes.place(self.old.top, trail[-1])
            expected = place.parent if len(trail) == 1 else trail[-2]
            if found is not None and (found.parent != expected or (len(trail) == 1 and found != place)):
                raise Unsafe(
                    f"{shown(found.name)} was moved while it was being deleted", hint="look at it, then run it again"
                )
            if found is None or self._destroyed(found):
                trail.pop()

    def _destroyed(self, place: Place) -> bool:
        """Whether it is gone: false when somebody was faster, and what is there must be looked at again."""
        self.step()
        try:
            with files.opened(subvolumes.opened_inode(self.old.top, place.parent, place.directory)) as directory:
                subvolumes.destroy(directory, place.name)
        except OSError as error:
            if error.errno == errno.EROFS:
                self._make_writable(place.parent)
            elif error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.ESTALE):
                raise
            self._overtaken()
            return False
        return True

    def _make_writable(self, number: int) -> None:
        with files.opened(subvolumes.opened_root(self.old.top, number)) as fd:
            if not btrfs.info(fd).read_only:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))  # it is the filesystem that is
            try:
                btrfs.set_read_only(fd, False)
            except BtrfsFailed:  # no room: a commit gives back what was freed since the last one
                btrfs.commit(fd)
                btrfs.set_read_only(fd, False)

    def _refuse_endless(self, number: int) -> None:
        try:
            with files.opened(subvolumes.opened_root(self.old.top, number)) as fd:
                if btrfs.info(fd).origin_generation > self.began:
                    self._overtaken()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise

    def _overtaken(self) -> None:
        self.overtaken += 1
        if self.overtaken > _PATIENCE:
            raise StillWritten(
                "new subvolumes appear in it while it is deleted",
                hint="end the processes that still run in the old home (fuser -m, or reboot), then run persist tidy",
            )


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BtrfsFailed(f"cannot be deleted: {error.strerror}", hint=LOOK) from error
