"""`persist release`: the binds of an agent are taken away again, innermost first, each by its descriptor.

Only what shows the agent's own data under persist_dir, in its home, is unmounted; the data stays where it is kept.
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from persist import entering, ground, places, running
from persist.alone import alone
from persist.ground import Ground
from persist.running import Process
from town import cli, files, mounts, spec
from town.failure import DONE, Failure, Unsafe, status_of, worst
from town.mounts import Mount
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

_ROOT_OF = os.O_PATH | os.O_DIRECTORY
_LOOKS = 5  # at the mount table, while directories above a mount are moved about
_COVERS = 2000  # mounts on each other on one home; fusermount3(1) lets a user have 1000


class ProcessesRun(Failure):
    """The agent's processes run, or somebody's hold what would be unmounted. Nothing was changed."""


class StillMounted(Failure):
    """A bind of the agent could not be taken away."""


@dataclass(frozen=True, slots=True)
class End:
    """End a process of the agent."""

    process: Process

    def __str__(self) -> str:
        return f"end     {self.process}"


@dataclass(frozen=True, slots=True)
class Unmount:
    """Take a mount away: a bind of the agent's own data, or (`fuse`) what the agent mounted on or in one by itself."""

    mount: Mount
    fuse: bool = False

    def __str__(self) -> str:
        return f"unmount {shown(self.mount.target)}{' (FUSE, the agent made it)' if self.fuse else ''}"


Action = End | Unmount


def command(arguments: argparse.Namespace) -> int:
    """Release the agents that were named. The worst status of any of them."""
    town = spec.load(cli.spec_file(arguments))
    ground.require_root("release", "it unmounts what is in homes, and may end processes")
    with ground.opened(town) as here:
        agents = town.chosen(arguments.agents)
        return worst([_one(town, agent, here, stop=arguments.stop, dry_run=arguments.dry_run) for agent in agents])


def _one(town: Spec, agent: Agent, here: Ground, *, stop: bool, dry_run: bool) -> int:
    try:
        if dry_run:
            _say(agent, plan(town, agent, here, stop=stop))
            _refuse(town, agent, here, stop=stop)
            return DONE
        with alone(town, agent):
            _say(agent, release(town, agent, here, stop=stop))
    except Exception as error:  # what one agent brings about stops no other
        failure = error if isinstance(error, Failure) else StillMounted(cli.unexpected(error))
        cli.tell("persist", failure, about=agent.name)
        return status_of(failure)
    return DONE


def _say(agent: Agent, actions: Iterable[Action]) -> None:
    lines = [str(action) for action in actions]
    for line in lines or ["nothing to release"]:
        print(f"{agent.name}: {line}", flush=True)


def plan(town: Spec, agent: Agent, here: Ground, *, stop: bool) -> tuple[Action, ...]:
    """What a release would do now, in order. Raises StillMounted where something else lies on or in a bind."""
    ends = map(End, running.of(agent.uid)) if stop else ()
    cover = covered(town, agent) if stop else None
    return (*ends, *([] if cover is None else [Unmount(cover, fuse=True)]), *_unmounts(town, agent, here, stop=stop))


def covered(town: Spec, agent: Agent) -> Mount | None:
    """What the agent itself has mounted on its home, and who serves that may never answer; the topmost."""
    mount = mounts.at(places.resolved(town.home(agent)))
    return mount if mount is not None and _agents_fuse(mount, agent) else None


def uncover(town: Spec, agent: Agent, here: Ground) -> list[Unmount]:
    """Take all of that away; nobody who serves it is asked. Raises StillMounted where it comes back, OSError."""
    done: list[Unmount] = []
    while (mount := covered(town, agent)) is not None:
        if len(done) >= _COVERS:
            raise StillMounted(f"{agent.name} mounts something on its home again and again", hint="try again")
        with files.opened(files.open_beneath(here.agents, agent.name, _ROOT_OF)) as fd:
            if mounts.mount_id(fd) == mount.id:
                mounts.detach(fd)
        done.append(Unmount(mount, fuse=True))
    return done


def release(town: Spec, agent: Agent, here: Ground, *, stop: bool, whole: bool = False) -> list[Action]:
    """Take the agent's binds away; what was done. Raises ProcessesRun, running.NotEnded, StillMounted, Unsafe.

    `whole`: nothing at all may be mounted in the home then, for it is about to be moved.
    """
    done: list[Action] = []
    if stop:
        done += map(End, running.end(agent.uid))
        done += uncover(town, agent, here)
    _refuse(town, agent, here, stop=stop, whole=whole)
    for _ in range(_LOOKS):
        try:
            for unmount in _unmounts(town, agent, here, stop=stop, whole=whole):
                _unmount(town, agent, here, unmount)
                done.append(unmount)
        except _MovedAbout:
            continue
        return done
    raise StillMounted(
        "directories above a bind were moved about while it was taken away", hint="stop the agent's processes first"
    )


def _refuse(town: Spec, agent: Agent, here: Ground, *, stop: bool, whole: bool = False) -> None:
    """Raises ProcessesRun: nothing is unmounted under anybody's feet."""
    wanted = [unmount.mount for unmount in _unmounts(town, agent, here, stop=stop, whole=whole)]
    if not wanted:
        return
    if not stop and (found := running.of(agent.uid)):
        raise ProcessesRun(
            f"{agent.name} has running processes: {running.named(found)}",
            hint=f"persist release --stop {agent.name} ends them first",
        )
    if others := running.holding(agent.uid, wanted):
        raise ProcessesRun(
            f"somebody else has {shown(str(town.home(agent)))} in use: {running.named(others)}",
            hint=f"leave that directory, or end them: kill {' '.join(str(other.pid) for other in others[:8])}",
        )


def _unmounts(town: Spec, agent: Agent, here: Ground, *, stop: bool, whole: bool = False) -> list[Unmount]:
    """Innermost first. What lies on or in a bind and is not the agent's own would go with it: that is refused."""
    home = places.resolved(town.home(agent))
    every = mounts.below(home)
    ours = {mount.id for mount in _ours(town, agent, here, every)}
    found = []
    for mount in every:
        if mount.id in ours:
            found.append(Unmount(mount))
        elif whole or _lies_in(mount, every, ours) or _leads_to(mount, every, ours):
            if not (stop and _agents_fuse(mount, agent)):
                raise _foreign(mount, agent, whole=whole)
            found.append(Unmount(mount, fuse=True))
    return _outermost_of_fuse(found)


def _ours(town: Spec, agent: Agent, here: Ground, every: Sequence[Mount]) -> Iterator[Mount]:
    """Binds of the agent's data: their root lies in its directory under persist_dir, also where no longer declared."""
    with entering.maybe_persisted(town, agent, here) as fd:
        if fd is None:
            return
        there, path = mounts.of(fd), os.fsencode(os.path.realpath(places.persisted(town, agent)))
    inside = path.removeprefix(there.target.rstrip(b"/"))
    root = there.root.rstrip(b"/") + inside + b"/"
    yield from (mount for mount in every if mount.device == there.device and mount.root.startswith(root))


def _lies_in(mount: Mount, every: Sequence[Mount], ours: set[int]) -> bool:
    parents = {each.id: each.parent for each in every}
    at: int | None = mount.parent
    while at is not None and at not in ours:
        at = parents.get(at)
    return at is not None


def _leads_to(mount: Mount, every: Sequence[Mount], ours: set[int]) -> bool:
    """Whether it covers a directory on the way to a bind: whoever serves it may never answer."""
    return any(each.id in ours and each.target.startswith(mount.target + b"/") for each in every)


def _agents_fuse(mount: Mount, agent: Agent) -> bool:
    return mount.kind.partition(".")[0] in ("fuse", "fuseblk") and f"user_id={agent.uid}" in mount.super_options


def _outermost_of_fuse(found: list[Unmount]) -> list[Unmount]:
    """Without what is mounted within a FUSE mount: the way there leads through it, and it goes with it."""
    fuse = {unmount.mount.id for unmount in found if unmount.fuse}
    every = [unmount.mount for unmount in found]
    return [unmount for unmount in found if not (unmount.fuse and _lies_in(unmount.mount, every, fuse))]


def _foreign(mount: Mount, agent: Agent, *, whole: bool) -> StillMounted:
    if _agents_fuse(mount, agent):
        return StillMounted(
            f"{agent.name} mounted something itself, at {shown(mount.target)}",
            hint=f"persist release --stop {agent.name} ends its processes and takes that away too",
        )
    where = "in the home" if whole else "in or above a bind"
    return StillMounted(
        f"something else is mounted at {shown(mount.target)} ({shown(mount.kind)}), {where}",
        hint=f"look what it is: findmnt {shell_word(mount.target)}; unmount it, then release again",
    )


class _MovedAbout(Exception):
    """The mount is not where the table had it a moment ago."""


def _unmount(town: Spec, agent: Agent, here: Ground, unmount: Unmount) -> None:
    """Reached by names the agent may change, then taken away by the descriptor if it is that very mount."""
    home = os.fsencode(places.resolved(town.home(agent)))
    path = PurePosixPath(os.fsdecode(os.path.relpath(unmount.mount.target, home)))
    with entering.maybe(here.agents, agent.name, town.home(agent)) as top:
        if top is None:
            raise _MovedAbout
        try:
            fd = _opened(top, path, across=unmount.fuse)
        except (OSError, Unsafe) as error:
            raise _MovedAbout from error
        with files.opened(fd):
            if mounts.mount_id(fd) != unmount.mount.id:
                raise _MovedAbout
            mounts.detach(fd)


def _opened(top: int, path: PurePosixPath, *, across: bool) -> int:
    """What is mounted at a path; on the way there other mounts are entered only where that is said."""
    if across:
        return files.open_beneath(top, path, _ROOT_OF)
    fd = files.enter(top, ".")
    try:
        for part in path.parts[:-1]:
            below = files.enter(fd, part)
            os.close(fd)
            fd = below
        # Root of a mount, with O_PATH: nobody who serves it is asked.
        return files.open_beneath(fd, path.name, _ROOT_OF)
    finally:
        os.close(fd)
