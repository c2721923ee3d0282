"""Where an agent's things lie on this machine. Names: but for `resolved`, nothing here touches a disk."""

import os
from pathlib import Path

from town.spec import Agent, Persist, Spec

# How the name of an old home in @agents-old begins while `persist tidy` deletes it: what is left of it is no home.
DELETING = b".deleting-"
# What the name of an entry of @agents-old has in it, after time and boot id, when a reset made it.
RESET = b".reset"


def persisted(spec: Spec, agent: Agent) -> Path:
    """The agent's root-owned directory (on btrfs a subvolume) under persist_dir."""
    assert spec.town.persist_dir is not None, "no entry is bound on a host without persist_dir"
    return spec.town.persist_dir / "agents" / agent.name


def source(spec: Spec, agent: Agent, entry: Persist) -> Path:
    """Where the data of a declared path lies: what `above` says, and its path."""
    return above(spec, agent, entry) / entry.path


def above(spec: Spec, agent: Agent, entry: Persist) -> Path:
    """What a declared path is relative to where its data lies: the home, or a directory of root's.

    That is the agent's under persist_dir for what is bound, and for what is kept of a file; of a file on a host without
    persist_dir it is one of the state directory.
    """
    if entry.copied and spec.town.persist_dir is None:
        return spec.state_dir / "files" / agent.name
    return persisted(spec, agent) if entry.apart else spec.home(agent)


def resolved(home: Path) -> Path:
    """A home, with agents_dir by its real path, as mountinfo and /proc have it.

    Nothing is asked of the home itself: its agent may have mounted there what never answers.
    """
    return Path(os.path.realpath(home.parent), home.name)
