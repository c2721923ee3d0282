"""Keys made and derived, in memory: private halves go into the vaults' additions and nowhere else."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from identity import mismatch
from identity.halves import GpgKey, SshKey
from identity.keys import gpg, openpgp, ssh, whole
from identity.plan import (
    Action,
    AddEncryption,
    DeriveGpg,
    DeriveSsh,
    Found,
    MakeGpg,
    MakeSsh,
    recovery_path,
    revocation_path,
)  # fmt: skip
from town.spec import Agent


@dataclass
class Made:
    """What the actions gave: public halves by agent, armored public keys that are to be written."""

    ssh: dict[str, SshKey] = field(default_factory=dict)
    gpg: dict[str, GpgKey] = field(default_factory=dict)
    older: dict[str, list[GpgKey]] = field(default_factory=dict)  # that signed before `gpg` did
    armored: dict[str, str] = field(default_factory=dict)


def apply(actions: list[Action], found: Found) -> Made:
    """Make and derive keys. Private halves go into the vaults' additions and nowhere else."""
    made = Made()
    with ExitStack() as stack:
        home: Path | None = None
        if any(isinstance(action, (MakeGpg, DeriveGpg, AddEncryption)) for action in actions):
            home = stack.enter_context(gpg.throw_away_home())
        for action in actions:
            match action:
                case MakeSsh(agent):
                    private = ssh.generate()
                    found.secrets.added[agent.secrets.ssh_key] = private
                    made.ssh[agent.name] = ssh.public(private, agent.secrets.ssh_key)
                case DeriveSsh(agent):
                    made.ssh[agent.name] = _derived_ssh(agent, found)
                case MakeGpg(agent):
                    assert home is not None
                    _make_gpg(agent, home, found, made)
                case DeriveGpg(agent):
                    assert home is not None
                    _derive_gpg(agent, home, found, made)
                case AddEncryption(agent):
                    assert home is not None
                    _add_encryption(agent, home, found, made)
                case _:
                    assert_never(action)
    return made


def _derived_ssh(agent: Agent, found: Found) -> SshKey:
    key = ssh.public(found.secrets.get(agent.secrets.ssh_key), agent.secrets.ssh_key)
    entry = found.lock.get(agent.name)
    for other in (found.public[agent.name].ssh, entry.halves.ssh if entry else None):
        mismatch.belongs(agent, "SSH key", key, other, agent.secrets.ssh_key)
    return key


def _make_gpg(agent: Agent, home: Path, found: Found, made: Made) -> None:
    secrets = agent.secrets
    key = gpg.generate(home, agent.git.name, agent.git.email, encryption=secrets.gpg_encryption)
    keep(agent, key, found, made)


def keep(agent: Agent, key: gpg.NewKey, found: Found, made: Made) -> None:
    """Put each half of an OpenPGP key where it belongs; "" as its revocation: the one that is there stays."""
    path = agent.secrets.gpg_key
    assert path is not None
    found.recovery.added[recovery_path(agent)] = key.whole
    if key.revocation:
        found.recovery.added[revocation_path(agent)] = key.revocation
    found.secrets.added[path] = key.subkeys
    made.gpg[agent.name] = openpgp.facts(key.subkeys, path)
    made.armored[agent.name] = key.public


def _derive_gpg(agent: Agent, home: Path, found: Found, made: Made) -> None:
    path = agent.secrets.gpg_key
    assert path is not None
    private = found.secrets.get(path)
    facts = openpgp.facts(private, path)
    mismatch.no_primary_here(agent, openpgp.parts(private, path)[0].secret, path)
    entry = found.lock.get(agent.name)
    for other in (found.public[agent.name].gpg, entry.halves.gpg if entry else None):
        mismatch.belongs(agent, "OpenPGP key", facts, other, path)
    made.gpg[agent.name] = facts
    if found.public[agent.name].gpg is None:
        made.armored[agent.name] = _public(agent, home, private, found)


def _public(agent: Agent, home: Path, private: str, found: Found) -> str:
    """gpg.asc again. What verifies older commits is not in the agent's own half: then the recovery file has it."""
    assert agent.secrets.gpg_key is not None
    entry = found.lock.get(agent.name)
    wanted = {one.key.signing for one in entry.gpg} if entry else set()
    public = gpg.public(home, private, agent.secrets.gpg_key)
    path = recovery_path(agent)
    if not wanted <= _fingerprints(public) and path in found.recovery.names:
        public = gpg.public(home, found.recovery.get(path), path)
    mismatch.older_subkeys(agent, sorted(wanted - _fingerprints(public)))
    return public


def _fingerprints(public: str) -> set[str]:
    return {part.fingerprint for part in openpgp.parts(public, "gpg.asc")}


def _add_encryption(agent: Agent, home: Path, found: Found, made: Made) -> None:
    path, primary, published = agent.secrets.gpg_key, recovery_path(agent), found.public[agent.name].armored
    assert path is not None
    assert published is not None, "the plan adds to a key that has a public half"
    if primary not in found.recovery.names:
        raise mismatch.no_primary(agent, found)
    texts = ((found.recovery.get(primary), primary), (found.secrets.get(path), path), (published, "gpg.asc"))
    keep(agent, whole.with_encryption(home, *texts), found, made)
