"""Which machine syncs an agent: the lease is looked at, taken, renewed and given back, and older data is stopped.

Mutual exclusion is not promised (two machines may look at once); no commit is lost by that, and each is told.
"""

import platform
import time
from dataclasses import replace
from typing import Protocol

from persist.bucket import agents, leases
from persist.bucket.leases import Lease, Verb
from persist.bucket.opening import Bucket
from persist.sync import foreign, local
from persist.sync.local import Held
from persist.sync.seen import Place, State, when
from town.failure import Failure, TryLater
from town.spec import Agent, Spec
from town.terminal import shell_word, shown


class LeaseHeld(TryLater):
    """Another machine syncs this agent. Trying again helps once its lease has ended."""


class LeaseLost(Failure):
    """This machine held the lease and another one took it; what lies here is kept as a branch, and not synced."""


class Wishes(Protocol):
    """What the command line says."""

    @property
    def take_over(self) -> bool:
        """Go on, whichever machine holds the lease and whatever it wrote."""
        ...


def may_write(spec: Spec, agent: Agent, state: State, machine: str, options: Wishes) -> None:
    """Raise LeaseHeld, LeaseLost or WrittenElsewhere unless this machine may put a state of the agent on top.

    Sends no request where it may.
    """
    if options.take_over:
        return
    record, lease = local.record(spec, agent), state.lease
    others = lease is not None and lease.machine != machine
    if lease is not None and others and not leases.ended(lease, state.now):
        raise lost(agent, state, lease) if record.lease is not None else _held(agent, state, lease)
    strange = foreign.strange(agent, state.head, record)
    if strange and lease is not None and others and record.lease is not None:
        raise lost(agent, state, lease)
    if strange and state.head is not None:
        raise foreign.written_elsewhere(spec, agent, state.head, strange)


def hold(spec: Spec, agent: Agent, bucket: Bucket, state: State, machine: str, options: Wishes) -> State:
    """`may_write`, then the lease taken or renewed where it has to be. Raises what `may_write` raises.

    No request where this machine holds it and half of its time is left; one where it is renewed; two where it is taken:
    of two machines that take it at once, the second look tells one that it did not get it.
    """
    may_write(spec, agent, state, machine, options)
    return held_by(spec, agent, bucket, state, machine)


def take(
    spec: Spec,
    agent: Agent,
    bucket: Bucket,
    state: State,
    machine: str,
    *,
    take_over: bool = False,
    at: str | None = None,
) -> State:
    """The same for a restore: what lies here is not asked for, only who holds the lease. Raises LeaseHeld.

    `at`: the state that was asked for, for the hint.
    """
    refuse_held(agent, state, machine, take_over=take_over, at=at)
    return held_by(spec, agent, bucket, state, machine)


def refuse_held(agent: Agent, state: State, machine: str, *, take_over: bool = False, at: str | None = None) -> None:
    """Raise LeaseHeld where another machine holds the lease, unless it is to be taken over."""
    lease = state.lease
    if lease is not None and lease.machine != machine and not take_over and not leases.ended(lease, state.now):
        raise _held(agent, state, lease, at=at)


def renew(spec: Spec, agent: Agent, bucket: Bucket, machine: str) -> bool:
    """Renew the lease by one request, without a look at the store: for a sync that found nothing changed.

    Where another machine has taken it meanwhile this counts for nothing, and the next look at the store tells. False,
    and nothing is sent, where this machine knows of no lease of its own: then `hold` takes one.
    """
    held = local.record(spec, agent).lease
    if held is None:
        return False
    _write(spec, agent, bucket, machine, "keep", held.sequence + 1)
    return True


def release(spec: Spec, agent: Agent, bucket: Bucket, machine: str) -> bool:
    """Give the lease back by one request, at a clean shutdown; False when this machine knows of none of its own."""
    held = local.record(spec, agent).lease
    if held is None:
        return False
    _write(spec, agent, bucket, machine, "free", held.sequence + 1)
    given = held._replace(sequence=held.sequence + 1)
    local.change(spec, agent, lambda record: record._replace(lease=None, released=given))
    return True


