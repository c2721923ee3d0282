"""`persist prune`: states that `town.sync.keep` does not keep go at once; packs a day after a tomb has named them.

Any machine may prune, with the lease or without, while others sync; it may be killed anywhere and run again.
"""

import argparse
from collections.abc import Mapping, Sequence

from persist import ground
from persist.bucket.commits import Name
from persist.bucket.opening import Bucket, open_bucket
from persist.store import ObjectMissing
from persist.sync import history
from persist.upkeep import policy
from persist.upkeep.policy import Past
from persist.upkeep.pruning import Keep, Pruned, pruned
from town import cli, trust
from town import spec as specs
from town.failure import DONE, Failure, status_of, worst
from town.spec import Agent, Spec


class PruneFailed(Failure):
    """Something unexpected ended the prune of one agent; running it again goes on from there."""


def command(arguments: argparse.Namespace) -> int:
    """Prune the agents that were named, or all. The worst status of any."""
    rate = cli.rate(arguments.limit_rate)
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.chosen(arguments.agents)
    ground.require_root("prune", "it needs the key of the store")
    trust.refuse(spec)
    bucket = open_bucket(spec, remember=not arguments.dry_run).at_rate(rate)
    made, statuses = list[Pruned](), [DONE]
    for agent in agents:
        try:
            made.append(prune(spec, agent, bucket, dry_run=arguments.dry_run))
        except Exception as error:  # what one agent's store holds stops no other agent
            failure = error if isinstance(error, Failure) else PruneFailed(cli.unexpected(error))
            cli.tell("persist", failure, about=agent.name)
            statuses.append(status_of(failure))
        else:
            if not arguments.json:
                _print(made[-1])
    if arguments.json:
        cli.put_json([one.record for one in made])
    return worst(statuses)


def _print(one: Pruned) -> None:
    if one.dry_run:
        for action in one.actions:
            print(f"{one.agent}: {action}")
    print(one, flush=True)


def prune(spec: Spec, agent: Agent, bucket: Bucket, *, dry_run: bool = False, keep: Keep | None = None) -> Pruned:
    """Prune one agent. Raises StoreDamaged (then nothing is removed), StoreOlder, StoreFull, StoreUnreachable …"""

    def by_policy(past: Sequence[Past], head: Name, now: float) -> Mapping[Name, tuple[str, ...]]:
        return policy.keep(past, head, spec.town.sync.keep, now)

    head = history.ask(spec, agent, bucket, remember=not dry_run).head
    if head is None:
        return Pruned(agent.name, dry_run)
    try:
        return pruned(bucket, agent.name, head.name, keep or by_policy, dry_run=dry_run)
    except ObjectMissing:  # another prune was faster
        return pruned(bucket, agent.name, head.name, keep or by_policy, dry_run=dry_run)
