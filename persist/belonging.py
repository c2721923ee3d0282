"""Which subvolumes are, or were, an agent's: `STATE/counted/AGENT.json`, root's, 0600, for each btrfs their numbers.

The kernel lets any user make a subvolume that joins any group of quotas. So a group says only what counts now; whose
it is, is told by where it hangs, by its owner, and, once it is deleted, by this record alone.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from town import files, quotas, subvolumes
from town.btrfs import TOP_LEVEL
from town.failure import Failure
from town.spec import Agent, Spec

_DIRECTORY, _VERSION, _LIMIT = "counted", 1, 64 << 20
Known = Mapping[str, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Members:
    """A group as it is, `there`, and what of the filesystem belongs to its agent.

    `wanted` is to count; `back` was the agent's and is deleted, and something holds what it wrote; `aside` is a member
    that was the agent's and stands elsewhere now; `foreign` one that never was; `own` is all that is, or was, its own.
    """

    there: frozenset[int]
    wanted: frozenset[int]
    back: frozenset[int]
    aside: frozenset[int]
    foreign: frozenset[int]
    own: frozenset[int]


def look(fd: int, agent: Agent, wanted: frozenset[int], known: frozenset[int] | None) -> Members:
    """The group of an agent. `known`: what the record says of this filesystem; None: nothing. Raises OSError."""
    there, whose = quotas.members(fd, quotas.group(agent.uid)), _Owners(fd)
    beside = {number: subvolumes.place(fd, number) is not None for number in there - wanted}
    own = wanted | (known or frozenset())
    # Where nothing was ever recorded, nobody can say of a deleted one whose it was.
    own |= {number for number, stands in beside.items() if (whose.of(number) == agent.uid if stands else known is None)}
    gone = {number for number in own - wanted if subvolumes.place(fd, number) is None}
    back = frozenset(number for number in gone if _holds(fd, number))
    aside = frozenset(number for number, stands in beside.items() if stands and number in own)
    return Members(there, wanted, back, aside, frozenset(beside) - own, own - (gone - back))


def _holds(fd: int, number: int) -> bool:
    """Whether something holds what a deleted subvolume wrote: then the kernel still counts it."""
    use = quotas.use(fd, number)
    return use is not None and use.used > 0


class _Owners:
    """Whose subvolumes are: the owner of the outermost one that is not root's; 0 where all on the way are."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._known = {TOP_LEVEL: 0}

    def of(self, number: int) -> int:
        """The uid. Raises OSError."""
        way = list[int]()
        while number not in self._known:
            way.append(number)
            hangs = subvolumes.place(self._fd, number)
            number = TOP_LEVEL if hangs is None else hangs.parent
        found = self._known[number]
        for below in reversed(way):
            found = self._known[below] = found or subvolumes.owner(self._fd, below)
        return found


def known(spec: Spec, agent: Agent) -> Known:
    """What is on record, by the filesystem; nothing where it cannot be read. Raises nothing."""
    with suppress(Failure, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        tree = json.loads(files.read_bounded(spec.state_dir / _DIRECTORY / f"{agent.name}.json", _LIMIT))
        if tree["version"] == _VERSION:
            return dict(_parsed(tree["subvolumes"]))
    return {}


def _parsed(tree: Any) -> Iterator[tuple[str, frozenset[int]]]:
    for disk, numbers in tree.items():
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a number that no subvolume has")
        yield disk, frozenset(numbers)


def keep(spec: Spec, agent: Agent, found: Known) -> None:
    """Record what was found on some filesystems, durably, where it differs. Raises OSError, Failure."""
    from persist.restore import origins

    if all(known(spec, agent).get(disk) == numbers for disk, numbers in found.items()):
        return
    with files.opened(origins.state(spec, _DIRECTORY)) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)
        tree = {disk: sorted(numbers) for disk, numbers in {**known(spec, agent), **found}.items()}
        text = json.dumps({"version": _VERSION, "subvolumes": tree})
        files.write_beneath(directory, f"{agent.name}.json", text.encode() + b"\n", mode=0o600, owner=(0, 0))
