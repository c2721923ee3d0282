"""What this machine knows of its own syncs: root's records in the town's state directory, 0600, never an agent's.

`machine`: a random id, made once. `sync/AGENT.json`: the newest generation of the store that was seen here (older ones
are refused), which snapshot each declared directory descends from, and the last sync that ended well.
"""

import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from town import files, locks
from town.failure import Failure, TryLater, Unsafe
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

_LIMIT = 1 << 20
_MACHINE = re.compile(r"[0-9a-f]{32}")


class Busy(TryLater):
    """Another sync of the same agent is running on this machine. Trying again may help."""


class BadRecord(Failure):
    """A record in the state directory cannot be read: without it an older store could pass for the newest."""


@dataclass(frozen=True, slots=True)
class LastSync:
    """The last sync that ended well: when, the snapshot that the store has since then, and what is in it."""

    time: datetime
    snapshot: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """One agent's record; `head` and the values of `known` are names of commits."""

    generation: int = 0
    head: str = ""
    known: Mapping[str, str] = field(default_factory=dict)  # declared path: the commit that its data here descends from
    told: tuple[str, ...] = ()  # forks that a person was told of
    last: LastSync | None = None


def machine(spec: Spec, *, make: bool = True) -> str:
    """This machine's id, 32 hex digits; when there is none yet, made, or (without `make`) empty."""
    if not make and not os.path.lexists(spec.state_dir / "machine"):
        return ""
    with files.opened(_state(spec)) as state:
        if (found := _read(state, "machine", spec)) is not None:
            if not _MACHINE.fullmatch(found.strip()):
                raise _broken(spec, "machine")
            return found.strip()
        made = secrets.token_hex(16)
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
    last = tree["last"]
    return Record(
        int(tree["generation"]),
        str(tree["head"]),
        {str(path): str(name) for path, name in tree["known"].items()},
        tuple(map(str, tree["told"])),
        None
        if last is None
        else LastSync(
            datetime.fromisoformat(last["time"]), str(last["snapshot"]), int(last["files"]), int(last["bytes"])
        ),
    )


def _written(record: Record) -> dict[str, Any]:
    last = record.last
    return {
        "generation": record.generation,
        "head": record.head,
        "known": dict(record.known),
        "told": list(record.told),
        "last": None
        if last is None
        else {
            "time": last.time.isoformat(),
            "snapshot": last.snapshot,
            "files": last.files,
            "bytes": last.bytes,
        },
    }
