"""`persist homes`: everything that is kept of agents on this machine, why, and what deleting it would free.

Homes set aside at a boot, snapshots taken on purpose, recalled copies, imports (persist/kept.py). `--delete` takes one
away: by its whole name, and never the living home, which is none of them.
"""

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from persist import discard, ground, kept, outgoing, reasons, shelves, sizes
from persist.exclusive import Freed
from persist.kept import Kept
from persist.shelves import Shelves
from town import btrfs, cli, files, spec, trust
from town.failure import DONE, Failure, WrongUsage, status_of, worst
from town.spec import Spec
from town.terminal import counted, say, shown

_WORDS = {"aside": "set aside", "snapshot": "snapshot of", "recalled": "recalled", "imported": "import of"}


class Row(NamedTuple):
    """A kept home, why it is kept, and what deleting it would free; None: nobody can say."""

    home: Kept
    why: str
    freed: Freed | None


def command(arguments: argparse.Namespace) -> int:
    """List what is kept, oldest first, of the agents that were named or of all that ever were; or delete some of it."""
    town = spec.load(cli.spec_file(arguments))
    if arguments.delete:
        return _delete(town, arguments)
    if arguments.dry_run:
        raise WrongUsage("--dry-run goes with --delete: a list changes nothing", hint="leave it out")
    ground.require_root("homes")
    with shelves.opened(town) as where:
        there = kept.every(town, where.top, where.agents)
        named = _named(town, there, arguments.agents)
        found = [home for home in there if home.whose in named]
        rows = _rows(town, where, found, sizes.FOR_EVER if arguments.sizes else sizes.AT_ONCE)
        none = "" if found else _why_none(town, where, there, arguments.agents)
    if none:
        say(none)
    cli.put_json({"homes": list(map(_json, rows))}) if arguments.json else _put_text(rows)
    if not arguments.json and any(row.freed is not None and not row.freed.whole for row in rows):
        say("note: not all was looked at, to be quick: persist homes --sizes takes the time")
    return DONE


def _named(town: Spec, there: Sequence[Kept], agents: Sequence[str]) -> set[str]:
    """Whose homes are meant: without names everybody's. Raises WrongUsage for one that the spec lacks, and has none."""
    known = {home.whose for home in there}
    for name in agents:
        if name not in known:
            town.agent(name)
    return set(agents) or known


def _rows(town: Spec, where: Shelves, found: Sequence[Kept], seconds: float) -> list[Row]:
    why = reasons.of_all(town, where, found, datetime.fromtimestamp(time.time(), UTC))
    return [Row(home, why[home], freed) for home, freed in sizes.of_all(town, where, found, seconds)]


def _why_none(town: Spec, where: Shelves, there: Sequence[Kept], agents: Sequence[str]) -> str:
    """Why there is nothing to list: nothing was kept, or what was holds no home."""
    whose = f" of {', '.join(agents)}" if agents else ""
    with shelves.old(town, where.top, where.agents) as old:
        others = 0 if old is None else len([key for key in files.names(old) if not kept.is_being_deleted(key)])
    name = outgoing.DIRECTORY if town.town.btrfs is None else town.town.btrfs.old
    if others and not (there and agents and not any(home.kind == "aside" for home in there)):
        entries = "1 entry" if others == 1 else f"{others:,} entries"
        verb, these = "holds" if others == 1 else "hold", " of these agents" if agents else ""
        return f"no old homes{whose}: {entries} of {shown(name)} {verb} no home{these}"
    doing = "the first restore of a boot sets them aside" if town.town.btrfs is None else "a rollback sets them aside"
    return f"no old homes{whose}: {doing}"


def _put_text(rows: Sequence[Row]) -> None:
    for home, why, freed in rows:
        print(f"{home.name}  {_described(home)}, {'size unknown' if freed is None else f'frees {freed}'}; {why}")


def _described(home: Kept) -> str:
    moment = "time unknown" if home.time is None else home.time.strftime("%Y-%m-%d %H:%M:%S UTC")
    words = [f"{_WORDS[home.kind]} {moment}", f"boot {shown(home.boot) or 'unknown'}"]
    words.append("subvolume" if home.subvolume else "plain directory")
    if home.nested:
        words.append(counted(len(home.nested), "nested subvolume"))
    if home.about.paths:
        number = len(home.about.paths)
        words.append("with 1 persisted directory" if number == 1 else f"with {number:,} persisted directories")
    return ", ".join(words)


def _json(row: Row) -> dict[str, object]:
    home, about = row.home, row.home.about
    return {
        "name": home.name,
        "kind": home.kind,
        "agent": cli.named(home.agent),
        "home": cli.named(home.key),
        "time": None if home.time is None else home.time.isoformat(),
        "boot": home.boot or None,
        "why": row.why,
        "message": about.message or None,
        "frees": None if row.freed is None else _freed(row.freed),
        "subvolume": home.subvolume,
        "nested": [cli.named(path) for path in home.nested],
        "persisted": [str(path) for path in about.paths],
        "of": about.of or None,
        "origin": dict(about.origin) or None,
        "notes": list(about.notes),
    }


def _freed(freed: Freed) -> dict[str, object]:
    """`bytes` at the least, `doubtful` more if nothing else shares that; not `whole`: what was looked at so far."""
    return {
        "bytes": freed.least,
        "data": freed.data,
        "metadata": freed.metadata,
        "doubtful": freed.doubtful,
        "whole": freed.whole,
    }


def _delete(town: Spec, arguments: argparse.Namespace) -> int:
    if arguments.agents:
        raise WrongUsage("--delete takes names of homes, and no agents", hint="persist homes lists what is kept")
    for text in arguments.delete:
        kept.parse(text)
    ground.require_root("homes --delete", "it deletes kept homes")
    trust.refuse(town)
    done, failed = list[str](), list[Exception]()
    with shelves.opened(town) as where:
        for action in discard.plan(town, where, arguments.delete):
            try:
                if not arguments.dry_run:
                    discard.discard(town, where, action.home)
            except (Failure, OSError) as error:
                failure = error if isinstance(error, Failure) else btrfs.BtrfsFailed(cli.unexpected(error))
                cli.tell("persist", failure, action.home.name)
                failed.append(failure)
                continue
            done.append(action.home.name)
            if not arguments.json:
                print(str(action) if arguments.dry_run else f"deleted   {action.home.name}", flush=True)
    if arguments.json:
        cli.put_json({"dry_run": arguments.dry_run, "deleted": done})
    return worst(map(status_of, failed))
