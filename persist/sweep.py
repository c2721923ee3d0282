"""`persist sweep`: what agents left outside their homes is taken away before they start, so that it outlives no boot.

Where to look is data (town/strays.toml). One agent's leavings, however many, hold up the others for a bounded time and
are its own failure; what is found is recorded for the gate and for `persist status`.
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persist import account, broom, ground, ipc, running, swept
from persist.broom import Broom, Budget, Identity, Left, OutOfTime, Taken
from persist.owners import Owners
from persist.progress import Progress
from persist.setaside import LARGEST, Shelf
from town import cli, files, machine, spec, strays, trust
from town.failure import DONE, FAILED, Failure, status_of, worst
from town.spec import Agent, KeepHomes, Spec
from town.strays import Place
from town.terminal import counted, say, shown, size

_IPC = Place(ipc.LISTS, "ipc")


@dataclass(slots=True)
class Found:
    """What there was of one agent: by place what was taken (or would be), what was copied, what is still there."""

    agent: Agent
    taken: dict[Place, Taken] = field(default_factory=dict)
    processes: int = 0  # of the agent's that ran when it was over, where there was something to take
    aside: dict[Place, int] = field(default_factory=dict)
    large: dict[Place, int] = field(default_factory=dict)  # too large to be set aside
    left: list[tuple[Place, Left]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing of the agent's is there any more that it, or root for it, could use."""
        return not self.failed

    @property
    def sums(self) -> dict[str, int]:
        return {
            "entries": sum(taken.entries for taken in self.taken.values()),
            "bytes": sum(taken.size for taken in self.taken.values()),
            "aside": sum(self.aside.values()),
        }


def command(arguments: argparse.Namespace) -> int:
    """Sweep for the agents that were named, or all. The worst status of any of them."""
    town = spec.load(cli.spec_file(arguments))
    agents = town.chosen(arguments.agents)
    ground.require_root("sweep", "it takes away files of other users")
    trust.refuse(town)
    if arguments.missing:
        agents = tuple(_missing(agents))
    statuses, sound = [DONE], list[Agent]()
    for agent in agents:
        try:
            machine.refuse_conflicts(town, (agent,))  # a uid of somebody else's would be swept away
            sound.append(agent)
        except Failure as failure:
            cli.tell("persist", failure, about=agent.name)
            statuses.append(status_of(failure))
    found = sweep(town, sound, dry_run=arguments.dry_run)
    cli.put_json({"dry_run": arguments.dry_run, "agents": [{"agent": one.agent.name, **_table(one)} for one in found]}
                 ) if arguments.json else _put_text(found, dry_run=arguments.dry_run)  # fmt: skip
    return worst([*statuses, *(_told(one) for one in found)])


def _missing(agents: Sequence[Agent]) -> Iterator[Agent]:
    """Whose leavings of before this boot may still be there. Who may log in already is at work with what would go."""
    opened = account.names()
    for agent in agents:
        why = swept.missing(agent)
        if why and agent.name in opened:
            cli.warn("persist", f"{agent.name} is open, so it is left alone: {why}", f"persist sweep {agent.name}")
        elif why:
            yield agent


def sweep(town: Spec, agents: Sequence[Agent], *, dry_run: bool = False) -> list[Found]:
    """Take away what these agents left, and record it; one report each. Raises swept.Busy, Unsafe, OSError."""
    if not agents:
        return []
    if dry_run:
        return _Sweep(town, agents, dry=True).run()
    with swept.alone() as directory:
        found = _Sweep(town, agents, dry=False).run()
        known = swept.known()
        swept.record(directory, {one.agent.name: _merged(known.get(one.agent.name), one) for one in found})
    return found


