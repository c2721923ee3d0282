"""One look at every declared path: what it holds now, as the index knows it afterwards."""

from collections.abc import Mapping

from persist.entering import InTheWay
from persist.ground import WrongOwner
from persist.sync import declared, rows, sources
from persist.sync.sources import KeepsMoving, SourceGone, SourceUnreadable
from persist.sync.summary import Options
from persist.sync.tree import Result, Work, updated
from town.failure import DONE, Failure, Unsafe
from town.spec import Agent, Persist
from town.terminal import shown

# What keeps one declared directory from being synced, and no other.
TROUBLE = (SourceGone, SourceUnreadable, KeepsMoving, Unsafe, InTheWay, WrongOwner)


class Restart(Exception):
    """The store was opened meanwhile, and what it says does not go with what this look began with."""


class Look:
    """What was found: paths that were brought up to date, those that cannot be, those that are not there."""

    __slots__ = ("failures", "missing", "notes", "read", "results")

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.failures: list[tuple[str, Failure]] = []
        self.missing: list[str] = []
        self.notes: list[str] = []
        self.read = [0, 0]  # files, bytes

    @property
    def stopped(self) -> tuple[str, ...]:
        """The paths that cannot be synced: the newest state keeps what it has of them."""
        return tuple(path for path, _ in self.failures)

    @property
    def statuses(self) -> list[int]:
        """The exit statuses of what failed."""
        return [DONE, *(failure.status for _, failure in self.failures)]

    def took(self, work: Work) -> Work:
        """The same work, counted here."""

        def count(files: int, bytes_: int) -> None:
            self.read[0] += files
            self.read[1] += bytes_
            work.took(files, bytes_)

        return Work(work.index, work.sources, work.sink, work.person, work.readers, count)


def look(agent: Agent, work: Work, options: Options, before: Mapping[str, int]) -> Look:
    """Bring the index up to date with every declared path; `before`: the files of each in the newest state."""
    found = Look()
    work = found.took(work)
    for entry in declared.entries(agent):
        path = str(entry.path)
        work.index.db.execute("SAVEPOINT path")
        asked = work.sink.opened
        try:
            result = _result(agent, entry, work, options, before.get(path))
        except TROUBLE as failure:
            # One directory's trouble stops no other. What the index knew of it stays: next time it is looked at again.
            work.index.db.execute("ROLLBACK TO path")
            if not asked:  # what the index learned of the store meanwhile is not lost with it
                work.sink.learn()
            found.failures.append((path, failure))
        else:
            if result is None:
                found.missing.append(path)
            else:
                found.results.append(result)
                found.notes += [f"{shown(path)}/{line}" for line in result.notes]
        work.index.db.execute("RELEASE path")
    _forget(work, agent)
    return found


def _result(agent: Agent, entry: Persist, work: Work, options: Options, before: int | None) -> Result | None:
    with work.sources.source(entry) as source:
        if source is None:
            if before is None or options.accept_loss:
                if (known := rows.find_tree(work.index, str(entry.path))) is not None:
                    rows.drop_tree(work.index, known[0])
                return None
            raise sources.gone(agent)
        result = updated(work, entry, source)
    if before is not None and result.files * 2 < before and not options.accept_loss:
        raise sources.shrunk(agent, before, result.files)
    return result


def _forget(work: Work, agent: Agent) -> None:
    """Paths that are not declared any more leave the index: declared again, they are read."""
    wanted = {str(entry.path) for entry in declared.entries(agent)}
    for path, number in work.index.db.execute("SELECT path, id FROM trees").fetchall():
        if path not in wanted:
            rows.drop_tree(work.index, number)
