"""Is what the store holds of an agent whole: every pack, every listing, every piece that a state needs.

Damage is named where it lies, and what suffers from it by state and path.
"""

import random
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil

from persist.bucket.blobs import FrameWanted, stream
from persist.bucket.commits import Commit, Name
from persist.bucket.opening import Bucket
from persist.bucket.packs import Pack
from persist.store import StoreDamaged
from persist.upkeep import epochs, reach
from persist.upkeep.epochs import Epoch
from persist.upkeep.holdings import Holdings
from persist.upkeep.reach import Node, Reach

MOST = 1000  # paths of one state that are kept


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is damaged or missing: its key in the store, and what is wrong with it; `pack` where it is one."""

    key: str
    what: str
    pack: str = ""


@dataclass(frozen=True, slots=True)
class Suffering:
    """A state that is not whole. `paths`, relative to the home, cannot be had from it; `more` of them are not named.

    Without paths nothing of it can: its own object cannot be read.
    """

    name: Name
    time: str
    paths: tuple[bytes, ...] = ()
    more: int = 0


@dataclass(slots=True)
class Look:
    """What was found in one epoch. `holdings` and `reach` stay open for who repairs."""

    epoch: Epoch
    holdings: Holdings = field(init=False)
    reach: Reach = field(init=False)
    states: dict[Name, Commit] = field(default_factory=dict)
    in_full: frozenset[str] = frozenset()  # packs of which each frame was read
    stored: int = 0  # bytes of the packs that states lead to
    read: int = 0  # bytes of frames, expanded
    damage: list[Damage] = field(default_factory=list)
    missing: dict[Name, int] = field(default_factory=dict)  # of states that are not whole: classes without a pack
    suffering: list[Suffering] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.holdings = Holdings(self.epoch.store, self.epoch.keys)
        self.reach = Reach(self.holdings, damaged=self._listing)

    def _listing(self, id_: bytes, damaged: StoreDamaged) -> None:
        """A piece of a listing cannot be read: of a pack that is missing, which is named already, or by its damage."""
        for number in self.holdings.holders(id_):
            pack = self.holdings.packs[number]
            if pack.id not in self.broken:
                self.damage.append(Damage(pack.key(self.epoch.keys), damaged.what, pack.id))

    @property
    def broken(self) -> frozenset[str]:
        """Ids of packs of which nothing, or not all, can be had."""
        return frozenset(damage.pack for damage in self.damage if damage.pack)


Told = Callable[[int, int], None]  # packs, bytes


def looks(
    bucket: Bucket,
    agent: str,
    share: float = 0.0,
    told: Told = lambda *_: None,
    *,
    in_full: Collection[str] = frozenset(),
) -> Iterator[Look]:
    """Each epoch of an agent, the newest first; close its `holdings`.

    `share` of all frames is read too, at random, and every frame of the packs `in_full`, and of those that turn out to
    be damaged on the way.
    """
    tombs = dict[str, StoreDamaged]()
    for epoch in epochs.opened(bucket, agent, lambda name, found: tombs.update({name: found})):
        look = Look(epoch)
        for name in tombs.keys() & epoch.listing.times.keys():
            look.damage.append(Damage(f"agents/{epoch.keys.place}/{name}", tombs[name].what))
        _look(look, share, told, in_full)
        yield look


def _look(look: Look, share: float, told: Told, in_full: Collection[str]) -> None:
    epoch = look.epoch
    for tomb in sorted(epoch.void):
        look.damage.append(Damage(f"agents/{epoch.keys.place}/{tomb}", "leads nowhere: persist prune removes it"))
    for name, state in epoch.tried(epoch.listing.states):
        if isinstance(state, StoreDamaged):
            look.damage.append(Damage(f"agents/{epoch.keys.place}/{name}", state.what))
            look.suffering.append(Suffering(name, ""))
        else:
            look.states[name] = state
    wanted = {pack for name, state in look.states.items() for pack in epoch.way(name, state.packs).read}
    look.stored = sum(pack.size for pack in wanted)
    there = [pack for pack in sorted(wanted) if _is_whole(look, pack)]
    for pack, damaged in look.holdings.tried(there):
        if damaged is not None:
            look.damage.append(Damage(pack.key(epoch.keys), damaged.what, pack.id))
        told(1, 0)
    _read(look, share, told, in_full)
    for name in sorted(look.states, reverse=True):
        _state(look, name, look.states[name])


def _is_whole(look: Look, pack: Pack) -> bool:
    found, key = look.epoch.packs.get(pack.id), pack.key(look.epoch.keys)
    if found is None:
        look.damage.append(Damage(key, "is missing", pack.id))
        return False
    if found.size != pack.size:
        look.damage.append(Damage(key, f"has {found.size:,} bytes, not {pack.size:,}", pack.id))
        return False
    return True


def _read(look: Look, share: float, told: Told, in_full: Collection[str]) -> None:
    """Read that share of all frames, and whole packs; what a frame held that cannot be read counts as missing."""
    packs = look.holdings.packs
    all_ = [(pack, at) for pack in range(len(packs)) for at in range(len(look.holdings.frames(pack)))]
    chosen = set(random.SystemRandom().sample(all_, ceil(len(all_) * share)))
    chosen |= {frame for frame in all_ if packs[frame[0]].id in in_full}
    broken = _frames(look, sorted(chosen), told)
    rest = [frame for frame in all_ if frame[0] in broken and frame not in chosen]
    _frames(look, rest, told)
    left = {pack for pack, _ in set(all_) - chosen - set(rest)}
    look.in_full = frozenset(pack.id for at, pack in enumerate(packs) if at not in left)


def _frames(look: Look, left: list[tuple[int, int]], told: Told) -> set[int]:
    """Read those frames; the numbers of the packs that are damaged."""
    broken = set[int]()
    while left:
        done = 0
        try:
            for _, data in stream(look.epoch.store, look.epoch.keys, _wanted(look, left)):
                _check(look, left[done], data)
                done += 1
                look.read += len(data)
                told(0, len(data))
            break
        except StoreDamaged as damaged:
            pack = look.holdings.packs[left[done][0]]
            if pack.id not in look.broken:
                look.damage.append(Damage(pack.key(look.epoch.keys), damaged.what, pack.id))
            broken.add(left[done][0])
            look.holdings.forget_frame(*left[done])
            left = left[done + 1 :]
    return broken


def _wanted(look: Look, frames: Iterable[tuple[int, int]]) -> Iterator[FrameWanted]:
    return (FrameWanted(look.holdings.packs[pack], at, look.holdings.frame(pack, at)) for pack, at in frames)


def _check(look: Look, frame: tuple[int, int], data: bytes) -> None:
    kind = look.holdings.frame(*frame).kind
    for id_, start, length in look.holdings.in_frame(*frame):
        if look.epoch.keys.id(kind, data[start : start + length]) != id_:
            raise StoreDamaged(f"frame {frame[1]} holds a piece that is not its id's")


def _state(look: Look, name: Name, state: Commit) -> None:
    read = [pack.id for pack in look.epoch.way(name, state.packs).read]
    missing = look.reach.missing(look.reach.walk(state), read)
    if missing:
        look.missing[name] = missing
        paths, more = list[bytes](), 0
        for path in lost(look, state, missing):
            if len(paths) < MOST:
                paths.append(path)
            else:
                more += 1
        look.suffering.append(Suffering(name, state.time.isoformat(timespec="seconds"), tuple(paths), more))


def lost(look: Look, state: Commit, missing: int) -> Iterator[bytes]:
    """The paths of a state that cannot be had: files, and directories (with a `/`) of which a listing is lost."""
    for top in state.root:
        path = str(top.path).encode("utf-8", "surrogateescape")
        yield from _lost(look, [(path, node) for node in reach.nodes(top.entry.content, "tree")], missing)


def _lost(look: Look, left: list[tuple[bytes, Node]], missing: int) -> Iterator[bytes]:
    masks = look.reach.masks
    while left:
        path, node = left.pop()
        if not masks[node.id] & missing:
            continue
        try:
            piece = look.holdings.tree(node.id)
            if node.depth:
                _, below = reach.within(node, piece)
                left += [(path, one) for one in below]
                continue
            lines = list(reach.lines(piece))
        except StoreDamaged:
            yield path + b"/"
            continue
        if look.reach.of(node.id) & missing:  # another pack has it, but not one that this state leads to
            yield path + b"/"
            continue
        for line in lines:
            here = path + b"/" + line.name
            if line.is_directory:
                left += [(here, one) for one in reach.nodes(line.content, "tree")]
            elif any((masks[id_] if line.content.depth else look.reach.of(id_)) & missing for id_ in line.content.ids):
                yield here
