"""`persist reset`: the boot's rollback for one agent, now: its home set aside, a fresh one, all it declared in place.

The old home goes to @agents-old, as at a boot, into an entry of its own there; `persist homes`, `recall` and `tidy`
know it. Where the town has no [town.btrfs] it goes to agents_dir/.old, into a directory of its own there.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime

from persist import (
    aside,
    copied,
    ground,
    kept,
    nested,
    outgoing,
    places,
    plain,
    shelving,
    stopping,
    swapping,
    underway,
)
from persist.alone import alone
from persist.restore import staging
from persist.shelving import free_name
from persist.swapping import Scene, Swapped
from persist.underway import Underway
from town import bootid, btrfs, cli, files, kernel, locks, spec, standing, subvolumes, trust
from town.btrfs import BtrfsFailed
from town.failure import DONE, Failure
from town.spec import Agent, Spec
from town.terminal import say, shown

_ROOT = (0, 0)
_TRIES, _PAUSE = 100, 0.05


def command(arguments: argparse.Namespace) -> int:
    """Reset one agent's home, and say where the old one is."""
    town = spec.load(cli.spec_file(arguments))
    agent = town.agent(arguments.agent)
    ground.require_root("reset", "it replaces a home")
    trust.refuse(town)
    with swapping.scene(town, agent) as at:
        if arguments.dry_run:
            lines = plan(at, stop=arguments.stop, swept=arguments.sweep)
            cli.put_json({"dry_run": True, "actions": lines}) if arguments.json else print("\n".join(lines))
            return DONE
        with redirect_stdout(sys.stderr):  # the result is the name of the old home
            done = reset(at, stop=arguments.stop, swept=arguments.sweep)
    _tell(town, agent, done)
    if arguments.json:
        cli.put_json({"agent": agent.name, **swapping.as_json(done)})
    elif done.kept:
        print(done.kept)
    return DONE


def verb(agent: Agent) -> str:
    """The command, as a person types it, without its options."""
    return f"reset {agent.name}"


def plan(at: Scene, *, stop: bool, swept: bool = False) -> list[str]:
    """What a reset would do, a line for each thing; refuses what it would refuse, and changes nothing."""
    if swapping.begun(at, verb(at.agent)) is not None:
        return ["finish    what an interrupted reset began"]
    swapping.refuse(at, verb(at.agent), stop=stop)
    stood, home = stopping.stood(at.agent), shown(str(at.town.home(at.agent)))
    old = str(at.town.town.agents_dir / outgoing.DIRECTORY) if at.town.town.btrfs is None else at.town.town.btrfs.old
    return [
        *swapping.ends(at, stood),
        *([f"move      {home} into {shown(old)}"] if swapping.lives(at, stop=stop) else []),
        f"make      {home} (the home{', a subvolume' if at.here.subvolumes else ''}), and restore into it",
        *([f"sweep     what {at.agent.name} left outside its home"] if swept else []),
        *(f"start     {what}" for what in stopping.again(at.agent, stood)),
    ]


def reset(at: Scene, *, stop: bool, swept: bool = False) -> Swapped:
    """Reset the agent's home; `swept`: and what lies outside of it. Raises Busy, and what that which it does raises."""
    done = Swapped()
    with alone(at.town, at.agent):
        swapping.uncover(at, verb(at.agent), stop=stop)
        before = swapping.begun(at, verb(at.agent))
        done.finished = before is not None and before.home != swapping.identity(at)
        if before is None or not done.finished:
            before = _begun(at, before, stop=stop)
            _set_aside(at, before, done, stop=stop)
        done.kept = f"{at.agent.name}@{before.place}" if before.home else ""
        with _said(at, done):
            _follow(at, before)
            swapping.settle(at, before.stood, done)
        _close(at, before)
        if swept:
            with _said(at, done):
                _sweep(at)
    with _said(at, done):
        swapping.start(at, before.stood, done)
    return done


