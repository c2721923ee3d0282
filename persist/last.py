"""`persist lost --last`: what went with the last reboot, as the shutdown wrote it down, else as the old home shows it.

STATE/lost/TIME-BOOTID/AGENT.json, root's, 0600, by the boot that ended; docs/formats/lost.md. A record is of the home
whose subvolume it names, so one of an earlier boot is never taken for that of the last.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NamedTuple

from persist import entering, finding, ground, keep, kept, lost, lostwords, shelves
from persist.finding import Finding
from persist.fold import Tree
from persist.kept import Kept
from persist.restore import origins
from town import bootid, btrfs, cli, files
from town.failure import DONE, FAILED, Failure
from town.spec import Agent, Spec

DIRECTORY = "lost"
KEPT = 5  # boots
SECONDS, GIT_SECONDS = 20.0, 3.0  # of a shutdown: for all homes, and for the git work trees of one
_LEAST = 0.5  # for each home, whatever those before took
_LIMIT = 32 << 20  # bytes of a record
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class NothingKnown(Failure):
    """No shutdown wrote down what the agent would lose, and no home of before the boot is kept."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a shutdown wrote down: when, in which boot, of which subvolume (its UUID in hex; empty: of none)."""

    time: datetime
    boot: str
    uuid: str
    found: Finding


# ---- at the shutdown


def record(town: Spec, agents: Sequence[Agent]) -> int:
    """Write down what each agent's home would lose now. FAILED when one could not be; the others are.

    First what is found at once, of all agents, then what takes longer: a shutdown may be cut off in between.
    """
    now, status, until = datetime.now(UTC), DONE, monotonic() + SECONDS
    with ExitStack() as stack:
        here = stack.enter_context(ground.opened(town))
        place = stack.enter_context(_place(town, now))
        listed = list[_Listed]()
        for left, agent in zip(range(len(agents), 0, -1), agents, strict=True):
            with _told_of(agent) as ended:
                home = stack.enter_context(entering.maybe_home(town, agent, here))
                if home is not None:
                    listed.append(_listed(town, agent, home, max(_LEAST, (until - monotonic()) / left)))
                    _write(place, listed[-1], now)
            status = max(status, *ended, DONE)
        for left, one in zip(range(len(listed), 0, -1), listed, strict=True):
            with _told_of(one.agent) as ended:
                seconds = max(0.0, min(GIT_SECONDS, (until - monotonic()) / left))
                found = lost.judged(town, one.agent, one.home, one.tree, one.found, seconds)
                _write(place, one._replace(found=found), now)
            status = max(status, *ended, DONE)
    _forget(town)
    return status


class _Listed(NamedTuple):
    agent: Agent
    home: int
    tree: Tree
    found: Finding


@contextmanager
def _told_of(agent: Agent) -> Iterator[list[int]]:
    """A failure inside is told, and is FAILED in the list; it stops no other agent."""
    ended = list[int]()
    try:
        yield ended
    except (Failure, OSError) as error:
        failure = error if isinstance(error, Failure) else lost.LookFailed(str(error.strerror or error))
        cli.tell("persist", failure, about=agent.name)
        ended.append(FAILED)


def _listed(town: Spec, agent: Agent, home: int, seconds: float) -> _Listed:
    tree = lost.tree_for(town, agent, home)
    for _ in lost.look(agent, home, tree, seconds=seconds):
        pass
    return _Listed(agent, home, tree, finding.of(agent, bytes(town.home(agent)), tree))


def _write(place: int, one: _Listed, now: datetime) -> None:
    text = _text(one.found, one.home, now)
    files.write_beneath(place, f"{one.agent.name}.json", text, mode=0o600, owner=(0, 0))


def _text(found: Finding, home: int, now: datetime) -> bytes:
    uuid = btrfs.info(home).uuid_bytes.hex() if btrfs.is_subvolume(home) else ""
    head = {
        "version": finding.VERSION,
        "agent": found.agent,
        "home": cli.named(found.home),
        "time": now.strftime(_TIME),
        "boot": bootid.text(),
        "subvolume": uuid,
    }
    return json.dumps(head | finding.summary(found), indent=1).encode() + b"\n"


@contextmanager
def _place(town: Spec, now: datetime) -> Iterator[int]:
    """The directory of this boot's records: the one that is there, else a new one."""
    boot = bootid.text()
    with files.opened(origins.state(town, DIRECTORY)) as above:
        there = [os.fsdecode(name) for name in files.names(above) if name.endswith(f"-{boot}".encode())]
        name = there[0] if there else f"{kept.stamp(now)}-{boot}"
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
        with files.opened(files.enter(above, name)) as fd:
            yield fd


def _forget(town: Spec) -> None:
    """Remove the records of all boots but the newest."""
    with files.opened(origins.state(town, DIRECTORY)) as above:
        for name in files.names(above)[:-KEPT]:
            with suppress(OSError):
                files.remove_tree(above, name)


