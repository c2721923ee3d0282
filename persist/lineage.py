"""Which subvolumes hold the declared directories that lie in homes: STATE/lineage/AGENT.json, root's, 0600.

    {"version": 1, "paths": {"scratch/results": [{"subvolume": 312, "uuid": "…", "boot": "…", "commit": "commit-…",
                                                  "machine": "…", "transid": 8123, "time": 1795000000000000000,
                                                  "settled": true}]}}

Newest first, three at most. Each is on record before anybody sees it under its path, so the one that lay there when
the power went is always among them. They are found by number and told by UUID, never by a name.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from town import files
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

VERSION = 1
_MOST = 3  # of one path
_LIMIT = 1 << 20  # bytes
_FIRST = 256  # BTRFS_FIRST_FREE_OBJECTID
_FORMS = {
    "uuid": re.compile("[0-9a-f]{32}"),
    "boot": re.compile("[0-9a-f-]{1,64}"),
    "commit": re.compile("(?:[0-9a-z-]{1,200})?"),
    "machine": re.compile("(?:[0-9a-f]{32})?"),
}


class BadLineage(Failure):
    """The record cannot be read: nobody knows which subvolumes of earlier boots hold what."""


class Candidate(NamedTuple):
    """A subvolume that lay, or was about to lie, at a declared path.

    `uuid` in hex; `boot`: the id of the boot that made it. `commit`: the state of the store that it goes on from
    (empty: of none), `machine` wrote that; what was written in it since has a transaction above `transid`, which was
    the last at `time` (ns since the epoch). `settled`: the store was asked since whether it has a newer one.
    """

    subvolume: int
    uuid: str
    boot: str
    commit: str = ""
    machine: str = ""
    transid: int = 0
    time: int = 0
    settled: bool = True


Known = Mapping[PurePosixPath, tuple[Candidate, ...]]


def read(spec: Spec, agent: Agent) -> Known:
    """What is on record of the agent; nothing where there is none. Raises BadLineage."""
    path = spec.state_dir / "lineage" / f"{agent.name}.json"
    if not os.path.lexists(path):
        return {}
    try:
        return _parsed(json.loads(files.read_bounded(path, _LIMIT)))
    except (Failure, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadLineage(
            f"{shown(str(path))} is damaged, so directories that lie in homes set aside are not found",
            hint=f"they come from the store, as they were synced last; what was written since is in the home set aside "
            f"(persist homes, persist recall). To begin anew: rm {shell_word(str(path))}",
        ) from error


def known(spec: Spec, agent: Agent) -> Known:
    """The same; what cannot be read is not known."""
    try:
        return read(spec, agent)
    except BadLineage:
        return {}


def usable(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Those whose data may be brought back, newest first.

    An older one only where it goes on from the same state as the newest: else it lacks what was synced since.
    """
    return tuple(found for found in candidates if found.commit == candidates[0].commit)


def begin(spec: Spec, agent: Agent, path: PurePosixPath, new: Candidate) -> None:
    """Record a subvolume that is about to be shown at a path, durably. Raises OSError, Failure."""

    def first(before: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        return (new, *(found for found in before if found.uuid != new.uuid))[:_MOST]

    change(spec, agent, lambda before: {**before, path: first(before.get(path, ()))})


def front(known: Known, path: PurePosixPath, uuid: str) -> Known:
    """The record where that one lies at the path: those before it were never shown, or are not there any more."""
    found = known.get(path, ())
    at = next((number for number, one in enumerate(found) if one.uuid == uuid), 0)
    return {**known, path: found[at:]} if at else known


def drop(spec: Spec, agent: Agent, uuid: str) -> None:
    """Forget a subvolume that was not shown and is about to be removed. Raises OSError, Failure."""

    def without(before: Known) -> Known:
        left = {path: tuple(one for one in found if one.uuid != uuid) for path, found in before.items()}
        return {path: found for path, found in left.items() if found}

    change(spec, agent, without)


def change(spec: Spec, agent: Agent, to: Callable[[Known], Known]) -> None:
    """Replace the record by what `to` makes of it, durably; one process at a time. Raises OSError, Failure.

    A record that cannot be read counts as empty: it was told by who reads it.
    """
    from persist.restore import origins

    with files.opened(origins.state(spec, "lineage")) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)
        before = known(spec, agent)
        after = to(before)
        if after != before:
            text = json.dumps({"version": VERSION, "paths": dict(_written(after))}, indent=1)
            files.write_beneath(directory, f"{agent.name}.json", text.encode() + b"\n", mode=0o600, owner=(0, 0))


def _written(known: Known) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for path, found in sorted(known.items()):
        yield str(path), [candidate._asdict() for candidate in found]


def _parsed(tree: Any) -> Known:
    if set(tree) != {"version", "paths"} or tree["version"] != VERSION:
        raise ValueError("of another version")
    return {PurePosixPath(path): tuple(map(_candidate, found)) for path, found in tree["paths"].items()}


def _candidate(tree: Any) -> Candidate:
    found = Candidate(**tree)
    numbers = found.subvolume, found.transid, found.time
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers) or found.subvolume < _FIRST:
        raise ValueError("a number that no subvolume has")
    if type(found.settled) is not bool:
        raise ValueError("settled is neither true nor false")
    for key, form in _FORMS.items():
        if not form.fullmatch(getattr(found, key)):
            raise ValueError(f"{key} is not of its form")
    return found
