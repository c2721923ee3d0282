"""`persist adopt`: declared data that already lies in a home is moved to where it is kept, and bound in its place.

For the first use on a machine, or of a path that was declared later. Look and decide (`plan`), do (`apply`); a second
run, also after one that was killed, finds what is left to do.
"""

import argparse

from persist import ground
from persist.adopt import apply, plan
from persist.adopt.facts import CannotMove
from persist.alone import alone
from persist.ground import Ground
from persist.restore import origins
from persist.restore.site import Site
from town import cli, machine, spec, trust
from town.failure import DONE, Failure, status_of, worst
from town.spec import Agent, Persist, Spec
from town.terminal import say, shown


def command(arguments: argparse.Namespace) -> int:
    """Adopt what lies in the homes of the agents that were named. The worst status of any of them."""
    town = spec.load(cli.spec_file(arguments))
    ground.require_root("adopt", "it moves what belongs to agents")
    trust.refuse(town)
    with ground.opened(town) as here:
        agents = town.chosen(arguments.agents)
        return worst([_one(town, agent, here, dry_run=arguments.dry_run) for agent in agents])


def _one(town: Spec, agent: Agent, here: Ground, *, dry_run: bool) -> int:
    try:
        machine.refuse_conflicts(town, (agent,))
        if dry_run:
            return _foretold(agent, plan.look(town, agent, here))
        with alone(town, agent):
            return _adopted(town, agent, here)
    except Exception as error:  # what one agent's home brings about stops no other agent
        return _failed(agent, error)


def _foretold(agent: Agent, planned: plan.Plan) -> int:
    for action in planned.actions:
        print(f"{agent.name}: {action}", flush=True)
        if isinstance(action, plan.Move):
            for note in action.totals.notes():
                print(f"{agent.name}: {action.entry.path}: {note}", flush=True)
    return _ended(agent, planned, [])


def _adopted(town: Spec, agent: Agent, here: Ground) -> int:
    site, planned = Site(town, agent, here), plan.look(town, agent, here)
    failures: list[tuple[Persist | None, Exception]] = []
    for action in planned.actions:
        entry: Persist | None = getattr(action, "entry", None)
        try:
            added = apply.apply(site, action)
        except Failure as failure:
            failures.append((entry, failure))
            if entry is None:
                break
        else:
            print("\n".join(f"{agent.name}: {line}" for line in [str(action), *added]), flush=True)
    origins.record(town, agent, site.origins, forget=site.forgotten)
    return _ended(agent, planned, failures)


def _ended(agent: Agent, planned: plan.Plan, failures: list[tuple[Persist | None, Exception]]) -> int:
    """Say what was not moved, and why."""
    if not planned.actions and not planned.failures:
        print(f"{agent.name}: nothing to adopt", flush=True)
    for entry, words in planned.words:
        say(f"persist: {agent.name}: {shown(str(entry.path))}: {words}")
    every = [*planned.failures, *failures]
    return worst([DONE, *(_failed(agent, error, entry) for entry, error in every)])


def _failed(agent: Agent, error: Exception, entry: Persist | None = None) -> int:
    failure = error if isinstance(error, Failure) else CannotMove(cli.unexpected(error))
    about = agent.name if entry is None else f"{agent.name}: {shown(str(entry.path))}"
    cli.tell("persist", failure, about=about)
    return status_of(failure)
