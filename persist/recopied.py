"""Recalled copies: agents_dir/.recalled/AGENT@NAME/home, a writable snapshot of a kept home, and about.json beside.

The directories are root's, 0700: where a copy is mounted is the only way to it. Inside @agents the next boot takes it.
Without [town.btrfs] a copy is made file by file, and `persist tidy` takes those of earlier boots.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from persist import about, ground, nested, shelves, shelving
from persist.kept import HOME, Home, Kept
from persist.progress import Progress
from town import bootid, btrfs, files, mounts, subvolumes
from town.failure import Failure, TryLater
from town.mounts import Mount
from town.process import Person
from town.spec import Spec
from town.terminal import shell_word, shown

_NAME = 200  # bytes of a name, without what tells two copies apart
COPY = re.compile(r"(-copy-[0-9a-f]{6})+\Z")  # that, at the end of a copy's name
_ROOT = (0, 0)
_LINKS = ".links"  # while files are copied


class NotASubvolume(Failure):
    """The kept home lies in no subvolume of its own, or of its boot's, so no snapshot of it can be made."""


class InUse(TryLater):
    """Processes work in a recalled copy. Trying again helps once they have ended."""


@dataclass(slots=True)
class Copy:
    """A new copy, open. `inside`: the home is that directory of it; `left`: see nested.fill."""

    home: int
    inside: str
    left: int


def directory(town: Spec, agents: int) -> int:
    """`.recalled`, open, made where it is missing. Raises Unsafe, OSError."""
    fd = files.make_dirs(agents, PurePosixPath(shelves.RECALLED), mode=0o700, owner=_ROOT)
    try:
        ground.refuse_others(fd, town.town.agents_dir / shelves.RECALLED)
        shelving.sweep(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def copy(entry: int, kept: Kept, home: Home) -> Iterator[Copy]:
    """A copy of an open kept home as `home` in the open directory `entry`, file by file; what is nested in it, too.

    Raises CannotMove, Differs, OSError; what was made then goes with the entry.
    """
    os.mkdir(HOME, 0o700, dir_fd=entry)
    with files.opened(files.enter(entry, HOME)) as into:
        files_of(entry, kept, home.fd, into, os.fstat(home.fd))
        yield Copy(into, "", 0)


def files_of(entry: int, kept: Kept, source: int, into: int, owner: os.stat_result) -> None:
    """Copy what an open directory holds into an empty one below `entry`. `owner`: the home's. Raises as `copy` does."""
    from persist.adopt import copying

    os.mkdir(_LINKS, 0o700, dir_fd=entry)
    with (
        files.opened(files.enter(entry, _LINKS)) as links,
        Progress(f"persist: {shown(kept.agent)}: recall") as progress,
    ):
        copying.copy(source, into, links, Person(owner.st_uid, owner.st_gid), progress.add)
    files.remove_tree(entry, _LINKS)


def of_earlier_boots(agents: int) -> list[bytes]:
    """The copies that no rollback took and nobody has mounted, by name. Raises OSError."""
    try:
        fd = files.enter(agents, shelves.RECALLED)
    except FileNotFoundError:
        return []
    with files.opened(fd):
        return [name for name in files.names(fd) if not name.startswith(b".") and _is_of_before(fd, name)]


def _is_of_before(above: int, name: bytes) -> bool:
    try:
        with files.opened(files.enter(above, name)) as entry:
            return about.read(entry).boot != bootid.text() and not shown_at(above, name)
    except NotADirectoryError:
        return False


def forget(agents: int, name: bytes) -> None:
    """Take away one of them. Raises Failure."""
    try:
        with files.opened(files.enter(agents, shelves.RECALLED)) as above:
            subvolumes.remove(above, name)
    except OSError as error:
        raise Failure(f"cannot be deleted: {error.strerror}", hint="dmesg and lsattr may say why") from error


def name(kept: Kept) -> str:
    """A new name for a copy of a kept home, AGENT@NAME."""
    whole = kept.agent + b"@" + kept.key
    return f"{os.fsdecode(whole[:_NAME])}-copy-{secrets.token_hex(3)}"


@contextmanager
def snapshot(entry: int, kept: Kept, home: Home, name: str = HOME) -> Iterator[Copy]:
    """A writable snapshot of an open kept home as `name` in the open directory `entry`, with all nested in it.

    Raises NotASubvolume, btrfs.BtrfsFailed, OSError.
    """
    with (
        _original(kept, home) as (origin, inside),
        files.opened(btrfs.snapshot(origin, entry, name, read_only=False)) as copy,
    ):
        left = nested.fill(origin, copy)
        with files.opened(os.dup(copy) if not inside else files.enter(copy, inside)) as fd:
            yield Copy(fd, inside, left)


@contextmanager
def _original(kept: Kept, home: Home) -> Iterator[tuple[int, str]]:
    """The subvolume to snapshot, and where the home lies in it: a home that is a plain directory needs the whole."""
    if btrfs.is_subvolume(home.fd):
        yield home.fd, ""
        return
    if kept.kind == "aside":
        if btrfs.is_subvolume(home.entry):
            yield home.entry, os.fsdecode(kept.agent)
            return
    elif kept.about.inside:
        with files.opened(files.enter(home.entry, HOME)) as whole:
            if btrfs.is_subvolume(whole):
                yield whole, kept.about.inside
                return
    raise NotASubvolume(
        f"{kept.name} is a plain directory that lies in no subvolume of its own", hint="look at it as root, where it is"
    )


def remove(above: int, name: bytes, allow: Callable[[list[Mount]], None]) -> list[Mount]:
    """End a copy: its mounts, then itself; the mounts. `allow` is given them first and may raise.

    Raises InUse, OSError, prune.InUse, btrfs.BtrfsFailed.
    """
    found = shown_at(above, name)
    allow(found)
    for mount in reversed(found):
        _unmount(mount)
    if left := shown_at(above, name):
        where = shell_word(left[0].target)
        raise InUse(f"the copy is still mounted at {shown(left[0].target)}", hint=f"umount {where}, then try again")
    shelving.remove(above, name, os.fsdecode(_place(above)).lstrip("/"))
    return found


def shown_at(above: int, name: bytes) -> list[Mount]:
    """The mounts that show a copy, or lie in one; in the order of mounting."""
    here, path, every = mounts.of(above), _place(above) + b"/" + name, mounts.table()
    found = {mount.id for mount in every if mount.device == here.device and _within(mount.root, path)}
    size = -1
    while len(found) != size:
        size = len(found)
        found |= {mount.id for mount in every if mount.parent in found}
    return [mount for mount in every if mount.id in found]


def _place(directory: int) -> bytes:
    """Where an open directory of root's lies in its filesystem, as mountinfo writes it."""
    here = mounts.of(directory)
    inside = os.fsencode(os.readlink(f"/proc/self/fd/{directory}")).removeprefix(here.target.rstrip(b"/"))
    return here.root.rstrip(b"/") + inside


def _within(place: bytes, path: bytes) -> bool:
    return place == path or place.startswith(path + b"/")


def _unmount(mount: Mount) -> None:
    with (
        suppress(FileNotFoundError),
        files.opened(os.open(mount.target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd,
    ):
        if mounts.mount_id(fd) == mount.id:
            mounts.detach(fd)
