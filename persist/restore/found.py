"""What an agent has on this machine: looked at by descriptors, changed by nothing here.

The agent may be running and hostile. Below its home no symlink is followed and no mount is entered; what is mounted
over a name is told by the mount table before it is asked anything (a FUSE server of the agent's could hang root).
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from persist import copies, entering, lineage, outgoing, places
from persist.ground import Ground
from persist.restore import begun, carry
from persist.restore.actions import Found, FoundDirectory, Leftover, Target
from town import files, mounts
from town.failure import Unsafe
from town.spec import Agent, Persist, Spec

# Every hidden name that restore makes: the token tells it from a name that somebody chose.
HIDDEN = re.compile(rb"\.nuketown-[0-9a-f]{12}(?:-(.+))?", re.DOTALL)


def look(spec: Spec, agent: Agent, ground: Ground) -> Found:
    """Look at everything of one agent. Raises Unsafe, InTheWay or WrongOwner; reads only declared files."""
    kinds = _Kinds()
    old = outgoing.is_old(spec, agent, ground)
    with (
        entering.maybe_home(spec, agent, ground) as found,
        entering.maybe_persisted(spec, agent, ground) as persisted,
        copies.base(spec, agent, ground) as kept,
    ):
        home = None if old else found
        directories = tuple(
            _file(spec, agent, entry, home, kept)
            if entry.copied
            else _directory(spec, agent, entry, (home, persisted), kinds)
            for entry in agent.persist
        )
        leftovers = tuple(_leftovers(spec, agent, ground, home, persisted))
        if ground.subvolumes and (known := lineage.known(spec, agent)):
            begun_ = [left.name for left in leftovers if left.place == "home"]
            hidden = frozenset(() if home is None else carry.staged(home, begun_))
            directories = tuple(_lineage(agent, ground, directories, (known, hidden)))
        return Found(
            home=home is not None,
            subvolumes=ground.subvolumes,
            persisted=persisted is not None,
            directories=directories,
            leftovers=leftovers,
            begun=begun.known(spec, agent),
            old=old,
        )


class _Kinds:
    """What filesystem a descriptor is on, by the mount table: that is read once, for it costs 7 ms with 800 mounts."""

    def __init__(self) -> None:
        self._kinds: dict[int, str] = {}

    def of(self, fd: int) -> str:
        number = mounts.mount_id(fd)
        if number not in self._kinds:
            self._kinds = mounts.kinds()
        return self._kinds.get(number, "")


def _mounted(parent: int, name: str, wanted: int | None, kinds: _Kinds) -> bool:
    """Whether the mount over `name` shows the directory that `wanted` has open. Asks the mount table first."""
    with files.opened(files.open_beneath(parent, name, os.O_PATH | os.O_DIRECTORY)) as fd:
        if wanted is None or kinds.of(fd) != kinds.of(wanted):
            return False
        there, right = os.fstat(fd), os.fstat(wanted)
        return (there.st_dev, there.st_ino) == (right.st_dev, right.st_ino)


def _directory(
    spec: Spec, agent: Agent, entry: Persist, tops: tuple[int | None, int | None], kinds: _Kinds
) -> FoundDirectory:
    home, persisted = tops
    if not entry.bound or persisted is None:
        return FoundDirectory(entry, False, _target(spec.home(agent), entry, home, (None, kinds)))
    with entering.source(spec, agent, entry, persisted) as fd:
        return FoundDirectory(entry, fd is not None, _target(spec.home(agent), entry, home, (fd, kinds)))


def _lineage(
    agent: Agent, ground: Ground, found: Iterable[FoundDirectory], record: tuple[lineage.Known, frozenset[str]]
) -> Iterator[FoundDirectory]:
    """What homes set aside have of the directories that lie in the home. What an interrupted restore left is none."""
    known, hidden = record
    for there in found:
        candidates = known.get(there.entry.path, ()) if not there.entry.apart else ()
        if candidates and there.target == "missing":
            source = carry.alive(ground.agents, agent, candidates, hidden)
            yield replace(there, aside=0 if source is None else source.subvolume)
        else:
            yield replace(there, unsure=True) if candidates and not candidates[0].settled else there


def _file(spec: Spec, agent: Agent, entry: Persist, home: int | None, kept: int | None) -> FoundDirectory:
    try:
        return FoundDirectory(entry, *copies.place(spec, agent, entry, home, kept))
    except OSError as error:
        raise entering.in_the_way(spec.home(agent) / entry.path, error) from error


def _target(path: Path, entry: Persist, home: int | None, wanted: tuple[int | None, _Kinds]) -> Target:
    if home is None:
        return "missing"
    with entering.down(home, entry.path.parent, path) as parent:
        return "missing" if parent is None else _leaf(parent, path / entry.path, wanted)


def _leaf(parent: int, path: Path, wanted: tuple[int | None, _Kinds]) -> Target:
    try:
        with files.opened(files.enter(parent, path.name)) as fd:
            return "filled" if files.names(fd) else "empty"
    except FileNotFoundError:
        return "missing"
    except (Unsafe, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.EXDEV and _mounted(parent, path.name, *wanted):
            return "bound"
        raise entering.in_the_way(path, error) from error


def _leftovers(spec: Spec, agent: Agent, ground: Ground, home: int | None, persisted: int | None) -> Iterator[Leftover]:
    for name in _hidden(ground.agents, agent.name.encode(), (0, agent.uid)):  # a crash may follow the chown
        yield Leftover("agents", spec.town.agents_dir, name)
    declared = {entry.path.parts[0] for entry in agent.persist}
    if home is not None:
        for name in _hidden(home, None, (0,)):
            if name not in declared:
                yield Leftover("home", spec.home(agent), name)
    if persisted is not None:
        for name in _hidden(persisted, None, (0,)):
            if name not in declared:
                yield Leftover("persisted", places.persisted(spec, agent), name)
    if ground.persist is not None:
        path = places.persisted(spec, agent).parent
        with entering.maybe(ground.persist, "agents", path) as above:
            for name in [] if above is None else _hidden(above, agent.name.encode(), (0,)):
                yield Leftover("above persisted", path, name)


def _hidden(directory: int, agent: bytes | None, owners: tuple[int, ...]) -> list[str]:
    """Names that restore made. In a home the agent's own of that form are none of our business, only root's."""
    names = (name for name in files.names(directory) if (match := HIDDEN.fullmatch(name)) and match[1] == agent)
    return [os.fsdecode(name) for name in names if _is_directory_of(directory, name, owners)]


def _is_directory_of(directory: int, name: bytes, owners: tuple[int, ...]) -> bool:
    try:
        found = files.look(directory, name)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False  # something is mounted there, which no restore did
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners
