"""One agent's home gives way to another: what a reset and `recall --replace` have in common.

The agent is stopped, its binds are taken away, one atomic exchange swaps the homes, what it declared is put into its
place again, it is started. At every moment one home stands in its place. What is begun is written down first
(`persist.underway`); a failure before the exchange takes all back, a kill is finished by the same command.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from persist import (
    ballast,
    copied,
    device,
    entering,
    ground,
    kept,
    proof,
    release,
    restore,
    running,
    shelving,
    stopping,
    underway,
)
from persist.ground import Ground
from persist.restore import wishes
from persist.running import Process
from persist.stopping import Stood
from persist.underway import Underway
from town import btrfs, cli, files, kernel, machine, standing
from town.btrfs import BtrfsFailed
from town.failure import DONE, Failure, TryLater
from town.spec import Agent, Btrfs, Spec
from town.terminal import shell_word, shown

_TRIES = 5  # while somebody makes a home read-only again


class Begun(Failure):
    """Another command began to replace the home, and was killed. It has to end first."""


class SwapFailed(Failure):
    """The filesystem refused a step. The home is as it was."""


class HomeInUse(TryLater):
    """Somebody else works in the home, who may not be stopped. Trying again helps once they have left."""


class NotRestored(Failure):
    """The other home is in its place, and not all that the agent declared is."""


@dataclass(slots=True)
class Scene:
    """Where it happens: agents_dir and persist_dir, open, and the top level; None: the town has no [town.btrfs]."""

    town: Spec
    agent: Agent
    here: Ground
    top: int | None


@dataclass(slots=True)
class Swapped:
    """What was done. `kept`: AGENT@NAME of the home that gave way; `seconds`: without stopping and starting."""

    kept: str = ""
    ended: list[Process] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False  # what an earlier run had begun


@contextmanager
def scene(town: Spec, agent: Agent) -> Iterator[Scene]:
    """Open all that is needed. Raises what `ground`, `device` and `proof` raise."""
    machine.refuse_conflicts(town, (agent,))
    rollback = proof.read()
    proof.refuse(proof.doubt_of_boot(town, rollback))
    with ExitStack() as stack:
        here = stack.enter_context(ground.opened(town))
        top = None
        if town.town.btrfs is not None:
            where = shown(str(town.town.agents_dir))
            proof.refuse(proof.doubt_of_homes(town, rollback, btrfs.info(here.agents), where))
            top = stack.enter_context(device.top(town))
        yield Scene(town, agent, here, top)


def identity(at: Scene) -> str:
    """What tells the living home from every other; empty where there is none. Raises what `entering` raises."""
    with entering.maybe_home(at.town, at.agent, at.here) as home:
        return "" if home is None else copied.of_home(home).home


def begun(at: Scene, verb: str) -> Underway | None:
    """What an earlier run of the same command began, or one that can never end. Raises Begun where it was another."""
    found = underway.read(at.agent)
    if found is not None and found.verb != verb and not is_hopeless(at, found):
        raise Begun(f"persist {shown(found.verb)} was interrupted", hint=f"first let it end: persist {found.verb}")
    return found


def is_hopeless(at: Scene, before: Underway) -> bool:
    """Whether the homes did not change places, and the one that was to come is gone: nothing is left to be ended."""
    if not before.source or before.home != identity(at):
        return False
    return before.source not in (home.name for home in kept.every(at.town, at.top, at.here.agents))


def uncover(at: Scene, verb: str, *, stop: bool) -> None:
    """What the agent mounted on its home itself goes, where the agent may be stopped: no look into the home would end.

    Raises stopping.Within, release.StillMounted, OSError.
    """
    if stop:
        stopping.refuse(at.agent, f"persist {verb}", stop=True)
        release.uncover(at.town, at.agent, at.here)


def unkeep(at: Scene, before: Underway) -> None:
    """Where the homes did not change places, nothing stays of what a replacement kept of the present one."""
    with suppress(OSError, Failure):
        if at.top is not None and before.home and identity(at) == before.home:
            with shelving.agent(at.town, at.top, at.agent.name) as above:
                shelving.remove(above, os.fsencode(before.place), kept.path_of(at.town, at.agent.name))


def refuse(at: Scene, verb: str, *, stop: bool) -> None:
    """Raises stopping.Runs or HomeInUse, naming the processes; stopping.Within."""
    stopping.refuse(at.agent, f"persist {verb}", stop=stop)
    if others := running.inside(at.agent.uid, at.town.home(at.agent)):
        raise HomeInUse(
            f"somebody else has {shown(str(at.town.home(at.agent)))} in use: {running.named(others)}",
            hint=f"leave that directory, or end them: kill {' '.join(str(other.pid) for other in others[:8])}",
        )


def ends(at: Scene, stood: Stood) -> list[str]:
    """What `uncover` and `still` would do, a line for each thing."""
    cover = release.covered(at.town, at.agent)
    return [
        *(f"end       {process}" for process in running.of(at.agent.uid)),
        *([f"close     the account of {at.agent.name}"] if stood.opened else []),
        *([] if cover is None else [f"unmount   {shown(cover.target)}, which {at.agent.name} mounted itself"]),
    ]


def lives(at: Scene, *, stop: bool) -> bool:
    """Whether there is a home that would go. Raises what `entering` raises."""
    return (stop and release.covered(at.town, at.agent) is not None) or bool(identity(at))


def still(at: Scene, stood: Stood, verb: str, *, stop: bool) -> list[Process]:
    """Stop the agent and take away all that is mounted in its home; its processes as they were.

    Raises running.NotEnded, stopping.Runs, HomeInUse, release.ProcessesRun, release.StillMounted.
    """
    ended = stopping.stop(at.town, at.agent, stood, f"persist {verb}", end=stop)
    refuse(at, verb, stop=stop)  # who came in the meantime, before the account was closed
    release.release(at.town, at.agent, at.here, stop=stop, whole=True)
    return ended


def back(at: Scene, stood: Stood) -> None:
    """Nothing was swapped: bind again, and start what was stopped. What fails is told."""
    restore.again(at.town, at.agent, at.here, _half(stood))
    try:
        stopping.start(at.town, at.agent, stood)
    except (Failure, OSError) as error:
        cli.tell("persist", error if isinstance(error, Failure) else SwapFailed(cli.unexpected(error)))
    underway.forget(at.agent)


def settle(at: Scene, stood: Stood, done: Swapped) -> None:
    """What the agent declared, into the home that is in place now. Raises NotRestored, with what failed as status."""
    began = time.monotonic()
    standing.forget(standing.INSTALLED, at.agent.name)
    status = restore.again(at.town, at.agent, at.here, _half(stood))
    done.seconds += time.monotonic() - began
    if status != DONE:
        underway.forget(at.agent)
        name = at.agent.name
        hint = f"systemctl start {shell_word(f'nuketown-agent@{name}.target')}" if stood.target else (
            f"persist restore {name}" + (f" && identity install {name}" if stood.installed else "")
            + (f" && persist account open {name}" if stood.opened else "")
        )  # fmt: skip
        failure = NotRestored(f"{name}: not all that it declared is in its place, so it was not started", hint=hint)
        failure.status = status
        raise failure


def start(at: Scene, stood: Stood, done: Swapped) -> None:
    """Start what was stopped; with that all has ended. Raises what `stopping.start` raises."""
    try:
        done.started = stopping.start(at.town, at.agent, stood)
    finally:
        underway.forget(at.agent)


def lines(agent: Agent, done: Swapped, what: str) -> Iterator[str]:
    """What a person should hear of it, besides its result."""
    yield from (f"{agent.name}: ended   {process}" for process in done.ended)
    if done.finished:
        yield f"{agent.name}: finished what an interrupted {what} began"
    yield from (f"{agent.name}: started {started}" for started in done.started)


def as_json(done: Swapped) -> dict[str, object]:
    """What was done, as JSON values."""
    return {
        "kept": done.kept or None,
        "finished": done.finished,
        "ended": [{"pid": process.pid, "command": process.command} for process in done.ended],
        "started": done.started,
        "seconds": round(done.seconds, 3),
    }


def _half(stood: Stood) -> wishes.Half:
    return "local" if stood.target else "both"  # with systemd, what has the network mounts nothing


# ---- the exchange


@contextmanager
def homes(at: Scene) -> Iterator[int]:
    """@agents through the top level: a rename needs one mount for both ends. Raises OSError."""
    assert at.top is not None, "a town with [town.btrfs]"
    assert at.town.town.btrfs is not None, "the same"
    with files.opened(files.enter(at.top, at.town.town.btrfs.subvolume)) as fd:
        if btrfs.number(fd) != btrfs.number(at.here.agents):
            raise SwapFailed("agents_dir is not the subvolume of the homes", hint=ground.mounting(at.town))
        yield fd


def exchange(at: Scene, agents: int, place: int, name: str) -> None:
    """Swap the living home, a subvolume, and the one called `name` in the open directory `place`, durably.

    Raises OSError, BtrfsFailed: then nothing was swapped.
    """
    for left in reversed(range(_TRIES)):
        writable(agents, at.agent.name)
        try:
            kernel.renameat2(agents, at.agent.name, place, name, kernel.RENAME_EXCHANGE)
            break
        except OSError as error:
            if error.errno != errno.EROFS or not left:
                raise
    durable(at)


def with_room(at: Scene, step: Callable[[], None]) -> None:
    """Do a step that can be done again. Where metadata is full: after a commit, then without the ballast.

    Raises OSError, BtrfsFailed.
    """
    assert at.top is not None, "a town with [town.btrfs]"
    assert at.town.town.btrfs is not None, "the same"
    for last in (False, True):
        try:
            return step()
        except (OSError, BtrfsFailed) as error:
            if not _is_full(error):
                raise
            if not last:
                btrfs.commit(at.top)
            elif not _no_ballast(at.top, at.town.town.btrfs):
                raise
    return step()


def _no_ballast(top: int, names: Btrfs) -> bool:
    gone = ballast.give_way(top, names)
    if gone:
        cli.warn("persist", f"{shown(names.ballast)} gave way: the disk is full", "persist tidy makes it anew")
    return gone


def _is_full(error: OSError | BtrfsFailed) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def durable(at: Scene) -> None:
    """Commit what was swapped; a power cut before the next commit would take it back, whole."""
    assert at.top is not None, "a town with [town.btrfs]"
    try:
        btrfs.commit(at.top)
    except BtrfsFailed as failure:
        cli.warn("persist", f"{at.agent.name}: {failure.what}", "dmesg may say why")


def writable(directory: int, name: str) -> None:
    """A subvolume that its agent made read-only cannot move: make it writable. Raises OSError, BtrfsFailed."""
    with files.opened(files.enter(directory, name)) as fd:
        if btrfs.is_subvolume(fd) and btrfs.info(fd).read_only:
            btrfs.set_read_only(fd, False)


def failed(at: Scene, error: OSError | BtrfsFailed) -> SwapFailed:
    """The failure for what the filesystem refused before the exchange."""
    what = error.what if isinstance(error, Failure) else cli.unexpected(error)
    hint = "persist tidy makes room; btrfs filesystem usage says where it is lacking" if _is_full(error) else ""
    home = shown(os.fspath(at.town.home(at.agent)))
    return SwapFailed(f"{home} was not replaced, and is as it was: {what}", hint=hint)