def _begun(at: Scene, earlier: Underway | None, *, stop: bool) -> Underway:
    """Write down what is about to be done; nothing stays of what an earlier run, which was killed, had made for it."""
    if earlier is None:
        swapping.refuse(at, verb(at.agent), stop=stop)
    else:
        (swapping.unkeep if earlier.source else _clear)(at, earlier)
    stood = stopping.stood(at.agent) if earlier is None else earlier.stood
    before = Underway(verb(at.agent), swapping.identity(at), _place(at), stood)
    underway.write(at.agent, before)
    return before


def _sweep(at: Scene) -> None:
    """What is still there afterwards keeps the account closed, as at a boot. Raises swept.Busy, Unsafe, OSError."""
    from persist import sweep

    for found in sweep.sweep(at.town, [at.agent]):
        sweep.tell(found)


@contextmanager
def _said(at: Scene, done: Swapped) -> Iterator[None]:
    """The homes have changed places: whatever fails now, a person hears where the old one is."""
    try:
        yield
    except BaseException:
        _tell_kept(at.town, at.agent, done)
        raise


def _place(at: Scene) -> str:
    """A free name in @agents-old, of the form that a rollback gives, and marked."""
    name = f"{kept.stamp(datetime.fromtimestamp(time.time(), UTC))}-{bootid.text()}{places.RESET.decode()}"
    with _old(at) as old:
        return free_name(old, name)


def _set_aside(at: Scene, before: Underway, done: Swapped, *, stop: bool) -> None:
    """Stop the agent and set its home aside, or leave all as it was. Raises what `swapping` raises."""
    try:
        done.ended = swapping.still(at, before.stood, before.verb, stop=stop)
        began = time.monotonic()
        if before.home:
            take = _aside_here if at.top is None else _aside
            take(at, before)
        done.seconds = time.monotonic() - began
    except BaseException as error:
        _clear(at, before)
        swapping.back(at, before.stood)
        if isinstance(error, (OSError, BtrfsFailed)):
            raise swapping.failed(at, error) from error
        raise


def _aside_here(at: Scene, before: Underway) -> None:
    """Where nothing rolls back: a rename, as the first restore of a boot does it."""
    standing.forget(standing.HOMES, at.agent.name)
    try:
        swapping.writable(at.here.agents, at.agent.name)
        outgoing.set_aside(at.town, at.agent, at.here, datetime.fromtimestamp(time.time(), UTC), before.place)
    except BaseException:
        outgoing.note(at.town, at.agent)
        raise


def _aside(at: Scene, before: Underway) -> None:
    """A fresh home is made where the old one shall be, and both change places."""
    name = at.agent.name
    with swapping.homes(at) as agents, _old(at) as old:
        with files.opened(files.enter(agents, name)) as home:
            subvolume = btrfs.is_subvolume(home)
        if not subvolume:
            _aside_plain(at, before, agents, old)
        else:
            swapping.with_room(at, lambda: _exchange(at, before.place, agents, old))


def _exchange(at: Scene, place: str, agents: int, old: int) -> None:
    with _entry(old, place) as entry:
        _fresh(at, entry, at.agent.name)
        swapping.exchange(at, agents, entry, at.agent.name)


@contextmanager
def _old(at: Scene) -> Iterator[int]:
    """@agents-old, or `.old` where nothing rolls back, open, made where it is missing."""
    if at.top is None or at.town.town.btrfs is None:
        with outgoing.made(at.town, at.here) as fd:
            yield fd
        return
    with suppress(FileExistsError):
        os.mkdir(at.town.town.btrfs.old, 0o700, dir_fd=at.top)
    with aside.directory(at.top, at.town.town.btrfs) as fd:
        assert fd is not None, "it is there"
        yield fd


@contextmanager
def _entry(old: int, name: str) -> Iterator[int]:
    """The entry, a subvolume as a rollback's is, open and locked: no tidy takes it while the homes change places."""
    with files.opened(_locked(old, name)) as fd:
        os.fchown(fd, *_ROOT)
        os.fchmod(fd, 0o700)
        yield fd