def held_by(spec: Spec, agent: Agent, bucket: Bucket, state: State, machine: str) -> State:
    lease = state.lease
    ours = lease is not None and lease.machine == machine and lease in state.listing.leases
    if lease is not None and ours and lease.verb != "free":
        if 0 <= state.now - lease.modified < leases.HALF:
            _adopt(spec, agent, lease, age=state.now - lease.modified)
            return state
        made = _write(spec, agent, bucket, machine, "keep", state.sequence + 1)
        return replace(state, lease=made)
    before = local.record(spec, agent).lease
    made = _write(spec, agent, bucket, machine, "take", state.sequence + 1)
    try:
        return _looked_again(agent, bucket, state, made)
    except LeaseHeld:
        local.change(spec, agent, lambda record: record._replace(lease=before))
        raise


def _looked_again(agent: Agent, bucket: Bucket, state: State, made: Lease) -> State:
    """The state after the lease was taken; of several machines that took it at once one has it."""
    listing = agents.listed(bucket.store, state.keys)
    if made.salt not in {lease.salt for lease in listing.leases}:  # a listing that is older than our request
        listing = replace(listing, leases=(*listing.leases, made))
    lease = leases.current(listing)
    after = replace(state, places=(Place(state.keys, listing), *state.places[1:]), lease=lease)
    if lease is not None and lease.machine != made.machine:
        raise _held(agent, after, lease)
    return after


def _write(spec: Spec, agent: Agent, bucket: Bucket, machine: str, verb: Verb, sequence: int) -> Lease:
    keys = bucket.keys(agent.name)
    lease = leases.write(bucket.store, keys, sequence, machine, verb, platform.node())
    _note(spec, agent, lease)
    return lease


def _note(spec: Spec, agent: Agent, lease: Lease) -> None:
    """Remember a lease that this machine wrote."""
    held = Held(lease.sequence, lease.modified, time.time())
    local.change(spec, agent, lambda record: record._replace(lease=held, released=None))


def _adopt(spec: Spec, agent: Agent, lease: Lease, *, age: float) -> None:
    """Remember a lease of this machine's own that a listing showed, where it knows of none: its notes were lost."""
    held = Held(lease.sequence, lease.modified, time.time() - age)
    local.change(spec, agent, lambda record: record if record.lease is not None else record._replace(lease=held))


def _held(agent: Agent, state: State, lease: Lease, *, at: str | None = None) -> LeaseHeld:
    return LeaseHeld(
        f"{_who(state, lease)} syncs {agent.name}, until {when(lease.modified + leases.LASTS)} at least",
        hint=f"sync {agent.name} from one machine: end it there (persist sync --release gives the lease back); or, to "
        f"go on here, whatever is there: persist restore --take-over {f'--at {shell_word(at)} ' if at else ''}"
        f"{agent.name}",
    )


def lost(agent: Agent, state: State, lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"{_who(state, lease)} has taken over {agent.name}, {when(lease.modified)}: this machine syncs it no more",
        hint=f"what lay here is kept as a branch: persist log {agent.name} shows it. Stop the agent there or here; to "
        f"have here what the store has: persist restore --take-over {_newest(state)}{agent.name} (what lies here is "
        f"set aside); to go on with what lies here: persist sync --take-over {agent.name}",
    )


def _newest(state: State) -> str:
    """What makes a restore put the newest state also where something lies."""
    return "" if state.head is None else f"--at {state.head.name.short} "


def _who(state: State, lease: Lease) -> str:
    """The host that wrote a lease, or its machine's id where that cannot be read."""
    for place in state.places:
        if lease in place.listing.leases:
            try:
                return shown(leases.host(state.store, place.keys, lease))
            except Failure:  # it is only for the message
                break
    return f"another machine ({lease.machine[:12]})"
