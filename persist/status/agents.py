"""One agent, looked at: its home, its declared paths, its syncs, its units, what was swept."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import PurePosixPath

from persist import alone, copies, entering, ground, outgoing, proof, quota, swept, underway
from persist.ground import Ground
from persist.proof import Trouble
from persist.restore import found, origins
from persist.restore.actions import FoundDirectory
from persist.status import degraded, sizes, units
from persist.status.report import Directory, Measure, Report, State, Unit
from persist.status.sizes import Clock
from town import btrfs, files, machine
from town.failure import ATTENTION, BROKEN, BadSpec, Failure
from town.spec import Agent, Persist, Spec
from town.terminal import counted, shown

IN_PLACE: tuple[State, ...] = ("bound", "copied", "in the home")


def look(town: Spec, agents: Sequence[Agent], every: Sequence[Unit] = ()) -> list[Report]:
    """One report for each agent; `every`: the units that systemd knows. Raises nothing for what is missing."""
    clock = Clock(sum(len(agent.persist) + 1 for agent in agents))
    try:
        with ground.opened(town) as here:
            reports = [_report(town, agent, here, clock) for agent in agents]
    except Failure as failure:
        # Nobody is told to mount homes that nobody made blank.
        unproven = isinstance(failure, ground.NotMounted) and proof.doubt_of_boot(town, proof.read())
        hint = proof.again(town) if unproven else failure.hint
        reports = [Report(agent, troubles=[Trouble(BROKEN, failure.what, hint)]) for agent in agents]
    known, opened = swept.known(), _opened()
    for report in reports:
        report.units = units.of_agent(every, report.agent.name)
        report.troubles += units.troubles(report.units)
        _swept(report, known.get(report.agent.name))
        if opened is not None:
            report.account = "open" if report.agent.name in opened else "closed"
    return reports


def _opened() -> tuple[str, ...] | None:
    """Who may log in, where something asks for that."""
    from persist import account

    return account.names() if os.path.lexists(account.OPEN) else None


def _report(town: Spec, agent: Agent, here: Ground, clock: Clock) -> Report:
    report = Report(agent)
    with _troubles(report):
        machine.refuse_conflicts(town, (agent,))
    with suppress(OSError):  # said by who enters it
        report.owner, report.looked = _owner(agent, here), True
    with _troubles(report), entering.maybe_home(town, agent, here) as home:
        _home(town, report, home)
        if home is not None and outgoing.is_old(town, agent, here):
            what = f"{shown(str(town.home(agent)))} is a home of an earlier boot"
            report.troubles.append(Trouble(BROKEN, what, f"persist restore {agent.name} sets it aside"))
        report.directories = _directories(town, agent, here, report)
        report.directories = list(_measured(town, agent, here, (home, report.directories), clock))
        if home is not None:
            report.lost = sizes.lost(town, agent, home, clock.until())
    report.troubles += _underway(town, agent)
    with _troubles(report):
        report.quota = quota.standing(town, agent, here)
        for found_ in report.quota:
            report.troubles += [Trouble(ATTENTION, what, hint) for what, hint in quota.troubles(agent, found_)]
    _synced(town, report)
    report.degraded = degraded.noted(town, agent)
    report.troubles += degraded.troubles(agent, report.degraded)
    return report


def _underway(town: Spec, agent: Agent) -> Iterator[Trouble]:
    """A reset or a replacement that was begun and has not ended: killed, if nothing is at work."""
    begun = underway.read(agent)
    if begun is None:
        return
    command = f"persist {shown(begun.verb)}"
    if who := alone.holder(town, agent):
        yield Trouble(ATTENTION, f"{command} is at work{who}", "wait until it has ended")
    else:
        yield Trouble(ATTENTION, f"{command} was begun and has not ended", command)


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
        return files.look(here.agents, agent.name).st_uid
    except FileNotFoundError:
        return None


def _home(town: Spec, report: Report, home: int | None) -> None:
    path, name = shown(str(town.home(report.agent))), report.agent.name
    if home is None:
        report.troubles.append(Trouble(BROKEN, f"no home at {path}", f"persist restore {name}"))
        return
    report.home, report.subvolume, report.since = True, btrfs.is_subvolume(home), sizes.since(home)
    if not report.subvolume and town.town.btrfs is not None:
        what = f"{path} is a plain directory, not a subvolume: it cannot be snapshotted by itself"
        report.troubles.append(Trouble(ATTENTION, what, "the next boot makes it anew"))


def _directories(town: Spec, agent: Agent, here: Ground, report: Report) -> list[Directory]:
    there, known = found.look(town, agent, here), origins.known(town, agent)
    directories = [_directory(directory, known) for directory in there.directories]
    for directory in directories:
        if directory.state not in IN_PLACE and report.home:
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
    here = state in (*IN_PLACE, "not bound")
    return Directory(there.entry, state, known.get(there.entry.path, origins.KEPT) if here else None)


def _state(there: FoundDirectory) -> State:
    if there.entry.copied:
        return "copied" if there.target in ("in place", "to be kept") else "not copied"
    if there.entry.bound:
        return "bound" if there.target == "bound" else "not bound" if there.source else "missing"
    return "missing" if there.target == "missing" else "in the home"


def _measured(
    town: Spec, agent: Agent, here: Ground, there: tuple[int | None, list[Directory]], clock: Clock
) -> Iterator[Directory]:
    """The same with sizes, and since when each is here."""
    home, directories = there
    cut: dict[PurePosixPath, Measure] | None = None
    with entering.maybe_persisted(town, agent, here) as persisted:
        for directory in directories:
            until, entry = clock.until(), directory.entry
            with _source(town, agent, entry, (home, persisted, here)) as fd:
                if fd is None:
                    yield directory
                    continue
                size = sizes.measured(fd, until)
                if not size.whole and entry.synced:
                    if cut is None:
                        cut = sizes.at_last_sync(town, agent, [one.entry.path for one in directories])
                    size = cut.get(entry.path, size)
                yield directory._replace(size=size, since=sizes.since(fd))


@contextmanager
def _source(
    town: Spec, agent: Agent, entry: Persist, tops: tuple[int | None, int | None, Ground]
) -> Iterator[int | None]:
    """Where the data of a declared path lies, open; None where it is not there."""
    home, persisted, here = tops
    if entry.copied:
        with copies.base(town, agent, here) as below, ExitStack() as stack:
            yield None if below is None else stack.enter_context(copies.kept(town, agent, entry, below))
    elif entry.bound:
        if persisted is None:
            yield None
        else:
            with entering.source(town, agent, entry, persisted) as fd:
                yield fd
    elif home is None:
        yield None
    else:
        with entering.down(home, entry.path, town.home(agent)) as fd:
            yield fd


def _synced(town: Spec, report: Report) -> None:
    if town.town.store is None or not any(entry.synced for entry in report.agent.persist):
        return
    from persist.sync import local

    name = report.agent.name
    try:
        record = local.record(town, report.agent)
    except (Failure, OSError) as error:
        what = error.what if isinstance(error, Failure) else str(error.strerror)
        report.troubles.append(Trouble(ATTENTION, what, getattr(error, "hint", "")))
        return
    last, lost = record.last, record.branch[-64:][:12]
    if lost:
        what = f"another machine has taken it over: what lies here is kept as the branch {shown(lost)}, and not synced"
        report.troubles.append(Trouble(ATTENTION, what, f"persist sync {name} says what can be done"))
    if last is None:
        report.troubles.append(Trouble(ATTENTION, "never synced from this machine", f"persist sync {name}"))
        return
    report.synced = {"time": when(last.time), "snapshot": last.snapshot, "files": last.files, "bytes": last.bytes}


def _swept(report: Report, found_: object) -> None:
    """What the sweep of this boot found, and what it could not take away."""
    if not isinstance(found_, dict):
        return
    report.swept = found_
    name, left = report.agent.name, found_.get("left") or []
    if found_.get("whole") is not True:
        what = "what it left outside its home is not all gone"
        why = "; ".join(map(str, found_.get("failed") or []))
        report.troubles.append(Trouble(BROKEN, f"{what}: {shown(why)}" if why else what, f"persist sweep {name}"))
    elif left:
        first = left[0] if isinstance(left[0], dict) else {}
        path = f"{first.get('place', '')}/{(first.get('path') or {}).get('text', '')}"  # safe to print as recorded
        what = f"{counted(len(left), 'thing')} outside its home not taken away: {path} {first.get('why', '')}"
        report.troubles.append(Trouble(ATTENTION, what, "look at it; what others own there is not removed for them"))


def when(time: datetime) -> str:
    """ISO 8601, whole seconds."""
    return time.isoformat(timespec="seconds")
