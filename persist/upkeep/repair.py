"""`persist repair`: after damage, what can be had back is, and what cannot is listed. Nothing is deleted.

Packs that are damaged count as unknown from now on, so the next sync sends again what this machine still has of them. A
state whose missing pieces lie in other packs, sent again since, is made whole by a tomb that leads there; what can be
read of a damaged pack and lies nowhere else is written anew for it.
"""

import argparse
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from persist import ground
from persist.bucket import tombs
from persist.bucket.commits import Name
from persist.bucket.opening import Bucket, open_bucket
from persist.bucket.packs import Pack
from persist.bucket.tombs import Tomb
from persist.progress import Progress
from persist.sync import damaged
from persist.upkeep import merge, reach, verify
from persist.upkeep.looking import Damage, Look, Suffering, looks
from persist.upkeep.reach import LOST
from town import cli, trust
from town import spec as specs
from town.failure import BROKEN, DONE, Failure, status_of
from town.spec import Agent, Spec
from town.terminal import counted, shown


class RepairFailed(Failure):
    """Something unexpected ended the repair of one agent's store; what was done stays done."""


@dataclass(frozen=True, slots=True)
class Heal:
    """Lead states past packs that are gone or damaged, to others which hold the same pieces.

    `rest`: damaged packs of which these states need what can still be read and lies nowhere else.
    """

    packs: frozenset[str]
    to: tuple[Pack, ...]
    states: tuple[Name, ...]
    rest: tuple[Pack, ...] = ()

    def __str__(self) -> str:
        shorts = ", ".join(name.short for name in self.states)
        by = f"{counted(len(self.packs), 'pack')} by {counted(len(self.to), 'pack')}"
        return f"heal    {shorts}: {by}{' and what they still hold, written anew' if self.rest else ''}"


@dataclass(frozen=True, slots=True)
class Mark:
    """Count a damaged pack as unknown on this machine: what lies here of it is sent again."""

    pack: str

    def __str__(self) -> str:
        return f"mark    pack {self.pack[:12]}: what is still here of it is sent again by the next sync"


Action = Heal | Mark


@dataclass(slots=True)
class Repaired:
    """What a repair found and did. `whole`: the newest state that is whole, if any; `lost`: those that are not."""

    agent: str
    newest: str
    share: float = 0.0  # of all data that was read, 0 to 1
    damage: list[Damage] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    lost: list[Suffering] = field(default_factory=list)
    whole: tuple[Name, str] | None = None

    @property
    def record(self) -> dict[str, object]:
        """For --json."""
        return {
            "agent": self.agent,
            "ok": not self.lost and not self.damage,
            "damaged": [{"key": one.key, "what": one.what} for one in self.damage],
            "actions": [" ".join(str(action).split()) for action in self.actions],
            "newest_whole": None if self.whole is None else self.whole[0].short,
            "lost": [
                {
                    "snapshot": one.name.short,
                    "time": one.time,
                    "newest": str(one.name) == self.newest,
                    "paths": [cli.named(path) for path in one.paths],
                    "more_paths": one.more,
                }
                for one in self.lost
            ],
        }


def command(arguments: argparse.Namespace) -> int:
    """Repair the agents that were named, or all. Status 4 when something is lost for now, 1 or 75 where it failed."""
    share = verify.percent(arguments.read_data)
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.chosen(arguments.agents)
    ground.require_root("repair", "it needs the key of the store")
    trust.refuse(spec)
    bucket = open_bucket(spec, ask=True, remember=not arguments.dry_run)
    done, statuses = list[Repaired](), [DONE]
    for agent in agents:
        try:
            done.append(repair(spec, agent, bucket, share, dry_run=arguments.dry_run))
        except Exception as error:  # what one agent's store holds stops no other agent
            failure = error if isinstance(error, Failure) else RepairFailed(cli.unexpected(error))
            cli.tell("persist", failure, about=agent.name)
            statuses.append(status_of(failure))
        else:
            statuses.append(BROKEN if done[-1].lost else DONE)
            if not arguments.json:
                _print(done[-1], dry_run=arguments.dry_run)
    if arguments.json:
        cli.put_json([one.record for one in done])
    return verify.worst(statuses)


def repair(spec: Spec, agent: Agent, bucket: Bucket, share: float = 0.0, *, dry_run: bool = False) -> Repaired:
    """Repair one agent's store as far as this machine can. Raises StoreOlder, StoreUnreachable, StoreFull.

    `share` of all data is read, 0 to 1; and always what `verify` found damaged by reading.
    """
    found = Repaired(agent.name, verify.newest(spec, agent, bucket), share)
    known = damaged.known(spec, agent)
    noted = verify.Noted(known)
    with Progress(f"persist: {agent.name}: repair", unit="pack") as progress:
        for look in looks(bucket, agent.name, share, progress.add, in_full=known):
            with closing(look.holdings):
                heals = list(healing(look))
                _add(found, look, heals)
                noted.add(look)
                if not dry_run:
                    heal(look, heals)
    marks = [action.pack for action in found.actions if isinstance(action, Mark)]
    if not dry_run:
        damaged.note(spec, agent, noted.packs)
        if marks:
            forget(spec, agent, marks)
    return found


