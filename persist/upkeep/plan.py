"""What a prune will do, as values: states that go, packs that go, packs that get a tomb, and what is left of before."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from persist.bucket import leases, packs
from persist.bucket.commits import Commit, Name
from persist.bucket.leases import Lease
from persist.bucket.packs import Pack
from persist.bucket.tombs import Tomb
from persist.store import StoreDamaged
from persist.upkeep.epochs import Epoch, Way
from persist.upkeep.holdings import Holdings
from persist.upkeep.policy import Past
from persist.upkeep.reach import Reach
from town import terminal
from town.terminal import counted

DAY = 24 * 3600.0
WAIT = DAY  # from a tomb to the deletion of its packs
HALF_WRITTEN = 7 * DAY  # for so long a pack that nothing names may belong to a sync that goes on
TOMB_STAYS = 7 * DAY  # at least; an index that nobody looked at for days still learns from it
SMALL = 4 << 20  # bytes of a pack below which it is merged with others
LEASES = 4  # of the newest that stay
_ID = re.compile(r"[0-9a-f]{64}")  # what else lies among the packs, nuketown did not write
_LIVE = """
SELECT piece.pack, total(piece.length), total(CASE WHEN need.id IS NULL THEN 0 ELSE piece.length END)
FROM piece LEFT JOIN need ON need.id = piece.id GROUP BY piece.pack
"""


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete a state: the policy does not keep it, or a person named it."""

    name: Name
    when: str
    why: str

    def __str__(self) -> str:
        return f"drop    {self.name.short}  {self.when}  {self.why}"


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a pack that a tomb named long enough ago, and no state needs."""

    pack: str
    size: int

    def __str__(self) -> str:
        return f"delete  pack {self.pack[:12]}  {terminal.size(self.size)}"


@dataclass(frozen=True, slots=True)
class Bury:
    """Write a tomb for packs; what is still needed of `moving` (`live` bytes, expanded) goes into new packs first."""

    ids: frozenset[str]
    size: int
    seen: tuple[Name, ...] = field(repr=False)
    why: str
    moving: tuple[Pack, ...] = ()
    live: int = 0
    stored: int = 0  # what of `size` will be written anew, about

    def __str__(self) -> str:
        moved = f", some {terminal.size(self.stored)} of it into new packs" if self.live else ""
        return f"bury    {counted(len(self.ids), 'pack')}  {terminal.size(self.size)}{moved}: {self.why}"


@dataclass(frozen=True, slots=True)
class Clear:
    """Delete an old lease, or a tomb that nothing leads through any more."""

    name: str

    def __str__(self) -> str:
        return f"clear   {self.name.partition('-')[0]} {self.name[-64:][:12]}"


Action = Drop | Delete | Bury | Clear


@dataclass(slots=True)
class Kept:
    """The states of one epoch that stay, and what their packs hold."""

    epoch: Epoch
    states: dict[Name, Commit]
    ways: dict[Name, Way]
    holdings: Holdings
    before: frozenset[str]  # ids of all packs that any state leads to that was there, kept or not

    @property
    def read(self) -> dict[str, Pack]:
        """The packs that readers take, by id: what must not go as it is."""
        return {pack.id: pack for found in self.ways.values() for pack in found.read}


def kept(epoch: Epoch, states: Mapping[Name, Commit], before: Iterable[str], holdings: Holdings) -> Kept:
    """Walk the states that stay, the newest first, and prove each of them whole. Raises StoreDamaged: nothing goes."""
    ways = {name: epoch.way(name, commit.packs) for name, commit in states.items()}
    found = Kept(epoch, dict(states), ways, holdings, frozenset(before))
    for id_, pack in found.read.items():
        if id_ not in epoch.packs or epoch.packs[id_].size != pack.size:
            raise _broken(epoch, f"{pack.key(epoch.keys)} is missing or cut short")
    holdings.learn(found.read.values())
    reach = Reach(holdings, mark=True)
    for name, commit in states.items():
        if reach.missing(reach.walk(commit), (pack.id for pack in ways[name].read)):
            raise _broken(epoch, f"pieces of the snapshot {name.short} are in none of its packs")
    return found


def _broken(epoch: Epoch, what: str) -> StoreDamaged:
    return StoreDamaged(
        f"{what}; nothing of {epoch.keys.agent} was removed",
        hint=f"persist verify {epoch.keys.agent} says what suffers, persist repair {epoch.keys.agent} what can be done",
    )


def planned(found: Kept, going: Iterable[tuple[Past, str]]) -> list[Action]:
    """All that is to be done in one epoch, in the order in which it is done: first what makes room."""
    drops = [Drop(past.name, past.time.isoformat(timespec="seconds"), why) for past, why in going]
    void = (Clear(name) for name in sorted(found.epoch.void))
    return [*void, *drops, *_delete(found), *_bury(found), *_clear(found)]


def _delete(found: Kept) -> Iterator[Delete]:
    """Packs of tombs that are old enough, which no state outside `seen` names, and none leads to."""
    epoch, read = found.epoch, found.read
    for id_ in sorted({id_ for tomb in epoch.tombs.values() for id_ in tomb.packs} & set(epoch.packs) - set(read)):
        if any(_ripe(found, name, tomb, id_) for name, tomb in epoch.tombs.items() if id_ in tomb.packs):
            yield Delete(id_, epoch.packs[id_].size)


def _ripe(found: Kept, name: str, tomb: Tomb, id_: str) -> bool:
    epoch = found.epoch
    if epoch.age(epoch.listing.modified(name)) < WAIT:
        return False
    return not any(id_ in way.all for state, way in found.ways.items() if str(state) not in tomb.seen)


def _bury(found: Kept) -> list[Bury]:
    unneeded, seen = _unneeded(found), tuple(found.states)
    made = list[Bury]()
    if unneeded:
        size = sum(found.epoch.packs[id_].size for id_ in unneeded)
        # `seen` by nobody: a state that leads there after all, by a tomb that was under way, keeps them from going.
        made.append(Bury(frozenset(unneeded), size, (), "no state that stays needs them"))
    return [*made, *_worth(found, seen)]


def _unneeded(found: Kept) -> list[str]:
    """Packs that no state that stays leads to: at once where a state that goes did, else after some days."""
    epoch, read = found.epoch, found.read
    buried = {id_ for tomb in epoch.tombs.values() for id_ in tomb.packs}
    return [
        id_
        for id_, pack in epoch.packs.items()
        if id_ not in read
        and id_ not in buried
        and _ID.fullmatch(id_)
        and (id_ in found.before or epoch.age(pack.modified) >= HALF_WRITTEN)
    ]


def _worth(found: Kept, seen: tuple[Name, ...]) -> Iterator[Bury]:
    """Packs to write anew: small ones, those of which less than half is needed, those that have a tomb already."""
    live = {
        found.holdings.packs[number].id: (int(total), int(needed))
        for number, total, needed in found.holdings.db.execute(_LIVE)
    }
    buried = {id_ for tomb in found.epoch.tombs.values() for id_ in tomb.packs}
    going = {id_: pack for id_, pack in found.read.items() if id_ in buried or _mostly_dead(*live[id_])}
    small = {id_: pack for id_, pack in found.read.items() if id_ not in going and pack.size < SMALL}
    why = ["less than half of them is needed"] if going else []
    moving = _bytes(going.values(), live)
    if len(small) >= 2 - (moving > 0) and _packs(moving + _bytes(small.values(), live)) < _packs(moving) + len(small):
        going |= small
        why.append("small packs become few")
    if going:
        size, needed = sum(pack.size for pack in going.values()), sum(live[id_][1] for id_ in going)
        stored = int(_bytes(going.values(), live))
        yield Bury(frozenset(going), size, seen, ", ".join(why), tuple(sorted(going.values())), needed, stored)


def _mostly_dead(total: int, needed: int) -> bool:
    return needed * 2 < total


def _bytes(some: Iterable[Pack], live: Mapping[str, tuple[int, int]]) -> float:
    """How much of the objects is needed, about."""
    return sum(pack.size * live[pack.id][1] / max(live[pack.id][0], 1) for pack in some)


def _packs(bytes_: float) -> int:
    return -int(-bytes_ // packs.FULL)


def _clear(found: Kept) -> Iterator[Clear]:
    yield from (Clear(str(lease)) for lease in old_leases(found.epoch.listing.leases))
    epoch = found.epoch
    for name, tomb in epoch.tombs.items():
        led = any(str(state) in tomb.seen and not tomb.packs.isdisjoint(way.all) for state, way in found.ways.items())
        there = not tomb.packs.isdisjoint(epoch.packs)
        if not led and not there and epoch.age(epoch.listing.modified(name)) >= TOMB_STAYS:
            yield Clear(name)


def old_leases(held: Iterable[Lease]) -> list[Lease]:
    """All but the newest few, and the one by which the machine that has the lease took it."""
    line = sorted(held)
    counts = leases.winner(line)
    if counts is None:
        return []
    takes = [lease for lease in line if lease.verb == "take" and lease.machine == counts.machine]
    stay = {*line[-LEASES:], *takes[-1:], counts}
    stay |= {lease for lease in line if lease.sequence >= min(counts.sequence, line[-1].sequence)}
    return [lease for lease in line if lease not in stay] if leases.winner(stay) == counts else []
