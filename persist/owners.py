"""Whose a file is: the agents' uids, and the ranges of uids that /etc/subuid gives them (subuid(5)).

A range that holds the uid of an account, or overlaps a range of somebody else, says nothing: what is not plainly an
agent's is nobody's here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from town import accounts, files
from town.spec import Agent

SUBUID = Path("/etc/subuid")
_LIMIT = 4 << 20
_LEAST = 65536  # below lie accounts of the system and of people, also such as nobody lists


class Range(NamedTuple):
    """Uids from `first` on, `many` of them, for the account of that name or uid."""

    whose: str
    first: int
    many: int

    def overlaps(self, other: "Range") -> bool:
        return self.first < other.first + other.many and other.first < self.first + self.many


class Owners:
    """The agents that are looked for."""

    def __init__(self, agents: Sequence[Agent], ranges: Sequence[Range] | None = None) -> None:
        self._uids = {agent.uid: agent for agent in agents}
        every = list(_ranges()) if ranges is None else list(ranges)
        self._ranges = [(found, agent) for found, agent in _plain(every, agents)]
        self.names = {agent.name.encode(): agent for agent in agents}

    def of(self, uid: int) -> Agent | None:
        """The agent whose that uid is; None for everybody else."""
        agent = self._uids.get(uid)
        if agent is None and self._ranges and uid >= _LEAST:
            return next((whose for found, whose in self._ranges if 0 <= uid - found.first < found.many), None)
        return agent


def _plain(every: list[Range], agents: Sequence[Agent]) -> Iterator[tuple[Range, Agent]]:
    known = [account.uid for account in accounts.everybody()]
    for agent in agents:
        names = (agent.name, str(agent.uid))
        for found in (found for found in every if found.whose in names and found.first >= _LEAST):
            others = (other for other in every if other.whose not in names)
            taken = any(0 <= uid - found.first < found.many for uid in known)
            if not taken and not any(found.overlaps(other) for other in others):
                yield found, agent


def _ranges() -> Iterator[Range]:
    try:
        text = files.read_bounded(SUBUID, _LIMIT).decode("utf-8", "surrogateescape")
    except files.Unreadable:
        return
    for line in text.splitlines():
        whose, *numbers = line.split(":")
        if len(numbers) == 2 and all(number.isascii() and number.isdigit() and len(number) < 11 for number in numbers):
            yield Range(whose, int(numbers[0]), int(numbers[1]))
