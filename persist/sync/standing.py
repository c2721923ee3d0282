"""What a sync tells the lineage: which subvolumes lie at the declared paths of the home, and what state they are.

Before the commit which they are: a subvolume that an agent put in the place of another is what is brought back from
then on, and where a plain directory took its place nothing older is. After it, the state.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath

from persist import lineage
from persist.lineage import Candidate, Known
from persist.sync import declared
from persist.sync.look import Look
from persist.sync.sources import Sources, Standing
from town import bootid
from town.failure import Failure
from town.spec import Agent, Spec


def follow(spec: Spec, agent: Agent, sources: Sources, found: Look) -> None:
    """Record what lies at each path that was looked at now. Raises OSError, Failure."""
    paths = {entry.path for entry in agent.persist if not entry.apart}
    seen = {result.path: sources.standing.get(str(result.path)) for result in found.results if result.path in paths}
    seen |= {path: None for path in paths if str(path) in found.missing}  # a loss that was accepted
    _record(spec, agent, seen)


def follow_unread(spec: Spec, agent: Agent, sources: Sources) -> None:
    """The same where the look, or the store, failed: subvolumes that lie at declared paths, whatever they hold.

    Else the next boot would bring back the one that lay there before. Where none lies, what is on record stays: nobody
    read what took its place. Where nothing is on record none lay there before. Raises OSError, Failure.
    """
    now: dict[PurePosixPath, Standing | None] = {}
    known = lineage.known(spec, agent)
    for entry in (entry for entry in declared.entries(agent) if not entry.apart and entry.path in known):
        with suppress(OSError, Failure):
            if (found := sources.lies(entry)) is not None:
                now[entry.path] = found
    _record(spec, agent, now)


def _record(spec: Spec, agent: Agent, seen: Mapping[PurePosixPath, Standing | None]) -> None:
    if not seen or _same(lineage.known(spec, agent), seen):
        return

    def followed(before: Known) -> Known:
        after = {path: found for path, found in before.items() if seen.get(path, True) is not None}
        for path, now in seen.items():
            if now is not None:
                after = dict(lineage.front(after, path, now.uuid.hex()))
                if not _is(after.get(path, ()), now):
                    after[path] = (Candidate(now.number, now.uuid.hex(), bootid.text()),)
        return after

    lineage.change(spec, agent, followed)


def stands(spec: Spec, agent: Agent, sources: Sources, found: Look, commit: str, *, asked: bool) -> None:
    """Record that what lies at each path that was read is the state `commit`. Raises OSError, Failure.

    `asked`: the store was. Else nothing had changed, and what is on record of that state is as good.
    """
    seen = {result.path: sources.standing.get(str(result.path)) for result in found.results}
    machine = commit.split("-")[2]

    def stood(before: Known) -> Known:
        after = dict(before)
        for path, now in seen.items():
            candidates = after.get(path, ())
            if now is not None and _is(candidates, now) and (asked or candidates[0].commit != commit):
                first = candidates[0]._replace(commit=commit, machine=machine, transid=now.transid, time=sources.began)
                after[path] = (first._replace(settled=asked or first.settled), *candidates[1:])
        return after

    if any(seen.values()):
        lineage.change(spec, agent, stood)


def _same(known: Known, seen: Mapping[PurePosixPath, Standing | None]) -> bool:
    """Whether that is on record already."""
    return all(_is(known.get(path, ()), now) if now is not None else path not in known for path, now in seen.items())


def _is(candidates: Iterable[Candidate], now: Standing) -> bool:
    first = next(iter(candidates), None)
    return first is not None and first.uuid == now.uuid.hex()
