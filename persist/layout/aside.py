"""What the next rollback sets aside, said before it does: @agents as it stands, whatever it is, is kept whole.

Homes belong to agents, so they are looked at by descriptors, and only a few names of them are read.
"""

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath

from persist import places
from persist.layout import directories
from persist.layout.actions import Findings
from persist.layout.top import entry_of, is_subvolume
from town import btrfs, files
from town.failure import Unsafe
from town.spec import Agent, Persist, Spec
from town.terminal import counted, shown

FEW, MANY = 5, 1000


def look(top: int, spec: Spec, found: Findings) -> None:
    """Note what stands at the name of @agents, and what lies in a home and nowhere else."""
    assert spec.town.btrfs is not None
    name = spec.town.btrfs.subvolume
    if (entry := entry_of(top, name)) is None:
        return
    where = f"the next rollback sets it aside whole, as {shown(spec.town.btrfs.old)}/<time>-<boot id>"
    if not stat.S_ISDIR(entry.st_mode):
        found.notes.append(f"{shown(name)} is no directory: {where}")
        return
    with files.opened(files.enter(top, name)) as homes:
        if held := _held(homes, subvolume=is_subvolume(entry)):
            found.notes.append(f"{shown(name)} {held}: {where}")
        found.warnings += [_alone(spec, agent, path) for agent, path in _only_in_homes(spec, homes)]


def _held(homes: int, *, subvolume: bool) -> str:
    """`is a plain directory, holds ada, vox and 1 nested subvolume`; empty for an empty subvolume."""
    with_more = list(itertools.islice(files.scan(homes), FEW + 1))
    names = sorted(shown(entry.name) for entry in with_more[:FEW])
    said = [] if subvolume else ["is a plain directory"]
    if names:
        said.append(f"holds {', '.join(names)}{' and more' if len(with_more) > FEW else ''}")
    if subvolume and (inside := _nested(homes)):
        said.append(f"has {'more than ' if inside == MANY else ''}{counted(inside, 'nested subvolume')}")
    return ", ".join(said)


def _nested(homes: int) -> int:
    """How many subvolumes lie right in it, at most MANY: an agent can make a million."""
    references = btrfs.search(homes, btrfs.ROOT_TREE, (btrfs.info(homes).id, btrfs.ROOT_REF))
    return sum(1 for _ in itertools.islice(references, MANY))


def _only_in_homes(spec: Spec, homes: int) -> Iterator[tuple[Agent, PurePosixPath]]:
    """Declared directories that hold something in the home and have nothing under persist_dir."""
    for agent in spec.agents:
        for entry in agent.persist:
            if entry.bound and _filled(homes, PurePosixPath(agent.name) / entry.path) and not _kept(spec, agent, entry):
                yield agent, entry.path


def _filled(homes: int, path: PurePosixPath) -> bool:
    try:
        with files.opened(files.open_beneath(homes, path)) as fd:
            return any(True for _ in files.scan(fd))
    except (OSError, Unsafe):
        return False


def _kept(spec: Spec, agent: Agent, entry: Persist) -> bool:
    relative = places.source(spec, agent, entry).relative_to("/")
    try:
        with directories.root() as slash, files.opened(files.open_beneath(slash, str(relative), os.O_PATH)):
            return True
    except (OSError, Unsafe):
        return False


def _alone(spec: Spec, agent: Agent, path: PurePosixPath) -> tuple[str, str]:
    assert spec.town.btrfs is not None
    name = shown(str(path))
    return (
        f"{agent.name}: {name} holds data in the home alone: after a rollback it lies in {shown(spec.town.btrfs.old)}, "
        "and the agent gets an empty one",
        f"after persist rollback and persist restore: persist recall {agent.name}@… --to DIR, "
        f"then as the agent: cp -a DIR/{name}/. ~/{name}/",
    )
