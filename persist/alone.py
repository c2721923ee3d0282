"""One command at a time that makes or moves what is an agent's on this machine: restore, snapshot, reset, release, …"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from persist import running
from persist.restore import origins
from town import files, locks
from town.failure import Failure, TryLater
from town.spec import Agent, Spec


class Busy(TryLater):
    """A restore, or another command of that kind, works on the same agent. Trying again may help."""


@contextmanager
def alone(spec: Spec, agent: Agent) -> Iterator[None]:
    """Hold the lock that a restore of the agent takes. Raises Busy, which names who has it."""
    flags = os.O_RDWR | os.O_CREAT
    with (
        files.opened(origins.state(spec, "locks")) as directory,
        files.opened(files.open_beneath(directory, f"restore-{agent.name}", flags, 0o600)) as lock,
    ):
        who = running.holding_lock(lock)
        what = f"a restore of {agent.name}, or a command like it, is at work on {agent.name}{who}"
        locks.take(lock, Busy(what, hint="wait for it, then try again"))
        yield


def holder(spec: Spec, agent: Agent) -> str:
    """Who holds that lock, as the end of a sentence; empty where nobody does, or nobody can say. Takes nothing."""
    with suppress(OSError, Failure):
        path = spec.state_dir / "locks" / f"restore-{agent.name}"
        with files.opened(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)) as lock:
            return running.holding_lock(lock)
    return ""
