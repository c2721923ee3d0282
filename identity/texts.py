"""The texts of all files that gen keeps: what each of them holds, in the order in which they are written."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from identity import lock as locks
from identity import mismatch, places, signers, vouching
from identity.audience import everybody, humans
from identity.documents import documents
from identity.halves import Halves
from identity.lock import Lock
from identity.making import Made
from identity.places import Places
from identity.plan import Found
from town.spec import Agent, Spec

Text = tuple[str, str | bytes | None]  # the name of a file and what it holds; None: there is no such file


def sealed(spec: Spec, where: Places, found: Found, now: datetime) -> Iterator[tuple[str, str]]:
    """The SOPS files that change. A private key is put under no data key that somebody else may have made.

    Raises as Vault.sealed does.
    """
    # Recovery first: a primary key without its subkey is seen by the next run, a subkey without its primary is not.
    if found.recovery.added or found.recovery.removed:
        fresh = bool(found.recovery.added) and not vouching.recovery(found)
        yield found.recovery.name, found.recovery.sealed(humans(spec, where), now, fresh=fresh)
    if found.secrets.added or found.secrets.removed:
        fresh = bool(found.secrets.added) and not vouching.secrets(spec, found)
        yield found.secrets.name, found.secrets.sealed(everybody(spec, where), now, fresh=fresh)


def public_texts(spec: Spec, agents: tuple[Agent, ...], found: Found, made: Made) -> Iterator[Text]:
    """Everything that is no secret, after keys were made or derived. Raises BadKey, BadText."""
    lock = dict(found.lock)
    for agent in agents:
        known, older = found.lock.get(agent.name), made.older.get(agent.name, ())
        lock[agent.name] = locks.entry(known, signers.principal(agent.git.email), _halves(agent, found, made), older)
    mismatch.twins(lock)
    if not found.lock:
        mismatch.lost_lock(lock, found.allowed)
    yield from of_lock(spec, agents, lock, made.armored)


def of_lock(spec: Spec, agents: tuple[Agent, ...], lock: Lock, armored: Mapping[str, str]) -> Iterator[Text]:
    """What follows from the lock and the spec for these agents, the lock last. `armored`: each gpg.asc that is new."""
    for agent in agents:
        halves = lock[agent.name].halves
        yield str(places.ssh_public(agent)), ssh_line(agent, halves)
        if agent.name in armored:
            yield str(places.gpg_public(agent)), armored[agent.name]
        for document in documents(spec, agent, halves):
            yield str(places.document(agent, document.path)), document.text
    yield str(places.REVOKED), signers.krl(lock)
    yield str(places.ALLOWED_SIGNERS), signers.allowed_signers(lock)
    yield str(places.LOCK), locks.text(lock)


def ssh_line(agent: Agent, halves: Halves) -> str | None:
    """ssh.pub: the key and the agent's address as its comment. None, no file: the key was revoked."""
    return None if halves.ssh is None else f"{halves.ssh.public} {agent.git.email}\n"


def _halves(agent: Agent, found: Found, made: Made) -> Halves:
    entry = found.lock.get(agent.name)
    ssh_half = made.ssh.get(agent.name) or (entry.halves.ssh if entry else None)
    gpg_half = made.gpg.get(agent.name) or (entry.halves.gpg if entry else None)
    return Halves(ssh_half, gpg_half)
