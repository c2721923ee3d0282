"""Which home the declared files of an agent were copied into: STATE/copies/AGENT.json, root's, 0600.

`home` is the home's identity, `number` that of its subvolume (0: a plain directory), `paths` are the files that it has
had. By that a file which the agent removed is told from one that was not copied yet, and after a power cut the home
that was set aside is found: never by a name.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from persist.ground import Ground
from town import btrfs, files, kernel, locks, mounts
from town.failure import Failure, TryLater, Unsafe
from town.spec import Agent, Spec

_LIMIT = 1 << 20  # bytes of a record
OLD = b".old"  # in agents_dir, where homes are set aside on a host without [town.btrfs]


class Busy(TryLater):
    """Another command is copying the agent's declared files. Trying again may help."""


class Record(NamedTuple):
    """What was copied into which home. Empty: nothing is known."""

    home: str = ""
    number: int = 0
    paths: frozenset[str] = frozenset()


def of_home(home: int) -> Record:
    """The identity of an open home, with no file in it."""
    if btrfs.is_btrfs(home) and btrfs.is_subvolume(home):
        found = btrfs.info(home)
        return Record(found.uuid_bytes.hex(), found.id)
    return Record(f"{os.fstat(home).st_ino}-{files.generation(home)}")


def is_plain(home: str) -> bool:
    """Whether the identity of a home is that of a plain directory."""
    return "-" in home


def known(spec: Spec, agent: Agent) -> Record:
    """What is recorded of the agent. Never raises: what cannot be read is not known."""
    try:
        tree = json.loads(files.read_bounded(spec.state_dir / "copies" / f"{agent.name}.json", _LIMIT))
    except (Failure, ValueError, RecursionError):
        return Record()
    return _record(tree)


def _record(tree: Any) -> Record:
    match tree:
        case {"home": str(home), "number": int(number), "paths": list(paths)} if len(tree) == 3:
            return Record(home, number, frozenset(path for path in paths if isinstance(path, str)))
    return Record()


def keep(spec: Spec, agent: Agent, record: Record) -> None:
    """Write the record where it differs. Raises OSError, Failure."""
    if record == known(spec, agent):
        return
    text = json.dumps({"home": record.home, "number": record.number, "paths": sorted(record.paths)})
    with _directory(spec) as fd:
        files.write_beneath(fd, f"{agent.name}.json", text.encode() + b"\n", mode=0o600, owner=(0, 0))


@contextmanager
def alone(spec: Spec, agent: Agent) -> Iterator[None]:
    """One command at a time copies the files of an agent. Raises Busy."""
    busy = Busy(f"the files of {agent.name} are being copied by another command", hint="wait for it, then try again")
    with _directory(spec) as fd, locks.held(fd, f"{agent.name}.lock", busy):
        yield


@contextmanager
def _directory(spec: Spec) -> Iterator[int]:
    from persist.restore import origins

    with files.opened(origins.state(spec, "copies")) as fd:
        yield fd


@contextmanager
def set_aside(agent: Agent, ground: Ground, record: Record) -> Iterator[int | None]:
    """The home of a record that is no longer the agent's home, open; None when it is not there any more.

    Raises OSError, BtrfsFailed.
    """
    if not record.home:
        yield None
    elif record.number:
        with _subvolume(ground, record) as fd:
            yield fd if fd is not None and os.fstat(fd).st_uid == agent.uid else None
    else:
        with _plain(agent, ground, record) as fd:
            yield fd


@contextmanager
def _subvolume(ground: Ground, record: Record) -> Iterator[int | None]:
    """By its number, in a mount that no path leads to."""
    try:
        mount = kernel.mount_detached(
            "btrfs",
            {"source": os.fsdecode(mounts.of(ground.agents).source), "subvolid": str(record.number)},
            kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV | kernel.MOUNT_NOATIME,
        )
    except FileNotFoundError:  # deleted
        yield None
        return
    with files.opened(mount), files.opened(os.open(".", files.DIRECTORY, dir_fd=mount)) as fd:
        yield fd if of_home(fd).home == record.home else None


@contextmanager
def _plain(agent: Agent, ground: Ground, record: Record) -> Iterator[int | None]:
    """By inode and generation, among what lies below agents_dir/.old, which is root's."""
    with ExitStack() as stack:
        try:
            old = stack.enter_context(files.opened(files.enter(ground.agents, OLD)))
        except FileNotFoundError:
            yield None
            return
        yield next(_matching(stack, old, agent, record), None)


def _matching(stack: ExitStack, old: int, agent: Agent, record: Record) -> Iterator[int]:
    """The homes set aside that are that of the record, open as long as the stack is."""
    called = os.fsencode(agent.name)
    for boot in sorted(files.names(old), reverse=True):
        with suppress(OSError, Unsafe), files.opened(files.enter(old, boot)) as above:
            for name in files.names(above):
                if name == called or name.startswith(called + b"."):  # a second one of a boot is called AGENT.1
                    fd = stack.enter_context(files.opened(files.enter(above, name)))
                    if os.fstat(fd).st_uid == agent.uid and of_home(fd).home == record.home:
                        yield fd