def heal(look: Look, heals: Iterable[Heal]) -> None:
    """Write the tombs, each after the packs that it leads to. Raises StoreFull, StoreUnreachable, StoreDamaged."""
    store, keys = look.epoch.store, look.epoch.keys
    copies: dict[tuple[Pack, ...], tuple[Pack, ...]] = {}
    for one in heals:
        if one.rest and one.rest not in copies:
            copies[one.rest] = _copied(look, one.rest)
        to = tuple(sorted({*one.to, *copies.get(one.rest, ())}))
        tombs.write(store, keys, Tomb(one.packs, to, frozenset(map(str, one.states))))


def _copied(look: Look, some: Collection[Pack]) -> tuple[Pack, ...]:
    """New packs, durable, with all that can still be read of those packs."""
    numbers = [look.holdings.numbers[pack.id] for pack in some]
    order = "row_number() OVER (ORDER BY pack, frame, start)"
    look.holdings.db.execute("DELETE FROM need")
    for number in numbers:
        of = f"SELECT id, {order} FROM piece WHERE pack = ?"  # noqa: S608
        look.holdings.db.execute(f"INSERT OR IGNORE INTO need {of}", (number,))
    return merge.merged(look.holdings, some, lambda _: None)


def forget(spec: Spec, agent: Agent, packs: Iterable[str]) -> None:
    """What lies in these packs counts as unknown on this machine; the next sync reads everything, to find it here."""
    from persist.sync.index import Index

    broken = set(packs)
    with Index.opened(spec, agent) as index, index.writing():
        index.forget_packs(broken)
        index.clear(blobs=False)
        index.set("broken", " ".join(sorted({*index.get("broken").split(), *broken})))
        index.set("listed", "")


def _add(found: Repaired, look: Look, heals: list[Heal]) -> None:
    healed = {name for heal in heals for name in heal.states}
    found.damage += look.damage
    found.actions += [*heals, *(Mark(pack) for pack in sorted(look.broken))]
    found.lost += [one for one in look.suffering if one.name not in healed]
    whole = [name for name in look.states if name.kind == "commit" and (name not in look.missing or name in healed)]
    if whole and found.whole is None:
        found.whole = max(whole), look.states[max(whole)].time.isoformat(timespec="seconds")


def healing(look: Look) -> Iterator[Heal]:
    """States all of whose missing pieces lie in packs that they do not lead to, by the packs that they do.

    A damaged pack that was read in full counts as gone. Where nothing is lost, states that need only what is whole in
    it are led past it too, so that nothing leads there any more.
    """
    numbers, way = look.holdings.numbers, look.epoch.way
    halves = look.broken & look.in_full
    gone = frozenset(id_ for id_ in look.broken if id_ in halves or id_ not in numbers)
    all_ = look.missing if any(missing & 1 << LOST for missing in look.missing.values()) else look.states
    ways: dict[tuple[frozenset[str], frozenset[int], frozenset[int]], list[Name]] = {}
    for name in sorted(all_, reverse=True):
        read = {pack.id for pack in way(name, look.states[name].packs).read}
        missing = look.reach.missing(look.reach.walk(look.states[name]), read - gone)
        ours = gone & read
        if not missing & 1 << LOST and ours and (name in look.missing or ours & halves):
            to, rest = _holders(look, missing, {numbers[id_] for id_ in halves})
            ways.setdefault((ours, to, rest), []).append(name)
    for (packs, to, rest), names in ways.items():
        packs_of = look.holdings.packs
        yield Heal(
            packs,
            tuple(sorted(packs_of[number] for number in to)),
            tuple(sorted(names)),
            tuple(sorted(packs_of[number] for number in rest)),
        )


def _holders(look: Look, missing: int, halves: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
    """A pack for each of those classes: whole ones, and damaged ones where no other holds it."""
    to, rest = set[int](), set[int]()
    for at in reach.bits(missing):
        whole = look.reach.classes[at].difference(halves)
        (to if whole else rest).add(min(whole or look.reach.classes[at]))
    return frozenset(to), frozenset(rest)


def _print(found: Repaired, *, dry_run: bool) -> None:
    if not found.damage and not found.lost:
        unread = "" if found.share == 1 else " (not all data was read: --read-data 100%)"
        print(f"{found.agent}: whole, nothing to repair{unread}")
        return
    for damage in found.damage:
        print(f"{found.agent}: damaged {shown(damage.key)}: {shown(damage.what.removeprefix(f'{damage.key}: '))}")
    for action in found.actions:
        print(f"{found.agent}: {action}")
    for one in found.lost:
        verify.print_suffering(one, newest=str(one.name) == found.newest)
    print(
        f"{found.agent}: {counted(len(found.lost), 'state')} not whole{' (a dry run)' if dry_run else ''}", flush=True
    )
    _advise(found)


def _advise(found: Repaired) -> None:
    if any(isinstance(action, Mark) for action in found.actions):
        again = f"persist sync {found.agent} && persist repair {found.agent}"
        cli.advise("persist", f"to send again what this machine still has, and make older states whole by it: {again}")
    if found.whole is not None and found.lost:
        name, time = found.whole
        cli.advise("persist", f"the newest whole state is of {time}: persist restore --at {name.short} {found.agent}")
