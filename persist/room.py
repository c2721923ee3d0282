"""Whether the filesystem has the room that the spec wants, once what was deleted is really free."""

import time

from town import btrfs, grammar, space, subvolumes
from town.terminal import size

_STUCK = 30.0  # seconds without any change of the free space
LONG = 600.0  # seconds altogether


def short(top: int, free: str) -> str:
    """What there is too little of, data or metadata, for a checked `free` of the spec; empty when there is enough.

    A share is of each; a size is a share of what could hold data, and the same share of metadata must be free.
    """
    found = space.of(top)
    if not found.data.all:
        return ""
    share = grammar.free_bytes(free, found.data.all) / found.data.all
    for kind, what in ((found.data, "data"), (found.metadata, "metadata")):
        if kind.room < share * kind.all:
            return f"room for only {size(kind.room)} of {what} was left, less than {free}"
    return ""


def settled(top: int) -> bool:
    """Wait until what was deleted before is free, or is not getting less; false when it takes too long.

    A process that still has a file of a deleted home open keeps the cleaner from it for as long as it likes. So only
    the number of those that waited at the beginning counts: what agents delete and write meanwhile changes nothing.
    """
    began = changed = time.monotonic()
    before = left = subvolumes.being_freed(top)
    pause = 0.02
    while left and time.monotonic() - changed < _STUCK:
        if time.monotonic() - began > LONG:
            return False
        btrfs.commit(top)  # wakes the cleaner, which else sleeps for up to 30 s
        if len(now := before & subvolumes.being_freed(top)) < len(left):
            left, changed = now, time.monotonic()
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)
    btrfs.commit(top)
    return True
