"""The last step of a sync: one small object that makes everything before it the agent's state.

The name is written into this machine's record before it is sent, so that a crash in between leaves a commit that is
known for its own.
"""

from collections.abc import Callable
from dataclasses import replace

from persist.bucket import agents, commits, leases
from persist.bucket.commits import Commit, Name
from persist.bucket.leases import Lease
from persist.bucket.opening import Bucket
from persist.sync import holding, known, local, seen
from persist.sync.holding import LeaseLost
from persist.sync.local import Record
from persist.sync.seen import Place, State
from town import cli
from town.failure import Failure
from town.spec import Agent, Spec

Used = Callable[[frozenset[str]], bool]
_LONG = 24 * 3600.0  # seconds, by the store's clock, from the first look to the last; a tomb is there for 7 days


class Tombed(Failure):
    """A prune has marked packs that the commit builds on since the sync began: it goes round once more.

    `state` is what the store shows now.
    """

    def __init__(self, state: State) -> None:
        super().__init__("packs that this sync builds on are about to be deleted", hint="sync again")
        self.state = state


def commit(spec: Spec, agent: Agent, bucket: Bucket, state: State, commit: Commit, used: Used) -> Name:
    """Make `commit` the agent's state; its name. Every pack it names must be durable.

    Looks at the store once more right before: `used` says whether the commit builds on one of some packs. Generation,
    parent and lease are set here. Raises Tombed, or LeaseLost after it was stored as a branch.
    """
    now = _looked_again(spec, agent, bucket, state)
    lease = _still_ours(spec, agent, bucket, state.lease, now, commit)
    buried = _not_to_be_built_on(now)
    if buried and (used(buried) or any(pack.id in buried for pack in commit.packs)):
        raise Tombed(now)
    if now.now - state.now >= _LONG:  # tombs of meanwhile may be gone, with their packs: all packs are listed again
        raise Tombed(now)
    _refuse_false(spec, agent, bucket, state, now)
    _tell_rivals(agent, state, now, commit.machine)
    parent = None if state.head is None else str(state.head.name)
    generation = max(now.generation, state.generation, _intended(spec, agent)) + 1
    made = replace(commit, generation=generation, parent=parent, lease=lease.sequence)
    if state.head is not None and state.head.keys.epoch != state.keys.epoch:
        # Who has not heard of the new epoch looks at the old one: there it finds that it holds the lease no more.
        leases.write(bucket.store, state.head.keys, now.sequence + 1, commit.machine, "take", commit.host)
    return _sent(spec, agent, bucket, now, made)


def _not_to_be_built_on(state: State) -> frozenset[str]:
    """Packs under tombs, but for those that the head names and its prune did not know of: the head keeps them there."""
    found: set[str] = set()
    for tomb in state.tombs:
        kept = state.head is not None and str(state.head.name) not in tomb.seen
        found |= tomb.packs - ({pack.id for pack in state.head.commit.packs} if kept and state.head else set())
    return frozenset(found)


def _refuse_false(spec: Spec, agent: Agent, bucket: Bucket, before: State, now: State) -> None:
    """Names are not authenticated, commits are: a higher generation counts when its commit opens. Raises StoreDamaged.

    Else one false name, shown once, would make every later commit of ours one of the last generation that there is.
    """
    highest = max(now.listing.commits, default=None)
    if highest is not None and highest.generation > max(before.generation, _intended(spec, agent)):
        seen.commit(spec, agent, bucket.store, now.keys, highest)


def _intended(spec: Spec, agent: Agent) -> int:
    """The generation that was sent last: one that is not there may still arrive, and is history then."""
    intended = local.record(spec, agent).intended
    return Name.parsed(intended).generation if intended else 0


