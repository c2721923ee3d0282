"""`--since TIME|HOME`: from which transaction of the filesystem, and from which time, on something counts as new."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from persist import kept, shelves, transactions
from persist.kept import Kept
from persist.shelves import Shelves
from persist.transactions import Pair
from persist.walk import Entry
from town import btrfs, files, grammar, subvolumes
from town.failure import Failure, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

_SPAN = re.compile(r"[0-9][0-9a-z ]*[a-z]")
_SECOND = 10**9  # ns; the times of subvolumes are whole seconds
_STEP = 10**7  # ns: the kernel's clock for files goes in steps of one to ten milliseconds


class Since(NamedTuple):
    """What was written in transaction `transid` or before is old, and so is what changed before `time` (ns).

    `exact`: the transaction says it all; the time is for where nothing can be asked for transactions. `pairs`: what
    else is known of transactions that had ended at a time.
    """

    transid: int = 0  # 0: not known, or no matter
    time: int = 0
    exact: bool = False
    words: str = ""  # for people; empty: all of it
    pairs: tuple[Pair, ...] = ()

    def new(self, entry: Entry, *, searched: bool) -> bool:
        """Whether something that was found counts; `searched`: by transactions."""
        return (self.exact and searched) or entry.changed >= self.time


ALL = Since()


def nearer(bound: Since, home: int) -> Since:
    """The same with the latest transaction before its time, as far as an open home and notes tell. After a commit."""
    if bound.exact or not bound.time:
        return bound
    pairs = [*bound.pairs, *transactions.noted(home)]
    known = transactions.before(pairs, bound.time)
    with suppress(Failure, OSError):
        pairs += transactions.born(home, bound.time, newest=btrfs.info(home).generation, known=known)
    return bound._replace(transid=transactions.before(pairs, bound.time))


def read(town: Spec, agent: Agent, text: str, now: datetime) -> Since:
    """What `text` means for an agent: a kept home by its name, else a time, else the unique beginning of a name.

    Raises WrongUsage, kept.NoSuchHome, OSError.
    """
    with shelves.opened(town) as there:
        every = kept.every(town, *there)
        full = text if "@" in text else f"{agent.name}@{text}"
        named = [one for one in every if one.name == full]
        moment = None if named or "@" in text else parsed(text, now)
        if moment is not None:
            return _of_time(there, (town, every), _past(moment, now))
        if "@" not in text and not any(one.name.startswith(full) for one in every):
            raise WrongUsage(
                f"--since {shown(text)} is neither a time nor a kept home of {agent.name}",
                hint=f"write 2026-11-21T10:15, 2h, or a name that persist homes {agent.name} shows",
            )
        home = named[0] if named else kept.chosen(every, full)
        return _of_home(there, (town, every), home)


def _past(moment: datetime, now: datetime) -> datetime:
    if moment > now:
        raise WrongUsage(
            f"--since {_told(moment)} is still to come: it is {_told(now)}",
            hint="a time without a zone is UTC; a span is one before now: 2h",
        )
    return moment


def parsed(text: str, now: datetime) -> datetime | None:
    """A time: ISO 8601 (UTC where no zone is said, a date alone is its beginning), or a span before now: `2h`."""
    with suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    if _SPAN.fullmatch(text):
        with suppress(grammar.Wrong, OverflowError):
            return now - timedelta(seconds=grammar.seconds(text))
    return None


_Every = tuple[Spec, Sequence[Kept]]


def _of_home(there: Shelves, every: _Every, home: Kept) -> Since:
    words = f"since {home.name}" + (f" ({_told(home.time)})" if home.time is not None else "")
    with kept.opened(every[0], there.top, home, there.agents) as found:
        transid = _last(home, found.fd, there)
    if transid:
        time = 0 if home.time is None else int(home.time.timestamp()) * _SECOND
        return Since(transid, time, exact=True, words=words)
    if home.time is None:
        raise WrongUsage(f"nobody knows when {home.name} was kept", hint="give a time: --since 2026-11-21T10:15")
    return _of_time(there, every, home.time)._replace(words=words)


def _last(home: Kept, fd: int, there: Shelves) -> int:
    """The last transaction that a kept home is of; 0 where it lies in no subvolume that is as old as itself.

    What was imported is as old as what it was made from, and its transactions are those of the import.
    """
    if home.kind == "imported" or not btrfs.is_btrfs(fd) or (there.top is None and not home.subvolume):
        return 0
    with files.opened(subvolumes.root_of(fd)) as root:
        found = btrfs.info(root)
    # A home that was set aside: the last change in it; a recall raises its generation, and not that.
    return found.changed if home.kind == "aside" else found.origin_generation


def _of_time(there: Shelves, every: _Every, moment: datetime) -> Since:
    time = int(moment.timestamp() * _SECOND) - _STEP
    return Since(0, time, words=f"since {_told(moment)}", pairs=_pairs(there, *every))


def _pairs(there: Shelves, town: Spec, every: Sequence[Kept]) -> tuple[Pair, ...]:
    """Transactions that had ended at known times: kept homes were made in one."""
    found: list[Pair] = []
    for home in every:
        with suppress(Failure, OSError), kept.opened(town, there.top, home, there.agents) as opened:
            found += _made(opened.fd)
    return tuple(found)


def _made(fd: int) -> Iterator[Pair]:
    """When the subvolume that a home lies in was made. What was written later in that very transaction is not lost."""
    if btrfs.is_btrfs(fd):
        with files.opened(subvolumes.root_of(fd)) as root:
            made = btrfs.info(root)
            yield made.origin_generation - 1, int(made.made) * _SECOND


def _told(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
