"""What gen will do about keys: decided from what is there, by name, before any key is opened or made.

Each key has a private half (in a SOPS file), a public half (a file) and an entry in the lock. A key is made only where
there is none of the three; a public half without its private one stops everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from identity import mismatch, places
from identity.found import Found, Public, public
from identity.lock import Lock
from identity.mismatch import KeyMismatch, same
from identity.places import Named
from town.spec import Agent

__all__ = [
    "Found", "KeyMismatch", "Public", "plan", "public", "recovery_path", "revocation_path", "same", "with_primary",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class MakeSsh:
    """A new SSH key."""

    agent: Agent

    def __str__(self) -> str:
        return f"make    SSH key of {self.agent.name}"


@dataclass(frozen=True, slots=True)
class MakeGpg:
    """A new OpenPGP key: primary for the recovery file, subkeys for the agent."""

    agent: Agent

    def __str__(self) -> str:
        also = " that can be encrypted to" if self.agent.secrets.gpg_encryption else ""
        return f"make    OpenPGP key of {self.agent.name}{also}"


@dataclass(frozen=True, slots=True)
class AddEncryption:
    """A subkey for encryption under an OpenPGP key that has none. Needs the primary key of the recovery file."""

    agent: Agent

    def __str__(self) -> str:
        return f"add     encryption subkey to the OpenPGP key of {self.agent.name}"


@dataclass(frozen=True, slots=True)
class DeriveSsh:
    """The public half and the lock's entry, again, from the private half."""

    agent: Agent

    def __str__(self) -> str:
        return f"derive  public SSH key of {self.agent.name} from {self.agent.secrets.ssh_key}"


@dataclass(frozen=True, slots=True)
class DeriveGpg:
    """The public half and the lock's entry, again, from the private half."""

    agent: Agent

    def __str__(self) -> str:
        return f"derive  public OpenPGP key of {self.agent.name} from {self.agent.secrets.gpg_key}"


_PRIMARY = "gpg-primary-key"
Action = MakeSsh | MakeGpg | AddEncryption | DeriveSsh | DeriveGpg


def recovery_path(agent: Named) -> str:
    """Where the recovery file keeps an agent's whole OpenPGP key."""
    return f"{agent.name}/{_PRIMARY}"


def revocation_path(agent: Named) -> str:
    """Where the recovery file keeps the certificate that revokes it."""
    return f"{agent.name}/gpg-revocation"


def plan(agents: tuple[Agent, ...], found: Found) -> list[Action]:
    """What must be made or derived. Raises KeyMismatch."""
    mismatch.twins(found.lock)
    return [action for agent in agents for action in (*_ssh(agent, found), *_gpg(agent, found))]


def _ssh(agent: Agent, found: Found) -> Iterator[Action]:
    entry, public, path = found.lock.get(agent.name), found.public[agent.name].ssh, agent.secrets.ssh_key
    if entry is not None and entry.ssh_revoked:
        return  # rotate makes another, when somebody asks for it
    locked = entry.halves.ssh if entry else None
    same(agent, "SSH key", public, locked)
    if path in found.secrets.names:
        if public is None or locked is None:
            yield DeriveSsh(agent)
        return
    if traces := _traces(str(places.ssh_public(agent)), public, locked):
        raise mismatch.orphan(agent, "SSH key", path, traces, found.secrets)
    yield MakeSsh(agent)


def _gpg(agent: Agent, found: Found) -> Iterator[Action]:
    path = agent.secrets.gpg_key
    entry, public = found.lock.get(agent.name), found.public[agent.name]
    if path is None or (entry is not None and entry.gpg_revoked):
        return
    locked = entry.halves.gpg if entry else None
    if public.revoked:
        raise mismatch.revoked(agent)
    same(agent, "OpenPGP key", public.gpg, locked)
    if path not in found.secrets.names:
        if traces := _traces(str(places.gpg_public(agent)), public.gpg, locked):
            raise mismatch.orphan(agent, "OpenPGP key", path, traces, found.secrets)
        _refuse_second_primary(agent, path, found)
        yield MakeGpg(agent)
        return
    if public.gpg is None or locked is None:
        yield DeriveGpg(agent)
    if agent.secrets.gpg_encryption and public.gpg is not None and not public.encrypts:
        yield AddEncryption(agent)


def _traces(file: str, public: object, locked: object) -> list[str]:
    return [name for name, there in ((file, public), (str(places.LOCK), locked)) if there is not None]


def _refuse_second_primary(agent: Agent, path: str, found: Found) -> None:
    if recovery_path(agent) in found.recovery.names:
        raise mismatch.subkey_lost(agent, path, found)
    if found.recovery.data is None and (names := with_primary(found.lock)):
        raise mismatch.second_recovery(agent, found, names)
    missing = [one for one, entry in sorted(found.lock.items()) if entry.halves.gpg is not None]
    if missing := [one for one in missing if f"{one}/{_PRIMARY}" not in found.recovery.names]:
        raise mismatch.other_recovery(agent, found, missing)


def with_primary(lock: Lock) -> list[str]:
    """Whose OpenPGP key the lock names, and so whose primary key the recovery file must hold."""
    return [name for name, entry in sorted(lock.items()) if entry.gpg]
