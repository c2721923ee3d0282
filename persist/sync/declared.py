"""What an agent declares for the store, and what of it is no data."""

from pathlib import PurePosixPath

from town.persist_table import KEYS
from town.spec import Agent, Persist


def entries(agent: Agent) -> list[Persist]:
    """What the agent declares for the store. Caches and credentials never go there, whatever the spec says."""
    return [entry for entry in agent.persist if entry.synced and entry.class_ == "data"]


def left_out(entry: Persist) -> frozenset[PurePosixPath]:
    """What is no data in a declared path: installed keys, and what its preset calls one live copy, cache or remade."""
    keys = frozenset(key.relative_to(entry.path) for key in KEYS if key.is_relative_to(entry.path))
    if entry.preset is None:
        return keys
    from town import presets

    preset = presets.preset(entry.preset)
    return keys | {*preset.credential, *preset.cache, *preset.regenerated}


def rule(left: frozenset[PurePosixPath]) -> str:
    """One line that stands for what is left out: where it differs from the index's, the path is read in full."""
    return "\0".join(sorted(map(str, left)))
