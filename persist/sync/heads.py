"""Which of an agent's commits is the head. The rule is pure; `docs/formats/store.md` states it.

The highest generation is. Of several of it, a fork: the one that was seen here as the head stays; else the one that
goes on from the head that was seen here; else the one whose machine is that of its parent, which held the lease that
the parent names; else the one whose machine holds the lease now; else the one whose name sorts last. The next commit of
who holds the lease is of a higher generation than all that is listed, so every machine comes to the same head.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from persist.bucket.commits import Name

_MOST = 1000  # forks that are told apart: a store may list what it likes


def head(
    names: Sequence[Name], seen: Collection[str], parent: Callable[[Name], str | None], holder: str = ""
) -> Name | None:
    """The head of `names`; `seen`: heads of before; `parent` is called only where several may be it.

    `holder`: the machine whose lease counts.
    """
    last = max((name.generation for name in names), default=0)
    tied = sorted(name for name in names if name.generation == last)
    if len(tied) < 2:
        return tied[0] if tied else None
    if known := [name for name in tied if str(name) in seen]:
        return known[-1]
    parents = {name: parent(name) for name in tied}
    following = [name for name in tied if parents[name] in seen]
    going_on = [name for name in following or tied if _same_machine(name, parents[name])]
    holding = [name for name in following or tied if name.machine == holder]
    return (going_on or holding or following or tied)[-1]


def _same_machine(name: Name, parent: str | None) -> bool:
    return parent is not None and Name.parsed(parent).machine == name.machine


def beside(names: Sequence[Name], head: Name, parent: str | None) -> tuple[Name, ...]:
    """Commits beside the head, beside what it follows, or beside each other: forks, as far as names tell them."""
    above = Name.parsed(parent).generation if parent is not None else 0
    often = Counter(name.generation for name in names)
    return tuple(
        name
        for name in sorted(names)
        if (name.generation > above or often[name.generation] > 1) and name != head and str(name) != parent
    )[-_MOST:]
