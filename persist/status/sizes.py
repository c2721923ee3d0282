"""How much lies where: looked at for a bounded time, however many files an agent has made."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath

from persist import reinstalled, worth
from persist.status.report import Measure
from persist.walk import Directory, Entry, walk
from town import btrfs, kernel
from town.failure import Failure
from town.spec import Agent, Spec

ALL = 2.0  # seconds for a whole report
LEAST = 0.01  # for each look, when those before took their time
_OFTEN = 64  # entries between two looks at the clock


class Clock:
    """Shares out the time of a report: each of the looks that are still to come gets an equal part of what is left."""

    def __init__(self, looks: int, seconds: float | None = None) -> None:
        self._looks, self._until = max(1, looks), time.monotonic() + (ALL if seconds is None else seconds)

    def until(self) -> float:
        """When the next look has to end."""
        now = time.monotonic()
        share = max(LEAST, (self._until - now) / self._looks)
        self._looks = max(1, self._looks - 1)
        return now + share


Entered = Callable[[Directory, bytes], bool]


def measured(top: int, until: float, *, enter: Entered = lambda _directory, _name: True,
             count: Callable[[Entry], bool] = lambda _entry: True) -> Measure:  # fmt: skip
    """What lies below an open directory, up to that time of the monotonic clock; directories are not counted."""
    files = bytes_ = seen = 0
    try:
        for found in walk(top, enter):
            seen += 1
            if seen % _OFTEN == 0 and time.monotonic() > until:
                return Measure(bytes_, files, whole=False)
            if isinstance(found, Entry) and found.kind not in ("directory", "subvolume") and count(found):
                files, bytes_ = files + 1, bytes_ + found.bytes
    except (Failure, OSError):
        return Measure(bytes_, files, whole=False)
    return Measure(bytes_, files)


def lost(spec: Spec, agent: Agent, home: int, until: float) -> Measure:
    """What the next boot takes of an open home: as `persist lost` counts it, without a listing."""
    kept = {bytes(entry.path) for entry in agent.persist}
    deepest = max((len(entry.path.parts) for entry in agent.persist), default=0)
    installed = reinstalled.read(spec, agent, home)
    near = max((path.count(b"/") for path in (*worth.REGENERATED, *installed)), default=0)

    def enter(directory: Directory, name: bytes) -> bool:
        # What is bound is a mount, where the walk stops by itself.
        return directory.depth >= deepest or directory.path(name) not in kept

    def count(entry: Entry) -> bool:
        if entry.kind == "socket" or entry.directory.depth > max(deepest, near):
            return entry.kind != "socket"
        path = entry.directory.path(entry.name)
        return path not in kept and not (entry.kind == "file" and reinstalled.comes_back(path, installed))

    return measured(home, until, enter=enter, count=count)


def at_last_sync(spec: Spec, agent: Agent, paths: Collection[PurePosixPath]) -> dict[PurePosixPath, Measure]:
    """What the index of the last sync says of these paths. Never raises: what cannot be read is not known."""
    import sqlite3
    from urllib.parse import quote

    from persist.sync import schema

    file = schema.place(spec, agent)
    if not file.exists():
        return {}
    found = dict[PurePosixPath, Measure]()
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=0.1)
        try:
            said = "SELECT path, files, bytes FROM trees JOIN entries ON entries.dir = -trees.id"
            for path, files, bytes_ in connection.execute(said):
                found[PurePosixPath(path)] = Measure(int(bytes_), int(files), whole=True, of="last sync")
        finally:
            connection.close()
    return {path: measure for path, measure in found.items() if path in paths}


def since(fd: int) -> datetime | None:
    """Since when an open directory is on this machine in this form: a subvolume since it was made or snapshotted."""
    with suppress(Failure, OSError):
        made = btrfs.info(fd).made if btrfs.is_subvolume(fd) else kernel.born(fd)
        return datetime.fromtimestamp(made, UTC) if made else None
    return None