# ---- after the reboot


def tell(town: Spec, agents: Sequence[Agent], *, as_json: bool, as_tree: bool) -> int:
    """Print what went with the last reboot; FAILED when nothing is known of an agent, after the others were told."""
    told: list[dict[str, object]] = []
    status = DONE
    with shelves.opened(town) as there:
        every = kept.every(town, *there)
        for agent in agents:
            try:
                told.append(_told(town, agent, there, every, quiet=as_json, as_tree=as_tree))
            except Failure as failure:
                cli.tell("persist", failure)
                status = FAILED
    if as_json:
        cli.put_json({"agents": told})
    return status


def _told(
    town: Spec, agent: Agent, there: shelves.Shelves, every: Sequence[Kept], *, quiet: bool, as_tree: bool
) -> dict[str, object]:
    written = records(town, agent)
    with ExitStack() as stack:
        old, fd = _old(stack, town, there, kept.of(every, agent), written)
        known = _of(written, fd)
        tree = None
        if fd is not None and (known is None or as_tree):
            tree = lost.tree_for(town, agent, fd)
            found = _looked(town, agent, fd, tree)
            found = found if known is None else known.found
        elif known is not None:
            found = known.found
        else:
            raise NothingKnown(
                f"nothing is known of what {agent.name} lost at the last reboot",
                hint="nuketown-lost.service writes it down at a shutdown; persist homes shows what is kept",
            )
        if not quiet:
            _put(agent, found, known, old, tree if as_tree else None)
    head = {"agent": agent.name, "home": cli.named(found.home), "recorded": known is not None}
    head |= {"time": known.time.strftime(_TIME) if known else None, "recall": old.name if old else None}
    return head | finding.summary(found)


def _old(
    stack: ExitStack, town: Spec, there: shelves.Shelves, homes: Sequence[Kept], written: Sequence[Record]
) -> tuple[Kept | None, int | None]:
    """The home that went with the last boot, and its directory: set aside at this boot, the first of those.

    What a reset set aside went with no boot.
    """
    boot, first = bootid.text(), None
    for old in homes:
        if old.kind != "aside" or old.boot != boot or keep.is_reset(old.key):
            continue
        try:
            fd = stack.enter_context(kept.opened(town, there.top, old, there.agents)).fd
        except (Failure, OSError):
            continue
        if first is None:
            first = old, fd
        uuid = _uuid(fd)
        if uuid and any(record.uuid == uuid for record in written):
            return old, fd
    return first or (None, None)


def _of(written: Sequence[Record], fd: int | None) -> Record | None:
    """The record of that very home; of the last boot that wrote one where the home is not kept, or is no subvolume."""
    uuid = "" if fd is None else _uuid(fd)
    same = [record for record in written if record.uuid == uuid] if fd is not None else list(written)
    return same[-1] if same else None


def _uuid(fd: int) -> str:
    return btrfs.info(fd).uuid_bytes.hex() if btrfs.is_subvolume(fd) else ""


def _looked(town: Spec, agent: Agent, fd: int, tree: Tree) -> Finding:
    for _ in lost.look(agent, fd, tree):
        pass
    return lost.judged(town, agent, fd, tree, finding.of(agent, bytes(town.home(agent)), tree))


def _put(agent: Agent, found: Finding, known: Record | None, old: Kept | None, tree: Tree | None) -> None:
    when = f"as written down at {known.time.strftime('%Y-%m-%d %H:%M:%S UTC')}" if known else "as the old home shows it"
    lostwords.put_listing(found, f"went with the last reboot, {when}", tree)
    lostwords.put_judged(found)
    if old is not None:
        cli.advise("persist", f"persist recall {old.name} shows it; with --to DIR in a place of your own")
    else:
        cli.warn("persist", f"{agent.name}: that home is not kept any more", "persist homes shows what is")


def records(town: Spec, agent: Agent) -> list[Record]:
    """What boots before this one wrote down of an agent, oldest first. What cannot be read is left out."""
    where, boot = town.state_dir / DIRECTORY, bootid.text()
    found = []
    with suppress(OSError):
        for name in sorted(os.listdir(where)):
            with suppress(Failure, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                record = _parsed(agent, json.loads(files.read_bounded(where / name / f"{agent.name}.json", _LIMIT)))
                if record.boot != boot:
                    found.append(record)
    return sorted(found, key=lambda record: record.time)


def _parsed(agent: Agent, tree: Any) -> Record:
    if tree["version"] != finding.VERSION or tree["agent"] != agent.name:
        raise ValueError("of another version, or another agent's")
    time = datetime.strptime(tree["time"], _TIME).replace(tzinfo=UTC)
    home = finding.path_of(tree["home"])
    return Record(time, str(tree["boot"]), str(tree["subvolume"]), finding.parsed(agent.name, home, tree))
