"""What this machine knows of its own syncs: root's records in the town's state directory, 0600, never an agent's.

`machine`: a random id, made once. `sync/AGENT.json`: the newest generation of the store that was seen here (older ones
are refused), which snapshot each declared directory descends from, the lease, and the last sync that ended well.
`sync/AGENT.copies/`: the head and the tombs that were read last, as the store has them (sealed), and `read`: what
`persist log` says of commits that were read. Nothing here is heavy: a sync that finds nothing changed reads no more.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from town import files, locks
from town.failure import Failure, TryLater, Unsafe
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

_LIMIT = 4 << 20
_HALF = 12 * 3600.0  # seconds; half the time of a lease (persist.bucket.leases, which is not loaded for this)
_SLACK = 300.0  # seconds that a clock may be set back without meaning anything
_LARGEST_COPY = 64 << 20


class Busy(TryLater):
    """Another sync of the same agent is running on this machine. Trying again may help."""


class BadRecord(Failure):
    """A record in the state directory cannot be read: without it an older store could pass for the newest."""


class LastSync(NamedTuple):
    """The last sync that ended well: when, the snapshot that the store has since then, and what is in it."""

    time: datetime
    snapshot: str
    files: int
    bytes: int


class Held(NamedTuple):
    """The lease that this machine wrote last; `granted` by the store's clock, `wall` by this machine's at that time."""

    sequence: int
    granted: float
    wall: float


class Record(NamedTuple):
    """One agent's record. `head`, `written`, `intended`, `branch` and the values of `known` are names of commits."""

    generation: int = 0
    head: str = ""
    known: Mapping[str, str] = MappingProxyType({})  # declared path: the head at its sync or restore
    told: tuple[str, ...] = ()  # forks that a person was told of
    last: LastSync | None = None
    written: str = ""  # the last commit of this machine
    intended: str = ""  # the one that was sent last: found in the store after a crash, it is this machine's own
    branch: str = ""  # the last branch of this machine
    lease: Held | None = None
    sequence: int = 0  # of the newest lease that was seen
    released: Held | None = None  # the lease that this machine gave back last, while it holds none


def lease_due(record: Record, now: float) -> bool:
    """Whether the lease is to be renewed, or was never held; `now`: seconds since the epoch by this machine's clock.

    At half time. A clock that went back says nothing about how much has gone by: then too.
    """
    return record.lease is None or not -_SLACK <= now - record.lease.wall < _HALF


def held_last(record: Record) -> bool:
    """Whether no other machine is known to have held the lease since this one did, given back or not."""
    held = record.lease or record.released
    return held is not None and held.sequence >= record.sequence and not record.branch


def holding_again(record: Record) -> Record:
    """The record of a machine that goes on without the store's word, though it gave the lease back.

    Where another machine took it meanwhile, the next sync keeps what lies here as a branch (`history.LeaseLost`).
    """
    return record if record.lease is not None else record._replace(lease=record.released, released=None)


def machine(spec: Spec, *, make: bool = True) -> str:
    """This machine's id, 32 hex digits: `town.machine`, else the one in the state directory.

    When there is none yet it is made, or (without `make`) empty.
    """
    if spec.town.machine is not None:
        return spec.town.machine
    if not make and not os.path.lexists(spec.state_dir / "machine"):
        return ""
    with files.opened(_state(spec)) as state:
        fcntl.flock(state, fcntl.LOCK_EX)  # two first runs at once
        if (found := _read(state, "machine", spec)) is not None:
            if not re.fullmatch("[0-9a-f]{32}", found.strip()):
                raise _broken(spec, "machine")
            return found.strip()
        made = os.urandom(16).hex()
        files.write_beneath(state, "machine", made.encode() + b"\n", mode=0o600)
        return made


def record(spec: Spec, agent: Agent) -> Record:
    """The agent's record; an empty one when there is none. Raises BadRecord, Unsafe."""
    if not os.path.lexists(spec.state_dir / "sync" / f"{agent.name}.json"):
        return Record()
    with files.opened(_state(spec, "sync")) as directory:
        text = _read(directory, f"{agent.name}.json", spec)
    try:
        return Record() if text is None else _parsed(json.loads(text))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(spec, f"sync/{agent.name}.json") from error


def change(spec: Spec, agent: Agent, to: Callable[[Record], Record]) -> None:
    """Replace the agent's record by what `to` makes of it, durably; one process at a time."""
    with files.opened(_state(spec, "sync")) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)
        before = record(spec, agent)
        after = to(before)
        if after != before:
            text = json.dumps(_written(after), indent=1).encode() + b"\n"
            files.write_beneath(directory, f"{agent.name}.json", text, mode=0o600)


