"""Snapshots that killed syncs left: while one is there, what an agent deletes keeps its space.

Their names are AGENT@MACHINE-RANDOM. The machine's id may be another by now, and the agent may have left the spec. Who
uses one holds a flock on it, which ends with the process.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress

from town import btrfs, files, subvolumes
from town.failure import Failure

SNAPSHOTS = ".nuketown-sync"
OLD = 24 * 3600.0  # seconds after which nobody is about to use one that nobody uses


def prefix(agent: str, machine: str) -> str:
    """How the names of the snapshots of an agent begin on this machine."""
    return f"{agent}@{machine[:8]}-"


def use(snapshot: int) -> None:
    """Say, as long as the descriptor is open, that a snapshot is in use."""
    fcntl.flock(snapshot, fcntl.LOCK_SH)


def swept(top: int, now: float) -> Iterator[tuple[bytes, Failure | None]]:
    """Delete what was left on the filesystem whose top level is open: name, and why it could not be; of any agent."""
    with suppress(OSError), files.opened(files.enter(top, SNAPSHOTS)) as place:
        yield from sweep(place, now)
        btrfs.commit(top)  # else the cleaner sleeps for half a minute before it frees them


def sweep(place: int, now: float, agent: str | None = None) -> Iterator[tuple[bytes, Failure | None]]:
    """Delete the snapshots in an open directory that nobody uses: all of `agent`, whose lock is held, and old ones.

    `now`: seconds since the epoch. Each with the failure where it could not be deleted.
    """
    for name in files.names(place):
        of, at, _ = name.partition(b"@")
        own = agent is not None and of == agent.encode()
        try:
            if at and _is_free(place, name, now - (0 if own else OLD), own=own):
                _delete(place, name)
                yield name, None
        except Failure as failure:
            yield name, failure
        except OSError:  # gone meanwhile, or no directory
            continue


def _delete(place: int, name: bytes) -> None:
    """A snapshot, with those that were put into it. Raises BtrfsFailed, OSError."""
    try:
        btrfs.delete(place, os.fsdecode(name))
    except btrfs.BtrfsFailed:
        subvolumes.remove(place, name)


def _is_free(place: int, name: bytes, before: float, *, own: bool) -> bool:
    """Whether a subvolume was made before a time, or is one's own, and nobody uses it. Raises OSError, BtrfsFailed."""
    with files.opened(files.enter(place, name)) as fd:
        if not btrfs.is_subvolume(fd) or not (own or btrfs.info(fd).made < before):
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
