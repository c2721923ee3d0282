"""What the store holds of an agent, as seen from this machine: one listing, and the head.

Remembers the newest generation that it saw, so that an older state is refused from then on, and a copy of the head as
it is stored, so that it is read once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from persist.bucket import agents, commits, leases, opening, tombs
from persist.bucket.agents import Listing
from persist.bucket.commits import Commit, Name
from persist.bucket.keys import AgentKeys
from persist.bucket.leases import Lease
from persist.bucket.opening import Bucket
from persist.bucket.packs import Pack
from persist.bucket.tombs import Tomb
from persist.store import ObjectMissing, Store, StoreDamaged, StoreOlder
from persist.sync import heads, local
from persist.sync.local import Record
from town import cli
from town.spec import Agent, Spec
from town.terminal import say, shell_word, shown

_MANY = 6  # short ids that one message names


@dataclass(frozen=True, slots=True)
class Head:
    """One whole state of an agent, and what opens it. `packs`: those that hold its pieces now, tombs followed.

    `newest`: the head when it was asked for. Who restores an older state chose it with that in the store, so what is
    restored counts as descending from it.
    """

    name: Name
    commit: Commit
    keys: AgentKeys
    packs: tuple[Pack, ...]
    newest: Name


@dataclass(frozen=True, slots=True)
class Place:
    """What one epoch holds of an agent."""

    keys: AgentKeys
    listing: Listing


@dataclass(frozen=True, slots=True)
class State:
    """An agent in the store. `listing` and `tombs` are of the newest epoch; `head` may be of an earlier one.

    `lease` is the one that counts, ended or not; `beside`: forks, commits that are not in the head's line.
    """

    store: Store = field(repr=False)
    places: tuple[Place, ...]
    head: Head | None
    tombs: tuple[Tomb, ...]
    lease: Lease | None
    beside: tuple[Name, ...] = ()

    @property
    def keys(self) -> AgentKeys:
        """The agent's keys of the newest epoch: what is written is sealed with them."""
        return self.places[0].keys

    @property
    def listing(self) -> Listing:
        """What the newest epoch holds."""
        return self.places[0].listing

    @property
    def now(self) -> float:
        """The store's time at the listing."""
        return self.listing.at

    @property
    def tombed(self) -> frozenset[str]:
        """Ids of packs that nothing new may be built on."""
        return frozenset().union(*(tomb.packs for tomb in self.tombs))

    @property
    def sequence(self) -> int:
        """The highest sequence of a lease, whoever wrote it."""
        return max((lease.sequence for place in self.places for lease in place.listing.leases), default=0)

    @property
    def generation(self) -> int:
        """The highest generation of a commit."""
        return max((name.generation for place in self.places for name in place.listing.commits), default=0)


def ask(
    spec: Spec, agent: Agent, bucket: Bucket, *, remember: bool = True, at_least: int = 0, all_epochs: bool = False
) -> State:
    """What the store holds of the agent: one listing; the head is read unless this machine has its copy.

    With `remember` this machine notes what it saw and tells of forks, and of what it found at its first look. With
    `all_epochs` one listing for each. Raises StoreOlder (also below the generation `at_least`), StoreDamaged,
    StoreForeign and what the store raises.
    """
    for last_try in (False, True):
        found = places(bucket, agent, all_epochs=all_epochs)
        if not any(place.listing.times for place in found):
            opening.prove(spec, bucket)
        try:
            return _state(spec, agent, bucket, found, remember=remember, at_least=at_least)
        except ObjectMissing:  # a prune removed it between the listing and the reading
            if last_try:
                raise
    raise AssertionError


def _state(
    spec: Spec, agent: Agent, bucket: Bucket, found: tuple[Place, ...], *, remember: bool, at_least: int
) -> State:
    record = local.record(spec, agent)
    here = next((place for place in found if place.listing.commits), found[0])
    _refuse_older(spec, agent, found, record, at_least)
    name = heads.head(
        here.listing.commits,
        [seen for seen in (record.head, record.intended) if seen],
        lambda tied: commit(spec, agent, bucket.store, here.keys, tied).parent,
        lease.machine if (lease := _lease(found)) is not None else "",
    )
    buried = {
        place.keys.epoch: _tombs(spec, agent, bucket.store, place, keep=remember)
        for place in dict.fromkeys((found[0], here))
    }
    head = None
    if name is not None:
        held = commit(spec, agent, bucket.store, here.keys, name, keep=remember)
        head = Head(name, held, here.keys, tombs.resolved(name, held.packs, buried[here.keys.epoch]), name)
    state = State(bucket.store, found, head, buried[found[0].keys.epoch], _lease(found), _beside(here, head))
    if remember:
        _remember(spec, agent, record, state)
    return state


def places(bucket: Bucket, agent: Agent, *, all_epochs: bool = False) -> tuple[Place, ...]:
    """What the newest epoch holds, and (where it holds no commit yet, or with `all_epochs`) those before it."""
    found = []
    for keys in (bucket.keys(agent.name), *bucket.older(agent.name)):
        found.append(Place(keys, agents.listed(bucket.store, keys)))
        if found[-1].listing.commits and not all_epochs:
            break
    return tuple(found)


def commit(spec: Spec, agent: Agent, store: Store, keys: AgentKeys, name: Name, *, keep: bool = False) -> Commit:
    """The commit of that name, from this machine's sealed copy when it has one; with `keep` that copy is made."""
    kept = local.copy(spec, agent, str(name))
    if kept is not None:
        try:
            return commits.opened(keys, name, kept)
        except StoreDamaged:  # the copy is what is damaged: read the store
            pass
    data = commits.fetched(store, keys, name)
    found = commits.opened(keys, name, data)
    if keep:
        local.keep_copy(spec, agent, str(name), data, instead_of="commit-")
    return found


