"""Take a snapshot of an agent: its living home, and what it persists outside of that, at one point in time.

Everything that is a subvolume on the town's filesystem is snapshotted in one transaction (town/moment.py). What is
none is copied from a snapshot of that transaction; what lies on another filesystem comes after, and that is said.
docs/decisions/0070.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from persist import about as about_
from persist import entering, ground, kept, shelving
from persist.about import About
from persist.adopt.facts import CannotMove
from persist.batch import Batch
from persist.ground import Ground
from persist.kept import HOME, PERSISTED, Kept
from town import bootid, btrfs, files, moment, mounts
from town.failure import Failure
from town.spec import Agent, Spec


class NoHome(Failure):
    """The agent has no home now: there is nothing to keep."""


class SnapshotFailed(Failure):
    """The filesystem refused a step. Nothing was kept, and nothing else was changed."""


def take(town: Spec, agent: Agent, top: int, *, name: str | None, message: str, now: datetime, of: str = "") -> Kept:
    """Keep the agent as it is, as AGENT@NAME. `top`: the open top level; the caller holds `alone(town, agent)`.

    `of`: the kept home that is about to take its place, if one is. Without a name it is the time. Raises NoHome,
    NameTaken, BadName, SnapshotFailed, batch.KeepsChanging, and what `ground` and `entering` raise; then nothing is
    kept.
    """
    if name is not None:
        kept.refuse_name(name)
    about = About(time=now.astimezone(UTC), message=message, boot=bootid.text(), of=of)
    try:
        with ExitStack() as stack:
            here = stack.enter_context(ground.opened(town))
            home = stack.enter_context(living(town, agent, here))
            above = stack.enter_context(shelving.agent(town, top, agent.name))
            shelving.sweep(above)
            free = name or shelving.free_name(above, kept.stamp(now))
            with shelving.entry(above, free) as entry:
                about_.write(entry, _Taking(town, agent, here, entry, free).take(home, about))
            return kept.read(above, agent.name, free)
    except (OSError, btrfs.BtrfsFailed) as error:
        raise _failed(agent, error) from error
    except CannotMove as error:
        raise SnapshotFailed(
            f"no snapshot of {agent.name}: {error.what}; nothing was kept", hint="move it away, or remove it"
        ) from error


@contextmanager
def living(town: Spec, agent: Agent, here: Ground) -> Iterator[int]:
    """The agent's home, open. Raises NoHome, and what `entering` raises."""
    with entering.maybe_home(town, agent, here) as home:
        if home is None:
            raise NoHome(f"{agent.name} has no home now", hint=f"persist restore {agent.name}")
        yield home


def persisted_paths(town: Spec, agent: Agent, persisted: int) -> list[PurePosixPath]:
    """Declared directories that are there below the agent's directory under persist_dir, open as `persisted`."""
    found = []
    for entry in agent.persist:
        if entry.bound:
            with entering.source(town, agent, entry, persisted) as fd:
                if fd is not None:
                    found.append(entry.path)
    return found


def is_elsewhere(home: int, persisted: int) -> bool:
    """Whether what is persisted lies on a btrfs of its own. Raises BtrfsFailed."""
    return btrfs.is_btrfs(persisted) and moment.filesystem(persisted) != moment.filesystem(home)


class _Taking:
    def __init__(self, town: Spec, agent: Agent, here: Ground, entry: int, name: str) -> None:
        self._town, self._agent, self._ground = town, agent, here
        self._entry, self._name = entry, name

    def take(self, home: int, about: About) -> About:
        """Everything, into the entry; what is known of it then."""
        with (
            ExitStack() as stack,
            entering.maybe_persisted(self._town, self._agent, self._ground) as persisted,
        ):
            batch = Batch(self._entry, self._agent, stack)
            batch.add(home, PurePosixPath(HOME))
            if persisted is None:
                return replace(about, transids=batch.make(), notes=tuple(batch.notes))
            paths = tuple(persisted_paths(self._town, self._agent, persisted))
            if is_elsewhere(home, persisted):
                transids = batch.make()
                notes = (*batch.notes, *self._elsewhere(persisted, paths))
                return replace(about, transids=transids, paths=paths, notes=notes, apart=True)
            self._add(batch, persisted, paths)
            transids = batch.make()
            if paths and not btrfs.is_btrfs(persisted):
                batch.notes.append("persisted directories were copied file by file, after it: not of one moment")
        return replace(about, transids=transids, paths=paths, notes=tuple(batch.notes))

    def _add(self, batch: Batch, persisted: int, paths: tuple[PurePosixPath, ...]) -> None:
        if btrfs.is_btrfs(persisted) and btrfs.is_subvolume(persisted):
            batch.add(persisted, PurePosixPath(PERSISTED))
            return
        for entry in self._agent.persist:
            if entry.path in paths:
                with entering.source(self._town, self._agent, entry, persisted) as fd:
                    if fd is not None:
                        batch.add(fd, PERSISTED / entry.path)

    def _elsewhere(self, persisted: int, paths: tuple[PurePosixPath, ...]) -> list[str]:
        """On the btrfs that persist_dir lies on, under the same name at its top level."""
        with ExitStack() as stack:
            top = stack.enter_context(btrfs.top_level(os.fsdecode(mounts.of(persisted).source)))
            above = stack.enter_context(shelving.agent(self._town, top, self._agent.name))
            shelving.sweep(above)
            if os.fsencode(self._name) in files.names(above):  # what a kill left before the home had its name
                shelving.remove(above, os.fsencode(self._name), kept.path_of(self._town, self._agent.name))
            entry = stack.enter_context(shelving.entry(above, self._name))
            batch = Batch(entry, self._agent, stack)
            self._add(batch, persisted, paths)
            batch.make()
        return [*batch.notes, "persisted directories lie on another filesystem: theirs is a moment later"]


def _failed(agent: Agent, error: OSError | btrfs.BtrfsFailed) -> SnapshotFailed:
    cause = error if isinstance(error, OSError) else error.__cause__
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    what = error.what if isinstance(error, Failure) else error.strerror or str(error)
    hint = (
        "persist homes shows what takes room (with --sizes, all of it); persist tidy deletes what need not stay"
        if full
        else ""
    )
    return SnapshotFailed(f"no snapshot of {agent.name}: {what}; nothing was kept", hint=hint)
