"""Homes of earlier boots where nothing rolls back: the first restore of a boot sets each of them aside.

agents_dir/.old/TIME-BOOTID/AGENT, `.old` and what is directly in it root's, 0700; a second one of the same boot and
agent is called AGENT.1. What a reset sets aside has a directory of its own, TIME-BOOTID.reset. It is one rename: what
stands there is the whole home, as it was. That the home of this boot stands is noted below /run, which a reboot takes
away; so a restore that is cut off before sets aside once more.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from persist import entering
from persist.ground import Ground
from town import bootid, files, kernel, mounts, standing
from town.failure import Failure, Unsafe
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

DIRECTORY = ".old"
_ROOT_ONLY = 0o700
_STAMP = "%Y%m%dT%H%M%SZ"


class HomeInUse(Failure):
    """Something is mounted in a home of an earlier boot: it would go with it when the home is set aside."""


class Entry(NamedTuple):
    """The homes of one boot: the name in `.old`, and when they were set aside as far as that is known."""

    name: bytes
    time: datetime


def is_old(spec: Spec, agent: Agent, here: Ground) -> bool:
    """Whether there is a home that nobody says is of this boot. Always false where the boot rolls homes back."""
    if spec.town.btrfs is not None or standing.noted(standing.HOMES, agent.name):
        return False
    try:
        return stat.S_ISDIR(files.look(here.agents, agent.name).st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise entering.in_the_way(spec.home(agent), error) from error


def note(spec: Spec, agent: Agent) -> None:
    """Say that the home that stands now is of this boot. Raises OSError, Unsafe, files.Unreadable."""
    if spec.town.btrfs is None and not standing.noted(standing.HOMES, agent.name):
        standing.note(standing.HOMES, agent.name)


def set_aside(spec: Spec, agent: Agent, here: Ground, now: datetime, key: str = "") -> Path:
    """Rename the agent's home into the directory `key` of `.old`, or this boot's, durably; where it is now.

    Raises HomeInUse, Unsafe, OSError.
    """
    _refuse_in_use(spec, agent)
    with made(spec, here) as old:
        key = key or _key(old, now)
        with suppress(FileExistsError):
            os.mkdir(key, _ROOT_ONLY, dir_fd=old)
        with files.opened(_own(old, os.fsencode(key), spec.town.agents_dir / DIRECTORY / key)) as boot:
            name = _moved(here.agents, agent.name, boot)
            os.fsync(boot)
        os.fsync(old)
    os.fsync(here.agents)
    return spec.town.agents_dir / DIRECTORY / key / name


@contextmanager
def opened(spec: Spec, agents: int) -> Iterator[int | None]:
    """`.old`, open; None when nothing was ever set aside. Raises Unsafe when it is not a directory of root's alone."""
    try:
        fd = _own(agents, os.fsencode(DIRECTORY), spec.town.agents_dir / DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    with files.opened(fd):
        yield fd


def entries(old: int) -> list[Entry]:
    """What lies in `.old`, oldest first: by the times of their names, else by when they were last changed."""
    found = []
    for name in files.names(old):
        seen = os.stat(name, dir_fd=old, follow_symlinks=False)
        found.append(Entry(name, _time(name) or datetime.fromtimestamp(seen.st_ctime, UTC)))
    return sorted(found, key=lambda entry: (entry.time, entry.name))


def _time(name: bytes) -> datetime | None:
    from persist.kept import parsed_key

    return parsed_key(name)[0]


def _refuse_in_use(spec: Spec, agent: Agent) -> None:
    """A mount in the home would be seen in the old one too, and what tidies that would go into it."""
    home = os.fsencode(os.path.realpath(spec.town.agents_dir)) + b"/" + os.fsencode(agent.name)
    found = [mount.target for mount in mounts.table() if mount.target == home or mount.target.startswith(home + b"/")]
    if found:
        raise HomeInUse(
            f"the home of an earlier boot is in use: {shown(found[0])} is mounted in it",
            hint=f"persist release {agent.name}, then restore again",
        )


@contextmanager
def made(spec: Spec, here: Ground) -> Iterator[int]:
    """`.old`, open, made where it is missing. Raises as `opened` does."""
    with suppress(FileExistsError):
        os.mkdir(DIRECTORY, _ROOT_ONLY, dir_fd=here.agents)
    with opened(spec, here.agents) as old:
        assert old is not None
        yield old


def _own(directory: int, name: bytes, path: Path) -> int:
    """A directory of root's alone. Raises Unsafe when others may look into it or change it."""
    try:
        fd = files.enter(directory, name)
    except NotADirectoryError:
        raise Unsafe(f"{shown(str(path))} is not a directory", hint=f"mv {shell_word(str(path))} elsewhere") from None
    found = os.fstat(fd)
    if found.st_uid == 0 and not found.st_mode & 0o077:
        return fd
    os.close(fd)
    word = shell_word(str(path))
    raise Unsafe(
        f"{shown(str(path))} holds old homes, and others than root may enter it",
        hint=f"look at what lies in it; then: chown root:root {word} && chmod 0700 {word}",
    )


def _key(old: int, now: datetime) -> str:
    """The name of this boot's directory: that of the one that is there, else a new one."""
    boot = bootid.text()
    there = sorted(name for name in files.names(old) if name.endswith(f"Z-{boot}".encode()) and _time(name))
    return os.fsdecode(there[0]) if there else f"{now.astimezone(UTC).strftime(_STAMP)}-{boot}"


def _moved(agents: int, name: str, boot: int) -> str:
    """Rename the home; an interrupted restore of this boot may have set one aside already."""
    number = 0
    while True:
        free = name if number == 0 else f"{name}.{number}"
        try:
            kernel.renameat2(agents, name, boot, free)
        except FileExistsError:
            number += 1
        else:
            return free
