"""Subvolumes within a subvolume: a snapshot leaves them out, and shows an empty directory where each was."""

import os
from collections.abc import Callable
from contextlib import suppress

from town import btrfs, files, subvolumes
from town.subvolumes import Place

MOST = 256  # of one snapshot, each a millisecond or two: an agent can make them without end


def fill(source: int, copy: int, met: Callable[[int], None] = lambda _fd: None) -> int:
    """Snapshot everything nested in the subvolume `source` to where it was in its writable snapshot `copy`.

    At most MOST; how many are left out is returned: an empty directory stands for each, and for what lies in it.
    `met` is given each new snapshot, open. Nobody but root may reach `copy`. Raises OSError, btrfs.BtrfsFailed.
    """
    waiting, made, left = [(btrfs.number(source), btrfs.number(copy))], 0, 0
    while waiting:
        original, new = waiting.pop()
        for number, place in subvolumes.within(source, original):
            if made >= MOST:
                left += 1
                continue
            below = _filled(source, copy, number, place._replace(parent=new), met)
            if below is not None:
                waiting.append((number, below))
                made += 1
    return left


def _filled(mount: int, copy: int, number: int, place: Place, met: Callable[[int], None]) -> int | None:
    """One of them, where `place` says; the number of its snapshot, None when it went, or came, in this very moment."""
    with suppress(FileNotFoundError, NotADirectoryError), files.opened(_above(copy, place)) as above:
        if os.stat(place.name, dir_fd=above, follow_symlinks=False).st_ino != btrfs.EMPTY_INODE:
            return None
        with files.opened(subvolumes.opened_root(mount, number)) as original:
            time = os.fstat(above)
            os.rmdir(place.name, dir_fd=above)
            name = os.fsdecode(place.name)
            with files.opened(btrfs.snapshot(original, above, name, read_only=False)) as made:
                met(made)
                os.utime(above, ns=(time.st_atime_ns, time.st_mtime_ns))
                return btrfs.number(made)
    return None


def _above(mount: int, place: Place) -> int:
    """The directory that it hangs in, by its numbers. Raises FileNotFoundError when there is none."""
    try:
        return subvolumes.opened_inode(mount, place.parent, place.directory)
    except OSError as error:  # ESTALE
        raise FileNotFoundError(2, os.strerror(2)) from error
