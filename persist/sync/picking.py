"""Which state is meant: the newest, the one of a time, or the one of a short id."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta

from persist.bucket import tombs
from persist.bucket.commits import Name
from persist.bucket.keys import AgentKeys
from persist.bucket.opening import Bucket
from persist.sync import seen
from persist.sync.seen import Head, Place
from town.failure import Failure, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown


class NoSuchState(Failure):
    """The store holds no state of the agent that is of that name, or as old as that time."""


def pick(spec: Spec, agent: Agent, bucket: Bucket, at: str | None, *, at_least: int = 0) -> Head | None:
    """The state that `at` names: None the newest; a time the newest of then; a short id or its unique beginning.

    A time is ISO 8601, UTC where it says no zone; a date alone means its end. Branches have ids only. None when nothing
    is named and the store holds no state of the agent. Raises NoSuchState, WrongUsage for an ambiguous one, StoreOlder.
    """
    state = seen.ask(spec, agent, bucket, at_least=at_least, all_epochs=at is not None)
    if at is None:
        return state.head
    found = state.places
    keys, name = _named(spec, agent, bucket, found, at.strip())
    place = next(place for place in found if place.keys.epoch == keys.epoch)
    commit = seen.commit(spec, agent, bucket.store, keys, name)
    buried = [seen.tomb(spec, agent, bucket.store, keys, tomb) for tomb in place.listing.tombs]
    newest = name if state.head is None else state.head.name
    return Head(name, commit, keys, tombs.resolved(name, commit.packs, buried), newest)


def _named(spec: Spec, agent: Agent, bucket: Bucket, found: tuple[Place, ...], at: str) -> tuple[AgentKeys, Name]:
    matches = [(keys, name) for keys, name in seen.all_states(found) if at and _is(name, at)]
    moment = _moment(at)
    if len(matches) == 1 and moment is None:
        return matches[0]
    if matches:
        raise _ambiguous(agent, at, [name for _, name in matches], moment)
    if moment is None:
        raise NoSuchState(
            f"{agent.name} has no state {shown(at[:100])} in the store, and that is no time",
            hint=f"persist log {agent.name} shows what there is; a time is written like 2026-11-21T10:15:00Z; "
            "persist recall shows homes that are kept here, with what they persisted",
        )
    return _of_time(spec, agent, bucket, found, moment)


def _is(name: Name, at: str) -> bool:
    return name.salt.startswith(at.lower()) or str(name) == at


def _moment(at: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return None
    if len(at) in (8, 10) and found.time() == time():  # a date alone
        found = found + timedelta(days=1) - timedelta(microseconds=1)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _ambiguous(agent: Agent, at: str, matches: Sequence[Name], moment: datetime | None) -> WrongUsage:
    shorts = [f"{name.short}{' (a branch)' if name.kind == 'branch' else ''}" for name in matches[:8]]
    more = f" and {len(matches) - 8} more" if len(matches) > 8 else ""
    a_time = f", or the time {moment.isoformat()}" if moment is not None else ""
    return WrongUsage(
        f"{shown(at)} may be {' or '.join(shorts)}{more}{a_time}",
        hint=f"say more of it; persist log {agent.name} shows all; a time is written like 2026-11-21T10:15:00Z",
    )


def _of_time(
    spec: Spec, agent: Agent, bucket: Bucket, found: tuple[Place, ...], moment: datetime
) -> tuple[AgentKeys, Name]:
    """The last commit that is not younger than `moment`, found by halving: some ten are read of a thousand."""
    line = sorted(((place.keys, name) for place in found for name in place.listing.commits), key=lambda one: one[1])

    def later(at: int) -> bool:
        return seen.commit(spec, agent, bucket.store, *line[at]).time > moment

    low, high = 0, len(line)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if later(middle) else (middle + 1, high)
    if low == 0:
        raise NoSuchState(
            f"the store holds no state of {agent.name} that is as old as {moment.isoformat()}",
            hint=f"persist log {agent.name} shows the oldest",
        )
    return line[low - 1]