def copy(spec: Spec, agent: Agent, name: str) -> bytes | None:
    """The copy of that name in `sync/AGENT.copies/`; None when there is none that can be read. Never believed."""
    if not os.path.lexists(spec.state_dir / "sync" / f"{agent.name}.copies" / name):
        return None
    try:
        with (
            files.opened(_state(spec, f"sync/{agent.name}.copies")) as directory,
            files.opened(files.open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as fd,
        ):
            return files.read_fd(fd, _LARGEST_COPY, name)
    except (OSError, files.Unreadable):
        return None


def keep_copy(spec: Spec, agent: Agent, name: str, data: bytes, *, instead_of: str = "") -> None:
    """Keep a copy, and remove those whose names begin with `instead_of`. Where that fails, the store is read again."""
    with suppress(OSError), files.opened(_state(spec, f"sync/{agent.name}.copies")) as directory:
        _write_copy(directory, name, data)
        _drop(directory, (instead_of, ".") if instead_of else (".",), but=(name,))  # hidden ones: of killed runs


def _write_copy(directory: int, name: str, data: bytes) -> None:
    """Whole or not at all, and not durable: what a crash takes is read from the store again."""
    beside = f".{name[:48]}.{os.urandom(6).hex()}.new"
    with files.opened(files.open_beneath(directory, beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)) as fd:
        files.write_all(fd, data)
    os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)


def add_to_copy(spec: Spec, agent: Agent, name: str, data: bytes) -> int:
    """Append to a copy; how long it is then. What a crash cuts off is for the reader to leave out."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with (
        suppress(OSError),
        files.opened(_state(spec, f"sync/{agent.name}.copies")) as directory,
        files.opened(files.open_beneath(directory, name, flags, 0o600)) as fd,
    ):
        files.write_all(fd, data)
        return os.fstat(fd).st_size
    return 0


def drop_copies(spec: Spec, agent: Agent, prefix: str, *, but: Collection[str]) -> None:
    """Remove copies whose names begin with `prefix`, except those of `but`."""
    if not os.path.lexists(spec.state_dir / "sync" / f"{agent.name}.copies"):
        return
    with suppress(OSError), files.opened(_state(spec, f"sync/{agent.name}.copies")) as directory:
        _drop(directory, (prefix,), but=but)


def _drop(directory: int, prefixes: tuple[str, ...], *, but: Collection[str]) -> None:
    for name in map(os.fsdecode, files.names(directory)):
        if name.startswith(prefixes) and name not in but:
            os.unlink(name, dir_fd=directory)


@contextmanager
def alone(spec: Spec, agent: Agent) -> Iterator[None]:
    """One sync of an agent at a time on this machine. Raises Busy."""
    with files.opened(_state(spec, "locks")) as directory:
        busy = Busy("another sync of this agent is running", hint="wait for it, then try again")
        with locks.held(directory, f"sync-{agent.name}", busy):
            yield


def _state(spec: Spec, name: str = ".") -> int:
    where = spec.state_dir
    with files.opened(files.open_dir(where.parent)) as above:
        path = PurePosixPath(where.name, name)
        fd = files.make_dirs(above, path, mode=0o700, owner=(os.geteuid(), os.getegid()))
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise Unsafe(f"others can change {shown(str(where))}", hint=f"chown root: {shell_word(str(where))}")
    return fd


def _read(directory: int, name: str, spec: Spec) -> str | None:
    try:
        with files.opened(files.open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            return files.read_fd(fd, _LIMIT, name).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _broken(spec, name) from error


def _broken(spec: Spec, name: str) -> BadRecord:
    path = spec.state_dir / name
    return BadRecord(
        f"{shown(str(path))} is damaged",
        hint=f"rm {shell_word(str(path))} to begin anew: then an older store is not told from the newest",
    )


def _parsed(tree: Any) -> Record:
    last, lease, released = tree["last"], tree["lease"], tree.get("released")
    return Record(
        int(tree["generation"]),
        str(tree["head"]),
        {str(path): str(name) for path, name in tree["known"].items()},
        tuple(map(str, tree["told"])),
        last
        and LastSync(
            datetime.fromisoformat(last["time"]), str(last["snapshot"]), int(last["files"]), int(last["bytes"])
        ),
        str(tree["written"]),
        str(tree["intended"]),
        str(tree["branch"]),
        lease and _held(lease),
        int(tree["sequence"]),
        released and _held(released),
    )


def _held(tree: Any) -> Held:
    return Held(int(tree["sequence"]), float(tree["granted"]), float(tree["wall"]))


def _written(record: Record) -> dict[str, Any]:
    last, lease = record.last, record.lease
    return record._asdict() | {
        "known": dict(record.known),
        "last": last and last._asdict() | {"time": last.time.isoformat()},
        "lease": lease and lease._asdict(),
        "released": record.released and record.released._asdict(),
    }
