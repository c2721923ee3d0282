"""`persist reset`: the boot's rollback for one agent, now: its home set aside, a fresh one, all it declared in place.

The old home goes to @agents-old, as at a boot, into an entry of its own there; `persist homes`, `recall` and `tidy`
know it. Where the town has no [town.btrfs] it goes to agents_dir/.old.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime

from persist import aside, ground, kept, outgoing, places, running, stopping, swapping, underway
from persist.alone import alone
from persist.restore import staging
from persist.shelving import free_name
from persist.swapping import Scene, Swapped
from persist.underway import Underway
from town import bootid, btrfs, cli, files, kernel, spec, standing, subvolumes, trust
from town.btrfs import BtrfsFailed
from town.failure import DONE, Failure
from town.spec import Agent
from town.terminal import say, shown

_ROOT = (0, 0)


def command(arguments: argparse.Namespace) -> int:
    """Reset one agent's home, and say where the old one is."""
    town = spec.load(cli.spec_file(arguments))
    agent = town.agent(arguments.agent)
    ground.require_root("reset", "it replaces a home")
    trust.refuse(town)
    with swapping.scene(town, agent) as at:
        if arguments.dry_run:
            lines = plan(at, stop=arguments.stop)
            cli.put_json({"dry_run": True, "actions": lines}) if arguments.json else print("\n".join(lines))
            return DONE
        with redirect_stdout(sys.stderr):  # the result is the name of the old home
            done = reset(at, stop=arguments.stop)
    _tell(agent, done)
    if arguments.json:
        cli.put_json({"agent": agent.name, **swapping.as_json(done)})
    elif done.kept:
        print(done.kept)
    return DONE


def verb(agent: Agent) -> str:
    """The command, as a person types it, without its options."""
    return f"reset {agent.name}"


def plan(at: Scene, *, stop: bool) -> list[str]:
    """What a reset would do, a line for each thing; refuses what it would refuse, and changes nothing."""
    if swapping.begun(at, verb(at.agent)) is not None:
        return ["finish    what an interrupted reset began"]
    swapping.refuse(at, verb(at.agent), stop=stop)
    stood, home = stopping.stood(at.agent), shown(str(at.town.home(at.agent)))
    old = str(at.town.town.agents_dir / outgoing.DIRECTORY) if at.town.town.btrfs is None else at.town.town.btrfs.old
    return [
        *(f"end       {process}" for process in running.of(at.agent.uid)),
        *([f"close     the account of {at.agent.name}"] if stood.opened else []),
        *([f"move      {home} into {shown(old)}"] if swapping.identity(at) else []),
        f"make      {home} (the home{', a subvolume' if at.here.subvolumes else ''}), and restore into it",
        *(f"start     {what}" for what in stopping.again(at.agent, stood)),
    ]


def reset(at: Scene, *, stop: bool) -> Swapped:
    """Reset the agent's home. Raises Busy, and what `swapping` and `stopping` raise."""
    done = Swapped()
    with alone(at.town, at.agent):
        before = swapping.begun(at, verb(at.agent))
        done.finished = before is not None and before.home != swapping.identity(at)
        if before is None:
            swapping.refuse(at, verb(at.agent), stop=stop)
            before = Underway(verb(at.agent), swapping.identity(at), _place(at), stopping.stood(at.agent))
            underway.write(at.agent, before)
        if not done.finished:
            _set_aside(at, before, done, stop=stop)
        swapping.settle(at, before.stood, done)
    swapping.start(at, before.stood, done)
    return done


def _place(at: Scene) -> str:
    """A free name in @agents-old, of the form that a rollback gives, and marked."""
    name = f"{kept.stamp(datetime.fromtimestamp(time.time(), UTC))}-{bootid.text()}{places.RESET.decode()}"
    if at.top is None:
        return name
    with _old(at) as old:
        return free_name(old, name)


def _set_aside(at: Scene, before: Underway, done: Swapped, *, stop: bool) -> None:
    """Stop the agent and set its home aside, or leave all as it was. Raises what `swapping` raises."""
    try:
        done.ended = swapping.still(at, before.stood, before.verb, stop=stop)
        began = time.monotonic()
        if before.home:
            done.kept = _aside_here(at) if at.top is None else _aside(at, before)
        done.seconds = time.monotonic() - began
    except BaseException as error:
        _clear(at, before)
        swapping.back(at, before.stood)
        if isinstance(error, (OSError, BtrfsFailed)):
            raise swapping.failed(at, error) from error
        raise


