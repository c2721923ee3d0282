"""Where the snapshots of syncs lie, at a path of root's: what has the network mounts nothing, and finds them there.

They lie in a directory at the top level of their filesystem, which no path of an agent's leads to. `show`, run by what
mounts, makes that directory appear at /run/nuketown/snapshots/MAJOR:MINOR; `shown` opens it. docs/formats/disk.md.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from persist.leftovers import SNAPSHOTS
from town import btrfs, files, kernel, mounts

SHOWN = Path("/run/nuketown/snapshots")
_ATTRIBUTES = kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV | kernel.MOUNT_NOEXEC | kernel.MOUNT_NOATIME
_ROOT = (0, 0)


def show(directories: Iterable[int]) -> None:
    """Show those of each btrfs that one of the open directories lies on; once for each. Raises OSError, BtrfsFailed."""
    for fd in directories:
        if btrfs.is_btrfs(fd) and not _is_shown(fd):
            source, name = os.fsdecode(mounts.of(fd).source), mounts.device_of(fd)
            with files.opened(_made(name)) as target, made(source):
                _show(source, target)


def _show(device: str, target: int) -> None:
    """The directory, and no more of its filesystem, over `target`; the way there is root's alone."""
    # A part of a mount can be cloned only where that mount has a place (open_tree(2): EINVAL), so it gets one first.
    top = kernel.mount_detached("btrfs", {"source": device, "subvolid": str(btrfs.TOP_LEVEL)}, _ATTRIBUTES)
    with files.opened(top):
        mounts.attach(top, target)
        try:
            with files.opened(files.enter(top, SNAPSHOTS)) as place:
                tree = kernel.open_tree(place)
        finally:
            mounts.detach(top)
    with files.opened(tree):
        kernel.move_mount(tree, target)


@contextmanager
def made(device: str) -> Iterator[int]:
    """The directory on the filesystem on `device`, by a mount that no path leads to. Raises OSError, BtrfsFailed."""
    with btrfs.top_level(device) as top:
        with suppress(FileExistsError):
            os.mkdir(SNAPSHOTS, 0o700, dir_fd=top)
        with files.opened(files.enter(top, SNAPSHOTS)) as fd:
            yield fd


def shown(fd: int) -> int | None:
    """The directory for the filesystem that `fd` lies on, open; None where it is not shown, or is not that."""
    try:
        found = files.open_dir(SHOWN / mounts.device_of(fd))
    except (files.Unreadable, OSError):
        return None
    entry = os.fstat(found)
    here = mounts.of(found)
    right = (entry.st_uid, stat.S_IMODE(entry.st_mode)) == (0, 0o700)
    if right and here.root == f"/{SNAPSHOTS}".encode() and mounts.device_of(found) == mounts.device_of(fd):
        return found
    os.close(found)
    return None


def _is_shown(fd: int) -> bool:
    found = shown(fd)
    if found is not None:
        os.close(found)
    return found is not None


def _made(name: str) -> int:
    with files.opened(files.open_dir(SHOWN.parent.parent)) as run:
        path = PurePosixPath(SHOWN.parent.name, SHOWN.name, name)
        return files.make_dirs(run, path, mode=0o700, owner=_ROOT, parents=(0o755, _ROOT))
