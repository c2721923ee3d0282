"""Fetches of an agent that were cut off: what `persist.fill.ledger` notes of them, as a plan takes it."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from persist.restore.actions import Begun
from town.spec import Agent, Spec


def known(spec: Spec, agent: Agent) -> tuple[Begun, ...]:
    """Those that can be gone on with. Never raises: what cannot be read was not begun."""
    if not (spec.state_dir / "restore").is_dir():
        return ()
    from persist.fill import ledger

    return tuple(Begun(claim.path, claim.key, claim.stage) for claim in ledger.begun(spec, agent))


def forget(spec: Spec, agent: Agent, *, but: Iterable[PurePosixPath]) -> None:
    """Drop the notes of fetches that nobody goes on with, except those of the paths `but`. Raises OSError."""
    if (spec.state_dir / "restore").is_dir():
        from persist.fill import ledger

        ledger.sweep(spec, agent, but)