def _aside_here(at: Scene) -> str:
    """Where nothing rolls back: a rename, as the first restore of a boot does it."""
    standing.forget(standing.HOMES, at.agent.name)
    try:
        swapping.writable(at.here.agents, at.agent.name)
        path = outgoing.set_aside(at.town, at.agent, at.here, datetime.fromtimestamp(time.time(), UTC))
    except BaseException:
        outgoing.note(at.town, at.agent)
        raise
    return f"{path.name}@{path.parent.name}"


def _aside(at: Scene, before: Underway) -> str:
    """A fresh home is made where the old one shall be, and both change places."""
    name = at.agent.name
    with swapping.homes(at) as agents, _old(at) as old:
        with files.opened(files.enter(agents, name)) as home:
            subvolume = btrfs.is_subvolume(home)
        if not subvolume:
            _aside_plain(at, before, agents, old)
        else:
            swapping.with_room(at, lambda: _exchange(at, before.place, agents, old))
    return f"{name}@{before.place}"


def _exchange(at: Scene, place: str, agents: int, old: int) -> None:
    with _entry(old, place) as entry:
        _fresh(at, entry, at.agent.name)
        swapping.exchange(at, agents, entry, at.agent.name)


@contextmanager
def _old(at: Scene) -> Iterator[int]:
    """@agents-old, open, made where it is missing."""
    assert at.top is not None, "a town with [town.btrfs]"
    assert at.town.town.btrfs is not None, "the same"
    with suppress(FileExistsError):
        os.mkdir(at.town.town.btrfs.old, 0o700, dir_fd=at.top)
    with aside.directory(at.top, at.town.town.btrfs) as fd:
        assert fd is not None, "it is there"
        yield fd


@contextmanager
def _entry(old: int, name: str) -> Iterator[int]:
    """The entry, a subvolume as a rollback's is; a run that was killed may have made it."""
    try:
        fd = files.enter(old, name)
    except FileNotFoundError:
        fd = btrfs.create(old, name)
    with files.opened(fd):
        os.fchown(fd, *_ROOT)
        os.fchmod(fd, 0o700)
        yield fd


def _fresh(at: Scene, directory: int, name: str) -> None:
    """An empty home of the agent's."""
    with suppress(FileNotFoundError):
        subvolumes.remove(directory, name)  # of a run that was killed
    with files.opened(btrfs.create(directory, name)) as fd:
        os.fchown(fd, at.agent.uid, at.agent.gid)
        os.fchmod(fd, 0o700)


def _aside_plain(at: Scene, before: Underway, agents: int, old: int) -> None:
    """A home that is a plain directory cannot leave its subvolume: a snapshot of that is its entry."""
    with suppress(FileNotFoundError):
        subvolumes.remove(old, before.place)  # of a run that was killed
    with files.opened(btrfs.snapshot(agents, old, before.place, read_only=False)) as entry:
        os.fchmod(entry, 0o700)
        for other in files.names(entry):
            if other != os.fsencode(at.agent.name):
                subvolumes.remove(entry, other)
    beside = staging.hidden(at.agent.name)
    _fresh(at, agents, beside)
    kernel.renameat2(agents, at.agent.name, agents, beside, kernel.RENAME_EXCHANGE)
    subvolumes.remove(agents, beside)  # the same is kept in the entry
    swapping.durable(at)


def _clear(at: Scene, before: Underway) -> None:
    """Where the homes did not change places, nothing of the attempt stays."""
    with suppress(OSError, Failure):
        if at.top is not None and swapping.identity(at) == before.home:
            with _old(at) as old:
                subvolumes.remove(old, before.place)


# ---- words


def _tell(agent: Agent, done: Swapped) -> None:
    for line in swapping.lines(agent, done, "reset"):
        say(line)
    if done.kept:
        say(f"the home that {agent.name} had is {done.kept}: persist recall shows it, or with --replace brings it back")
