"""The report as JSON. Keys are only ever added."""

import os
from datetime import UTC, datetime

from persist import proof
from persist.proof import Trouble
from persist.status.agents import when
from persist.status.report import Directory, Gone, Measure, Report, Thing, Unit, Whole
from town import again, cli
from town.spec import Spec


def tables(town: Spec, reports: list[Report], whole: Whole) -> dict[str, object]:
    """All of it."""
    rollback = whole.rollback
    return {
        "time": when(datetime.now(UTC)),
        "boot": proof.boot_id(),
        "level": max([whole.level, *(report.level for report in reports)]),
        "rollback": {
            "kind": "btrfs" if town.town.btrfs is not None else "rename",
            "proof": None if rollback.proof is None else rollback.facts,
            "failed": rollback.failed or None,
            "used": rollback.used,
            "trouble": _trouble(whole.doubt),
        },
        "ballast": {"trouble": _trouble(whole.ballast)},
        "store": {"trouble": _trouble(whole.store)},
        "units": [{**_unit(unit)} for unit in whole.units],
        "unit_troubles": list(map(_trouble, whole.unit_troubles)),
        "agents": [_report(town, report) for report in reports],
        "gone": list(map(_gone, whole.gone)),
    }


def _trouble(trouble: Trouble | None) -> dict[str, object] | None:
    if trouble is None:
        return None
    return {"level": trouble.level, "what": trouble.what, "next": again.with_spec(trouble.hint) or None}


def _report(town: Spec, report: Report) -> dict[str, object]:
    return {
        "agent": report.agent.name,
        "level": report.level,
        "home": {
            "path": cli.named(os.fsencode(town.home(report.agent))),
            "present": report.home or report.owner is not None if report.looked else None,
            "owner": report.owner,
            "subvolume": report.subvolume,
            "since": None if report.since is None else when(report.since),
        },
        "directories": list(map(_directory, report.directories)),
        "last_sync": report.synced,
        "would_be_lost": _measure(report.lost),
        "quota": [
            {
                "path": cli.named(os.fsencode(one.path)),
                "used": one.used,
                "limit": one.limit,
                "not_counted": one.apart,
                "not_its_own": one.foreign,
                "of_earlier_homes": one.before,
            }
            for one in report.quota
        ],
        "degraded": [one._asdict() for one in report.degraded],
        "account": report.account,
        "units": list(map(_unit, report.units)),
        "swept": report.swept,
        "troubles": list(map(_trouble, report.troubles)),
    }


def _directory(directory: Directory) -> dict[str, object]:
    origin = directory.origin
    return {
        "path": cli.named(bytes(directory.entry.path)),
        "via": directory.entry.via,
        "class": directory.entry.class_,
        "required": directory.entry.required,
        "state": directory.state,
        "origin": None if origin is None else str(origin),
        "data": None if origin is None or not origin.snapshot else
        {"snapshot": origin.snapshot, "host": origin.host, "time": origin.time},
        "since": None if directory.since is None else when(directory.since),
        "size": _measure(directory.size),
    }  # fmt: skip


def _measure(measure: Measure | None) -> dict[str, object] | None:
    return None if measure is None else measure._asdict()


def _unit(unit: Unit) -> dict[str, object]:
    return {"unit": unit.name, "active": unit.active, "result": unit.result}


def _gone(gone: Gone) -> dict[str, object]:
    return {"agent": gone.name, "left": list(map(_thing, gone.things))}


def _thing(thing: Thing) -> dict[str, object]:
    return {**thing._asdict(), "next": again.with_spec(thing.next), "size": _measure(thing.size)}