def _sent(spec: Spec, agent: Agent, bucket: Bucket, state: State, made: Commit) -> Name:
    keys = state.keys
    name = Name.fresh(made.generation, made.machine)
    sealed = commits.sealed(keys, name, made)
    local.change(spec, agent, lambda record: record._replace(intended=str(name)))
    bucket.store.put(commits.key(keys, name), sealed)
    local.change(spec, agent, lambda record: _recorded(record, name))
    known.note(spec, agent, name, made, state.listing.states)
    local.keep_copy(spec, agent, str(name), sealed, instead_of="commit-")
    return name


def _recorded(record: Record, name: Name) -> Record:
    return record._replace(
        generation=max(record.generation, name.generation),
        head=str(name) if name.generation >= record.generation else record.head,
        written=str(name),
        intended=str(name),
        branch="",
    )


def _looked_again(spec: Spec, agent: Agent, bucket: Bucket, state: State) -> State:
    """The state with a new listing of the newest epoch, and the tombs that came since."""
    place = Place(state.keys, agents.listed(bucket.store, state.keys))
    fresh = (name for name in place.listing.tombs if name not in state.listing.tombs)
    buried = tuple(seen.tomb(spec, agent, bucket.store, state.keys, name, keep=True) for name in fresh)
    # Both, as a listing may be older than the one before it: a lease that was seen is there.
    lease = leases.winner({*place.listing.leases, *state.listing.leases}) or state.lease
    return replace(state, places=(place, *state.places[1:]), tombs=state.tombs + buried, lease=lease)


def _still_ours(spec: Spec, agent: Agent, bucket: Bucket, before: Lease | None, now: State, made: Commit) -> Lease:
    """The lease of the machine that commits, renewed when it is time; else the commit becomes a branch."""
    machine, lease = made.machine, now.lease
    was_ours = before is not None and before.machine == machine  # who took it since may have given it back already
    if lease is not None and lease.machine != machine and (was_ours or not leases.ended(lease, now.now)):
        branch(spec, agent, bucket, now, made)
        raise holding.lost(agent, now, lease)
    held = holding.held_by(spec, agent, bucket, now, machine).lease
    assert held is not None
    return held


def branch(spec: Spec, agent: Agent, bucket: Bucket, state: State, made: Commit) -> Name:
    """Keep a state beside the others, never the head: what a machine had that lost the lease. The branch's name.

    Its parent is the branch or commit that this machine wrote last. Nothing is sent when that branch has it all.
    """
    record = local.record(spec, agent)
    before = record.branch or record.written or None
    if record.branch and _same(spec, agent, bucket, state, Name.parsed(record.branch), made):
        return Name.parsed(record.branch)
    generation = Name.parsed(before).generation + 1 if before else 1
    made = replace(made, generation=generation, parent=before, lease=None)
    name = Name.fresh(generation, made.machine, "branch")
    sealed = commits.sealed(state.keys, name, made)
    bucket.store.put(commits.key(state.keys, name), sealed)
    local.change(spec, agent, lambda now: now._replace(branch=str(name)))
    known.note(spec, agent, name, made, state.listing.states)
    local.keep_copy(spec, agent, str(name), sealed, instead_of="branch-")
    return name


def _same(spec: Spec, agent: Agent, bucket: Bucket, state: State, name: Name, made: Commit) -> bool:
    try:
        before = seen.commit(spec, agent, bucket.store, state.keys, name)
    except Failure:  # it is gone, or of an earlier epoch: then another is written
        return False
    return (before.root, before.uid, before.gid) == (made.root, made.uid, made.gid)


def _tell_rivals(agent: Agent, before: State, now: State, machine: str) -> None:
    known = set(before.listing.commits)
    rivals = [name for name in now.listing.commits if name not in known and name.machine != machine]
    if rivals:
        cli.warn(
            "persist",
            f"{agent.name}: another machine synced meanwhile ({rivals[-1].short}, generation {rivals[-1].generation})",
            f"both states are kept: persist log {agent.name}. Let one machine sync an agent",
        )


__all__ = ["LeaseLost", "Tombed", "branch", "commit"]
