"""`persist log`: the states of agents in the store, newest first; branches and forks too, and why each is kept.

One listing for each agent and epoch. What is said of a state is read once from its commit and then remembered; of
thousands that this machine never saw it reads some, and says so.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from persist import ground
from persist.bucket import leases
from persist.bucket.commits import Name
from persist.bucket.opening import Bucket, open_bucket
from persist.store import StoreDamaged
from persist.sync import known, local, seen
from persist.sync.known import Info
from persist.sync.seen import State
from persist.upkeep import policy
from persist.upkeep.policy import Past
from town import cli, spec, terminal, trust
from town.failure import DONE, Failure, status_of, worst
from town.spec import Agent, Spec
from town.terminal import say, shown

MOST = 256  # commits that one run reads of an agent


@dataclass(frozen=True, slots=True)
class Entry:
    """One state in the store. Where its commit was not read (`info` is None) `time` is when it was stored."""

    name: Name
    epoch: int
    time: datetime
    kind: str  # `head`, `line` (what the head follows), `fork` or `branch`
    kept: tuple[str, ...]  # why the policy of the spec keeps it; empty: a prune deletes it
    info: Info | None
    host: str
    damaged: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """All states of an agent, newest first, and who holds the lease, in words."""

    agent: str
    entries: tuple[Entry, ...]
    lease: dict[str, object] | None

    @property
    def unread(self) -> int:
        """How many were not read."""
        return sum(entry.info is None and not entry.damaged for entry in self.entries)


def command(arguments: argparse.Namespace) -> int:
    """Show the states of the agents that were named, or of all."""
    town = spec.load(cli.spec_file(arguments))
    agents = town.chosen(arguments.agents)
    ground.require_root("log", "the store's key is root's")
    trust.refuse(town)
    bucket = open_bucket(town)
    logs, statuses = [], [DONE]
    for agent in agents:
        try:
            logs.append(log(town, agent, bucket))
        except Failure as failure:  # one agent's damage hides no other's states
            cli.tell("persist", failure, about=agent.name)
            statuses.append(status_of(failure))
        else:
            if not arguments.json:
                _put_text(logs[-1])
    if arguments.json:
        cli.put_json({"agents": list(map(_json, logs))})
    return worst([*statuses, *(1 for one in logs for entry in one.entries if entry.damaged)])


def log(town: Spec, agent: Agent, bucket: Bucket, *, most: int = MOST) -> Log:
    """All states of an agent, of all epochs; at most `most` commits are read. Raises what the store raises."""
    state = seen.ask(town, agent, bucket, all_epochs=True)
    states = list(seen.all_states(state.places))
    found, damaged = known.read(town, agent, bucket.store, states, most=most)
    hosts = {name[-97:-65]: info.host for name, info in found.items()}
    past = _past(state, found)
    head = None if state.head is None else state.head.name
    kept = {} if head is None else policy.keep(past, head, town.town.sync.keep, state.now)
    line = set() if head is None else {one.name for one in policy.line(past, head)}
    epochs = {name: keys.epoch for keys, name in states}
    entries = [
        Entry(
            one.name,
            epochs[one.name],
            one.time,
            _kind(one.name, head, line),
            kept.get(one.name, ()),
            found.get(str(one.name)),
            _host(one.name, found, hosts),
            _damage(damaged.get(str(one.name))),
        )
        for one in past
    ]
    entries.sort(key=lambda entry: (entry.name.generation, entry.time), reverse=True)
    return Log(agent.name, tuple(entries), _lease(town, state, hosts))


def _kind(name: Name, head: Name | None, line: set[Name]) -> str:
    if name == head:
        return "head"
    return "line" if name in line else "branch" if name.kind == "branch" else "fork"


def _past(state: State, found: Mapping[str, Info]) -> list[Past]:
    """What the policy sees. A commit that was not read is taken to follow the one before it."""
    past: list[Past] = []
    for place in reversed(state.places):
        for name in place.listing.states:
            modified, info = place.listing.modified(name), found.get(str(name))
            before = str(past[-1].name) if past and name.kind == "commit" else None
            time = datetime.fromtimestamp(modified, UTC) if info is None else info.time
            past.append(Past(name, time, before if info is None else info.parent, modified))
    return past


def _host(name: Name, found: Mapping[str, Info], hosts: Mapping[str, str]) -> str:
    info = found.get(str(name))
    return info.host if info is not None else hosts.get(name.machine, f"({name.machine[:12]})")


def _damage(error: StoreDamaged | None) -> str:
    return "" if error is None else error.what


def _lease(town: Spec, state: State, hosts: Mapping[str, str]) -> dict[str, object] | None:
    lease = state.lease
    if lease is None:
        return None
    return {
        "machine": lease.machine,
        "host": hosts.get(lease.machine),
        "here": lease.machine == local.machine(town, make=False),
        "since": seen.when(lease.modified),
        "until": None if lease.verb == "free" else seen.when(lease.modified + leases.LASTS),
        "held": not leases.ended(lease, state.now),
    }


def _put_text(one: Log) -> None:
    if not one.entries:
        say(f"{one.agent}: the store holds no state yet")
        return
    print(f"{one.agent}: {terminal.counted(len(one.entries), 'state')}; {_holder(one.lease)}")
    for entry in one.entries:
        print("  " + "  ".join(_words(entry)))
    if one.unread:
        say(
            f"{one.agent}: {terminal.counted(one.unread, 'state')} of them {'was' if one.unread == 1 else 'were'} not "
            "read: their times are those of the store. The next `persist log` reads on"
        )


def _holder(lease: dict[str, object] | None) -> str:
    if lease is None:
        return "no machine has held it yet"
    machine = str(lease["machine"])
    host = f"host {shown(str(lease['host']))}" if lease["host"] else f"machine {machine[:12]}"
    who = f"this machine ({host})" if lease["here"] else host
    if lease["held"]:
        return f"synced from {who}, lease until {lease['until']}"
    return f"no machine holds it; the last was {who}"


def _words(entry: Entry) -> Sequence[str]:
    time = entry.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if entry.damaged:
        held = f"DAMAGED: {entry.damaged}"
    elif entry.info is None:
        held = "not read"
    else:
        held = f"{terminal.counted(entry.info.files, 'file')}, {terminal.size(entry.info.bytes)}"
    kind = "" if entry.kind == "line" else entry.kind
    kept = ", ".join(reason for reason in entry.kept if reason != "head")
    return (
        entry.name.short,
        f"{entry.name.generation:>6}",
        f"{'~' if entry.info is None else ' '}{time}",
        shown(entry.host),
        held,
        *([kind] if kind else []),
        f"kept: {kept}" if kept else "" if entry.kept else "a prune deletes it",
    )


def _json(one: Log) -> dict[str, object]:
    return {"agent": one.agent, "lease": one.lease, "unread": one.unread, "states": list(map(_entry, one.entries))}


def _entry(entry: Entry) -> dict[str, object]:
    info = entry.info
    return {
        "snapshot": entry.name.short,
        "name": str(entry.name),
        "generation": entry.name.generation,
        "epoch": entry.epoch,
        "time": entry.time.astimezone(UTC).isoformat(),
        "host": entry.host,
        "machine": entry.name.machine,
        "kind": entry.kind,
        "kept": list(entry.kept),
        "read": info is not None,
        "files": None if info is None else info.files,
        "bytes": None if info is None else info.bytes,
        "parent": None if info is None else info.parent,
        "damaged": entry.damaged or None,
    }
