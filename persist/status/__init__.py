"""`persist status`: per agent, which home it has, where each declared directory is and came from, when it was synced.

A piece that is missing is never an error here: it is what this verb reports. 0 good, 3 works and needs attention,
4 broken (no home, or something required is not in its place).
"""

import argparse

from persist import ballast, ground, proof, reach
from persist.proof import Rollback, Trouble
from persist.status import agents, units
from persist.status.report import Gone, Report, Unit, Whole
from town import cli, files, spec
from town.failure import ATTENTION, Failure
from town.spec import Agent, Btrfs, Spec
from town.terminal import shown

__all__ = ["Report", "Whole", "command", "look", "look_at_town"]


def command(arguments: argparse.Namespace) -> int:
    """Report on the agents that were named, or all; the worst level of any of them, or of the town."""
    town = spec.load(cli.spec_file(arguments))
    chosen = town.chosen(arguments.agents)
    ground.require_root("status")
    whole, reports = all_of(town, chosen, gone=not arguments.agents)
    if arguments.json:
        from persist.status import tables

        cli.put_json(tables.tables(town, reports, whole))
    else:
        from persist.status import words

        for line in words.lines(town, reports, whole):
            print(line)
    return max([whole.level, *(report.level for report in reports)])


def all_of(town: Spec, chosen: tuple[Agent, ...], *, gone: bool = True) -> tuple[Whole, list[Report]]:
    """The town, and these agents; with `gone` also what agents left that are not in the spec any more."""
    every = units.loaded()
    whole = look_at_town(town, every)
    if gone:
        whole.gone = _gone(town)
    return whole, look(town, chosen, every)


def look_at_town(town: Spec, every: tuple[Unit, ...] = ()) -> Whole:
    """What concerns every agent. Raises nothing for what is missing."""
    ours = units.of_town(every)
    troubles = tuple(units.troubles(ours))
    whole = Whole(Rollback(None), has_store=town.town.store is not None, units=ours, unit_troubles=troubles)
    if town.town.btrfs is not None:
        whole.btrfs, whole.rollback = True, proof.read()
        whole.doubt, whole.ballast = proof.doubt(town, whole.rollback), _ballast(town, town.town.btrfs)
    whole.store = reach.trouble(town)
    return whole


def look(town: Spec, chosen: tuple[Agent, ...], every: tuple[Unit, ...] = ()) -> list[Report]:
    """One report for each agent. Raises nothing for what is missing."""
    return agents.look(town, chosen, every)


def _gone(town: Spec) -> tuple[Gone, ...]:
    from persist.status import gone

    try:
        with ground.opened(town) as here:
            return gone.look(town, here)
    except Failure:  # said of each agent
        return gone.look(town, None)


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
