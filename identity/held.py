"""Private halves held against public ones, where a key at hand opens their file without asking anybody."""

from identity import mismatch
from identity.found import Found
from identity.keys import openpgp, ssh
from identity.plan import recovery_path
from town.spec import Agent


def compare(agents: tuple[Agent, ...], found: Found) -> None:
    """Every key of these agents that has a private half. Raises KeyMismatch, BadKey, and as Vault.document does.

    Where no key at hand opens a file, nothing is said of it: gen needs none for what is there already.
    """
    if found.secrets.opens:
        for agent in agents:
            ssh_key(agent, found)
            gpg_key(agent, found)
    if found.recovery.opens:
        for agent in agents:
            primary_key(agent, found)


def ssh_key(agent: Agent, found: Found) -> None:
    """The SSH key of an agent. Raises KeyMismatch, BadKey, and as Vault.get does."""
    path, entry = agent.secrets.ssh_key, found.lock.get(agent.name)
    if path not in found.secrets.names or (entry is not None and entry.ssh_revoked):
        return
    key = ssh.public(found.secrets.get(path), path)
    for other in (found.public[agent.name].ssh, entry.halves.ssh if entry else None):
        mismatch.belongs(agent, "SSH key", key, other, path)


def gpg_key(agent: Agent, found: Found) -> None:
    """The OpenPGP key that an agent gets. Raises KeyMismatch, BadKey, and as Vault.get does."""
    path, entry = agent.secrets.gpg_key, found.lock.get(agent.name)
    if path is None or path not in found.secrets.names or (entry is not None and entry.gpg_revoked):
        return
    text = found.secrets.get(path)
    key = openpgp.facts(text, path)
    for other in (found.public[agent.name].gpg, entry.halves.gpg if entry else None):
        mismatch.belongs(agent, "OpenPGP key", key, other, path)
    mismatch.no_primary_here(agent, openpgp.parts(text, path)[0].secret, path)


def primary_key(agent: Agent, found: Found) -> None:
    """The primary key in the recovery file. Raises KeyMismatch, BadKey, and as Vault.get does."""
    path, entry = recovery_path(agent), found.lock.get(agent.name)
    known = entry.halves.gpg if entry else None
    if known is not None and path in found.recovery.names:
        there = openpgp.keys(found.recovery.get(path), path)[-1][0]
        mismatch.primary(agent, there.fingerprint, known.primary, found.recovery, path)
