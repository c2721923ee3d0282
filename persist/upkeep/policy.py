"""Which states of an agent's history stay: `town.sync.keep`, as a pure function of what is there.

Hours, days, weeks (ISO 8601), months and years are those of UTC, by the time that a state itself says: it is
authenticated, and survives a copy of the store. Of each period the newest state stays. "Newest" goes by generation, so
a machine whose clock was wrong changes which period a state counts for, and never which state is newer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from persist.bucket.commits import Name
from town.spec import KeepSnapshots

BRANCH_DAYS = 90  # that the newest state of a branch stays, by the store's own clock: nothing else holds it
_DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Past:
    """One state as the policy sees it; `modified` is in seconds since the epoch, by the store's own clock."""

    name: Name
    time: datetime
    parent: str | None
    modified: float = 0.0

    @property
    def above(self) -> int:
        """The generation that it goes on from; 0 for the first state."""
        return Name.parsed(self.parent).generation if self.parent else 0


_PERIODS: tuple[tuple[str, Callable[[datetime], str]], ...] = (
    ("hourly", lambda time: time.strftime("%Y-%m-%dT%H")),
    ("daily", lambda time: time.strftime("%Y-%m-%d")),
    ("weekly", lambda time: time.strftime("%G-W%V")),
    ("monthly", lambda time: time.strftime("%Y-%m")),
    ("yearly", lambda time: time.strftime("%Y")),
)


def keep(past: Sequence[Past], head: Name, policy: KeepSnapshots, now: float) -> dict[Name, tuple[str, ...]]:
    """The states that stay, each with its reasons; the head always does. `now`: seconds, by the store's own clock."""
    ours = line(past, head)
    found: dict[Name, list[str]] = {one.name: ["head"] for one in past if one.name == head}
    for name, reason in (*_periods(ours, policy), *_beside(past, ours, head, now)):
        found.setdefault(name, []).append(reason)
    return {name: tuple(reasons) for name, reasons in found.items()}


def _periods(ours: Sequence[Past], policy: KeepSnapshots) -> Iterator[tuple[Name, str]]:
    yield from ((one.name, "last") for one in ours[: policy.last])
    for rule, period in _PERIODS:
        left, seen = getattr(policy, rule), set[str]()
        for one in ours:
            if len(seen) >= left:
                break
            if (at := period(one.time.astimezone(UTC))) not in seen:
                seen.add(at)
                yield one.name, f"{rule} {at}"


def line(past: Iterable[Past], head: Name) -> list[Past]:
    """The states that the head stands on, the newest first; all others are branches, or lost a fork.

    Where a parent is gone, pruned, the line goes on with the newest commit of a generation before it. `keep` keeps what
    tells a branch from the line for as long as it keeps the branch.
    """
    by = {str(one.name): one for one in past}
    left = sorted((one for one in by.values() if one.name.kind == "commit"), key=lambda one: one.name)
    found: list[Past] = []
    at = by.get(str(head))
    while at is not None:
        found.append(at)
        above = min(at.above, at.name.generation - 1)
        parent = by.get(at.parent or "")
        if parent is None or parent.name.generation != above:
            while left and left[-1].name.generation >= above:
                left.pop()
            parent = left[-1] if left else None
        at = parent
    return found


def _beside(past: Iterable[Past], ours: Sequence[Past], head: Name, now: float) -> Iterator[tuple[Name, str]]:
    """The newest state of each branch while it is young, and the state of the line that tells it from the line.

    One of the head's own generation stays as long as that: the machine that wrote it may have seen it as the head.
    """
    inside = {one.name for one in ours}
    side = [one for one in past if one.name not in inside]
    yield from ((one.name, "beside the head") for one in side if _rivals(one.name, head))
    for tip in _tips(side):
        if now - tip.modified < BRANCH_DAYS * _DAY:
            yield tip.name, f"branch, for {BRANCH_DAYS} days"
            # It goes on from no later than that, so whoever comes down the line passes the branch by.
            tells = (one for one in ours if one.above <= tip.name.generation < one.name.generation)
            yield from ((one.name, f"beside the branch {tip.name.short}") for one in tells if tip.name.kind == "commit")


def _rivals(name: Name, head: Name) -> bool:
    return name.kind == "commit" and name.generation >= head.generation


def _tips(side: Iterable[Past]) -> list[Past]:
    """What no other names as its parent; of several by one machine on one parent the newest."""
    parents = {one.parent for one in side}
    newest: dict[tuple[str, str | None], Past] = {}
    for one in sorted(side, key=lambda one: (one.modified, one.name)):
        if str(one.name) not in parents:
            newest[one.name.machine, one.parent] = one
    return list(newest.values())
