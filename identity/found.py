"""What is there of each agent's keys, read without any private key: names in SOPS files, public halves, the lock."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from identity import lock as locks
from identity import places, signers
from identity.halves import BadKey, GpgKey, SshKey, ssh_key
from identity.keys import openpgp
from identity.lock import Entry, Lock
from identity.places import Places
from identity.vault import Vault, vaults
from town import files
from town.spec import Agent, Spec

_LIMIT = 1 << 20  # bytes of a public key


@dataclass(frozen=True, slots=True)
class Public:
    """The public halves that lie beside the spec, read."""

    ssh: SshKey | None
    gpg: GpgKey | None  # the key in use
    armored: str | None = None  # all of gpg.asc

    @property
    def encrypts(self) -> bool:
        """Whether gpg.asc has a subkey that others encrypt to."""
        return self.armored is not None and openpgp.encrypts(self.armored, "gpg.asc")

    @property
    def revoked(self) -> bool:
        """Whether gpg.asc holds nothing but keys that were revoked."""
        return self.armored is not None and self.gpg is None


@dataclass(frozen=True, slots=True)
class Found:
    """All that a plan is made from."""

    secrets: Vault
    recovery: Vault
    lock: Lock
    public: dict[str, Public]
    allowed: str = ""  # what allowed_signers holds


def find(spec: Spec, agents: tuple[Agent, ...], where: Places) -> Found:
    """What is there of these agents. Raises BadKey, locks.BadLock, signers.Forgotten, files.Unreadable."""
    secrets, recovery = vaults(spec, where.root)
    lock, revoked = read_lock(where), where.path(places.REVOKED)
    if revoked.exists():
        signers.refuse_forgotten(lock, files.read_bounded(revoked, _LIMIT))
    halves = {agent.name: public(where, agent) for agent in agents}
    return Found(secrets, recovery, lock, halves, _text(where, places.ALLOWED_SIGNERS) or "")


def read_lock(where: Places) -> dict[str, Entry]:
    """The lock beside the spec; empty when there is none. Raises locks.BadLock."""
    path = where.path(places.LOCK)
    return locks.parse(files.read_bounded(path, 16 << 20), str(path)) if path.exists() else {}


def public(where: Places, agent: Agent) -> Public:
    """The public halves of an agent, from their files. Raises BadKey, files.Unreadable."""
    ssh, gpg = _text(where, places.ssh_public(agent)), _text(where, places.gpg_public(agent))
    try:
        return Public(
            None if ssh is None else ssh_key(ssh, str(places.ssh_public(agent))),
            None if gpg is None else openpgp.in_use(gpg, str(places.gpg_public(agent))),
            gpg,
        )
    except BadKey as error:
        cure = f"bring it back from git, or remove it: identity gen {agent.name} derives it from the private half"
        raise BadKey(error.what, hint=cure) from error


def _text(where: Places, name: PurePosixPath) -> str | None:
    path = where.path(name)
    return files.read_bounded(path, _LIMIT).decode("utf-8", "replace") if path.exists() else None
