"""`persist metrics`: what `persist status` says as a Prometheus textfile (text format 0.0.4).

Always 0 when it could be written: how things are is in the values. Where a number is not known there is no line.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from persist import ground, status
from persist.status import agents
from persist.status.report import Directory, Measure, Report, Whole
from town import __version__, cli, files, spec, trust
from town.failure import DONE, Unsafe
from town.spec import Spec
from town.terminal import shell_word, shown

_USUAL = "/var/lib/prometheus/node-exporter"


class Sample(NamedTuple):
    """One value of a metric; seconds and bytes where the name says so."""

    metric: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


HELP = {
    "nuketown_info": "The version of nuketown, as a label.",
    "nuketown_status_time_seconds": "When this was looked at, seconds since the epoch.",
    "nuketown_town_level": "0 good, 3 needs attention, 4 broken: rollback, ballast, store, units of the town.",
    "nuketown_rollback_proven": "1 when this boot's homes are proven to have begun blank; absent without [town.btrfs].",
    "nuketown_store_reachable": "1 when the store is there and answered; absent without a store.",
    "nuketown_agent_level": "0 good, 3 needs attention, 4 broken: what persist status says of the agent.",
    "nuketown_account_open": "1 when the agent may log in; absent where no rule closes accounts.",
    "nuketown_home_present": "1 when the agent has its home.",
    "nuketown_home_since_seconds": "When the home was made, seconds since the epoch.",
    "nuketown_directory_in_place": "1 when a declared path is where it belongs.",
    "nuketown_directory_degraded": "1 when a path is used without the store's word.",
    "nuketown_directory_bytes": "What lies in a declared path; see nuketown_directory_measured.",
    "nuketown_directory_files": "Files in a declared path; see nuketown_directory_measured.",
    "nuketown_directory_measured": "1 when bytes and files are all there is, 0 when at least so much.",
    "nuketown_last_sync_time_seconds": "When the last sync from this machine ended well, seconds since the epoch.",
    "nuketown_last_sync_bytes": "What the state of the last sync holds.",
    "nuketown_last_sync_files": "Files in the state of the last sync.",
    "nuketown_would_be_lost_bytes": "What the next boot takes of the home.",
    "nuketown_would_be_lost_files": "Files that the next boot takes of the home.",
    "nuketown_quota_used_bytes": "What counts for the agent's quota; absent without one.",
    "nuketown_quota_limit_bytes": "How much may count for it; absent while nothing limits the agent.",
    "nuketown_unit_failed": "1 when a unit of nuketown's failed.",
    "nuketown_swept_entries": "Entries outside its home that were taken away at this boot.",
    "nuketown_swept_bytes": "Bytes of those.",
    "nuketown_swept_whole": "1 when nothing of the agent's is left outside its home.",
    "nuketown_gone_agents": "Agents that are not in the spec any more and left something.",
}


def command(arguments: argparse.Namespace) -> int:
    """Write the file whole, or to standard output."""
    town = spec.load(cli.spec_file(arguments))
    ground.require_root("metrics")
    if arguments.file is not None:
        refuse(town, Path(arguments.file))
    text = rendered(samples(*status.all_of(town, town.agents)))
    if arguments.file is None:
        sys.stdout.write(text)
    else:
        files.write_whole(arguments.file, text.encode(), mode=0o644)
    return DONE


def refuse(town: Spec, file: Path) -> None:
    """Raises Unsafe when an agent, or everybody, can change the directory, or the way to it."""
    directory = Path(os.path.realpath(file.absolute().parent))
    for path in dict.fromkeys((*trust.way(file.absolute().parent), directory)):
        reason = trust.changeable(town, path)
        if not reason and path == directory and _is_everybodys(path):  # sticky: anybody could take the name first
            reason = "can be written by everybody"
        if reason:
            raise Unsafe(
                f"{shown(str(file))} is not written: {shown(str(path))} {reason}",
                hint=f"a directory of root's or of the collector's, such as: install -d {shell_word(_USUAL)}",
            )


def _is_everybodys(directory: Path) -> bool:
    try:
        return bool(directory.stat().st_mode & 0o002)
    except OSError:  # what is missing is said when it is written
        return False


def samples(whole: Whole, reports: Iterable[Report]) -> Iterator[Sample]:
    """Every value; those of one metric need not follow each other."""
    yield Sample("nuketown_info", 1, (("version", __version__),))
    yield Sample("nuketown_status_time_seconds", round(time.time(), 3))
    yield Sample("nuketown_town_level", whole.level)
    yield Sample("nuketown_gone_agents", len(whole.gone))
    yield from _town(whole)
    for report in reports:
        yield from _agent(report)


def _town(whole: Whole) -> Iterator[Sample]:
    if whole.btrfs:
        yield Sample("nuketown_rollback_proven", int(whole.doubt is None))
    if whole.has_store:
        yield Sample("nuketown_store_reachable", int(whole.store is None))
    for unit in whole.units:
        yield Sample("nuketown_unit_failed", int(unit.failed), (("agent", ""), ("unit", unit.name)))


def _agent(report: Report) -> Iterator[Sample]:
    name = ("agent", report.agent.name)
    yield Sample("nuketown_agent_level", report.level, (name,))
    if report.account is not None:
        yield Sample("nuketown_account_open", int(report.account == "open"), (name,))
    if report.looked:
        yield Sample("nuketown_home_present", int(report.home), (name,))
    if report.since is not None:
        yield Sample("nuketown_home_since_seconds", report.since.timestamp(), (name,))
    degraded = {one.path for one in report.degraded}
    for directory in report.directories:
        yield from _directory(directory, name, degraded=str(directory.entry.path) in degraded)
    if report.lost is not None:
        yield from _measure("nuketown_would_be_lost", report.lost, (name,))
    for found in report.quota:
        labels = (name, ("path", str(found.path)))
        yield Sample("nuketown_quota_used_bytes", found.used, labels)
        if found.limit is not None:
            yield Sample("nuketown_quota_limit_bytes", found.limit, labels)
    yield from _synced(report, name)
    for unit in report.units:
        yield Sample("nuketown_unit_failed", int(unit.failed), (name, ("unit", unit.name)))
    yield from _swept(report, name)


def _directory(directory: Directory, name: tuple[str, str], *, degraded: bool) -> Iterator[Sample]:
    entry = directory.entry
    labels = (name, ("path", str(entry.path)), ("via", entry.via), ("class", entry.class_))
    yield Sample("nuketown_directory_in_place", int(directory.state in agents.IN_PLACE), labels)
    yield Sample("nuketown_directory_degraded", int(degraded), labels)
    if directory.size is not None:
        yield from _measure("nuketown_directory", directory.size, labels)
        yield Sample("nuketown_directory_measured", int(directory.size.whole), labels)


def _measure(metric: str, measure: Measure, labels: tuple[tuple[str, str], ...]) -> Iterator[Sample]:
    yield Sample(f"{metric}_bytes", measure.bytes, labels)
    yield Sample(f"{metric}_files", measure.files, labels)


def _synced(report: Report, name: tuple[str, str]) -> Iterator[Sample]:
    last = report.synced
    if last is not None:
        yield Sample("nuketown_last_sync_time_seconds", datetime.fromisoformat(str(last["time"])).timestamp(), (name,))
        yield Sample("nuketown_last_sync_bytes", float(str(last["bytes"])), (name,))
        yield Sample("nuketown_last_sync_files", float(str(last["files"])), (name,))


def _swept(report: Report, name: tuple[str, str]) -> Iterator[Sample]:
    if report.swept is not None:
        yield Sample("nuketown_swept_whole", int(report.swept.get("whole") is True), (name,))
        for key in ("entries", "bytes"):
            if isinstance(value := report.swept.get(key), int):
                yield Sample(f"nuketown_swept_{key}", value, (name,))


def rendered(found: Iterable[Sample]) -> str:
    """The text: each metric once, with HELP and TYPE, all its values together, as the format wants them."""
    by_metric: dict[str, list[Sample]] = {metric: [] for metric in HELP}
    for sample in found:
        by_metric[sample.metric].append(sample)
    lines = [
        line
        for metric, values in by_metric.items()
        if values
        for line in (f"# HELP {metric} {_escaped(HELP[metric])}", f"# TYPE {metric} gauge", *map(_line, values))
    ]
    return "\n".join(lines) + "\n"


def _line(sample: Sample) -> str:
    labels = ",".join(f'{key}="{_quoted(value)}"' for key, value in sample.labels)
    return f"{sample.metric}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str) -> str:
    """The text of a HELP line."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    """A label's value; what is no UTF-8 is replaced, for the format has no word for it."""
    plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _escaped(plain).replace('"', '\\"')
