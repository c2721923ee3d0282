"""A declared directory of the home, brought over from a home set aside: a snapshot, found by number and UUID.

What was written since the last sync lies there and nowhere else. No store is asked here and nothing is read; what is
asked afterwards is in `persist.restore.asking`.
"""

import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from persist import entering, lineage, nested
from persist.lineage import Candidate
from persist.restore import origins, staging
from persist.restore import site as site_
from persist.restore.site import Site
from town import bootid, btrfs, changes, cli, files, kernel, subvolumes
from town.failure import Failure, TryLater, Unsafe
from town.spec import Agent, Spec
from town.terminal import shown

if TYPE_CHECKING:
    from persist.restore.actions import Carry


_TICK = 20_000_000  # ns by which a ctime may lie behind: the kernel's coarse clock


class Gone(TryLater):
    """The subvolume that was to be brought over went away in this moment. Trying again helps."""


def alive(agents: int, agent: Agent, candidates: tuple[Candidate, ...], but: Collection[str]) -> Candidate | None:
    """The first candidate whose data can be brought over; None when there is none any more. `but`: UUIDs of others."""
    for candidate in lineage.usable(candidates):
        if candidate.uuid not in but and (fd := opened(agents, agent, candidate)) is not None:
            os.close(fd)
            return candidate
    return None


def opened(agents: int, agent: Agent, candidate: Candidate) -> int | None:
    """The root directory of a candidate; None when it is gone, or another, or not the agent's.

    By a file handle through agents_dir, which `agents` has open: no name that an agent can change plays a part.
    """
    fd = _by_number(agents, candidate)
    if fd is None or os.fstat(fd).st_uid in (agent.uid, 0):
        return fd
    os.close(fd)
    return None


def _by_number(agents: int, candidate: Candidate) -> int | None:
    try:
        fd = subvolumes.opened_root(agents, candidate.subvolume)
    except OSError:
        return None
    with suppress(OSError, btrfs.BtrfsFailed):
        if btrfs.info(fd).uuid_bytes.hex() == candidate.uuid:
            return fd
    os.close(fd)
    return None


def carry(site: Site, action: "Carry") -> str:
    """Show a snapshot of it at its path in the home; what there is to say. Raises Gone, Unsafe, OSError and others."""
    path = action.entry.path
    with _source(site, path) as (candidate, origin), site_.home(site) as home:

        def snapshot(stage: int) -> int:
            return btrfs.snapshot(origin, stage, staging.INSIDE, read_only=False)

        with staging.opened(home, snapshot) as (stage, inside):
            written, left = _filled(origin, inside, candidate)
            stands = candidate if written else now(inside, candidate)
            _show(site, path, home, (stage, inside), stands._replace(settled=False))
    site.origins[path] = origins.carried(origins.known(site.spec, site.agent).get(path), candidate.commit)
    if left:
        cli.warn(
            "persist",
            f"{site.agent.name}: {shown(str(path))}: {left:,} nested subvolumes were not brought over: empty "
            f"directories stand for them",
            f"they are in the subvolume {candidate.subvolume}, in the home set aside: persist homes {site.agent.name}",
        )
    return "with what was written since the last sync" if written else ""


@contextmanager
def _source(site: Site, path: PurePosixPath) -> Iterator[tuple[Candidate, int]]:
    for candidate in lineage.usable(lineage.known(site.spec, site.agent).get(path, ())):
        fd = opened(site.ground.agents, site.agent, candidate)
        if fd is not None:
            with files.opened(fd):
                yield candidate, fd
            return
    raise Gone(f"what the home set aside had of {shown(str(path))} has gone", hint="persist restore")


def now(fd: int, stands: Candidate) -> Candidate:
    """What goes on from the same state, where all that lies in the subvolume `fd` is that state. Raises OSError."""
    return stands._replace(transid=btrfs.commit(fd), time=time.time_ns())


def _filled(origin: int, inside: int, stands: Candidate) -> tuple[bool, int]:
    """Bring the subvolumes in it over too. Whether anything was written since the state, and how many were left out."""
    found = [_written(inside, stands)]
    left = nested.fill(origin, inside, lambda fd: found.append(_written(fd, stands)))
    return any(found), left


def _written(fd: int, stands: Candidate) -> bool:
    # With noatime every inode that was written has changed. Else reading writes too, and the clock tells them apart.
    since = 0 if os.fstatvfs(fd).f_flag & os.ST_NOATIME else stands.time - _TICK
    return any(changed >= since for changed in changes.times(fd, stands.transid))


def written(fd: int, stands: Candidate) -> bool:
    """Whether anything was written since a state in the subvolume that `fd` has open, or in one nested in it."""
    kernel.syncfs(fd)  # what is not on the disk yet is in no tree
    waiting, count = [btrfs.number(fd)], 0
    while waiting and count <= nested.MOST:
        count += 1
        number = waiting.pop()
        with files.opened(subvolumes.opened_root(fd, number)) as root:
            if _written(root, stands):
                return True
        waiting += [below for below, _ in subvolumes.within(fd, number)]
    return bool(waiting)  # more than anybody looks at


