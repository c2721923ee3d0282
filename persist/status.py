"""`persist status`: per agent, which home it has, where each declared directory is and came from, when it was synced.

A piece that is missing is never an error here: it is what this verb reports. 0 good, 3 works and needs attention,
4 broken (no home, or something required is not in its place).
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Literal

from persist import ballast, entering, ground, proof, reach
from persist.ground import Ground
from persist.proof import Rollback, Trouble
from persist.restore import found, origins
from persist.restore.plan import FoundDirectory
from town import again, btrfs, cli, files, machine, spec
from town.failure import ATTENTION, BROKEN, DONE, BadSpec, Failure
from town.spec import Agent, Btrfs, Persist, Spec
from town.terminal import shown

State = Literal["bound", "in the home", "missing", "not bound", "unknown"]


@dataclass(frozen=True, slots=True)
class Directory:
    """One declared path and where its data is."""

    entry: Persist
    state: State
    origin: str


@dataclass(slots=True)
class Report:
    """What is known of one agent."""

    agent: Agent
    home: bool = False
    owner: int | None = None  # uid of whatever has the home's name, also when it is no home of the agent's
    looked: bool = False
    subvolume: bool | None = None
    since: datetime | None = None
    directories: list[Directory] = field(default_factory=list)
    synced: dict[str, object] | None = None
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def level(self) -> int:
        return max((trouble.level for trouble in self.troubles), default=DONE)


@dataclass(frozen=True, slots=True)
class Whole:
    """What is known of the town itself: its rollback, and what is wrong with that, with the ballast, with the store."""

    rollback: Rollback
    doubt: Trouble | None = None
    ballast: Trouble | None = None
    store: Trouble | None = None

    @property
    def level(self) -> int:
        troubles = (self.doubt, self.ballast, self.store)
        return max((trouble.level for trouble in troubles if trouble is not None), default=DONE)


def command(arguments: argparse.Namespace) -> int:
    """Report on the agents that were named, or all; the worst level of any of them, or of the town."""
    town = spec.load(cli.spec_file(arguments))
    agents = town.chosen(arguments.agents)
    ground.require_root("status")
    whole, reports = look_at_town(town), look(town, agents)
    cli.put_json(_json(town, reports, whole)) if arguments.json else _put_text(town, reports, whole)
    return max([whole.level, *(report.level for report in reports)])


def look_at_town(town: Spec) -> Whole:
    """What concerns every agent. Raises nothing for what is missing."""
    if town.town.btrfs is None:
        return Whole(Rollback(None), store=reach.trouble(town))
    rollback = proof.read()
    return Whole(rollback, proof.doubt(town, rollback), _ballast(town, town.town.btrfs), reach.trouble(town))


def _ballast(town: Spec, names: Btrfs) -> Trouble | None:
    """Whether a rollback on a full disk will have room; nothing is said where @agents is not mounted."""
    path = town.town.agents_dir
    try:
        with files.opened(files.open_dir(path)) as fd:
            ground.refuse_wrong_mount(town, fd)
            left = ballast.weight(fd, names)
    except (Failure, OSError):
        return None
    if left >= ballast.SIZE:
        return None
    state, cure = (
        ("not of full size", "persist tidy makes it whole when there is room: btrfs filesystem usage shows how much")
        if left
        else ("missing", "persist tidy makes it; where that changes nothing, persist init says why")
    )
    what = f"{shown(names.ballast)} is {state}: on a full disk a rollback may have no room"
    return Trouble(ATTENTION, what, cure)


def look(town: Spec, agents: tuple[Agent, ...]) -> list[Report]:
    """One report for each agent. Raises nothing for what is missing."""
    try:
        with ground.opened(town) as here:
            return [_report(town, agent, here) for agent in agents]
    except Failure as failure:
        # Nobody is told to mount homes that nobody made blank.
        unproven = isinstance(failure, ground.NotMounted) and proof.doubt_of_boot(town, proof.read())
        hint = proof.again(town) if unproven else failure.hint
        return [Report(agent, troubles=[Trouble(BROKEN, failure.what, hint)]) for agent in agents]


def _report(town: Spec, agent: Agent, here: Ground) -> Report:
    report = Report(agent)
    with _troubles(report):
        machine.refuse_conflicts(town, (agent,))
    with _troubles(report):
        report.owner, report.looked = _owner(agent, here), True
    with _troubles(report), entering.maybe_home(town, agent, here) as home:
        _home(town, report, home)
        report.directories = _directories(town, agent, here, report)
    _synced(town, report)
    return report


@contextmanager
def _troubles(report: Report) -> Iterator[None]:
    """What raises becomes a line of the report."""
    try:
        yield
    except BadSpec as failure:
        report.troubles += [Trouble(BROKEN, str(problem), problem.cure) for problem in failure.problems]
    except Failure as failure:
        report.troubles.append(Trouble(BROKEN, failure.what, failure.hint))
    except OSError as error:
        report.troubles.append(Trouble(BROKEN, f"{report.agent.name} cannot be looked at: {error.strerror}"))


def _owner(agent: Agent, here: Ground) -> int | None:
    try:
        return os.stat(agent.name, dir_fd=here.agents, follow_symlinks=False).st_uid
    except FileNotFoundError:
        return None


def _home(town: Spec, report: Report, home: int | None) -> None:
    path, name = shown(str(town.home(report.agent))), report.agent.name
    if home is None:
        report.troubles.append(Trouble(BROKEN, f"no home at {path}", f"persist restore {name}"))
        return
    report.home, report.subvolume = True, btrfs.is_subvolume(home)
    if report.subvolume:
        report.since = datetime.fromtimestamp(btrfs.info(home).made, UTC)
    elif town.town.btrfs is not None:
        what = f"{path} is a plain directory, not a subvolume: it cannot be snapshotted by itself"
        report.troubles.append(Trouble(ATTENTION, what, "the next boot makes it anew"))


def _directories(town: Spec, agent: Agent, here: Ground, report: Report) -> list[Directory]:
    there, known = found.look(town, agent, here), origins.known(town, agent)
    directories = [_directory(directory, known) for directory in there.directories]
    for directory in directories:
        if directory.state in ("missing", "not bound") and report.home:
            report.troubles.append(_missing(agent, directory))
    if there.leftovers:
        what = "an interrupted restore left something behind"
        report.troubles.append(Trouble(ATTENTION, what, f"persist restore {agent.name}"))
    return directories


def _missing(agent: Agent, directory: Directory) -> Trouble:
    level = BROKEN if directory.entry.required else ATTENTION
    optional = "" if directory.entry.required else " (not required)"
    what = f"{shown(str(directory.entry.path))} is {directory.state}{optional}"
    return Trouble(level, what, f"persist restore {agent.name}")


def _directory(there: FoundDirectory, known: dict[PurePosixPath, origins.Origin]) -> Directory:
    state = _state(there)
    here = state in ("bound", "in the home", "not bound")
    return Directory(there.entry, state, str(known.get(there.entry.path, origins.KEPT)) if here else "")


def _state(there: FoundDirectory) -> State:
    if there.entry.bound:
        return "bound" if there.target == "bound" else "not bound" if there.source else "missing"
    return "missing" if there.target == "missing" else "in the home"


def _synced(town: Spec, report: Report) -> None:
    if town.town.store is None or not any(entry.synced for entry in report.agent.persist):
        return
    from persist import sync

    name = report.agent.name
    try:
        last, lost = sync.last(town, report.agent), sync.lost(town, report.agent)
    except (Failure, OSError) as error:
        what = error.what if isinstance(error, Failure) else str(error.strerror)
        report.troubles.append(Trouble(ATTENTION, what, getattr(error, "hint", "")))
        return
    if lost:
        what = f"another machine has taken it over: what lies here is kept as the branch {shown(lost)}, and not synced"
        report.troubles.append(Trouble(ATTENTION, what, f"persist sync {name} says what can be done"))
    if last is None:
        report.troubles.append(Trouble(ATTENTION, "never synced from this machine", f"persist sync {name}"))
        return
    report.synced = {"time": _when(last.time), "snapshot": last.snapshot, "files": last.files, "bytes": last.bytes}


def _when(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _put_text(town: Spec, reports: list[Report], whole: Whole) -> None:
    for line in _town_lines(town, whole):
        print(line)
    for report in reports:
        for line in _lines(town, report):
            print(line)


def _town_lines(town: Spec, whole: Whole) -> Iterator[str]:
    yield f"rollback: {_rollback_line(town, whole)}"
    if whole.doubt is not None:
        yield from _hint(whole.doubt) if whole.rollback.failed else _trouble_lines(whole.doubt)
    for name, trouble in (("ballast", whole.ballast), ("store", whole.store)):
        if trouble is not None:
            yield f"{name}:"
            yield from _trouble_lines(trouble)


def _rollback_line(town: Spec, whole: Whole) -> str:
    if town.town.btrfs is None:
        return "none: the town has no [town.btrfs], homes outlive the boot"
    if whole.rollback.failed:
        return f"FAILED: error: {whole.rollback.reason[0]}"
    if whole.rollback.proof is None:
        return "the proof cannot be read" if whole.rollback.unread else "no proof"
    wrong = whole.doubt is not None and whole.doubt.level == BROKEN  # else it fits, and the homes are not mounted
    return "the proof does not fit" if wrong else _told(whole.rollback.facts)


def _told(facts: dict[str, list[str]]) -> str:
    aside = f"; set aside: {', '.join(facts['old'])}" if "old" in facts else "; nothing was set aside"
    return f"{facts['subvolume'][0]} was made blank at boot {facts['boot_id'][0]}{aside}"


def _trouble_lines(trouble: Trouble) -> Iterator[str]:
    yield f"  {'broken' if trouble.level == BROKEN else 'note'}:  {trouble.what}"
    yield from _hint(trouble)


def _hint(trouble: Trouble) -> Iterator[str]:
    if trouble.hint:
        yield f"    next:  {again.with_spec(trouble.hint)}"


def _lines(town: Spec, report: Report) -> Iterator[str]:
    word = {DONE: "good", ATTENTION: "needs attention", BROKEN: "BROKEN"}[report.level]
    yield f"{report.agent.name}: {word}"
    yield f"  home     {shown(str(town.home(report.agent)))} ({_kind(report)})"
    for directory in report.directories:
        entry = directory.entry
        origin = f", {directory.origin}" if directory.origin else ""
        yield f"  {shown(str(entry.path))}  {directory.state}{origin} (via {entry.via}, {entry.class_})"
    if report.synced is not None:
        yield f"  synced   {report.synced['time']}, snapshot {shown(str(report.synced['snapshot']))}"
    for trouble in report.troubles:
        yield from _trouble_lines(trouble)


def _kind(report: Report) -> str:
    """What stands where the home belongs."""
    if report.home:
        since = "" if report.since is None else f", since {_when(report.since)}"
        return f"{'a subvolume' if report.subvolume else 'a plain directory'}{since}"
    if not report.looked:
        return "not looked at"
    if report.owner is None:
        return "missing"
    return "not a directory" if report.owner == report.agent.uid else f"belongs to uid {report.owner}"


def _json(town: Spec, reports: list[Report], whole: Whole) -> dict[str, object]:
    rollback = whole.rollback
    return {
        "rollback": {
            "proof": None if rollback.proof is None else rollback.facts,
            "failed": rollback.failed or None,
            "used": rollback.used,
            "trouble": None if whole.doubt is None else _trouble_json(whole.doubt),
        },
        "ballast": {"trouble": None if whole.ballast is None else _trouble_json(whole.ballast)},
        "store": {"trouble": None if whole.store is None else _trouble_json(whole.store)},
        "agents": [_report_json(town, report) for report in reports],
    }


def _trouble_json(trouble: Trouble) -> dict[str, object]:
    return {"level": trouble.level, "what": trouble.what, "next": again.with_spec(trouble.hint) or None}


def _report_json(town: Spec, report: Report) -> dict[str, object]:
    return {
        "agent": report.agent.name,
        "level": report.level,
        "home": {
            "path": cli.named(os.fsencode(town.home(report.agent))),
            "present": report.home or report.owner is not None if report.looked else None,
            "owner": report.owner,
            "subvolume": report.subvolume,
            "since": None if report.since is None else _when(report.since),
        },
        "directories": [_directory_json(directory) for directory in report.directories],
        "last_sync": report.synced,
        "troubles": list(map(_trouble_json, report.troubles)),
    }


def _directory_json(directory: Directory) -> dict[str, object]:
    return {
        "path": cli.named(bytes(directory.entry.path)),
        "via": directory.entry.via,
        "class": directory.entry.class_,
        "required": directory.entry.required,
        "state": directory.state,
        "origin": directory.origin or None,
    }
