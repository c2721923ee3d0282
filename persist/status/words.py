"""The report in words: a line for each thing, the next command below what is wrong."""

from collections.abc import Iterator
from typing import Any

from persist.proof import Trouble
from persist.quota import Standing
from persist.status.agents import when
from persist.status.report import Directory, Gone, Measure, Report, Thing, Whole
from town import again
from town.failure import ATTENTION, BROKEN, DONE
from town.spec import Spec
from town.terminal import counted, shown, size

_LEVELS = {DONE: "good", ATTENTION: "needs attention", BROKEN: "BROKEN"}


def lines(town: Spec, reports: list[Report], whole: Whole) -> Iterator[str]:
    """All of it."""
    yield from _town(town, whole)
    for report in reports:
        yield from _report(town, report)
    for gone in whole.gone:
        yield from _gone(gone)


def _town(town: Spec, whole: Whole) -> Iterator[str]:
    yield f"rollback: {_rollback(town, whole)}"
    if whole.doubt is not None:
        yield from _hint(whole.doubt.hint) if whole.rollback.failed else _trouble(whole.doubt)
    for name, trouble in (("ballast", whole.ballast), ("store", whole.store)):
        if trouble is not None:
            yield f"{name}:"
            yield from _trouble(trouble)
    if whole.unit_troubles:
        yield "units:"
        for trouble in whole.unit_troubles:
            yield from _trouble(trouble)


def _rollback(town: Spec, whole: Whole) -> str:
    if town.town.btrfs is None:
        return (
            f"by rename: the town has no [town.btrfs]; the first restore of a boot sets homes aside in "
            f"{shown(str(town.town.agents_dir / '.old'))}"
        )
    if whole.rollback.failed:
        return f"FAILED: error: {whole.rollback.reason[0]}"
    if whole.rollback.proof is None:
        return "the proof cannot be read" if whole.rollback.unread else "no proof"
    wrong = whole.doubt is not None and whole.doubt.level == BROKEN  # else it fits, and the homes are not mounted
    return "the proof does not fit" if wrong else _told(whole.rollback.facts)


def _told(facts: dict[str, list[str]]) -> str:
    aside = f"; set aside: {', '.join(facts['old'])}" if "old" in facts else "; nothing was set aside"
    return f"{facts['subvolume'][0]} was made blank at boot {facts['boot_id'][0]}{aside}"


def _trouble(trouble: Trouble) -> Iterator[str]:
    yield f"  {'broken' if trouble.level == BROKEN else 'note'}:  {trouble.what}"
    yield from _hint(trouble.hint)


def _hint(hint: str) -> Iterator[str]:
    if hint:
        yield f"    next:  {again.with_spec(hint)}"


def _report(town: Spec, report: Report) -> Iterator[str]:
    yield f"{report.agent.name}: {_LEVELS[report.level]}"
    yield f"  home     {shown(str(town.home(report.agent)))} ({_kind(report)})"
    if report.account == "closed":
        yield "  account  closed"
    for directory in report.directories:
        yield f"  {_directory(directory)}"
    if report.synced is not None:
        yield f"  synced   {report.synced['time']}, snapshot {shown(str(report.synced['snapshot']))}"
    for found in report.quota:
        yield f"  quota    {size(found.used)} of {_allowed(report, found)}"
    if report.lost is not None and report.lost.files:
        yield f"  lost at the next boot: {_measure(report.lost)} (persist lost {report.agent.name} lists it)"
    if report.swept is not None and report.swept.get("entries"):
        yield f"  swept    {_swept(report.swept)}"
    for trouble in report.troubles:
        yield from _trouble(trouble)


def _kind(report: Report) -> str:
    """What stands where the home belongs."""
    if report.home:
        since = "" if report.since is None else f", since {when(report.since)}"
        return f"{'a subvolume' if report.subvolume else 'a plain directory'}{since}"
    if not report.looked:
        return "not looked at"
    if report.owner is None:
        return "missing"
    return "not a directory" if report.owner == report.agent.uid else f"belongs to uid {report.owner}"


def _directory(directory: Directory) -> str:
    entry = directory.entry
    origin = f", {directory.origin}" if directory.origin is not None else ""
    measure = f", {_measure(directory.size)}" if directory.size is not None else ""
    since = f", since {when(directory.since)}" if directory.since is not None else ""
    said = f"{directory.state}{origin} (via {entry.via}, {entry.class_})"
    return f"{shown(str(entry.path))}  {said}{measure}{since}"


def _allowed(report: Report, found: Standing) -> str:
    limit = report.agent.quota_bytes
    said = f"{report.agent.quota} ({size(limit)})" if limit is not None else "any"
    where = f" on the filesystem of {shown(str(found.path))}" if len(report.quota) > 1 else ""
    return f"{said}{where}{'' if found.limit == limit else ', not in force now'}"


def _measure(measure: Measure) -> str:
    least = "" if measure.whole else "at least "
    of = " at the last sync" if measure.of == "last sync" else ""
    return f"{least}{size(measure.bytes)} in {counted(measure.files, 'file')}{of}"


def _swept(found: dict[str, Any]) -> str:
    """What was taken away at this boot."""
    entries, bytes_, aside = (_number(found.get(key)) for key in ("entries", "bytes", "aside"))
    places = [str(place.get("place")) for place in found.get("places") or [] if isinstance(place, dict)]
    copied = f"; {counted(aside, 'file')} set aside" if aside else ""
    what = "1 entry" if entries == 1 else f"{entries:,} entries"
    return f"{what} outside its home, {size(bytes_)}, in {shown(', '.join(places))}{copied}"


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _gone(gone: Gone) -> Iterator[str]:
    yield f"{gone.name}: not in the spec any more; this is left of it, and nothing is deleted unasked"
    for thing in gone.things:
        yield f"  {_thing(thing)}"
        yield from _hint(thing.next)


def _thing(thing: Thing) -> str:
    many = f", {thing.entries:,} of them" if thing.entries is not None and thing.entries != 1 else ""
    measure = f", {_measure(thing.size)}" if thing.size is not None else ""
    return f"{thing.kind}  {thing.where}{many}{measure}"
