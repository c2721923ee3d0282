"""What the store holds of an agent, as seen from here: its head, and whether that is the one to build on."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from persist.bucket import commits
from persist.bucket.commits import Commit, Name
from persist.bucket.opening import Bucket
from persist.store import StoreOlder
from persist.sync import local
from persist.sync.local import Record
from town import cli
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shell_word, shown


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


def refuse_foreign(
    agent: Agent, found: Head | None, paths: list[PurePosixPath], record: Record, *, machine: str
) -> None:
    """Raise WrittenElsewhere unless what lies here descends from the head that another machine wrote."""
    if found is None or found.name.machine == machine:
        return
    strange = [path for path in paths if found.commit.top(path) and record.known.get(str(path)) != str(found.name)]
    if strange:
        when = found.commit.time.isoformat(timespec="seconds")
        raise WrittenElsewhere(
            f"{shown(found.commit.host)} has synced {agent.name} ({found.name.short}, {when}), "
            f"and {shown(str(strange[0]))} here does not descend from that",
            hint="`persist restore` on a fresh home brings it here; to put what lies here on top (its history stays): "
            f"persist sync --take-over {agent.name}",
        )


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
