"""What one agent gets, as values: its keys out of the secrets file, held against the lock, and its documents.

Each piece stands for itself: one that cannot be had is told, and the others are there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

from identity import lock as locks
from identity import lost, mismatch, places, runtime, signers, tree
from identity.documents import documents
from identity.halves import GpgKey, Halves, SshKey
from identity.keys import openpgp, ssh
from identity.lock import Entry, Lock
from identity.pieces import HomeFile, Keyring, below
from identity.sources import Closed, Source
from identity.teller import Teller
from town import cli
from town.failure import Failure
from town.spec import Agent, Spec

SSH, SSH_PUBLIC, GNUPG = map(PurePosixPath, (".ssh/id_ed25519", ".ssh/id_ed25519.pub", ".gnupg"))
_T = TypeVar("_T")
_LIMIT = 1 << 20  # bytes of a public key


@dataclass(frozen=True, slots=True, repr=False)
class Delivery:
    """What one agent gets. `secrets`: by name in `secrets.extra`, those that could be had."""

    files: tuple[HomeFile, ...] = ()
    keyring: Keyring | None = None
    published: bytes = b""  # gpg.asc, where it says that a key of the agent's was revoked
    secrets: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class _Private:
    """A private key as it lies in the secrets file, and its public half."""

    text: str
    ssh: SshKey | None = None
    gpg: GpgKey | None = None


def delivery(spec: Spec, agent: Agent, source: Source, lock: Lock, told: Teller) -> Delivery:
    """Everything for one agent; what cannot be had is told. Raises KeyMismatch: then it gets nothing."""
    entry = lock.get(agent.name)
    ssh_key, gpg_key = _ssh(agent, source, entry, told), _gpg(agent, source, entry, told)
    _refuse_others(entry, ssh_key, gpg_key)
    known = Halves(None) if entry is None else entry.halves
    halves = Halves((ssh_key and ssh_key.ssh) or known.ssh, (gpg_key and gpg_key.gpg) or known.gpg)
    made = [*_keys(agent, ssh_key, halves), *_papers(spec, agent, halves, lock, told)]
    return Delivery(
        tuple(file for file in made if not below(file.path, agent.delivered)),
        _keyring(gpg_key),
        _had(agent, told, lambda: _published(agent, source, entry)) or b"",
        tuple(_extra(agent, source, told)),
    )


def _ssh(agent: Agent, source: Source, entry: Entry | None, told: Teller) -> _Private | None:
    if below(SSH, agent.delivered) or (entry is not None and entry.ssh_revoked and _revoked(agent, "SSH key", "--ssh")):
        return None
    path = agent.secrets.ssh_key
    known = entry is not None and entry.halves.ssh is not None

    def read() -> _Private:
        text = source.value(path, lambda name: lost.key(name, agent, known))
        return _Private(text, ssh=ssh.public(text, path))

    return _had(agent, told, read)


def _gpg(agent: Agent, source: Source, entry: Entry | None, told: Teller) -> _Private | None:
    path = agent.secrets.gpg_key
    if path is None or below(GNUPG, agent.delivered):
        return None
    if entry is not None and entry.gpg_revoked and _revoked(agent, "OpenPGP key", "--gpg"):
        return None
    known = entry is not None and entry.halves.gpg is not None

    def read() -> _Private:
        text = source.value(path, lambda name: lost.key(name, agent, known))
        mismatch.no_primary_here(agent, openpgp.parts(text, path)[0].secret, path)
        return _Private(text, gpg=openpgp.facts(text, path))

    return _had(agent, told, read)


def _had(agent: Agent, told: Teller, get: Callable[[], _T]) -> _T | None:
    """What `get` gives; None when it cannot be had, which is told."""
    try:
        return get()
    except Closed as closed:
        told.of_all(agent, closed.cause)
    except Failure as failure:
        told.failure(agent, failure)
    return None


def _revoked(agent: Agent, what: str, option: str) -> bool:
    """True; says why there is no such key."""
    hint = f"a new one is made by: identity rotate {agent.name} {option}"
    cli.warn("identity", f"{agent.name}: its {what} was revoked, so it gets none", hint)
    return True


def _refuse_others(entry: Entry | None, ssh_key: _Private | None, gpg_key: _Private | None) -> None:
    if entry is None:
        return
    if (ssh_key and ssh_key.ssh != entry.halves.ssh) or (gpg_key and gpg_key.gpg != entry.halves.gpg):
        raise mismatch.KeyMismatch(
            "its private keys are not those that keys.lock.toml names",
            hint="bring back the secrets file or the lock from git, whichever is wrong",
        )


def _keys(agent: Agent, private: _Private | None, halves: Halves) -> Iterator[HomeFile]:
    if private is not None:
        yield HomeFile(SSH, private.text.encode(), 0o600)
    if halves.ssh is not None:
        yield HomeFile(SSH_PUBLIC, f"{halves.ssh.public} {agent.git.email}\n".encode())


def _keyring(private: _Private | None) -> Keyring | None:
    if private is None or private.gpg is None:
        return None
    return Keyring(private.text.encode(), private.gpg.primary, private.gpg.signing, private.gpg.expires)


def _published(agent: Agent, source: Source, entry: Entry | None) -> bytes:
    """What tells the agent's own gpg of a revocation: without it, it goes on saying that the old key is good."""
    if entry is None or below(GNUPG, agent.delivered) or not any(kept.revoked for kept in entry.gpg):
        return b""
    return tree.read(source.where, places.gpg_public(agent), _LIMIT) or b""


def _papers(spec: Spec, agent: Agent, halves: Halves, lock: Lock, told: Teller) -> Iterator[HomeFile]:
    """All that is public."""
    of_all = {**lock, agent.name: locks.entry(lock.get(agent.name), agent.git.email, halves)}
    for name, make in (("allowed_signers", lambda: signers.allowed_signers(of_all).encode()),
                       ("revoked.krl", lambda: signers.krl(of_all))):  # fmt: skip
        if (data := _had(agent, told, make)) is not None:
            yield HomeFile(PurePosixPath(".config/git", name), data)
    made = _had(agent, told, lambda: documents(spec, agent, halves)) or ()
    for document in made:
        yield from (HomeFile(home, document.text.encode()) for home in document.homes)
    if any(document.path.name == "environment.sh" for document in made):
        yield HomeFile(PurePosixPath(".profile"), _PROFILE, seed=True)
    if agent.secrets.env:
        yield HomeFile(PurePosixPath(".config/systemd/user/service.d/50-nuketown.conf"), _services(agent).encode())


_PROFILE = b"""# Begun by identity; yours to change until the next boot.
if [ -r ~/.config/nuketown/environment.sh ]; then
    . ~/.config/nuketown/environment.sh
fi
"""


def _services(agent: Agent) -> str:
    """A drop-in for every service of the agent's systemd (systemd.unit(5), `service.d`): it reads what is in /run."""
    return (
        "# Generated by identity from the spec: change the spec, this file is written over.\n"
        f"[Service]\nEnvironmentFile=-{runtime.environment_file(agent)}\n"
    )


def _extra(agent: Agent, source: Source, told: Teller) -> Iterator[tuple[str, bytes]]:
    for name, path in agent.secrets.extra:
        get = partial(source.extra_value, agent, name, path)
        if runtime.linked(agent, name) is None and (value := _had(agent, told, get)) is not None:
            yield name, value
