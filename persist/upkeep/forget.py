"""`persist forget AGENT@SNAPSHOT…`: those states go now; what only they held goes with a prune a day later."""

import argparse
from collections.abc import Iterable, Mapping

from persist import ground
from persist.bucket.commits import Commit, Name
from persist.bucket.opening import Bucket, open_bucket
from persist.store import StoreDamaged
from persist.sync import history
from persist.upkeep import choosing, epochs
from persist.upkeep.apply import Doing
from persist.upkeep.epochs import Epoch
from persist.upkeep.plan import Action, Bury, Drop
from town import cli, terminal, trust
from town import spec as specs
from town.failure import DONE, Failure
from town.spec import Agent, Spec
from town.terminal import counted


class HeadStays(Failure):
    """The newest state of an agent cannot be forgotten: it is what the next restore brings back."""


def command(arguments: argparse.Namespace) -> int:
    """Forget the states that were named, of one agent after the other; all are looked up before the first one goes."""
    spec = specs.load(cli.spec_file(arguments))
    ground.require_root("forget", "it needs the key of the store")
    trust.refuse(spec)
    wanted: dict[str, list[str]] = {}
    for agent, at in map(choosing.parted, arguments.what):
        wanted.setdefault(spec.agent(agent).name, []).append(at)
    bucket = open_bucket(spec, remember=not arguments.dry_run)
    plans = [_planned(spec, spec.agent(agent), bucket, ats, arguments.dry_run) for agent, ats in wanted.items()]
    done = list[dict[str, object]]()
    for agent, plan in zip(wanted, plans, strict=True):
        for epoch, actions in plan:
            if not arguments.dry_run:
                Doing(epoch).run(actions)
        every = [action for _, actions in plan for action in actions]
        done.append(record(agent, every, dry_run=arguments.dry_run))
        if not arguments.json:
            _print(agent, every, arguments.dry_run)
    if arguments.json:
        cli.put_json(done)
    return DONE


def record(agent: str, actions: Iterable[Action], *, dry_run: bool) -> dict[str, object]:
    """For --json; bytes."""
    every = list(actions)
    return {
        "agent": agent,
        "dry_run": dry_run,
        "forgotten": [action.name.short for action in every if isinstance(action, Drop)],
        "actions": [" ".join(str(action).split()) for action in every],
        "freed_later": sum(action.size for action in every if isinstance(action, Bury)),
    }


def _planned(
    spec: Spec, agent: Agent, bucket: Bucket, ats: Iterable[str], dry_run: bool
) -> list[tuple[Epoch, list[Action]]]:
    head = history.ask(spec, agent, bucket, remember=not dry_run).head
    there = epochs.opened(bucket, agent.name)
    going = {choosing.chosen(agent.name, there, at) for at in ats}
    if head is not None and head.name in going:
        raise HeadStays(
            f"{agent.name}@{head.name.short} is the newest state of {agent.name}",
            hint=f"sync a newer one first: persist sync {agent.name}",
        )
    return [(epoch, planned(epoch, going)) for epoch in there]


def planned(epoch: Epoch, going: Iterable[Name]) -> list[Action]:
    """Drop those states of one epoch, and bury the packs that nothing else leads to."""
    found = dict(epoch.tried(epoch.listing.states))
    ours = {name: state for name, state in found.items() if name in set(going)}
    drops: list[Action] = [Drop(name, _when(state), "named") for name, state in ours.items()]
    others = {name: state for name, state in found.items() if name not in ours}
    if any(isinstance(state, StoreDamaged) for state in others.values()):
        return drops  # nobody knows what those need
    buried = {id_ for tomb in epoch.tombs.values() for id_ in tomb.packs}
    freed = (_led(epoch, ours) & set(epoch.packs)) - _led(epoch, others) - buried
    size = sum(epoch.packs[id_].size for id_ in freed)
    return [*drops, Bury(frozenset(freed), size, (), "only these states led there")] if freed else drops


def _when(state: Commit | StoreDamaged) -> str:
    return "(cannot be read)" if isinstance(state, StoreDamaged) else state.time.isoformat(timespec="seconds")


def _led(epoch: Epoch, states: Mapping[Name, Commit | StoreDamaged]) -> set[str]:
    known = ((name, state) for name, state in states.items() if isinstance(state, Commit))
    return {id_ for name, state in known for id_ in epoch.way(name, state.packs).all}


def _print(agent: str, actions: list[Action], dry_run: bool) -> None:
    for action in actions if dry_run else ():
        print(f"{agent}: {action}")
    dropped = [action.name.short for action in actions if isinstance(action, Drop)]
    later = sum(action.size for action in actions if isinstance(action, Bury))
    print(
        f"{agent}: {counted(len(dropped), 'state')} forgotten ({', '.join(dropped)}); {terminal.size(later)} that only "
        f"{'it' if len(dropped) == 1 else 'they'} held {'go' if later else 'to go'} with a prune a day from now"
        f"{' (a dry run: nothing was changed)' if dry_run else ''}",
        flush=True,
    )
    if not dry_run:
        cli.advise("persist", f"what is shared with other states is made smaller by them: persist prune {agent}")
