"""A directory as it is now, for the time of one command: a snapshot of the subvolume that it is, with what is nested.

They lie where those of syncs do (`persist.leftovers`), so what a kill leaves goes with the next sync or tidy.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from persist import leftovers, nested, snapshots
from town import btrfs, files, mounts, subvolumes
from town.btrfs import BtrfsFailed
from town.terminal import counted

Copied = tuple[int, tuple[str, ...]]
_WHO = "command-"  # where a sync's has its machine


class Frozen(NamedTuple):
    """A directory, open; `frozen`: nobody changes it. `notes`: what is not in it."""

    fd: int
    frozen: bool
    notes: tuple[str, ...] = ()


@contextmanager
def frozen(fd: int, agent: str, top: int | None, *, writable: bool = False) -> Iterator[Frozen]:
    """The directory that `fd` has open, in a snapshot of its subvolume where it is one, else the directory itself.

    `top`: the open top level of its filesystem, where there is one. `writable`: for who leaves something out; nobody
    else reaches it. Raises BtrfsFailed, OSError.
    """
    if not btrfs.is_btrfs(fd):
        yield Frozen(fd, False)
        return
    with ExitStack() as stack:
        root = stack.enter_context(files.opened(subvolumes.root_of(fd)))
        inside = os.fstat(fd).st_ino
        # Of a directory that is no subvolume nobody takes a snapshot of whatever holds it, but for root's own; and what
        # is nested in it would be missing.
        if inside != btrfs.FIRST_INODE and (os.fstat(root).st_uid != 0 or _holds(root, fd)):
            yield Frozen(fd, False)
            return
        copy, notes = stack.enter_context(_taken(root, agent, top, inside == btrfs.FIRST_INODE, writable))
        there = copy
        if inside != btrfs.FIRST_INODE:
            there = stack.enter_context(files.opened(subvolumes.opened_inode(copy, btrfs.number(copy), inside)))
        yield Frozen(there, True, notes)


def _holds(root: int, fd: int) -> bool:
    """Whether a subvolume is nested in the directory `fd`, which lies in the subvolume `root`."""
    where = btrfs.path_in(fd)
    return where is None or any(inner.above is None or inner.path.startswith(where) for inner in btrfs.nested(root))


@contextmanager
def _taken(
    root: int, agent: str, top: int | None, whole: bool, writable: bool
) -> Iterator[tuple[int, tuple[str, ...]]]:
    with _place(root, top) as place:
        name = leftovers.prefix(agent, _WHO) + os.urandom(6).hex()
        holds = whole and subvolumes.inside(root, btrfs.number(root)) is not None
        try:
            with files.opened(btrfs.snapshot(root, place, name, read_only=not holds and not writable)) as fd:
                leftovers.use(fd)
                left = nested.fill(root, fd) if holds else 0
                what = f"{counted(left, 'nested subvolume')}, with what lies in them, not looked at"
                yield fd, (what,) if left else ()
        finally:
            with suppress(OSError, BtrfsFailed):  # what cannot be deleted now goes with the next sync
                subvolumes.remove(place, name)


@contextmanager
def _place(root: int, top: int | None) -> Iterator[int]:
    """Where snapshots of that filesystem lie, open."""
    with ExitStack() as stack:
        if top is not None and _same_filesystem(root, top):
            with suppress(FileExistsError):
                os.mkdir(leftovers.SNAPSHOTS, 0o700, dir_fd=top)
            yield stack.enter_context(files.opened(files.enter(top, leftovers.SNAPSHOTS)))
            return
        shown = snapshots.shown(root)
        opening = snapshots.made(os.fsdecode(mounts.of(root).source)) if shown is None else files.opened(shown)
        yield stack.enter_context(opening)


def _same_filesystem(one: int, other: int) -> bool:
    from town import moment

    return moment.filesystem(one) == moment.filesystem(other)
