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
from pathlib import Path, PurePosixPath
from typing import Literal

from persist import ground
from persist.ground import Ground
from persist.restore import found, origins
from persist.restore.plan import FoundDirectory
from town import btrfs, cli, files, machine, spec
from town.failure import ATTENTION, BROKEN, DONE, BadSpec, Failure
from town.spec import Agent, Persist, Spec
from town.terminal import shown

PROOF = Path("/run/nuketown/rollback")  # the boot hook writes it; rollback.failed beside it says why there is none
_PROOF_LIMIT = 64 << 10

State = Literal["bound", "in the home", "missing", "not bound", "unknown"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a person should know, how much it matters, and the next command."""

    level: int  # ATTENTION or BROKEN
    what: str
    hint: str = ""


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
    subvolume: bool | None = None
    since: datetime | None = None
    directories: list[Directory] = field(default_factory=list)
    synced: dict[str, object] | None = None
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def level(self) -> int:
        return max((trouble.level for trouble in self.troubles), default=DONE)


@dataclass(frozen=True, slots=True)
class Rollback:
    """What the boot hook left in /run: its proof (key, value), or why it failed."""

    proof: tuple[tuple[str, str], ...] | None
    failed: str = ""


def command(arguments: argparse.Namespace) -> int:
    """Report on the agents that were named, or all; the worst level of any of them."""
    town = spec.load(cli.spec_file(arguments))
    agents = town.chosen(arguments.agents)
    ground.require_root("status")
    reports, rollback = look(town, agents), rolled_back(PROOF) if town.town.btrfs else Rollback(None)
    cli.put_json(_json(town, reports, rollback)) if arguments.json else _put_text(town, reports, rollback)
    failed = [BROKEN] if rollback.failed else []
    return max([DONE, *failed, *(report.level for report in reports)])


def look(town: Spec, agents: tuple[Agent, ...]) -> list[Report]:
    """One report for each agent. Raises nothing for what is missing."""
    try:
        with ground.opened(town) as here:
            return [_report(town, agent, here) for agent in agents]
    except Failure as failure:
        return [Report(agent, troubles=[Trouble(BROKEN, failure.what, failure.hint)]) for agent in agents]


def rolled_back(proof: Path) -> Rollback:
    """What the boot hook left beside `proof`."""
    failed = _text(proof.with_name(proof.name + ".failed"))
    lines = _text(proof)
    pairs = None if lines is None else tuple(_pair(line) for line in lines.splitlines() if "=" in line)
    return Rollback(pairs, "" if failed is None else "; ".join(shown(line) for line in failed.splitlines()))


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return shown(key), shown(value)


def _text(path: Path) -> str | None:
    try:
        return files.read_bounded(path, _PROOF_LIMIT).decode("utf-8", "surrogateescape")
    except Failure:
        return None


def _report(town: Spec, agent: Agent, here: Ground) -> Report:
    report = Report(agent)
    with _troubles(report):
        machine.refuse_conflicts(town, (agent,))
    with _troubles(report), found.maybe_home(town, agent, here) as home:
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
        last = sync.last(town, report.agent)
    except (Failure, OSError) as error:
        what = error.what if isinstance(error, Failure) else str(error.strerror)
        report.troubles.append(Trouble(ATTENTION, what, getattr(error, "hint", "")))
        return
    if last is None:
        report.troubles.append(Trouble(ATTENTION, "never synced from this machine", f"persist sync {name}"))
        return
    report.synced = {"time": _when(last.time), "snapshot": last.snapshot, "files": last.files, "bytes": last.bytes}


def _when(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _put_text(town: Spec, reports: list[Report], rollback: Rollback) -> None:
    for line in _rollback_lines(town, rollback):
        print(line)
    for report in reports:
        for line in _lines(town, report):
            print(line)


def _rollback_lines(town: Spec, rollback: Rollback) -> Iterator[str]:
    if rollback.failed:
        yield f"rollback: FAILED: {rollback.failed}"
    elif rollback.proof is not None:
        yield f"rollback: {_told(rollback.proof)}"
    elif town.town.btrfs is None:
        yield "rollback: none: the town has no [town.btrfs], homes outlive the boot"
    else:
        yield f"rollback: this boot left no proof in {PROOF}"


def _told(proof: tuple[tuple[str, str], ...]) -> str:
    facts = _grouped(proof)
    aside = f"; set aside: {', '.join(facts['old'])}" if "old" in facts else "; nothing was set aside"
    return (
        f"{facts.get('subvolume', ['the subvolume'])[0]} was made blank at boot {facts.get('boot_id', ['?'])[0]}{aside}"
    )


def _lines(town: Spec, report: Report) -> Iterator[str]:
    word = {DONE: "good", ATTENTION: "needs attention", BROKEN: "BROKEN"}[report.level]
    yield f"{report.agent.name}: {word}"
    path = shown(str(town.home(report.agent)))
    kind = "a subvolume" if report.subvolume else "a plain directory"
    since = "" if report.since is None else f", since {_when(report.since)}"
    yield f"  home     {path} ({f'{kind}{since}' if report.home else 'missing'})"
    for directory in report.directories:
        entry = directory.entry
        origin = f", {directory.origin}" if directory.origin else ""
        yield f"  {shown(str(entry.path))}  {directory.state}{origin} (via {entry.via}, {entry.class_})"
    if report.synced is not None:
        yield f"  synced   {report.synced['time']}, snapshot {shown(str(report.synced['snapshot']))}"
    for trouble in report.troubles:
        yield f"  {'broken' if trouble.level == BROKEN else 'note'}:  {trouble.what}"
        if trouble.hint:
            yield f"    next:  {trouble.hint}"


def _json(town: Spec, reports: list[Report], rollback: Rollback) -> dict[str, object]:
    proof = None if rollback.proof is None else _grouped(rollback.proof)
    return {
        "rollback": {"proof": proof, "failed": rollback.failed or None},
        "agents": [_report_json(town, report) for report in reports],
    }


def _grouped(pairs: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    return {key: [value for other, value in pairs if other == key] for key, _ in pairs}


def _report_json(town: Spec, report: Report) -> dict[str, object]:
    return {
        "agent": report.agent.name,
        "level": report.level,
        "home": {
            "path": cli.named(os.fsencode(town.home(report.agent))),
            "present": report.home,
            "subvolume": report.subvolume,
            "since": None if report.since is None else _when(report.since),
        },
        "directories": [_directory_json(directory) for directory in report.directories],
        "last_sync": report.synced,
        "troubles": [
            {"level": trouble.level, "what": trouble.what, "next": trouble.hint or None} for trouble in report.troubles
        ],
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
