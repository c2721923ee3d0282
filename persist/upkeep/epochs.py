"""What lies in the store of one agent, as upkeep sees it: each epoch has states, tombs and packs of its own.

A pack is *led to* by a state that names it, or that a tomb leads to it. Tombs are listed before packs, so that every
pack of a state that was seen is in the listing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from persist.bucket import agents, commits, tombs
from persist.bucket.agents import Listing
from persist.bucket.commits import Commit, Name
from persist.bucket.keys import AgentKeys
from persist.bucket.opening import Bucket
from persist.bucket.packs import Pack
from persist.bucket.tombs import Tomb
from persist.store import Found, Store, StoreDamaged

_AT_ONCE = 8  # commits that are read at once


@dataclass(frozen=True, slots=True)
class Epoch:
    """One agent in one epoch. `packs`: what the listing has, by id. `void`: names of tombs that count for nothing.

    A tomb is void that leads a state to a pack which is not there, from packs which are there, or led on by another
    tomb: who wrote it slept for a week right before, and another prune took its new packs for left over.
    """

    store: Store = field(repr=False)
    keys: AgentKeys
    listing: Listing
    tombs: Mapping[str, Tomb]
    packs: Mapping[str, Found]
    void: frozenset[str] = frozenset()

    def age(self, modified: float) -> float:
        """Seconds since a time of a listing, by the store's own clock; 0 for what has no time."""
        return self.listing.at - modified if modified > 0 else 0.0

    def states(self, names: Iterable[Name]) -> Iterator[tuple[Name, Commit]]:
        """Those states, read; several at once. Raises ObjectMissing, StoreDamaged, StoreForeign."""
        for name, found in self.tried(names):
            if isinstance(found, StoreDamaged):
                raise found
            yield name, found

    def tried(self, names: Iterable[Name]) -> Iterator[tuple[Name, Commit | StoreDamaged]]:
        """Those states, each as it could be read."""
        left = iter(names)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            while some := list(islice(left, 2 * _AT_ONCE)):
                yield from zip(some, threads.map(self._read, some), strict=True)

    def _read(self, name: Name) -> Commit | StoreDamaged:
        try:
            return commits.read(self.store, self.keys, name)
        except StoreDamaged as damaged:
            return damaged

    def way(self, name: Name, packs: Iterable[Pack]) -> "Way":
        """Where a state that names those packs leads to."""
        return way(name, packs, self.tombs.values())


@dataclass(frozen=True, slots=True)
class Way:
    """Where a state leads: `read`, the packs that a reader takes; `all`, also those on the way there, by id."""

    read: tuple[Pack, ...]
    all: Mapping[str, Pack]


def way(name: Name, packs: Iterable[Pack], buried: Iterable[Tomb]) -> Way:
    """Where a state that names `packs` leads to."""
    named, ours = tuple(packs), [tomb for tomb in buried if str(name) in tomb.seen]
    return Way(tombs.resolved(name, named, ours), tombs.led(named, ours))


Damaged = Callable[[str, StoreDamaged], None]


def opened(bucket: Bucket, agent: str, damaged: Damaged | None = None) -> list[Epoch]:
    """The agent's epochs, the newest first. A tomb that cannot be read is told to `damaged`, or raises StoreDamaged."""
    return [_epoch(bucket.store, keys, damaged) for keys in (bucket.keys(agent), *bucket.older(agent))]


def _epoch(store: Store, keys: AgentKeys, damaged: Damaged | None) -> Epoch:
    listing = agents.listed(store, keys)
    buried: dict[str, Tomb] = {}
    for name in listing.tombs:
        try:
            buried[name] = tombs.read(store, keys, name)
        except StoreDamaged as found:
            if damaged is None:
                raise
            damaged(name, found)
    prefix = f"packs/{keys.place}/"
    packs = {found.key.removeprefix(prefix): found for found in store.list(prefix)}
    void = frozenset(name for name, tomb in buried.items() if _void(tomb, listing, buried, packs))
    return Epoch(store, keys, listing, {name: buried[name] for name in buried if name not in void}, packs, void)


def _void(tomb: Tomb, listing: Listing, buried: Mapping[str, Tomb], packs: Mapping[str, Found]) -> bool:
    missing = {pack.id for pack in tomb.to if pack.id not in packs}
    others = [other for other in buried.values() if other is not tomb]
    if not missing or not tomb.packs <= packs.keys() | frozenset().union(*(other.packs for other in others)):
        return False  # where what it replaced is gone too, its new packs are damage
    for name in map(str, listing.states):
        moved = (other.packs for other in others if name in other.seen)
        if name in tomb.seen and missing - frozenset().union(*moved):
            return True
    return False