class _Sweep:
    def __init__(self, town: Spec, agents: Sequence[Agent], *, dry: bool) -> None:
        self._town, self._dry = town, dry
        self._owners, self._budget, self._shelf = Owners(agents), Budget.among(len(agents)), Shelf(town)
        self._found = {agent.name: Found(agent) for agent in agents}

    def run(self) -> list[Found]:
        places = strays.places()
        with Progress("persist: sweep", unit="entry") as progress:
            spared = frozenset(self._spared())
            for place, top in _opened(places):
                with files.opened(top):
                    self._budget.another()
                    self._place(place, top, spared | _tops(places, place), progress)
            self._ipc()
        for one in self._found.values():
            if one.taken or one.left:
                one.processes = len(running.of(one.agent.uid))
        if not self._dry and self._found:
            with suppress(OSError, Failure):
                self._shelf.tidy(self._keep())
        return list(self._found.values())

    def _keep(self) -> KeepHomes:
        keep = getattr(self._town.town, "keep", None)
        if keep is None and self._town.town.btrfs is not None:
            keep = self._town.town.btrfs.keep
        return keep if isinstance(keep, KeepHomes) else KeepHomes()

    def _spared(self) -> Iterator[Identity]:
        """Where homes and persisted data lie, should that be below a place: they are no strays."""
        town = self._town.town
        for path in (town.agents_dir, town.persist_dir, self._town.state_dir):
            if path is not None and (found := _stat(path)) is not None:
                yield found

    def _place(self, place: Place, top: int, spared: frozenset[Identity], progress: Progress) -> None:
        def aside(agent: Agent, directory: int, name: bytes) -> None:
            counts = self._found[agent.name].aside
            if not self._shelf.put(agent, place.name, directory, name):
                counts = self._found[agent.name].large
            counts[place] = counts.get(place, 0) + 1

        sweeping = Broom(self._owners, self._budget, spared, dry=self._dry, tell=progress.add,
                         aside=aside if place.take == "aside" else None)  # fmt: skip
        try:
            sweeping.by_name(top) if place.by == "name" else sweeping.sweep(top)
        except OutOfTime:
            self._out_of_time(place, sweeping)
        except (Failure, OSError) as error:
            what = error.what if isinstance(error, Failure) else str(error.strerror)
            self._fail_all(f"{place.path}: {what}")
        finally:
            self._took(place, sweeping)

    def _took(self, place: Place, sweeping: Broom) -> None:
        for name, taken in sweeping.taken.items():
            self._found[name].taken[place] = taken
        for left in sweeping.left:
            self._found[left.agent.name].left.append((place, left))
        for name in sweeping.failed:
            over = self._budget.over(self._found[name].agent)
            why = (
                f"there is more than {self._budget.share:.0f} s were enough for" if over else "not all could be removed"
            )
            self._found[name].failed.append(f"{place.path}: {why}")

    def _out_of_time(self, place: Place, sweeping: Broom) -> None:
        """Whoever used up its share, or has something there, fails. The time of others closes nobody's account."""
        why = f"the time for it ({broom.ALL:.0f} s) was over"
        for name, one in self._found.items():
            if name in sweeping.waiting or (self._budget.over(one.agent) and name not in sweeping.failed):
                one.failed.append(f"{place.path}: {why}")
            elif name not in sweeping.failed:
                one.left.append((place, Left(one.agent, b"", f"{why}, so not everything in it was looked at", True)))

    def _fail_all(self, why: str) -> None:
        for one in self._found.values():
            one.failed.append(why)

    def _ipc(self) -> None:
        for thing in ipc.found(self._owners):
            one = self._found[thing.agent.name]
            try:
                if not self._dry:
                    ipc.remove(thing)
            except OSError as error:
                one.failed.append(f"{thing.name}: {error.strerror}")
                continue
            taken = one.taken.setdefault(_IPC, Taken())
            taken.entries, taken.size = taken.entries + 1, taken.size + thing.bytes
            if len(taken.first) < broom.FIRST:
                taken.first.append(thing.name.encode())


