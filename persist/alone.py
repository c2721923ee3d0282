"""One command at a time that makes or moves what is an agent's on this machine: restore, adopt, release, chown."""

from collections.abc import Iterator
from contextlib import contextmanager

from persist.restore import origins
from town import files, locks
from town.failure import TryLater
from town.spec import Agent, Spec


class Busy(TryLater):
    """A restore, or another command of that kind, works on the same agent. Trying again may help."""


@contextmanager
def alone(spec: Spec, agent: Agent) -> Iterator[None]:
    """Hold the lock that a restore of the agent takes. Raises Busy."""
    busy = Busy(f"a restore of {agent.name}, or a command like it, is running", hint="wait for it, then try again")
    with files.opened(origins.state(spec, "locks")) as directory, locks.held(directory, f"restore-{agent.name}", busy):
        yield
