"""`--since TIME|HOME`: from which transaction of the filesystem, and from which time, on something counts as new."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from persist import kept, lineage, shelves
from persist.kept import Kept
from persist.shelves import Shelves
from persist.walk import Entry
from town import btrfs, files, grammar, subvolumes
from town.failure import Failure, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

_SPAN = re.compile(r"[0-9][0-9a-z ]*[a-z]")
_SECOND = 10**9  # ns; the times of subvolumes are whole seconds


class Since(NamedTuple):
    """What was written in transaction `transid` or before is old, and so is what changed before `time` (ns).

    `exact`: the transaction says it all; the time is for where nothing can be asked for transactions.
    """

    transid: int = 0  # 0: not known, or no matter
    time: int = 0
    exact: bool = False
    words: str = ""  # for people; empty: all of it

    def new(self, entry: Entry, *, searched: bool) -> bool:
        """Whether something that was found counts; `searched`: by transactions."""
        return (self.exact and searched) or entry.changed >= self.time


ALL = Since()


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
            return _of_time(town, agent, there, every, moment)
        if "@" not in text and not any(one.name.startswith(full) for one in every):
            raise WrongUsage(
                f"--since {shown(text)} is neither a time nor a kept home of {agent.name}",
                hint=f"write 2026-11-21T10:15, 2h, or a name that persist homes {agent.name} shows",
            )
        home = named[0] if named else kept.chosen(every, full)
        return _of_home(town, there, home)


def parsed(text: str, now: datetime) -> datetime | None:
    """A time: ISO 8601 (UTC where no zone is said, a date alone is its beginning), or a span before now: `2h`."""
    with suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    if _SPAN.fullmatch(text):
        with suppress(grammar.Wrong, OverflowError):
            return now - timedelta(seconds=grammar.seconds(text))
    return None


def _of_home(town: Spec, there: Shelves, home: Kept) -> Since:
    words = f"since {home.name}" + (f" ({_told(home.time)})" if home.time is not None else "")
    time = 0 if home.time is None else int(home.time.timestamp()) * _SECOND
    with kept.opened(town, there.top, home, there.agents) as found:
        transid = _last(home, found.fd, there)
    if not transid and not time:
        raise WrongUsage(f"nobody knows when {home.name} was kept", hint="give a time: --since 2026-11-21T10:15")
    return Since(transid, time, exact=transid > 0, words=words)


def _last(home: Kept, fd: int, there: Shelves) -> int:
    """The last transaction that a kept home is of; 0 where it lies in no subvolume that is as old as itself."""
    if not btrfs.is_btrfs(fd) or (there.top is None and not home.subvolume):
        return 0
    with files.opened(subvolumes.root_of(fd)) as root:
        found = btrfs.info(root)
    # A home that was set aside: the last change in it; a recall raises its generation, and not that.
    return found.changed if home.kind == "aside" else found.origin_generation


def _of_time(town: Spec, agent: Agent, there: Shelves, every: Sequence[Kept], moment: datetime) -> Since:
    time = int(moment.timestamp() * _SECOND)
    return Since(before(_pairs(town, agent, there, every), time), time, words=f"since {_told(moment)}")


def before(pairs: Sequence[tuple[int, int]], time: int) -> int:
    """The latest transaction that is known to have ended before a time; 0 where none is.

    In the order of transactions, which only ever rise: a clock that ran behind once is no proof of anything after it.
    """
    last = 0
    for transid, at in sorted(pairs):
        if at > time - _SECOND:
            break
        last = transid
    return last


def _pairs(town: Spec, agent: Agent, there: Shelves, every: Sequence[Kept]) -> list[tuple[int, int]]:
    """Transactions that had ended at known times: kept homes were made in one, a sync notes one."""
    found = [
        (one.transid, one.time) for candidates in lineage.known(town, agent).values() for one in candidates if one.time
    ]
    for home in every:
        with suppress(Failure, OSError), kept.opened(town, there.top, home, there.agents) as opened:
            found += _made(opened.fd)
    return found


def _made(fd: int) -> Iterator[tuple[int, int]]:
    """When the subvolume that a home lies in was made. What was written later in that very transaction is not lost."""
    if btrfs.is_btrfs(fd):
        with files.opened(subvolumes.root_of(fd)) as root:
            made = btrfs.info(root)
            yield made.origin_generation - 1, int(made.made) * _SECOND


def _told(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
