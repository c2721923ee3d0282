"""What gen will do about keys: decided from what is there, by name, before any key is opened or made.

Each key has a private half (in a SOPS file), a public half (a file) and an entry in the lock. A key is made only where
there is none of the three; a public half without its private one stops everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from identity import lost, places
from identity.halves import GpgKey, SshKey, ssh_key
from identity.keys import openpgp
from identity.lock import Lock
from identity.places import Places
from identity.vault import Vault
from town import files
from town.failure import Failure
from town.spec import Agent

_LIMIT = 1 << 20  # bytes of a public key


class KeyMismatch(Failure):
    """Halves of a key do not belong together, or one that must exist does not. Never repaired by a new key."""


@dataclass(frozen=True, slots=True)
class MakeSsh:
    """A new SSH key."""

    agent: Agent

    def __str__(self) -> str:
        return f"make    SSH key of {self.agent.name}"


@dataclass(frozen=True, slots=True)
class MakeGpg:
    """A new OpenPGP key: primary for the recovery file, signing subkey for the agent."""

    agent: Agent

    def __str__(self) -> str:
        return f"make    OpenPGP key of {self.agent.name}"


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


Action = MakeSsh | MakeGpg | DeriveSsh | DeriveGpg


@dataclass(frozen=True, slots=True)
class Public:
    """The public halves that lie beside the spec, read."""

    ssh: SshKey | None
    gpg: GpgKey | None


@dataclass(frozen=True, slots=True)
class Found:
    """All that a plan is made from."""

    secrets: Vault
    recovery: Vault
    lock: Lock
    public: dict[str, Public]


def recovery_path(agent: Agent) -> str:
    """Where the recovery file keeps an agent's whole OpenPGP key."""
    return f"{agent.name}/gpg-primary-key"


def revocation_path(agent: Agent) -> str:
    """Where the recovery file keeps the certificate that revokes it."""
    return f"{agent.name}/gpg-revocation"


def public(where: Places, agent: Agent) -> Public:
    """The public halves of an agent, from their files. Raises BadKey, files.Unreadable."""
    ssh, gpg = where.path(places.ssh_public(agent)), where.path(places.gpg_public(agent))
    return Public(
        ssh_key(files.read_bounded(ssh, _LIMIT).decode("utf-8", "replace"), str(ssh)) if ssh.exists() else None,
        openpgp.facts(files.read_bounded(gpg, _LIMIT).decode("utf-8", "replace"), str(gpg)) if gpg.exists() else None,
    )


def plan(agents: tuple[Agent, ...], found: Found) -> list[Action]:
    """What must be made or derived. Raises KeyMismatch."""
    return [action for agent in agents for action in (*_ssh(agent, found), *_gpg(agent, found))]


def _ssh(agent: Agent, found: Found) -> Iterator[Action]:
    entry, public = found.lock.get(agent.name), found.public[agent.name].ssh
    locked = entry.halves.ssh if entry else None
    private = agent.secrets.ssh_key in found.secrets.names
    if not private:
        _refuse_orphan(agent, "SSH key", agent.secrets.ssh_key, public, locked)
        yield MakeSsh(agent)
        return
    same(agent, "SSH key", public, locked)
    if public is None or locked is None:
        yield DeriveSsh(agent)


def _gpg(agent: Agent, found: Found) -> Iterator[Action]:
    path = agent.secrets.gpg_key
    if path is None:
        return
    entry, public = found.lock.get(agent.name), found.public[agent.name].gpg
    locked = entry.halves.gpg if entry else None
    if path not in found.secrets.names:
        _refuse_orphan(agent, "OpenPGP key", path, public, locked)
        if recovery_path(agent) in found.recovery.names:
            raise KeyMismatch(
                f"{found.recovery.name} holds an OpenPGP key of {agent.name}, but {found.secrets.name} has no {path}",
                hint=f"bring {found.secrets.name} back from git, or, if that key was never used, take {agent.name} out "
                f"of {found.recovery.name} with: sops {found.recovery.name}",
            )
        _refuse_second_recovery(agent, found)
        yield MakeGpg(agent)
        return
    same(agent, "OpenPGP key", public, locked)
    if public is None or locked is None:
        yield DeriveGpg(agent)


def _refuse_second_recovery(agent: Agent, found: Found) -> None:
    # A new file beside the lost one would lack the others' primary keys, and stand in the way when it is brought back.
    if found.recovery.data is None and (names := with_primary(found.lock)):
        raise KeyMismatch(
            f"{found.recovery.name}, where the primary key of {agent.name} belongs, is not there",
            hint=lost.recovery(found.recovery.name, names),
        )


def with_primary(lock: Lock) -> list[str]:
    """Whose OpenPGP key the lock names, and so whose primary key the recovery file must hold."""
    return [name for name, entry in sorted(lock.items()) if entry.halves.gpg is not None]


def _refuse_orphan(agent: Agent, what: str, path: str, public: object, locked: object) -> None:
    if public is not None or locked is not None:
        where = "a public half" if public is not None else "an entry in keys.lock.toml"
        raise KeyMismatch(
            f"the {what} of {agent.name} has {where} but no private half at {path}",
            hint="bring the secrets file back from git: a new key would leave signed commits unverifiable. If the key "
            f"is truly gone, remove identities/{agent.name} and its entry in keys.lock.toml first",
        )


def same(agent: Agent, what: str, one: object, other: object) -> None:
    """Two findings of one key, where both are there. Raises KeyMismatch."""
    if one is not None and other is not None and one != other:
        raise KeyMismatch(
            f"the {what} of {agent.name} is not the one that keys.lock.toml names",
            hint="look at what changed with: git log -p identities/ - then bring the right one back",
        )
