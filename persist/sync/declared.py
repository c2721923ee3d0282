"""What an agent declares for the store, and what of it is no data."""

from pathlib import PurePosixPath
from typing import NamedTuple

from town.persist_table import KEYS
from town.spec import Agent, Persist


def entries(agent: Agent) -> list[Persist]:
    """What the agent declares for the store."""
    return [entry for entry in agent.persist if entry.synced]


class Parts(NamedTuple):
    """What is no data in a declared directory, relative to it: installed keys; logins; what is made anew."""

    keys: tuple[PurePosixPath, ...] = ()
    credential: tuple[PurePosixPath, ...] = ()
    remade: tuple[PurePosixPath, ...] = ()


def parts(entry: Persist) -> Parts:
    """The private keys that nuketown installs there, and what its preset calls credential, cache or regenerated."""
    keys = tuple(key.relative_to(entry.path) for key in KEYS if key.is_relative_to(entry.path))
    if entry.preset is None:
        return Parts(keys)
    from town import presets

    preset = presets.preset(entry.preset)
    return Parts(keys, preset.credential, (*preset.cache, *preset.regenerated))


def left_out(entry: Persist) -> frozenset[PurePosixPath]:
    """What of a declared path never goes to the store; credentials do where the spec says so."""
    found = parts(entry)
    return frozenset((*found.keys, *(() if entry.upload else found.credential), *found.remade))


def rule(left: frozenset[PurePosixPath]) -> str:
    """One line that stands for what is left out: where it differs from the index's, the path is read in full."""
    return "\0".join(sorted(map(str, left)))
