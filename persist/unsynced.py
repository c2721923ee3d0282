"""What lies in a declared directory of the home, goes to the store, and is not there yet: nothing that a reboot takes.

A directory that is a subvolume is brought over at the next boot (persist/lineage.py), so only another machine would
miss it. A plain one comes back as it was synced last.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from time import monotonic
from typing import NamedTuple

from persist import entering, lineage, searched
from persist.lineage import Candidate
from persist.walk import Directory, Entry, walk
from town import btrfs
from town.failure import Failure
from town.spec import Agent, Persist, Spec

_SECONDS = 1.0  # for each directory
_OFTEN = 64  # events between two looks at the clock


class Unsynced(NamedTuple):
    """Of one declared path; `carried`: the next boot brings it over as it is."""

    path: PurePosixPath
    bytes: int
    files: int
    carried: bool


def look(spec: Spec, agent: Agent, home: int) -> list[Unsynced]:
    """Every declared path of an open home that holds such files. Raises nothing: what cannot be read is not counted."""
    if spec.town.store is None:
        return []
    known = lineage.known(spec, agent)
    found = []
    for entry in agent.persist:
        if entry.synced and not entry.apart:
            with suppress(Failure, OSError), entering.down(home, entry.path, spec.home(agent)) as fd:
                if fd is not None:
                    found.append(_one(spec, agent, (entry, fd), known.get(entry.path, ())))
    return [one for one in found if one.files]


def _one(spec: Spec, agent: Agent, place: tuple[Persist, int], candidates: Sequence[Candidate]) -> Unsynced:
    entry, fd = place
    if not btrfs.is_subvolume(fd) or not searched.ready(fd):
        return Unsynced(entry.path, *_counted(walk(fd, _all), _last(spec, agent)), carried=False)
    uuid = btrfs.info(fd).uuid_bytes.hex()
    synced = next((one.transid for one in candidates if one.uuid == uuid and one.commit), 0)
    return Unsynced(entry.path, *_counted(searched.search(fd, _all, since=synced), 0), carried=True)


def _all(_directory: Directory, _name: bytes) -> bool:
    return True


def _counted(events: Iterator[Entry | Directory], since: int) -> tuple[int, int]:
    """Bytes and number of the files that changed after a time (ns), as far as a short look goes."""
    until, sizes = monotonic() + _SECONDS, []
    for number, found in enumerate(events):
        if number % _OFTEN == 0 and monotonic() > until:
            break
        if isinstance(found, Entry) and found.kind in ("file", "symlink") and found.changed > since:
            sizes.append(found.bytes)
    return sum(sizes), len(sizes)


def _last(spec: Spec, agent: Agent) -> int:
    """When the last sync ended, ns since the epoch; 0 where there was none."""
    from persist.sync import local

    last = local.record(spec, agent).last
    return 0 if last is None else int(last.time.timestamp() * 10**9)
