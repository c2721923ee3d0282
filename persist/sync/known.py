"""What is said of each state that was read once: a commit never changes, so none is read twice to be shown.

`sync/AGENT.copies/read`: a line of JSON for each, `[name, time, host, files, bytes, parent]`. Only for showing and for
what the policy says: whoever restores a state reads its commit.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from persist.bucket import commits
from persist.bucket.commits import Commit, Name
from persist.bucket.keys import AgentKeys
from persist.store import Store, StoreDamaged
from persist.sync import local
from town.spec import Agent, Spec

_COPY = "read"
_AT_ONCE = 8
_MUCH = 4 << 20  # bytes: some 12,000 states


@dataclass(frozen=True, slots=True)
class Info:
    """One state: when and where it was made, what it holds, what it follows."""

    time: datetime
    host: str
    files: int
    bytes: int
    parent: str | None

    @classmethod
    def of(cls, commit: Commit) -> "Info":
        """What a commit says."""
        return cls(commit.time, commit.host, commit.files, commit.bytes, commit.parent)


def infos(spec: Spec, agent: Agent) -> dict[str, Info]:
    """What this machine read before, by name."""
    found: dict[str, Info] = {}
    for line in (local.copy(spec, agent, _COPY) or b"").splitlines():
        with suppress(ValueError, TypeError, RecursionError):  # cut off by a crash
            name, time, host, files, size, parent = json.loads(line)
            when = datetime.fromisoformat(time).astimezone(UTC)
            found[str(name)] = Info(when, str(host), int(files), int(size), None if parent is None else str(parent))
    return found


def note(spec: Spec, agent: Agent, name: Name, commit: Commit, listed: Collection[Name]) -> None:
    """Remember what a new commit says. Once much is remembered, what is no more `listed` is left out."""
    if local.add_to_copy(spec, agent, _COPY, b"\n" + _line(str(name), Info.of(commit))) > _MUCH:
        stay = {str(name), *map(str, listed)}
        every = ((text, info) for text, info in infos(spec, agent).items() if text in stay)
        local.keep_copy(spec, agent, _COPY, b"".join(_lines(every)))


def read(
    spec: Spec, agent: Agent, store: Store, states: Collection[tuple[AgentKeys, Name]], *, most: int
) -> tuple[dict[str, Info], dict[str, StoreDamaged]]:
    """What is said of some states, and those that are damaged; at most `most` are read now, the newest first."""
    found = infos(spec, agent)
    names = {str(name) for _, name in states}
    known = {name: info for name, info in found.items() if name in names}
    missing = sorted((one for one in states if str(one[1]) not in known), key=lambda one: one[1], reverse=True)
    damaged: dict[str, StoreDamaged] = {}
    fresh: dict[str, Info] = {}
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for (_, name), got in zip(
            missing[:most], threads.map(lambda one: _read(store, *one), missing[:most]), strict=True
        ):
            if isinstance(got, StoreDamaged):
                damaged[str(name)] = got
            else:
                fresh[str(name)] = got
    _write(spec, agent, known | fresh, fresh, gone=len(found) - len(known))
    return known | fresh, damaged


def _read(store: Store, keys: AgentKeys, name: Name) -> Info | StoreDamaged:
    try:
        return Info.of(commits.read(store, keys, name))
    except StoreDamaged as error:
        return error


def _write(spec: Spec, agent: Agent, every: Mapping[str, Info], fresh: Mapping[str, Info], *, gone: int) -> None:
    """Add what is new; write the file anew once more than half of it is of states that are gone."""
    if gone > len(every):
        local.keep_copy(spec, agent, _COPY, b"".join(_lines(every.items())))
    elif fresh:
        local.add_to_copy(spec, agent, _COPY, b"\n" + b"".join(_lines(fresh.items())))


def _lines(some: Iterable[tuple[str, Info]]) -> Iterable[bytes]:
    return (_line(name, info) for name, info in some)


def _line(name: str, info: Info) -> bytes:
    fields = [name, info.time.isoformat(), info.host, info.files, info.bytes, info.parent]
    return json.dumps(fields).encode() + b"\n"
