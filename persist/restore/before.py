"""Where nothing rolls homes back: a declared directory in the homes that restores set aside, for its live copies.

`agents_dir/.old` is root's, 0700, so its names are root's own; below a home nothing is followed. With [town.btrfs] the
directory itself is brought over (`persist.restore.carry`).
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from persist import entering, outgoing
from persist.ground import Ground
from town import files
from town.failure import Failure
from town.spec import Agent, Persist, Spec


@contextmanager
def directory(spec: Spec, agent: Agent, entry: Persist, here: Ground) -> Iterator[int | None]:
    """`entry`, open, in the newest home set aside that has it; None where none has. Only of what lies in homes."""
    with ExitStack() as stack:
        if entry.apart or spec.town.btrfs is not None:
            yield None
            return
        old = stack.enter_context(outgoing.opened(spec, here.agents))
        yield None if old is None else next(_found(stack, old, agent, entry), None)


def _found(stack: ExitStack, old: int, agent: Agent, entry: Persist) -> Iterator[int]:
    for boot in reversed(outgoing.entries(old)):
        with suppress(OSError, Failure), files.opened(files.enter(old, boot.name)) as above:
            for name in _homes(above, agent.name):
                home = stack.enter_context(files.opened(files.enter(above, name)))
                fd = stack.enter_context(entering.down(home, entry.path, Path(name)))
                if fd is not None and os.fstat(home).st_uid == agent.uid:
                    yield fd


def _homes(above: int, agent: str) -> list[str]:
    """The agent's homes of one boot, the last that was set aside first: AGENT.2, AGENT.1, AGENT."""
    numbers: dict[str, int] = {}
    for name in map(os.fsdecode, files.names(above)):
        called, _, number = name.partition(".")
        if called == agent and (not number or number.isdecimal()):
            numbers[name] = int(number or 0)
    return sorted(numbers, key=lambda name: numbers[name], reverse=True)
