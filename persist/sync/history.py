"""What the store holds of an agent, as seen from here: its head, and whether that is the one to build on."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from persist import places
from persist.bucket import commits
from persist.bucket.commits import Commit, Name
from persist.bucket.opening import Bucket
from persist.store import StoreOlder
from persist.sync import carried, local
from persist.sync.local import Record
from town import cli, mounts
from town.failure import Failure
from town.spec import Agent, Persist, Spec
from town.terminal import say, shell_word, shown


class WrittenElsewhere(Failure):
    """Another machine has synced this agent since; going on here would put older data on top of its."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest whole state of an agent in the store."""

    name: Name
    commit: Commit


def head(spec: Spec, agent: Agent, bucket: Bucket, *, remember: bool = True) -> Head | None:
    """The agent's newest commit; None when the store holds none, and never held one that was seen here.

    Remembers what it saw, so that an older state is refused from then on, and tells of forks once. Raises StoreOlder,
    StoreDamaged.
    """
    keys = bucket.keys(agent.name)
    names = commits.listed(bucket.store, keys)
    newest, seen = commits.head(names), local.record(spec, agent)
    _refuse_older(spec, agent, names, seen)
    if newest is None:
        return None
    commit = commits.read(bucket.store, keys, newest)
    if remember:
        told = _tell_forks(agent, names, seen)
        local.change(spec, agent, lambda record: _seen(record, newest, told))
    return Head(newest, commit)


def _seen(record: Record, newest: Name, told: tuple[str, ...]) -> Record:
    if newest.generation < record.generation:  # another process of this machine saw more meanwhile
        return record
    return replace(record, generation=newest.generation, head=str(newest), told=told)


def refuse_foreign(spec: Spec, agent: Agent, found: Head | None, entries: list[Persist], *, machine: str) -> None:
    """Raise WrittenElsewhere unless what lies here descends from the head that another machine wrote."""
    if found is None or found.name.machine == machine:
        return
    known = local.record(spec, agent).known
    unknown = [top.path for top in found.commit.root if known.get(str(top.path)) != str(found.name)]
    strange = [entry for entry in entries if any(carried.overlap(entry.path, path) for path in unknown)]
    if strange:
        when = found.commit.time.isoformat(timespec="seconds")
        raise WrittenElsewhere(
            f"{shown(found.commit.host)} has synced {agent.name} ({found.name.short}, {when}), "
            f"and {shown(str(strange[0].path))} here does not descend from that",
            hint=_ways_on(spec, agent, found, strange),
        )


def _ways_on(spec: Spec, agent: Agent, found: Head, strange: list[Persist]) -> str:
    """The two ways to go on, as commands that work; first what may be the reason."""
    own = ""
    if found.commit.host == platform.node():
        own = f"that is this machine's own name: if it is this machine, its notes in {shown(str(spec.state_dir))} are "
        own += "gone, and what lies here is the newest. "
    aside = " && ".join([*(word for entry in strange for word in _aside(spec, agent, entry)), "persist restore"])
    return (
        f"{own}To have what the store has, stop the agent, then: {aside} {agent.name}; to put what lies here on top "
        f"(the history of the other stays): persist sync --take-over {agent.name}"
    )


def _aside(spec: Spec, agent: Agent, entry: Persist) -> Iterator[str]:
    """What takes the data of one declared path out of the way of a restore."""
    source, home = places.source(spec, agent, entry), spec.home(agent) / entry.path
    if entry.bound and not os.path.lexists(source):  # its parents are root's; those in a home may hang who asks
        return
    if entry.bound and mounts.at(home) is not None:
        yield f"umount {shell_word(str(home))}"
    yield f"mv {shell_word(str(source))} {shell_word(f'{source}.before')}"


def tell_undeclared(agent: Agent, found: Head, path: PurePosixPath, *, stays: bool) -> None:
    """Say that a path which was synced from here is not declared for the store any more."""
    about = f"persist: {agent.name}: {shown(str(path))}: no longer declared for the store"
    if stays:
        say(f"{about}; its last state stays there, and comes back when it is declared again")
    else:
        say(f"{about}, and a path that holds it, or lies in it, is: its last state stays in {found.name.short} only")


def _refuse_older(spec: Spec, agent: Agent, names: list[Name], seen: Record) -> None:
    newest = commits.head(names)
    generation = 0 if newest is None else newest.generation
    vanished = generation == seen.generation and seen.head and seen.head not in map(str, names)
    if generation >= seen.generation and not vanished:
        return
    record = spec.state_dir / "sync" / f"{agent.name}.json"
    raise StoreOlder(
        f"the store shows generation {generation} of {agent.name}, but this machine has seen {seen.generation} "
        f"(snapshot {shown(seen.head[-64:][:12])}): newer states were removed, or an older copy was put in place",
        hint="find the newer objects; only when they are gone for good, accept what is there: "
        f"rm {shell_word(str(record))}",
    )


def _tell_forks(agent: Agent, names: list[Name], seen: Record) -> tuple[str, ...]:
    """Warn of commits that stand side by side, each once; the record of what was told."""
    now = [name for fork in commits.forks(names) for name in fork]
    fresh = [name for name in now if str(name) not in seen.told]
    if fresh:
        ids = ", ".join(name.short for name in fresh)
        cli.warn(
            "persist",
            f"{agent.name}: two machines synced at once (generation {fresh[0].generation}: {ids})",
            "both states are kept; the newest of all is what restore takes. Let one machine sync an agent",
        )
    return tuple(map(str, now))
