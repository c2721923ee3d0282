"""Subvolumes within a subvolume: a snapshot leaves them out, and shows an empty directory where each was."""

import os
from collections.abc import Callable
from contextlib import suppress

from town import btrfs, files, subvolumes
from town.subvolumes import Place

MOST = 256  # of one snapshot, each a millisecond or two: an agent can make them without end


def fill(source: int, copy: int, met: Callable[[int], None] = lambda _fd: None, *, most: int | None = None) -> int:
    """Snapshot everything nested in the subvolume `source` to where it was in its writable snapshot `copy`.

    At most so many, MOST where nothing is said; how many are left out is returned: an empty directory stands for each,
    and for what lies in it.
    `met` is given each new snapshot, open. Nobody but root may reach `copy`. Raises OSError, btrfs.BtrfsFailed.
    """
    most = MOST if most is None else most
    waiting, made, left = [(btrfs.number(source), btrfs.number(copy))], 0, 0
    while waiting:
        original, new = waiting.pop()
        for number, place in subvolumes.within(source, original):
            if made >= most:
                left += 1
                continue
            below = _filled(source, copy, number, place._replace(parent=new), met)
            if below is not None:
                waiting.append((number, below))
                made += 1
    return left


def close(root: int, *, most: int | None = None) -> None:
    """Make a subvolume and what is nested in it (at most so many) read-only, the innermost first.

    Raises OSError, btrfs.BtrfsFailed.
    """
    numbers = [btrfs.number(root)]
    for number in numbers:  # grows meanwhile
        numbers += [inner for inner, _ in subvolumes.within(root, number)]
        if most is not None and len(numbers) > most:
            break
    for number in reversed(numbers[: None if most is None else most + 1]):
        with suppress(FileNotFoundError), files.opened(subvolumes.opened_root(root, number)) as fd:
            if not btrfs.info(fd).read_only:
                btrfs.set_read_only(fd, True)


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
