"""What can go wrong, named for what happened. Raised where it breaks, printed only by `town.cli`.

Exit statuses follow sysexits(3) where systemd acts on them: 75 means that a later try may succeed,
78 that the configuration must be changed first.
"""

from collections.abc import Iterable
from typing import NamedTuple

DONE, FAILED, USAGE, ATTENTION, BROKEN, TRY_LATER, BAD_CONFIG = 0, 1, 2, 3, 4, 75, 78


class Failure(Exception):
    """Something that the user can act on: one sentence that says what is wrong, one that says the cure."""

    status = FAILED

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class WrongUsage(Failure):
    """The command line asks for something that does not exist or does not fit together."""

    status = USAGE


class TryLater(Failure):
    """Nothing is wrong here: what is needed is not there yet. Trying again may help."""

    status = TRY_LATER


class ToolMissing(Failure):
    """A program that this step needs is not installed."""


class ToolFailed(Failure):
    """A program that this step needs ran and failed; its own words are in the message."""


class Unsafe(Failure):
    """Going on would follow a path, or trust a file, that an agent can change."""


# A failure that a later try may cure is better than one that a person must cure, and that than a wrong spec.
_WORST_LAST = (DONE, TRY_LATER, FAILED, BAD_CONFIG)


def worst(statuses: Iterable[int]) -> int:
    """The status of a command that did the same for several agents: the one that says most; 0 for none."""
    return max(statuses, key=_WORST_LAST.index, default=DONE)


def status_of(error: Exception) -> int:
    """What one agent's failure adds to `worst`: its own status where that is one of an action, else 1."""
    status = error.status if isinstance(error, Failure) else FAILED
    return status if status in _WORST_LAST else FAILED


class Problem(NamedTuple):
    """One thing that is wrong in a spec: where (`agents.ada.uid`, `line 3`), what, and the cure."""

    where: str
    what: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class BadSpec(Failure):
    """The spec cannot be used as it is. Carries every problem that was found, not only the first."""

    status = BAD_CONFIG

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        assert problems
        super().__init__(f"{file}: {problems[0]}", hint=problems[0].cure)
        self.file = file
        self.problems = problems
