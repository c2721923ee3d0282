"""`persist verify`: does the store hold all that its states name? With --read-data some of it is read and checked."""

import argparse
import re
from contextlib import closing
from dataclasses import dataclass, field

from persist import ground
from persist.bucket.opening import Bucket, open_bucket
from persist.progress import Progress
from persist.sync import damaged, history
from persist.upkeep.looking import Damage, Look, Suffering, looks
from town import cli, terminal, trust
from town import spec as specs
from town.failure import BROKEN, DONE, FAILED, Failure, WrongUsage, status_of
from town.spec import Agent, Spec
from town.terminal import counted, shown

_SHOWN = 20  # paths of one state that are printed


class VerifyFailed(Failure):
    """Something unexpected ended the look at one agent's store."""


@dataclass(slots=True)
class Verified:
    """What a look at one agent's store found. `bytes`: of the packs that states name; `read`: of what was read."""

    agent: str
    newest: str = ""  # the name of the head
    states: int = 0
    packs: int = 0
    bytes: int = 0
    pieces: int = 0
    read: int = 0
    damage: list[Damage] = field(default_factory=list)
    suffering: list[Suffering] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage and not self.suffering

    def add(self, look: Look) -> None:
        """What one epoch showed."""
        self.states += len(look.epoch.listing.states)
        self.packs += len(look.holdings.packs) + len(look.broken - look.holdings.numbers.keys())
        self.bytes += look.stored
        self.pieces += look.holdings.pieces
        self.read += look.read
        self.damage += look.damage
        self.suffering += look.suffering

    def __str__(self) -> str:
        held = f"{counted(self.states, 'state')}, {counted(self.packs, 'pack')}, {terminal.size(self.bytes)}"
        read = f"; {terminal.size(self.read)} of data read" if self.read else ""
        if self.whole:
            return f"{self.agent}: {held}, {counted(self.pieces, 'piece')}{read}: whole"
        return (
            f"{self.agent}: {held}{read}: {len(self.damage):,} damaged, {counted(len(self.suffering), 'state')} suffer"
        )

    @property
    def record(self) -> dict[str, object]:
        """For --json; bytes."""
        return {
            "agent": self.agent,
            "ok": self.whole,
            "states": self.states,
            "packs": self.packs,
            "bytes": self.bytes,
            "pieces": self.pieces,
            "read_bytes": self.read,
            "damaged": [{"key": one.key, "what": one.what} for one in self.damage],
            "suffering": [self._suffering(one) for one in self.suffering],
        }

    def _suffering(self, one: Suffering) -> dict[str, object]:
        return {
            "snapshot": one.name.short,
            "time": one.time,
            "newest": str(one.name) == self.newest,
            "paths": [cli.named(path) for path in one.paths],
            "more_paths": one.more,
        }


def command(arguments: argparse.Namespace) -> int:
    """Look at the agents that were named, or all. Status 4 when something is damaged, 1 or 75 where nobody can tell."""
    share, rate = percent(arguments.read_data), cli.rate(arguments.limit_rate)
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.chosen(arguments.agents)
    ground.require_root("verify", "it needs the key of the store")
    trust.refuse(spec)
    bucket = open_bucket(spec, ask=True).at_rate(rate)
    found, statuses = list[Verified](), [DONE]
    for agent in agents:
        try:
            found.append(verified(spec, agent, bucket, share))
        except Exception as error:  # what one agent's store holds stops no other agent
            failure = error if isinstance(error, Failure) else VerifyFailed(cli.unexpected(error))
            cli.tell("persist", failure, about=agent.name)
            statuses.append(status_of(failure))
        else:
            statuses.append(DONE if found[-1].whole else BROKEN)
            if not arguments.json:
                _print(found[-1])
    if arguments.json:
        cli.put_json([one.record for one in found])
    return worst(statuses)


def worst(statuses: list[int]) -> int:
    """4 where anything is damaged; else 1 or 75 where nobody can tell; else 0."""
    return BROKEN if BROKEN in statuses else FAILED if FAILED in statuses else max(statuses)


def percent(text: str | None) -> float:
    """The share that `5%` or `5` says, 0 to 1; 0 for nothing. Raises WrongUsage."""
    if text is None:
        return 0.0
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%?", text)
    if found is None or not 0 <= float(found[1]) <= 100:
        raise WrongUsage(f"--read-data: {shown(text[:40])} is no share of all data", hint="from 0% to 100%, such as 5%")
    return float(found[1]) / 100


def verified(spec: Spec, agent: Agent, bucket: Bucket, share: float) -> Verified:
    """Look at one agent. Raises StoreOlder, StoreDamaged for a head that cannot be told, StoreUnreachable."""
    found = Verified(agent.name)
    head = newest(spec, agent, bucket)
    found.newest = head
    known = damaged.known(spec, agent)
    noted = Noted(known)
    with Progress(f"persist: {agent.name}: verify", unit="pack") as progress:
        for look in looks(bucket, agent.name, share, progress.add, in_full=known):
            with closing(look.holdings):
                found.add(look)
                noted.add(look)
    damaged.note(spec, agent, noted.packs)
    return found


@dataclass(slots=True)
class Noted:
    """Which packs are to be read in full again: damaged ones that are there, until one is whole or gone."""

    _before: frozenset[str]
    _there: set[str] = field(default_factory=set)
    _whole: set[str] = field(default_factory=set)
    _broken: set[str] = field(default_factory=set)

    def add(self, look: Look) -> None:
        """What one epoch showed."""
        self._there |= look.epoch.packs.keys()
        self._broken |= look.broken
        self._whole |= look.in_full - look.broken

    @property
    def packs(self) -> frozenset[str]:
        """Their ids, after all epochs."""
        return frozenset((self._before - self._whole | self._broken) & self._there)


def newest(spec: Spec, agent: Agent, bucket: Bucket) -> str:
    """The name of the head; empty where there is none, or where it is what is damaged."""
    from persist.store import StoreDamaged

    try:
        head = history.ask(spec, agent, bucket).head
    except StoreDamaged:
        return ""
    return str(head.name) if head else ""


def _print(found: Verified) -> None:
    print(found)
    for damage in found.damage:
        print(f"  {shown(damage.key)}: {shown(damage.what.removeprefix(f'{damage.key}: '))}")
    for one in found.suffering:
        print_suffering(one, newest=str(one.name) == found.newest)
    if not found.whole:
        cli.advise("persist", f"persist repair {found.agent} says what can be had back, and marks it to be sent again")


def print_suffering(one: Suffering, *, newest: bool) -> None:
    """A state that is not whole, and the first of its paths."""
    about = f"  {one.name.short}  {one.time}{'  (the newest)' if newest else ''}"
    if not one.paths:
        print(f"{about}: cannot be read at all")
        return
    print(f"{about}: {counted(len(one.paths) + one.more, 'path')} cannot be had")
    for path in one.paths[:_SHOWN]:
        print(f"    {shown(path)}")
    if (left := len(one.paths) + one.more - _SHOWN) > 0:
        print(f"    and {left:,} more (--json names {len(one.paths):,})")
