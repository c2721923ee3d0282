"""What is there of each agent's keys, read without any private key: names in SOPS files, public halves, the lock."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from identity import lock as locks
from identity import places, signers, strangers, tree
from identity.halves import BadKey, GpgKey, SshKey, ssh_key
from identity.keys import openpgp
from identity.lock import Entry, Lock
from identity.places import Places
from identity.vault import Vault, vaults
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
    """What is there of these agents.

    Raises BadKey, locks.BadLock, signers.Forgotten, strangers.Stranger, files.Unreadable, tree.Linked.
    """
    secrets, recovery = vaults(spec, where.root)
    lock = read_lock(where)
    if listed := tree.read(where, places.REVOKED, _LIMIT):
        signers.refuse_forgotten(lock, listed)
    halves = {agent.name: public(where, agent) for agent in agents}
    for agent in agents:
        half = halves[agent.name]
        strangers.refuse(agent, half.armored, half.gpg if agent.secrets.gpg_key else None, lock.get(agent.name))
    return Found(secrets, recovery, lock, halves, _text(where, places.ALLOWED_SIGNERS) or "")


def read_lock(where: Places) -> dict[str, Entry]:
    """The lock beside the spec; empty when there is none. Raises locks.BadLock, tree.Linked."""
    data = tree.read(where, places.LOCK, 16 << 20)
    return {} if data is None else locks.parse(data, str(where.path(places.LOCK)))


def public(where: Places, agent: Agent) -> Public:
    """The public halves of an agent, from their files. Raises BadKey, files.Unreadable, tree.Linked."""
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
    data = tree.read(where, name, _LIMIT)
    return None if data is None else data.decode("utf-8", "replace")
