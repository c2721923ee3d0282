"""Where a sync reads from: a read-only snapshot of the subvolume that holds the data, else the living directory.

Snapshots lie at the top level of the filesystem, in a directory of root's that no mount of an agent shows; they are
deleted at the end, and what killed runs left is deleted by the next.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from persist import ground
from persist.ground import Ground
from persist.restore import found
from town import btrfs, cli, files, mounts, terminal
from town.failure import Failure
from town.spec import Agent, Persist, Spec

SNAPSHOTS = ".nuketown-sync"


class SourceGone(Failure):
    """A declared directory is not there, or something else stands in its place."""


@dataclass(frozen=True, slots=True)
class Base:
    """What holds declared directories: the home or the agent's directory under persist_dir."""

    living: int
    snapshot: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """One declared directory, open: in a snapshot (`frozen`), with the living one beside it, or only living."""

    fd: int
    frozen: bool
    living: int


@contextmanager
def opened(spec: Spec, agent: Agent, *, machine: str) -> Iterator["Sources"]:
    """Everything of the agent that a sync reads; with a machine id, from snapshots where that can be."""
    with ExitStack() as stack:
        here = stack.enter_context(ground.opened(spec))
        yield Sources(spec, agent, here, stack, machine)


class Sources:
    """Opens declared directories; one snapshot of a subvolume serves all of them."""

    def __init__(self, spec: Spec, agent: Agent, here: Ground, stack: ExitStack, machine: str) -> None:
        self._spec, self._agent, self._ground, self._stack = spec, agent, here, stack
        self._machine = machine
        self._bases: dict[bool, Base | None] = {}

    @contextmanager
    def source(self, entry: Persist) -> Iterator[Source | None]:
        """One declared directory, or None when it is not there. Raises Unsafe, InTheWay, WrongOwner."""
        base = self._base(bound=entry.bound)
        if base is None:
            yield None
            return
        with ExitStack() as stack:
            living = stack.enter_context(self._directory(entry, base.living))
            if living is None:
                yield None
                return
            frozen = None
            if base.snapshot is not None:
                frozen = stack.enter_context(self._directory(entry, base.snapshot))
            # In a nested subvolume the snapshot shows nothing, or an empty directory: the living one is read.
            if frozen is None or os.fstat(frozen).st_ino == btrfs.EMPTY_INODE:
                yield Source(living, False, living)
            else:
                yield Source(frozen, True, living)

    @contextmanager
    def _directory(self, entry: Persist, base: int) -> Iterator[int | None]:
        if entry.bound:
            with found.source(self._spec, self._agent, entry, base) as fd:
                yield fd
            return
        fd, where = os.dup(base), self._spec.home(self._agent)
        try:
            for part in entry.path.parts:
                where = where / part
                below = files.enter(fd, part)
                os.close(fd)
                fd = below
            yield fd
        except FileNotFoundError:
            yield None
        except OSError as error:
            raise found.in_the_way(where, error) from error
        finally:
            os.close(fd)

    def _base(self, *, bound: bool) -> Base | None:
        if bound not in self._bases:
            find = found.maybe_persisted if bound else found.maybe_home
            living = self._stack.enter_context(find(self._spec, self._agent, self._ground))
            self._bases[bound] = None if living is None else Base(living, self._snapshot(living))
        return self._bases[bound]

    def _snapshot(self, living: int) -> int | None:
        if not self._machine or not btrfs.is_subvolume(living):
            return None
        try:
            return self._stack.enter_context(_snapshot(living, f"{self._agent.name}@{self._machine[:8]}-"))
        except (btrfs.BtrfsFailed, OSError) as error:
            what = error.what if isinstance(error, Failure) else error.strerror
            cli.warn("persist", f"{self._agent.name}: no snapshot can be taken ({what}): files are read as they change")
            return None


@contextmanager
def _snapshot(living: int, prefix: str) -> Iterator[int]:
    """A read-only snapshot of the subvolume `living`, deleted at the end; leftovers of that prefix go first."""
    with btrfs.top_level(os.fsdecode(mounts.of(living).source)) as top, files.opened(_place(top)) as place:
        for left in files.names(place):
            if left.startswith(prefix.encode()):  # the lock of the agent is held, so nobody uses it
                btrfs.delete(place, os.fsdecode(left))
        name = prefix + secrets.token_hex(6)
        try:
            with files.opened(btrfs.snapshot(living, place, name, read_only=True)) as fd:
                yield fd
        finally:
            with suppress(btrfs.BtrfsFailed):  # what cannot be deleted now is deleted by the next sync
                btrfs.delete(place, name)


def _place(top: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(SNAPSHOTS, 0o700, dir_fd=top)
    return files.enter(top, SNAPSHOTS)


def gone(agent: Agent) -> SourceGone:
    """The failure for a declared directory that vanished since the last sync; who tells it names the directory."""
    return SourceGone(
        "gone since the last sync, so the store keeps what it has of it",
        hint="is it mounted and restored? If it was removed on purpose: persist sync --accept-loss " + agent.name,
    )


def shrunk(agent: Agent, before: int, now: int) -> SourceGone:
    """The failure for one that lost more than half of its files: `before` and `now` are how many there are."""
    return SourceGone(
        f"lost {before - now:,} of its {terminal.counted(before, 'file')} since the last sync, so the store keeps "
        "what it has of it",
        hint=f"if they were removed on purpose: persist sync --accept-loss {agent.name}",
    )
