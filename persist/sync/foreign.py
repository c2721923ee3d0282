"""Whether what lies here descends from the head: older data never goes on top of another machine's unasked."""

import os
import platform
from collections.abc import Sequence
from pathlib import PurePosixPath

from persist import places
from persist.sync import declared
from persist.sync.carried import overlap
from persist.sync.local import Record
from persist.sync.seen import Head
from town.failure import Failure
from town.spec import Agent, Persist, Spec
from town.terminal import say, shown


class WrittenElsewhere(Failure):
    """Another machine has synced this agent since; going on here would put older data on top of its."""


def strange(agent: Agent, head: Head | None, record: Record) -> Sequence[Persist]:
    """The declared directories whose data here does not descend from the head. None where this machine wrote it."""
    if head is None or str(head.name) in (record.written, record.intended):
        return ()
    unknown = [top.path for top in head.commit.root if record.known.get(str(top.path)) != str(head.name)]
    return [entry for entry in declared.entries(agent) if any(overlap(entry.path, path) for path in unknown)]


def written_elsewhere(spec: Spec, agent: Agent, head: Head, entries: Sequence[Persist]) -> WrittenElsewhere:
    """The failure that says who wrote the head, and both ways to go on."""
    when = head.commit.time.isoformat(timespec="seconds")
    return WrittenElsewhere(
        f"{shown(head.commit.host)} has synced {agent.name} ({head.name.short}, {when}), "
        f"and {shown(str(entries[0].path))} here does not descend from that",
        hint=_ways_on(spec, agent, head, entries),
    )


def tell_undeclared(agent: Agent, found: Head, path: PurePosixPath, *, stays: bool) -> None:
    """Say that a path which was synced from here is not declared for the store any more."""
    about = f"persist: {agent.name}: {shown(str(path))}: no longer declared for the store"
    if stays:
        say(f"{about}; its last state stays there, and comes back when it is declared again")
    else:
        say(f"{about}, and a path that holds it, or lies in it, is: its last state stays in {found.name.short} only")


def _ways_on(spec: Spec, agent: Agent, found: Head, strange: Sequence[Persist]) -> str:
    """The two ways to go on, as commands that work; first what may be the reason."""
    own = ""
    if found.commit.host == platform.node():
        own = f"that is this machine's own name: if it is this machine, its notes in {shown(str(spec.state_dir))} are "
        own += "gone, and what lies here is the newest. "
    have = "persist restore"
    if any(_lies_here(spec, agent, entry) for entry in strange):
        have += f" --at {found.name.short}"
    return (
        f"{own}To have what the store has (what lies here is kept beside it, as .before-TIME), stop the agent, then: "
        f"{have} {agent.name}; to put what lies here on top (the history of the other stays): "
        f"persist sync --take-over {agent.name}"
    )


def _lies_here(spec: Spec, agent: Agent, entry: Persist) -> bool:
    # The parents of a bound one's source are root's; those in a home may hang who asks.
    return not entry.bound or os.path.lexists(places.source(spec, agent, entry))