def _show(site: Site, path: PurePosixPath, home: int, pair: tuple[int, int], stands: Candidate) -> None:
    stage, inside = pair
    with (
        files.opened(site_.made_in_home(site, home, path.parent)) as parent,
        recorded(site.spec, site.agent, path, inside, stands),
    ):
        staging.shown(stage, parent, path.name)
    site_.refuse_swapped(site, home, path, inside)


@contextmanager
def recorded(spec: Spec, agent: Agent, path: PurePosixPath, inside: int, stands: Candidate | None) -> Iterator[None]:
    """While the subvolume that `inside` has open gets its name: it is on record before, and no more when it got none.

    `stands`: what it goes on from, None: from nothing; its own numbers are put in here. What is no subvolume is not
    recorded.
    """
    if not btrfs.is_subvolume(inside):
        yield
        return
    btrfs.commit(inside)
    found = btrfs.info(inside)
    stands = stands or now(inside, Candidate(0, "", ""))
    made = stands._replace(subvolume=found.id, uuid=found.uuid_bytes.hex(), boot=bootid.text())
    lineage.begin(spec, agent, path, made)
    try:
        yield
    except Exception:
        lineage.drop(spec, agent, made.uuid)
        raise


def forget_staging(site: Site, home: int, name: str) -> None:
    """A staging that is about to be removed: what lies in it was never shown."""
    for uuid in staged(home, (name,)):
        lineage.drop(site.spec, site.agent, uuid)


def staged(home: int, names: Iterable[str]) -> Iterator[str]:
    """The UUIDs of the subvolumes that lie in some stagings of an open home."""
    for name in names:
        with (
            suppress(OSError, Unsafe),
            files.opened(files.enter(home, name)) as stage,
            files.opened(files.enter(stage, staging.INSIDE)) as inside,
        ):
            if uuid := _uuid(inside):
                yield uuid


def settle(site: Site) -> None:
    """Set the record right after a restore that was killed between it and what it tells of; say what cannot be read."""
    spec, agent = site.spec, site.agent
    try:
        known = lineage.read(spec, agent)
    except lineage.BadLineage as failure:
        cli.warn("persist", f"{agent.name}: {failure.what}", failure.hint)
        return
    _warn_of_owners(site, known)
    with entering.maybe_home(spec, agent, site.ground) as home:
        _warn_of_gone(site, known, home)
        if home is None:
            return
        for path in [path for path, found in known.items() if len(found) > 1]:
            with suppress(OSError, Failure), entering.down(home, path, spec.home(agent)) as there:
                known = lineage.front(known, path, "" if there is None else _uuid(there))
    if known != lineage.known(spec, agent):
        lineage.change(spec, agent, lambda _before: known)


def _warn_of_owners(site: Site, known: lineage.Known) -> None:
    """What belongs to another uid by now (the agent's was changed) is not brought over, which is said."""
    for path, (first, *_) in known.items():
        fd = _by_number(site.ground.agents, first)
        if fd is None:
            continue
        with files.opened(fd):
            owner = os.fstat(fd).st_uid
        if owner not in (site.agent.uid, 0):
            cli.warn(
                "persist",
                f"{site.agent.name}: {shown(str(path))}: the subvolume {first.subvolume} of the home set aside belongs "
                f"to uid {owner}, expected uid {site.agent.uid}: it is not brought over",
                "what was written there since the last sync is in that home: persist homes, persist recall",
            )


def _warn_of_gone(site: Site, known: lineage.Known, home: int | None) -> None:
    """Where nothing is left of what lay at a path, what was not synced yet is lost, which is said."""
    for path, candidates in known.items():
        if _has(site, home, path) or any(_is_there(site.ground.agents, candidate) for candidate in candidates):
            continue
        cli.warn(
            "persist",
            f"{site.agent.name}: {shown(str(path))}: the subvolume that held it is gone, and with it whatever was "
            f"written there since the last sync",
            "the agent removed it, or the home set aside was deleted: persist homes shows those that are kept",
        )


def _has(site: Site, home: int | None, path: PurePosixPath) -> bool:
    """Whether something is in its place; what cannot be looked at is told by who looks at it for the plan."""
    if home is None:
        return False
    with suppress(OSError, Failure), entering.down(home, path, site.spec.home(site.agent)) as there:
        return there is not None
    return True


def _is_there(agents: int, candidate: Candidate) -> bool:
    if (fd := _by_number(agents, candidate)) is not None:
        os.close(fd)
    return fd is not None


def _uuid(fd: int) -> str:
    return btrfs.info(fd).uuid_bytes.hex() if btrfs.is_subvolume(fd) else ""
