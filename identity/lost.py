"""The cure for private halves that are gone: gen is none where a public half is known, for it makes no new key then."""

from town.spec import Agent
from town.terminal import shown

_WHY = "identity gen makes no new keys in place of those that keys.lock.toml or identities/ names"


def file(name: str, known: bool) -> str:
    """For a SOPS file that is not there; `known`: public halves of keys that it held are."""
    return f"bring {shown(name)} back from git or a backup: {_WHY}" if known else "make it with: identity gen --all"


def recovery(name: str, agents: list[str]) -> str:
    """For a recovery file that is not there, while `agents` have OpenPGP keys."""
    return (
        f"bring {shown(name)} back from git or a backup: it holds the primary keys of {', '.join(map(shown, agents))}, "
        "and cannot be made anew. Without it these keys cannot be renewed or revoked"
    )


def key(name: str, agent: Agent, known: bool) -> str:
    """For a key without a value in the SOPS file `name`; `known`: its public half is."""
    return file(name, True) if known else f"identity gen {agent.name}"
