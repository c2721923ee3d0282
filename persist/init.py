"""`persist init`: the filesystem and root's directories, or with --store the store. Once; again changes nothing.

With --adopt it takes over what is there: @agents and its blank as others make them, and data that impermanence keeps.
"""

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module

from persist import layout, rollback
from persist.ground import require_root
from persist.layout import Action, Plan
from town import cli, spec, trust
from town.failure import DONE, WrongUsage
from town.spec import Spec
from town.terminal import say

_NOTHING = "nothing to do: everything is there and as it should be"


def command(arguments: argparse.Namespace) -> int:
    """Prepare what the spec needs. Status 1 when something else stands in its place: each thing with its own cure."""
    town = spec.load(cli.spec_file(arguments))
    if arguments.store:
        return _make_store(town, arguments)
    require_root("init", "subvolumes and directories of root's are made")
    trust.refuse(town)
    try:
        return prepare(town, dry_run=arguments.dry_run, adopt=arguments.adopt, as_json=arguments.json)
    except layout.NotAsItShouldBe as failure:
        if arguments.json:
            problems = [{"what": what, "cure": cure} for what, cure in failure.wrong]
            cli.put_json({"ok": False, "problems": problems})
        for one in failure.each:
            cli.tell("persist", one)
        return failure.status


def _make_store(town: Spec, arguments: argparse.Namespace) -> int:
    if arguments.adopt:
        raise WrongUsage(
            "--store does not go with --adopt", hint="persist init --adopt first, then persist init --store"
        )
    if arguments.json:
        raise WrongUsage(
            "--store does not go with --json: it says what it does in words",
            hint="leave --json out: persist init --store",
        )
    require_root("init --store", "the store's key and the lock beside the spec are root's")
    trust.refuse(town)
    status: int = import_module("persist.makestore").make(town, arguments.dry_run)
    return status


def prepare(town: Spec, *, dry_run: bool = False, adopt: bool = False, as_json: bool = False) -> int:
    """Make what is missing and say each thing on standard output; with `dry_run` only say it.

    With `adopt`, take over what is there. Raises layout.NotAsItShouldBe, and then changes nothing, or rollback.Running:
    in the middle of a rollback there is no @agents, and a new one would be in its way.
    """
    with nullcontext() if dry_run or town.town.btrfs is None else rollback.alone():
        return _prepared(town, dry_run=dry_run, adopt=adopt, as_json=as_json)


def _prepared(town: Spec, *, dry_run: bool, adopt: bool, as_json: bool) -> int:
    plan = layout.plan(town, adopt=adopt)
    for what, cure in plan.warnings:
        cli.warn("persist", what, cure)
    doing = iter(plan.actions) if dry_run else layout.apply(town, plan.actions)
    if as_json:
        done = list(doing)
        cli.put_json({"ok": True, "dry_run": dry_run, "actions": list(map(_plain, done)), **_said(plan)})
    else:
        _print(doing, plan)
    return DONE


def _print(doing: Iterator[Action], plan: Plan) -> None:
    for action in doing:
        print(action, flush=True)
    if not plan.actions:
        print(_NOTHING)
    for note in plan.notes:
        say(f"persist: note: {note}")


def _plain(action: Action) -> dict[str, str]:
    return {"action": type(action).__name__, "says": " ".join(str(action).split())}


def _said(plan: Plan) -> dict[str, object]:
    return {"warnings": [{"what": what, "cure": cure} for what, cure in plan.warnings], "notes": list(plan.notes)}