def _locked(old: int, name: str) -> int:
    """A tidy may have taken, and renamed, what was made before it could be locked: then it is made again."""
    for _ in range(_TRIES):
        try:
            fd = files.enter(old, name)
        except FileNotFoundError:
            fd = btrfs.create(old, name)
        if locks.free(fd) and shelving.is_at(old, os.fsencode(name), fd):
            return fd
        os.close(fd)
        time.sleep(_PAUSE)
    raise swapping.HomeInUse(f"{shown(name)} is being deleted by a persist tidy", hint="try again when that has ended")


def _fresh(at: Scene, directory: int, name: str) -> None:
    """An empty home of the agent's."""
    with suppress(FileNotFoundError):
        subvolumes.remove(directory, name)  # of a run that was killed
    with files.opened(btrfs.create(directory, name)) as fd:
        os.fchown(fd, at.agent.uid, at.agent.gid)
        os.fchmod(fd, 0o700)


def _aside_plain(at: Scene, before: Underway, agents: int, old: int) -> None:
    """A home that is a plain directory cannot leave its subvolume: one that is made of it is what is kept."""
    name, beside = at.agent.name, staging.hidden(at.agent.name)

    def made() -> None:
        plain.keep(agents, entry, name, name)
        _fresh(at, agents, beside)

    with _entry(old, before.place) as entry:
        swapping.with_room(at, made)
        kernel.renameat2(agents, name, agents, beside, kernel.RENAME_EXCHANGE)
        swapping.durable(at)
    with suppress(OSError, BtrfsFailed):  # a restore removes it, too
        subvolumes.remove(agents, beside)


@contextmanager
def _kept(at: Scene, before: Underway) -> Iterator[int]:
    """The home that was set aside, open. Raises OSError, Failure."""
    with (
        _old(at) as old,
        files.opened(files.enter(old, before.place)) as entry,
        files.opened(files.enter(entry, at.agent.name)) as home,
    ):
        yield home


def _follow(at: Scene, before: Underway) -> None:
    """What was declared is brought over from the home that was set aside, also where that is what was made of it."""
    if at.top is not None and copied.is_plain(before.home):
        with suppress(FileNotFoundError), _kept(at, before) as home:
            plain.follow(at.town, at.agent, before.home, home)


def _close(at: Scene, before: Underway) -> None:
    """What was set aside is read-only: who still has a directory of it open writes nothing new. Told where it fails."""
    if at.top is None or not before.home:
        return
    try:
        with _kept(at, before) as home:
            nested.close(home, most=nested.MOST)
    except (OSError, Failure) as error:
        what = error.what if isinstance(error, Failure) else cli.unexpected(error)
        cli.warn("persist", f"{at.agent.name}@{before.place} is not read-only: {what}")


def _clear(at: Scene, before: Underway) -> None:
    """Where the homes did not change places, nothing of the attempt stays."""
    with suppress(OSError, Failure):
        if swapping.identity(at) == before.home:
            with _old(at) as old:
                subvolumes.remove(old, before.place)


# ---- words


def _tell(town: Spec, agent: Agent, done: Swapped) -> None:
    for line in swapping.lines(agent, done, "reset"):
        say(line)
    _tell_kept(town, agent, done)


def _tell_kept(town: Spec, agent: Agent, done: Swapped) -> None:
    if not done.kept:
        return
    where = f"the home that {agent.name} had is {done.kept}"
    if town.town.btrfs is not None:
        say(f"{where}: persist recall shows it, or with --replace brings it back")
        return
    whose, _, key = done.kept.partition("@")
    path = shown(str(town.town.agents_dir / outgoing.DIRECTORY / key / whose))
    say(f"{where}: persist recall shows a copy; it lies in {path}, and is brought back by hand")