def _opened(places: Iterable[Place]) -> Iterator[tuple[Place, int]]:
    """Every place that is here, open; each directory once, whichever names lead to it (/var/spool/mail is a link)."""
    seen = set[Identity]()
    for place in places:
        with suppress(FileNotFoundError, NotADirectoryError):
            top = os.open(place.path, files.DIRECTORY & ~os.O_NOFOLLOW)  # only root can put a link there
            found = os.fstat(top)
            if (found.st_dev, found.st_ino) in seen:
                os.close(top)
                continue
            seen.add((found.st_dev, found.st_ino))
            yield place, top


def _tops(places: Iterable[Place], own: Place) -> frozenset[Identity]:
    """The other places: each is looked at by its own rule."""
    tops = {place: _stat(place.path) for place in places}
    return frozenset(top for place, top in tops.items() if top is not None and top != tops[own])


def _stat(path: Path) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _table(one: Found) -> dict[str, Any]:
    """What is recorded, and shown by --json."""
    return {
        "uid": one.agent.uid,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "whole": one.whole,
        **one.sums,
        "processes": one.processes,
        "places": [
            {"place": str(place.path), "entries": taken.entries, "bytes": taken.size,
             "aside": one.aside.get(place, 0), "first": list(map(cli.named, taken.first))}
            for place, taken in one.taken.items()
        ],
        "left": [
            {"place": str(place.path), "path": cli.named(left.path), "why": left.why, "others": left.others}
            for place, left in one.left
        ],
        "failed": one.failed,
    }  # fmt: skip


def _merged(before: Any, one: Found) -> dict[str, Any]:
    """What this and earlier sweeps of this boot took; what is left is as it is now."""
    table = _table(one)
    if before and before.get("uid") == one.agent.uid:
        for key in one.sums:
            table[key] += before.get(key, 0)
        seen = {place["place"] for place in table["places"]}
        table["places"] += [place for place in before.get("places", []) if place["place"] not in seen]
    return table


def tell(found: Found) -> None:
    """What was taken of an agent's, for a person, and what is still there."""
    for place, taken in found.taken.items():
        say(f"{found.agent.name}: {_line(found, place, taken, dry_run=False)}")
    _told(found)


def _put_text(found: Sequence[Found], *, dry_run: bool) -> None:
    for one in found:
        for place, taken in one.taken.items():
            print(f"{one.agent.name}: {_line(one, place, taken, dry_run=dry_run)}")
    if not any(one.taken for one in found):
        print("nothing was left outside the homes" if found else "no agent to look for")


def _line(one: Found, place: Place, taken: Taken, *, dry_run: bool) -> str:
    names = ", ".join(map(shown, taken.first))
    more = ", …" if taken.entries > len(taken.first) else ""
    what = "entry" if taken.entries == 1 else "entries"
    sum_ = f"{taken.entries:,} {what}, {size(taken.size)}"
    verb = "would take" if dry_run else "took"
    copied = f"; {counted(one.aside[place], 'file')} set aside" if place in one.aside else ""
    large = f"; {counted(one.large[place], 'file')} above {size(LARGEST)} not set aside" if place in one.large else ""
    return f"{verb} {sum_} from {place.path} ({names}{more}){copied}{large}"


def _told(one: Found) -> int:
    """Say what is still there; the agent's status."""
    name = one.agent.name
    for place, left in one.left:
        path = shown(os.path.join(os.fsencode(place.path), left.path))
        cli.warn("persist", f"{name}: {path} stays: {shown(left.why)}", "" if left.others else "look at it, remove it")
    if one.processes:
        what = f"{name} has {one.processes} of its processes running: what they leave from now on is not taken"
        cli.warn("persist", what, f"for a whole sweep: persist release {name} --stop && persist sweep {name}")
    for why in one.failed:
        failure = Failure(f"what it left outside its home is not all gone: {shown(why)}", hint=f"persist sweep {name}")
        cli.tell("persist", failure, about=name)
    return DONE if one.whole else FAILED
