"""One installation of an agent at a time: the lock lies where only root comes, and goes with the process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from identity.places import LOCKS
from town import files, locks
from town.failure import TryLater
from town.spec import Agent

_ROOT = (0, 0)


@contextmanager
def alone(agent: Agent) -> Iterator[None]:
    """While it lasts nobody else installs this agent. Raises TryLater at once when somebody does; never waits."""
    busy = TryLater("another identity install of this agent is running", hint="wait until it has ended, then try again")
    with files.opened(_directory()) as directory, locks.held(directory, f"identity-{agent.name}", busy):
        yield


def _directory() -> int:
    *above, run, town, locks = LOCKS.parts
    with files.opened(files.open_dir(PurePosixPath(*above, run))) as top:
        # Agents get through /run/nuketown to their secrets, and not into the locks.
        path = PurePosixPath(town, locks)
        fd = files.make_dirs(top, path, mode=0o700, owner=_ROOT, parents=(0o755, _ROOT))
    os.fchown(fd, *_ROOT)
    os.fchmod(fd, 0o700)
    return fd
