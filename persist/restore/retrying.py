"""A restore that is tried again while time may cure what failed: the store is away, another machine holds the lease.

The process itself waits. A unit that fails and is started again by systemd has failed what depends on it by then
(systemd 252: a oneshot with Restart= fails its dependents at the first failure).
"""

import random
import time
from collections.abc import Callable, Sequence

from town.failure import TryLater, worst
from town.spec import Agent
from town.terminal import say

FIRST, LONGEST = 5.0, 300.0  # seconds


def retried(agents: Sequence[Agent], one: Callable[[Agent], int], pause: Callable[[float], None] = time.sleep) -> int:
    """The worst status of all agents, each tried until it is another than TryLater's.

    Pauses double from FIRST to LONGEST, each a quarter more or less, so that many agents do not ask together.
    """
    left, statuses, length = list(agents), list[int](), FIRST
    while True:
        found = {agent.name: one(agent) for agent in left}
        statuses += [status for status in found.values() if status != TryLater.status]
        left = [agent for agent in left if found[agent.name] == TryLater.status]
        if not left:
            return worst(statuses)
        wait = length * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        say(f"persist: note: {', '.join(agent.name for agent in left)}: tried again in {wait:.0f} s")
        pause(wait)
        length = min(2 * length, LONGEST)
