"""The one loop that carries out a plan, with a last look at the store before what cannot be taken back."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import assert_never

from persist.bucket import agents, commits, tombs
from persist.bucket.packs import Pack
from persist.bucket.tombs import Tomb
from persist.upkeep import merge
from persist.upkeep.epochs import Epoch
from persist.upkeep.holdings import Holdings
from persist.upkeep.plan import Action, Bury, Clear, Delete, Drop
from town.failure import TryLater


class Overtaken(TryLater):
    """Another prune ran at the same time, for days, and took what this one wrote for left over."""


@dataclass(slots=True)
class Done:
    """What was done, in bytes of the store: deleted, buried, sent; and packs that a new state had to be left."""

    deleted: int = 0
    buried: int = 0
    sent: int = 0
    spared: int = 0


class Doing:
    """Carries out the plan of one epoch. The store is whole after each request. `moved` is told of bytes of pieces."""

    def __init__(
        self, epoch: Epoch, holdings: Holdings | None = None, moved: Callable[[int], None] = lambda _: None
    ) -> None:
        self._epoch, self._holdings, self._moved = epoch, holdings, moved
        self._store, self._keys = epoch.store, epoch.keys
        self._newly: frozenset[str] | None = None
        self.done = Done()

    def run(self, actions: Iterable[Action]) -> Done:
        """Do it all. Raises StoreFull, StoreUnreachable, StoreDamaged, Overtaken; another run goes on from there."""
        for action in actions:
            match action:
                case Drop(name):
                    self._store.delete(commits.key(self._keys, name))
                case Delete(pack, size):
                    self._delete(pack, size)
                case Bury():
                    self._bury(action)
                case Clear(name):
                    self._store.delete(f"agents/{self._keys.place}/{name}")
                case _:
                    assert_never(action)
        return self.done

    def _delete(self, pack: str, size: int) -> None:
        if self._newly is None:
            self._newly = self._led_to_newly()
        if pack in self._newly:
            self.done.spared += 1
            return
        self._store.delete(f"packs/{self._keys.place}/{pack}")
        self.done.deleted += size

    def _led_to_newly(self) -> frozenset[str]:
        """The packs that states lead to which came after the plan was made, or to which a new tomb leads."""
        epoch = self._epoch
        listing = agents.listed(self._store, self._keys)
        known = set(epoch.listing.states)
        fresh = Epoch(self._store, self._keys, listing, {}, {})
        states = fresh.states(name for name in listing.states if name not in known)
        buried = [
            tombs.read(self._store, self._keys, name) for name in listing.tombs if name not in epoch.listing.tombs
        ]
        found = {pack.id for _, commit in states for pack in commit.packs}
        return frozenset(found | {pack.id for tomb in buried for pack in tomb.to})

    def _bury(self, action: Bury) -> None:
        to: tuple[Pack, ...] = ()
        if action.live:
            assert self._holdings is not None, "who moves pieces has walked what needs them"
            to = merge.merged(self._holdings, action.moving, self._moved)
        new = {pack.id for pack in to}
        self._refuse_overtaken(new)
        name = tombs.write(self._store, self._keys, Tomb(action.ids, to, frozenset(map(str, action.seen))))
        try:
            self._refuse_overtaken(new)
        except Overtaken:  # it slept between the last look and the tomb; nobody relied on this tomb yet
            self._store.delete(tombs.key(self._keys, name))
            raise
        self.done.buried += action.size
        self.done.sent += sum(pack.size for pack in to)

    def _refuse_overtaken(self, new: set[str]) -> None:
        """A prune that slept for a week finds that another took its new packs for left over: no tomb may lead there."""
        if new and not new <= self._there():
            raise Overtaken("another prune took the new packs of this one for left over", hint="run it again")

    def _there(self) -> set[str]:
        prefix = f"packs/{self._keys.place}/"
        return {found.key.removeprefix(prefix) for found in self._store.list(prefix)}
