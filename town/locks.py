"""One process at a time: advisory locks (flock(2)) that end with their holder, so none can go stale.

A lock lies in a directory that only root may enter: whoever can open a file can also hold it locked.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from town import files
from town.failure import TryLater


@contextmanager
def held(directory: int, name: str, busy: TryLater) -> Iterator[None]:
    """Hold the lock `name` of an open directory while the block lasts. Raises `busy` at once when somebody has it."""
    with files.opened(files.open_beneath(directory, name, os.O_RDWR | os.O_CREAT, 0o600)) as fd:
        take(fd, busy)
        yield


def take(fd: int, busy: TryLater, *, shared: bool = False) -> None:
    """Lock an open file or directory until its descriptor is closed. Raises `busy` at once when somebody has it."""
    if not free(fd, shared=shared):
        raise busy


def free(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file or directory until its descriptor is closed; false where somebody has it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
