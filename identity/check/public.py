"""The public halves of an agent's keys: whether they are there, agree with the lock, and will last."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta

from identity import lost, mismatch, places, strangers, tree
from identity.finding import Finding, Level
from identity.found import Public
from identity.keys import openpgp
from identity.lock import Entry, Lock
from identity.places import Places
from identity.vault import Vault
from town.spec import Agent
from town.terminal import shell_word, shown

_SOON = timedelta(days=30)
_LIMIT = 1 << 20  # bytes of gpg.asc


def findings(agent: Agent, where: Places, lock: Lock, public: Public, now: datetime) -> Iterator[Finding]:
    """What is to be said of one agent. Raises KeyMismatch, BadKey."""
    entry = lock.get(agent.name)
    if entry is None or not _all_there(agent, entry, public):
        yield Finding("error", agent.name, "its public keys are not all there", f"identity gen {agent.name}")
        return
    yield from _revoked(agent, entry)
    mismatch.same(agent, "SSH key", public.ssh, entry.halves.ssh)
    mismatch.same(agent, "OpenPGP key", public.gpg, entry.halves.gpg)
    yield from history(agent.name, where, entry)
    yield from _expiry(agent, entry, now)
    if agent.secrets.gpg_key is not None and entry.halves.gpg is not None:
        yield from _encryption(agent, public)
        yield from _address(agent, where)


def history(name: str, where: Places, entry: Entry) -> Iterator[Finding]:
    """gpg.asc judges all that an agent ever signed: it has all keys of the lock, no other, and says which were revoked.

    Raises BadKey, tree.Linked.
    """
    file = str(places.IDENTITIES / name / "gpg.asc")
    text = (tree.read(where, file, _LIMIT) or b"").decode("utf-8", "replace")
    for what in strangers.found(text, file, entry) if text else ():
        yield Finding("error", file, what, strangers.cure(file))
    there = {
        (key[0].fingerprint, part.fingerprint): key[0].revoked or part.revoked
        for key in (openpgp.keys(text, file) if text else []) for part in key[1:]
    }  # fmt: skip
    for kept in entry.gpg:
        one = (kept.key.primary, kept.key.signing)
        if one not in there:
            what = f"lacks the key {kept.key.signing} that keys.lock.toml names: what it signed does not verify"
            yield Finding("error", file, what, _history(where))
        elif kept.revoked is not None and not there[one]:
            what = f"does not say that the key {kept.key.signing} was revoked, as keys.lock.toml does"
            yield Finding("error", file, what, _history(where))


def _history(where: Places) -> str:
    return f"bring it back from git: git -C {shell_word(os.path.abspath(where.root))} log -p {places.IDENTITIES}/"


def missing_values(agent: Agent, where: Places, lock: Lock, secrets: Vault) -> Iterator[Finding]:
    """What the spec names in the secrets file and is not there; names only, so no key is needed."""
    entry = lock.get(agent.name)
    for path, revoked in _own(agent, entry):
        if path in secrets.names and revoked:
            what = f"{secrets.name} still has {shown(path)}, the private half of a key that was revoked"
            cure = f"take it out, with: sops edit {shell_word(os.path.abspath(secrets.path))}"
            yield Finding("error", agent.name, what, cure)
        elif path not in secrets.names and not revoked:
            cure = lost.key(secrets.name, agent, _known(agent, path, where, entry))
            yield Finding("error", agent.name, f"{secrets.name} has no {shown(path)}", cure)
    for name, path in agent.secrets.extra:
        if path not in secrets.names:
            yield Finding(
                "warning", agent.name, f"{secrets.name} has no {shown(path)}, which is to become {shown(name)}",
                f"identity secret set {agent.name} {name}",
            )  # fmt: skip


def _own(agent: Agent, entry: Entry | None) -> Iterator[tuple[str, bool]]:
    """The paths of the agent's keys, and whether the key that stood there was revoked."""
    yield agent.secrets.ssh_key, entry is not None and entry.ssh_revoked
    if agent.secrets.gpg_key is not None:
        yield agent.secrets.gpg_key, entry is not None and entry.gpg_revoked


def _known(agent: Agent, path: str, where: Places, entry: Entry | None) -> bool:
    """Whether there is a public half of the key at `path`: gen makes no other then."""
    if path == agent.secrets.ssh_key:
        return (entry is not None and bool(entry.ssh)) or where.path(places.ssh_public(agent)).exists()
    return (entry is not None and bool(entry.gpg)) or where.path(places.gpg_public(agent)).exists()


def _all_there(agent: Agent, entry: Entry, public: Public) -> bool:
    ssh = entry.ssh_revoked or (public.ssh is not None and entry.halves.ssh is not None)
    gpg = agent.secrets.gpg_key is None or entry.gpg_revoked or (public.gpg is not None and bool(entry.gpg))
    return ssh and gpg


def _revoked(agent: Agent, entry: Entry) -> Iterator[Finding]:
    if entry.ssh_revoked:
        what = "its SSH key was revoked and it has no other"
        yield Finding("warning", agent.name, what, f"identity rotate {agent.name} --ssh")
    if entry.gpg_revoked and agent.secrets.gpg_key is not None:
        what = "its OpenPGP key was revoked and it has no other"
        yield Finding("warning", agent.name, what, f"identity rotate {agent.name} --gpg")


def _expiry(agent: Agent, entry: Entry, now: datetime) -> Iterator[Finding]:
    gpg = entry.halves.gpg
    expires = None if gpg is None or agent.secrets.gpg_key is None else gpg.expires
    if expires is not None and expires < now + _SOON:
        level: Level = "error" if expires <= now else "warning"
        said = "has expired" if expires <= now else "expires"
        yield Finding(
            level, agent.name, f"its signing subkey {said} on {expires:%Y-%m-%d}",
            f"identity rotate {agent.name} --gpg makes a new one under the same primary key",
        )  # fmt: skip


def _encryption(agent: Agent, public: Public) -> Iterator[Finding]:
    if agent.secrets.gpg_encryption and not public.encrypts:
        what = "its OpenPGP key has no subkey to encrypt to, and the spec wants one"
        yield Finding("warning", agent.name, what, f"identity gen {agent.name}")


def _address(agent: Agent, where: Places) -> Iterator[Finding]:
    """Forges call a signature unverified when no user id of its key has the address of the commit."""
    name = places.gpg_public(agent)
    armored = (tree.read(where, name, _LIMIT) or b"").decode("utf-8", "replace")
    found = [body.decode("utf-8", "replace") for tag, body in openpgp.packets(armored, str(name)) if tag == _USER_ID]
    if not any(f"<{agent.git.email}>".lower() in one.lower() for one in found):
        yield Finding(
            "warning", str(name), f"the key is for {', '.join(map(shown, found))}, and commits are by "
            f"{shown(agent.git.email)}: forges will not call them verified",
            "change git.email back, or add the address to the key by hand (gpg --quick-add-uid)",
        )  # fmt: skip


_USER_ID = 13  # RFC 4880, 5.11