def packs_of(spec: Spec, agent: Agent, state: State, name: str) -> tuple[Pack, ...] | None:
    """The packs that hold the pieces of a state of the newest epoch; None when the store has it no more."""
    there = {str(each): each for each in state.listing.states}
    if name not in there:
        return None
    try:
        held = commit(spec, agent, state.store, state.keys, there[name])
    except StoreDamaged:  # also: gone since the listing
        return None
    return tombs.resolved(there[name], held.packs, state.tombs)


def _tombs(spec: Spec, agent: Agent, store: Store, place: Place, *, keep: bool) -> tuple[Tomb, ...]:
    return tuple(tomb(spec, agent, store, place.keys, name, keep=keep) for name in place.listing.tombs)


def tomb(spec: Spec, agent: Agent, store: Store, keys: AgentKeys, name: str, *, keep: bool = False) -> Tomb:
    """The tomb of that name, from this machine's sealed copy when it has one; with `keep` that copy is made."""
    kept = local.copy(spec, agent, name)
    if kept is not None:
        try:
            return tombs.opened(keys, name, kept)
        except StoreDamaged:
            pass
    data = tombs.fetched(store, keys, name)
    found = tombs.opened(keys, name, data)
    if keep:
        local.keep_copy(spec, agent, name, data)
    return found


def _lease(found: Iterable[Place]) -> Lease | None:
    """The lease that counts. In a new epoch that has none yet, that of the epoch before."""
    return next((lease for place in found if (lease := leases.current(place.listing)) is not None), None)


def _beside(here: Place, head: Head | None) -> tuple[Name, ...]:
    return () if head is None else heads.beside(here.listing.commits, head.name, head.commit.parent)


def _refuse_older(spec: Spec, agent: Agent, found: tuple[Place, ...], record: Record, at_least: int) -> None:
    names = {str(name) for place in found for name in place.listing.commits}
    newest = max((name.generation for place in found for name in place.listing.commits), default=0)
    sequence = max((lease.sequence for place in found for lease in place.listing.leases), default=0)
    if newest < at_least:
        raise StoreOlder(
            f"the newest state of {agent.name} in the store is of generation {newest}, at least {at_least} is wanted",
            hint="newer states were removed, or an older copy of the store was put in place: find them",
        )
    vanished = newest == record.generation and record.head and record.head not in names
    if newest >= record.generation and not vanished and sequence >= record.sequence:
        return
    what = f"generation {newest} of {agent.name}, but this machine has seen {record.generation}"
    if newest >= record.generation and not vanished:
        what = f"the lease {sequence} of {agent.name}, but this machine has seen {record.sequence}"
    raise StoreOlder(
        f"the store shows {what} (snapshot {_short(record.head)}): newer states were removed, or an older copy, or "
        "another store, was put in place",
        hint="find the newer objects; only when they are gone for good, accept what is there: "
        f"rm {shell_word(str(spec.state_dir / 'sync' / f'{agent.name}.json'))}",
    )


def _short(name: str) -> str:
    return shown(name[-64:][:12])


def _remember(spec: Spec, agent: Agent, before: Record, state: State) -> None:
    told = _tell_forks(agent, before, state)
    if state.head is not None and not before.head:
        _tell_first(agent, state.head)
    local.change(spec, agent, lambda record: _noted(record, state, told))
    local.drop_copies(spec, agent, "tomb-", but={name for place in state.places for name in place.listing.tombs})


def _noted(record: Record, state: State, told: tuple[str, ...]) -> Record:
    names = {str(name) for place in state.places for name in place.listing.commits}
    if state.lease is not None:
        record = record._replace(sequence=max(record.sequence, state.lease.sequence))
    if record.intended in names:  # sent, and then this machine was cut off
        record = record._replace(written=record.intended)
    head = state.head
    if head is None or head.name.generation < record.generation:  # another process here saw more meanwhile
        return record
    return record._replace(generation=head.name.generation, head=str(head.name), told=told)


def _tell_first(agent: Agent, head: Head) -> None:
    when = head.commit.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    say(
        f"persist: {agent.name}: first look at the store from this machine. The newest state there: generation "
        f"{head.name.generation}, {when}, host {shown(head.commit.host)}, snapshot {head.name.short}. "
        "Whether there was a newer one, this machine cannot know; `persist restore --at-least N` refuses an older one"
    )


def _tell_forks(agent: Agent, before: Record, state: State) -> tuple[str, ...]:
    """Tell of commits that stand beside the head's line, each once; the record of what was told."""
    fresh = [name for name in state.beside if str(name) not in before.told]
    if fresh and before.head:
        ids = ", ".join(name.short for name in fresh[-_MANY:])
        more = f" and {len(fresh) - _MANY:,} more" if len(fresh) > _MANY else ""
        cli.warn(
            "persist",
            f"{agent.name}: two machines synced at once: {ids}{more} beside {state.head.name.short}"  # type: ignore[union-attr]
            f" (generation {fresh[-1].generation})",
            f"every state is kept: `persist log {agent.name}` shows them, `persist restore --at ID` brings one back. "
            "Let one machine sync an agent",
        )
    return tuple(map(str, state.beside))


def when(seconds: float) -> str:
    """Seconds since the epoch as people read them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def all_states(found: Iterable[Place]) -> Iterator[tuple[AgentKeys, Name]]:
    """Every commit and branch of some places, with what opens it."""
    return ((place.keys, name) for place in found for name in place.listing.states)
