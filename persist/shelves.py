"""Where kept homes lie, open: directories of root's alone, at the top level of the filesystem and in agents_dir."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from persist import device, ground, outgoing
from town import btrfs, files, kernel, mounts
from town.failure import Failure, Unsafe
from town.spec import Spec
from town.terminal import shown

RECALLED = ".recalled"  # in agents_dir: root's, 0700


class Shelves(NamedTuple):
    """Where kept homes lie, open: the top level (None: no [town.btrfs]) and agents_dir (None: not there)."""

    top: int | None
    agents: int | None


@contextmanager
def opened(town: Spec) -> Iterator[Shelves]:
    """Open both; agents_dir is needed only where nothing rolls back. Raises what device.top and ground raise."""
    with ExitStack() as stack:
        if town.town.btrfs is None:
            yield Shelves(None, stack.enter_context(ground.agents_dir(town)))
            return
        top = stack.enter_context(device.top(town))
        agents = None
        with suppress(Failure):  # not mounted: its subvolume is reached through the top level
            agents = stack.enter_context(ground.agents_dir(town))
        yield Shelves(top, agents)


@contextmanager
def old(town: Spec, top: int | None, agents: int | None) -> Iterator[int | None]:
    """What was set aside, open: @agents-old, or `.old` in agents_dir where nothing rolls back; None: nothing was."""
    if town.town.btrfs is None:
        if agents is None:
            yield None
            return
        with outgoing.opened(town, agents) as fd:
            yield fd
        return
    assert top is not None, "a town with [town.btrfs] has a top level"
    with maybe(top, town.town.btrfs.old) as fd:
        yield fd


@contextmanager
def snapshots(town: Spec, top: int | None) -> Iterator[int | None]:
    """@agents-snapshots, open; None when there is none. Raises Unsafe when others than root may look into it."""
    if town.town.btrfs is None or top is None:
        yield None
        return
    with maybe(top, town.town.btrfs.snapshots) as fd:
        if fd is not None:
            _refuse_others(fd, town.town.btrfs.snapshots)
        yield fd


@contextmanager
def recalled(town: Spec, top: int | None, agents: int | None) -> Iterator[int | None]:
    """`.recalled`, open, through agents_dir or the top level; None when nothing was recalled."""
    with ExitStack() as stack:
        above = None
        if town.town.btrfs is not None and top is not None:
            above = stack.enter_context(maybe(top, town.town.btrfs.subvolume))
        elif agents is not None:
            # Without what is mounted there: copies are, over themselves.
            above = stack.enter_context(files.opened(kernel.open_tree(agents)))
        fd = None if above is None else stack.enter_context(maybe(above, RECALLED))
        if fd is not None:
            _refuse_others(fd, RECALLED)
        yield fd


@contextmanager
def maybe(above: int, name: str) -> Iterator[int | None]:
    try:
        fd = files.enter(above, name)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    with files.opened(fd):
        yield fd


def _refuse_others(fd: int, name: str) -> None:
    found = os.fstat(fd)
    if found.st_uid != 0 or found.st_mode & 0o077:
        raise Unsafe(
            f"{shown(name)} can be entered by others than root (owner uid {found.st_uid}, mode "
            f"{found.st_mode & 0o7777:04o})",
            hint="look at what lies in it, as root; then give it root:root 0700",
        )


@contextmanager
def apart(town: Spec) -> Iterator[int | None]:
    """@agents-snapshots at the top level of the btrfs that persist_dir lies on, where that is another; else None."""
    persist_dir = town.town.persist_dir
    if town.town.btrfs is None or persist_dir is None:
        yield None
        return
    with ExitStack() as stack:
        fd = stack.enter_context(files.opened(files.open_dir(persist_dir)))
        if not btrfs.is_btrfs(fd):
            yield None
            return
        top = stack.enter_context(btrfs.top_level(os.fsdecode(mounts.of(fd).source)))
        found = stack.enter_context(maybe(top, town.town.btrfs.snapshots))
        if found is not None:
            _refuse_others(found, town.town.btrfs.snapshots)
        yield found
