"""Packs in which a look at the store found damage that no listing shows, such as a flipped bit.

They lie in `sync/AGENT.copies/damaged`, a line each. No sync builds on one, and `verify` and `repair` read each in
full, until it is whole or gone. Without that file a pack with all its bytes passes for whole until it is read again.
"""

from collections.abc import Iterable

from persist.sync import local
from town.spec import Agent, Spec

_COPY = "damaged"


def known(spec: Spec, agent: Agent) -> frozenset[str]:
    """The ids of those packs."""
    return frozenset((local.copy(spec, agent, _COPY) or b"").decode("ascii", "replace").split())


def note(spec: Spec, agent: Agent, packs: Iterable[str]) -> None:
    """From now on it is these."""
    now = frozenset(packs)
    if now != known(spec, agent):
        local.keep_copy(spec, agent, _COPY, "".join(f"{id_}\n" for id_ in sorted(now)).encode())
