"""From the bytes of town.toml to a Spec: every mistake of a file is found before one is told."""

import errno
from pathlib import Path
from typing import Any

from town import agent_table, grammar, toml, town_table
from town.failure import BadSpec, Problem
from town.files import Unreadable, read_bounded
from town.grammar import Wrong
from town.spec import Agent, Spec, Town
from town.table import EnoughProblems, Place, Table, attempt, kind
from town.terminal import shown

_WHERE = "name it with --spec FILE or in $NUKETOWN_SPEC; without them it is /etc/nuketown/town.toml"


def load(file: Path) -> Spec:
    """The spec in a regular file of at most 1 MiB. Never blocks on a FIFO or a device. Raises BadSpec."""
    try:
        data = read_bounded(file, toml.LIMIT)
    except Unreadable as error:
        # The message names the file, which every problem does already.
        what = error.what.removeprefix(f"{shown(str(file))} ")
        raise BadSpec(shown(str(file)), (Problem("", what, _cure(error)),)) from error
    return parse(data, file)


def _cure(error: Unreadable) -> str:
    cause = error.__cause__
    denied = isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM)
    return "run it as root (sudo): this user may not read it" if denied else _WHERE


def parse(data: bytes, file: Path) -> Spec:
    """The spec that `data` says. `file` is for messages and relative paths. Raises BadSpec with every problem."""
    problems: list[Problem] = []
    try:
        made = _spec(toml.tree(data), Place("", problems), file)
    except toml.NotToml as error:
        raise BadSpec(shown(str(file)), (error.problem,)) from error
    except EnoughProblems:
        made = None
    if problems or made is None:
        raise BadSpec(shown(str(file)), tuple(problems))
    return made


def _spec(tree: dict[str, Any], place: Place, file: Path) -> Spec:
    with Table(tree, place) as table:
        town = table.take("town", lambda found, at: town_table.town(found, at, file), None)
        if town is None:  # left out: judged like an empty one; no table at all: that is said already
            town = town_table.town({}, Place("", []) if table.has("town") else place.key("town"), file)
        agents = table.take("agents", lambda found, at: _agents(found, at, town), ())
        if not agents and not place.problems:
            place.key("agents").wrong("names no agent", "add [agents.ada] with uid = 1100")
    _refuse_human(town, agents, place)
    _refuse_shared_ids(agents, place)
    _refuse_shared_secrets(agents, place)
    return Spec(town, agents, file)


def _agents(value: object, place: Place, town: Town) -> tuple[Agent, ...]:
    if not isinstance(value, dict):
        raise Wrong(f"is {kind(value)}, not a table", "write [agents.ada] with uid = 1100")
    made = (_named(name, item, place.key(name), town) for name, item in value.items())
    return tuple(agent for agent in made if agent is not None)


def _named(name: str, value: object, place: Place, town: Town) -> Agent | None:
    attempt(lambda *_: grammar.agent_name(name), name, place, None)
    return attempt(lambda found, at: agent_table.agent(found, at, name, town), value, place, None)


def _agent_place(place: Place, agent: Agent, *keys: str) -> Place:
    for key in ("agents", agent.name, *keys):
        place = place.key(key)
    return place


def _called(agent: Agent) -> str:
    """The agent as its key path says it: the name may be one that is refused, with anything in it."""
    return Place("", []).key(agent.name).where


def _refuse_human(town: Town, agents: tuple[Agent, ...], place: Place) -> None:
    for agent in agents:
        if town.human is not None and agent.name == town.human.user:
            _agent_place(place, agent).wrong("has the name of town.human.user", "choose another name for the agent")


def _refuse_shared_ids(agents: tuple[Agent, ...], place: Place) -> None:
    """One uid is one agent. A group may be shared by choice, but not the one that is an agent's own."""
    owner: dict[int, Agent] = {}
    for agent in agents:
        first = owner.setdefault(agent.uid, agent)
        if first is not agent and agent.uid:
            _agent_place(place, agent, "uid").wrong(f"{agent.uid} is {_called(first)}'s", "give it another number")
    for agent in agents:
        other = owner.get(agent.gid)
        if other is not None and other is not agent and agent.gid != agent.uid:
            what = f"{agent.gid} is the number of {_called(other)}, and of its own group"
            _agent_place(place, agent, "gid").wrong(
                what, "leave gid out, or name a group that no agent is called after"
            )


def _refuse_shared_secrets(agents: tuple[Agent, ...], place: Place) -> None:
    """No key of an agent is at a path that something else has, and no path is the beginning of another.

    A secret of `extra` may be shared between agents: they are given the same token.
    """
    keys: dict[str, Place] = {}
    for agent in agents:
        for field, path in (("ssh_key", agent.secrets.ssh_key), ("gpg_key", agent.secrets.gpg_key)):
            if path is not None:
                at = _agent_place(place, agent, "secrets", field)
                if keys.setdefault(path, at) is not at:
                    at.wrong(f"is where {keys[path].where} is", "give each key a path of its own")
    extras: dict[str, Place] = {}
    for agent in agents:
        for name, path in agent.secrets.extra:
            at = _agent_place(place, agent, "secrets", "extra", name)
            extras.setdefault(path, at)
            if path in keys:
                at.wrong(f"is where {keys[path].where} is", "a key of an agent is no extra secret: choose another path")
    _refuse_prefixes(keys | extras)


def _refuse_prefixes(used: dict[str, Place]) -> None:
    for path, at in used.items():
        parts = path.split("/")
        for length in range(1, len(parts)):
            if above := used.get("/".join(parts[:length])):
                at.wrong(f"lies below {above.where}, which is a value, not a table", "choose paths beside each other")
