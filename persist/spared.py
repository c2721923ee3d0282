"""Which homes that were set aside hold what exists nowhere else yet: no tidy deletes those.

An agent's directory that lies in its home is brought over by the first restore after a boot. Until then what was
written since the last sync is in the home set aside and nowhere else; the same holds for a declared file that was not
copied out. An agent that does not come up for days must not lose it to `keep`.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from persist import copied, lineage
from persist.lineage import Candidate
from town import btrfs, files, subvolumes
from town.btrfs import TOP_LEVEL, BtrfsFailed
from town.spec import Agent, Btrfs, Spec
from town.terminal import shown

_DEEPEST = 1000  # subvolumes in subvolumes


def entries(town: Spec, top: int, names: Btrfs) -> Mapping[bytes, str]:
    """Names in @agents-old, each with the reason why it stays. `top`: the top level, open. Raises nothing."""
    found: dict[bytes, str] = {}
    for agent in town.agents:
        for name, why in of(town, agent, top, names).items():
            found.setdefault(name, why)
    return found


def of(town: Spec, agent: Agent, top: int, names: Btrfs) -> Mapping[bytes, str]:
    """The same for the homes of one agent."""
    found: dict[bytes, str] = {}
    places: dict[int, bytes] | None = None
    for number, what in _needed(town, agent, top):
        with suppress(OSError, BtrfsFailed):
            if places is None:
                places = {nested.id: nested.path for nested in btrfs.nested(top)}
            name = _entry(top, number, places, os.fsencode(names.old))
            if name is not None:
                found.setdefault(name, f"it has {what} of {agent.name}, which no restore has brought over yet")
    return found


def _needed(town: Spec, agent: Agent, top: int) -> Iterator[tuple[int, str]]:
    """Subvolumes from which the agent's next restore brings something over, and what."""
    declared = {entry.path for entry in agent.persist if not entry.apart}
    for path, candidates in lineage.known(town, agent).items():
        if path in declared:
            usable = (one for one in lineage.usable(candidates) if _alive(top, one))
            yield from ((one.subvolume, shown(str(path))) for one in list(usable)[:1])
    record = copied.known(town, agent)
    if record.number and any(entry.copied for entry in agent.persist):
        yield record.number, "declared files"


def _alive(top: int, candidate: Candidate) -> bool:
    with suppress(OSError, BtrfsFailed), files.opened(subvolumes.opened_root(top, candidate.subvolume)) as fd:
        return btrfs.info(fd).uuid_bytes.hex() == candidate.uuid
    return False


def _entry(top: int, number: int, places: Mapping[int, bytes], old: bytes) -> bytes | None:
    """The entry of @agents-old in which a subvolume lies; None when it lies elsewhere, or is gone. Raises OSError."""
    for _ in range(_DEEPEST):
        place = subvolumes.place(top, number)
        if place is None:
            return None
        if place.parent == TOP_LEVEL:
            parts = places.get(number, b"").split(b"/")
            return parts[1] if len(parts) > 1 and parts[0] == old else None
        number = place.parent
    return None
