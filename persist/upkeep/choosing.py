"""Which state a person means by `AGENT@SNAPSHOT`: a short id, or its unique beginning. Never a time: it may drift."""

from collections.abc import Sequence

from persist.bucket.commits import Name
from persist.upkeep.epochs import Epoch
from town.failure import Failure, WrongUsage
from town.terminal import shown

_MANY = 8  # candidates that a message names


class NoSuchState(Failure):
    """The store holds no state of that name."""


def parted(what: str) -> tuple[str, str]:
    """(agent, snapshot) of `AGENT@SNAPSHOT`. Raises WrongUsage."""
    agent, _, at = what.partition("@")
    if not agent or not at:
        raise WrongUsage(f"{shown(what[:100])} is no AGENT@SNAPSHOT", hint="such as ada@3f9c21; persist log shows them")
    return agent, at


def chosen(agent: str, epochs: Sequence[Epoch], at: str) -> Name:
    """The state of that short id. Raises NoSuchState, WrongUsage for one that several have."""
    names = [name for epoch in epochs for name in epoch.listing.states]
    found = [name for name in names if name.salt.startswith(at.lower()) or str(name) == at]
    if not found:
        raise NoSuchState(
            f"{agent} has no state {shown(at[:100])} in the store", hint=f"persist log {agent} shows what there is"
        )
    if len(found) > 1:
        shorts = " or ".join(name.short for name in found[:_MANY])
        more = f" and {len(found) - _MANY} more" if len(found) > _MANY else ""
        raise WrongUsage(f"{agent}@{shown(at[:100])} may be {shorts}{more}", hint="say more of it")
    return found[0]
