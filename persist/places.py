"""Where an agent's things lie on this machine. Names only: nothing here touches a disk."""

from pathlib import Path

from town.spec import Agent, Persist, Spec

# How the name of an old home in @agents-old begins while `persist tidy` deletes it: what is left of it is no home.
DELETING = b".deleting-"


def persisted(spec: Spec, agent: Agent) -> Path:
    """The agent's root-owned directory (on btrfs a subvolume) under persist_dir."""
    assert spec.town.persist_dir is not None, "no entry is bound on a host without persist_dir"
    return spec.town.persist_dir / "agents" / agent.name


def source(spec: Spec, agent: Agent, entry: Persist) -> Path:
    """Where the data of a declared path lies: under persist_dir when it is bound, else in the home itself."""
    return (persisted(spec, agent) if entry.bound else spec.home(agent)) / entry.path
