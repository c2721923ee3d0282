"""Where a sync reads from: a read-only snapshot of the subvolume that holds the data, else the living directory.

Snapshots lie at the top level of the filesystem, in a directory of root's that no mount of an agent shows; one of a
subvolume serves every path in it. They are deleted at the end, and what killed runs left is deleted by the next: while
one is there, what an agent deletes keeps its space.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import NamedTuple

from persist import copies, entering, ground, leftovers, snapshots
from persist.ground import Ground
from town import btrfs, changes, cli, files, mounts, subvolumes, terminal
from town.changes import Changed
from town.failure import Failure, TryLater, Unsafe
from town.spec import Agent, Persist, Spec

MANY = 100_000  # changed inodes: above, a look at every name is not slower, and needs no memory
MOST_SNAPSHOTS = 64  # of one run: an agent can make subvolumes without end; what is above is read as it changes


class TooMany(Exception):
    """So much changed that a look at every name is the better way."""


class KeepsMoving(TryLater):
    """Directories were moved about while they were read. Trying again may help."""


class SourceUnreadable(Failure):
    """The disk gave an error for something in a declared directory."""


class SourceGone(Failure):
    """A declared directory is not there, or something else stands in its place."""


class Volume(NamedTuple):
    """A subvolume: its UUID (empty: no btrfs), its snapshot, and the transaction that the snapshot is of."""

    uuid: bytes
    snapshot: int | None = None
    transid: int = 0


class Standing(NamedTuple):
    """The subvolume that a declared directory of the home is, and the transaction that its snapshot is of (0: none)."""

    number: int
    uuid: bytes
    transid: int


class Source(NamedTuple):
    """A directory, open: in a snapshot (`frozen`), with the living one beside it, or only living."""

    fd: int
    frozen: bool
    living: int
    volume: Volume


@contextmanager
def opened(spec: Spec, agent: Agent, *, machine: str) -> Iterator["Sources"]:
    """Everything of the agent that a sync reads; with a machine id, from snapshots where that can be."""
    with ExitStack() as stack:
        here = stack.enter_context(ground.opened(spec))
        yield Sources(spec, agent, here, stack, machine)


class Sources:
    """Opens declared directories, and the subvolumes in them."""

    def __init__(self, spec: Spec, agent: Agent, here: Ground, stack: ExitStack, machine: str) -> None:
        self._spec, self._agent, self._ground, self._stack = spec, agent, here, stack
        self._prefix = leftovers.prefix(agent.name, machine) if machine else ""
        self._bases: dict[object, int | None] = {}
        self._volumes: dict[bytes, Volume] = {}
        self._numbers: dict[bytes, int] = {}  # of subvolumes that were opened
        self._places: dict[bytes, int] = {}  # device: where its snapshots lie, open
        self._changed: dict[tuple[bytes, int], dict[int, Changed] | None] = {}
        self._told = False
        self.standing: dict[str, Standing] = {}  # declared directories of the home that are subvolumes of their own
        self.began = time.time_ns()

    def changed(self, volume: Volume, since: int) -> dict[int, Changed]:
        """By inode, what of a subvolume was written after a transaction; asked once. Raises TooMany, OSError."""
        assert volume.snapshot is not None
        key = volume.uuid, since
        if key not in self._changed:
            found = {each.inode: each for each in islice(changes.since(volume.snapshot, since), MANY + 1)}
            self._changed[key] = found if len(found) <= MANY else None
        if (known := self._changed[key]) is None:
            raise TooMany
        return known

    @contextmanager
    def source(self, entry: Persist) -> Iterator[Source | None]:
        """One declared directory, or None when it is not there. Raises Unsafe, InTheWay, WrongOwner."""
        base = self._base(entry)
        if base is None:
            yield None
            return
        with self._directory(entry, base) as living:
            if living is None:
                yield None
                return
            # In a home that is no subvolume of its own nobody takes a snapshot of whatever holds it.
            alone = os.fstat(living).st_dev == os.fstat(base).st_dev and not btrfs.is_subvolume(base)
            with self._frozen(living, None if alone else base) as source:
                if not entry.apart and btrfs.is_subvolume(living):
                    volume = source.volume
                    self.standing[str(entry.path)] = Standing(self._numbers[volume.uuid], volume.uuid, volume.transid)
                yield source

    def lies(self, entry: Persist) -> Standing | None:
        """The subvolume, the agent's or root's, that a declared directory of the home is; nothing in it is read.

        Raises OSError, Unsafe, InTheWay, WrongOwner.
        """
        base = self._base(entry)
        if base is None:
            return None
        with self._directory(entry, base) as living:
            if living is None or not btrfs.is_subvolume(living) or os.fstat(living).st_uid not in (self._agent.uid, 0):
                return None
            found = btrfs.info(living)
            return Standing(found.id, found.uuid_bytes, 0)

    @contextmanager
    def nested(self, top: int, names: Sequence[bytes]) -> Iterator[Source | None]:
        """A nested subvolume below the living directory `top`; None when there is none of those names any more."""
        fd = os.dup(top)
        try:
            for name in names:
                below = files.enter(fd, name)
                os.close(fd)
                fd = below
            if not btrfs.is_subvolume(fd):
                yield None
                return
            with self._frozen(fd, fd) as source:
                yield source
        except (FileNotFoundError, NotADirectoryError, Unsafe):
            yield None  # gone since the snapshot: the next sync sees where it went
        finally:
            os.close(fd)

    def living(self, mount: int, uuid: bytes, inode: int) -> int | None:
        """A living directory by its numbers, in a subvolume of that mount that was opened before; None: it is gone."""
        if (number := self._numbers.get(uuid)) is None:
            return None
        with suppress(OSError):
            return subvolumes.opened_inode(mount, number, inode)
        return None

    @contextmanager
    def _frozen(self, living: int, holder: int | None) -> Iterator[Source]:
        """The same directory in a snapshot of the subvolume that it lies in."""
        if not btrfs.is_btrfs(living):
            yield Source(living, False, living, Volume(b""))
            return
        volume = self._volume(living, snapshot=holder is not None)
        fd = None
        if volume.snapshot is not None:
            number = btrfs.info(volume.snapshot).id
            with suppress(OSError):  # made since the snapshot
                fd = subvolumes.opened_inode(volume.snapshot, number, os.fstat(living).st_ino)
        if fd is None:
            yield Source(living, False, living, Volume(volume.uuid))
            return
        with files.opened(fd):
            yield Source(fd, True, living, volume)

    @contextmanager
    def _directory(self, entry: Persist, base: int) -> Iterator[int | None]:
        if entry.apart:
            enter = copies.kept if entry.copied else entering.source
            with enter(self._spec, self._agent, entry, base) as fd:
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
            raise entering.in_the_way(where, error) from error
        finally:
            os.close(fd)

    def _base(self, entry: Persist) -> int | None:
        find = entering.maybe_persisted if entry.bound else copies.base if entry.copied else entering.maybe_home
        if find not in self._bases:
            self._bases[find] = self._stack.enter_context(find(self._spec, self._agent, self._ground))
        return self._bases[find]

    def _volume(self, fd: int, *, snapshot: bool) -> Volume:
        """The subvolume that an open directory lies in, with a snapshot where one can be taken."""
        with files.opened(subvolumes.root_of(fd)) as root:
            known = btrfs.info(root)
            uuid = known.uuid_bytes
            self._numbers[uuid] = known.id
            if uuid not in self._volumes:
                self._volumes[uuid] = Volume(uuid)
                if snapshot and self._prefix and len(self._volumes) <= MOST_SNAPSHOTS:
                    self._volumes[uuid] = self._taken(root, uuid)
        return self._volumes[uuid]

    def _taken(self, root: int, uuid: bytes) -> Volume:
        try:
            fd = self._stack.enter_context(self._snapshot(root))
            return Volume(uuid, fd, btrfs.info(fd).origin_generation)
        except (btrfs.BtrfsFailed, OSError) as error:
            what = error.what if isinstance(error, Failure) else error.strerror
            if not self._told:
                cli.warn(
                    "persist", f"{self._agent.name}: no snapshot can be taken ({what}): files are read as they change"
                )
            self._told = True
            return Volume(uuid)

    @contextmanager
    def _snapshot(self, root: int) -> Iterator[int]:
        """A read-only snapshot of the subvolume `root`, deleted at the end."""
        place = self._place(root)
        name = self._prefix + os.urandom(6).hex()
        try:
            with files.opened(btrfs.snapshot(root, place, name, read_only=True)) as fd:
                leftovers.use(fd)
                yield fd
        finally:
            with suppress(btrfs.BtrfsFailed, OSError):  # what cannot be deleted now is deleted by the next sync
                btrfs.delete(place, name)

    def _place(self, root: int) -> int:
        """Where snapshots of that filesystem lie. What killed runs left there goes first."""
        device = mounts.of(root).source
        if device not in self._places:
            there = snapshots.shown(root)
            opening = snapshots.made(os.fsdecode(device)) if there is None else files.opened(there)
            place = self._stack.enter_context(opening)
            for _ in leftovers.sweep(place, time.time(), agent=self._agent.name):
                pass  # what cannot be deleted now stays for the next
            self._places[device] = place
        return self._places[device]


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
