"""`identity check`: read-only. Everything that gen makes, held against the spec, the lock and itself.

What needs a private key is checked as far as the keys at hand allow. What could not be checked is said, and is no
finding: continuous integration has no keys and must be able to pass.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from identity import gen, journal, lost, places, plan, readers
from identity import lock as locks
from identity.documents import documents
from identity.finding import Finding, Level
from identity.halves import Halves
from identity.keys import openpgp, ssh
from identity.lock import Lock
from identity.places import Places
from identity.prompts import CODEX_READS
from identity.vault import Vault, vaults
from town import cli, files, sops
from town import spec as specs
from town.failure import ATTENTION, BROKEN, DONE, Failure
from town.spec import Agent, Spec
from town.terminal import shown

_SOON = timedelta(days=30)


def command(arguments: argparse.Namespace) -> int:
    """`identity check [AGENT…]`: 0 clean, 3 warnings, 4 errors."""
    spec = specs.load(cli.spec_file(arguments))
    agents = tuple(dict.fromkeys(map(spec.agent, arguments.agents))) or spec.agents
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    found = list(findings(spec, agents, where, datetime.now(UTC)))
    status = _status(found)
    if arguments.json:
        cli.put_json({"status": status, "findings": [asdict(one) for one in found]})
        return status
    for one in found:
        one.tell()
    if status == DONE:
        print("everything is as the spec says")
    return status


def _status(found: list[Finding]) -> int:
    levels = {one.level for one in found}
    return BROKEN if "error" in levels else ATTENTION if "warning" in levels else DONE


def findings(spec: Spec, agents: tuple[Agent, ...], where: Places, now: datetime) -> Iterator[Finding]:
    """Everything that is to be said, files first; what is wrong with a file is said once."""
    secrets, recovery = vaults(spec, where.root)
    yield from _caught(str(places.JOURNAL), lambda: _journal(where))
    lock, broken = _lock(where)
    yield from broken
    yield from _caught(secrets.name, lambda: _secrets_file(spec, secrets, lock))
    if any(agent.secrets.gpg_key for agent in spec.agents):
        yield from _caught(recovery.name, lambda: _recovery_file(spec, recovery, lock))
    if not broken:
        yield from _caught(str(places.ALLOWED_SIGNERS), lambda: _town_files(where, lock))
    for agent in agents:
        yield from _missing_values(agent, where, secrets, lock)
        if not broken:
            yield from _caught(agent.name, lambda agent=agent: _agent(spec, agent, where, lock, now))  # type: ignore[misc]
    yield from _opened(agents, lock, secrets, recovery)


def _lock(where: Places) -> tuple[Lock, list[Finding]]:
    """The lock, and what keeps it from being read: then the keys are held against nothing."""
    try:
        return gen.read_lock(where), []
    except Failure as failure:
        return {}, [_found(str(places.LOCK), failure)]


def _found(where: str, failure: Failure) -> Finding:
    return Finding("error", where, failure.what, failure.hint)


def _readable(vault: Vault) -> bool:
    """Whether a file is there and its names can be read; if not, that was said when the file was looked at."""
    try:
        vault.names  # noqa: B018 - reads it
    except Failure:
        return False
    return vault.data is not None


def _caught(where: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a failure that ends it is one of them."""
    try:
        yield from check()
    except Failure as failure:
        yield _found(where, failure)


def _journal(where: Places) -> Iterator[Finding]:
    if journal.pending(where):
        yield Finding("warning", str(places.JOURNAL), "a run of gen was interrupted", "identity gen --all finishes it")


def _secrets_file(spec: Spec, vault: Vault, lock: Lock) -> Iterator[Finding]:
    if vault.data is None:
        yield Finding("error", vault.name, "is not there", lost.file(vault.name, bool(lock)))
        return
    vault.names  # noqa: B018 - reads it: an unreadable file is a finding
    if spec.town.recipients is not None:
        wanted = spec.town.recipients
        yield from readers.recipients(vault, wanted.humans, tuple(one for _, one in wanted.hosts))


def _recovery_file(spec: Spec, vault: Vault, lock: Lock) -> Iterator[Finding]:
    if vault.data is None:
        known = plan.with_primary(lock)
        cure = lost.recovery(vault.name, known) if known else lost.file(vault.name, False)
        yield Finding("error", vault.name, "is not there", cure)
        return
    vault.names  # noqa: B018 - as above
    if spec.town.recipients is not None:
        humans, hosts = spec.town.recipients.humans, spec.town.recipients.hosts
        yield from readers.recipients(vault, humans, ())
        yield from readers.hosts_of_recovery(vault, humans, hosts)


def _town_files(where: Places, lock: Lock) -> Iterator[Finding]:
    if not where.path(places.LOCK).exists():
        yield Finding("error", str(places.LOCK), "is not there", "identity gen --all")
        return
    name, found = str(places.ALLOWED_SIGNERS), _read(where, places.ALLOWED_SIGNERS)
    if found is None:
        yield Finding("error", name, "is not there", "identity gen --all")
    elif found != locks.allowed_signers(lock):
        cure = "look at it with git diff, then: identity gen --all"
        yield Finding("error", name, "speaks for other keys than keys.lock.toml", cure)


def _agent(spec: Spec, agent: Agent, where: Places, lock: Lock, now: datetime) -> Iterator[Finding]:
    entry, public = lock.get(agent.name), plan.public(where, agent)
    if entry is None or public.ssh is None or (agent.secrets.gpg_key is not None and public.gpg is None):
        yield Finding("error", agent.name, "its public keys are not all there", f"identity gen {agent.name}")
        return
    plan.same(agent, "SSH key", public.ssh, entry.halves.ssh)
    plan.same(agent, "OpenPGP key", public.gpg, entry.halves.gpg)
    yield from _expiry(agent, entry.halves, now)
    yield from _drift(spec, agent, where, entry.halves)


def _missing_values(agent: Agent, where: Places, secrets: Vault, lock: Lock) -> Iterator[Finding]:
    if not _readable(secrets):
        return
    for path in filter(None, (agent.secrets.ssh_key, agent.secrets.gpg_key)):
        if path not in secrets.names:
            cure = lost.key(secrets.name, agent, _known(agent, path, where, lock))
            yield Finding("error", agent.name, f"{secrets.name} has no {shown(path)}", cure)
    for name, path in agent.secrets.extra:
        if path not in secrets.names:
            yield Finding(
                "warning", agent.name, f"{secrets.name} has no {shown(path)}, which is to become {shown(name)}",
                f"identity secret set {agent.name} {name}",
            )  # fmt: skip


def _known(agent: Agent, path: str, where: Places, lock: Lock) -> bool:
    """Whether there is a public half of the key at `path`: gen makes no other then."""
    entry = lock.get(agent.name)
    if path == agent.secrets.ssh_key:
        return entry is not None or where.path(places.ssh_public(agent)).exists()
    return (entry is not None and entry.halves.gpg is not None) or where.path(places.gpg_public(agent)).exists()


def _expiry(agent: Agent, halves: Halves, now: datetime) -> Iterator[Finding]:
    expires = halves.gpg.expires if halves.gpg else None
    if expires is not None and expires < now + _SOON:
        level: Level = "error" if expires <= now else "warning"
        said = "has expired" if expires <= now else "expires"
        yield Finding(
            level, agent.name, f"its signing subkey {said} on {expires:%Y-%m-%d}",
            "gpg --quick-set-expire with the primary key of the recovery file",
        )  # fmt: skip


def _drift(spec: Spec, agent: Agent, where: Places, halves: Halves) -> Iterator[Finding]:
    wanted = {places.document(agent, one.path): one.text for one in documents(spec, agent, halves)}
    wanted[places.ssh_public(agent)] = gen.ssh_line(agent, halves)
    for name, text in wanted.items():
        found = _read(where, name)
        if found != text:
            what = "is not there" if found is None else "is not as the spec has it"
            yield Finding("warning", str(name), what, f"identity gen {agent.name}")
        if name.parent.name == "codex" and len(text.encode()) > CODEX_READS:
            yield Finding(
                "warning", str(name), f"Codex reads its first {CODEX_READS} bytes only",
                "shorten the description or prompts.extra",
            )  # fmt: skip


def _opened(agents: tuple[Agent, ...], lock: Lock, secrets: Vault, recovery: Vault) -> Iterator[Finding]:
    """What only a private key can tell."""
    for vault, check in ((secrets, _private), (recovery, _primary)):
        if not _readable(vault):
            continue
        try:
            vault.document  # noqa: B018 - opens it
        except sops.NoKey:
            yield Finding("unchecked", vault.name, "no key at hand opens it, so its values were not looked at")
            continue
        except Failure as failure:
            yield _found(vault.name, failure)
            continue
        for agent in agents:
            yield from _caught(agent.name, lambda agent=agent, vault=vault, check=check: check(agent, lock, vault))  # type: ignore[misc]


def _private(agent: Agent, lock: Lock, secrets: Vault) -> Iterator[Finding]:
    entry = lock.get(agent.name)
    if entry is None:
        return
    cure = "bring back from git the halves that belong together"
    path = agent.secrets.ssh_key
    if path in secrets.names and ssh.public(secrets.get(path), path) != entry.halves.ssh:
        yield Finding("error", agent.name, f"the private key at {shown(path)} is not that of ssh.pub", cure)
    gpg_path = agent.secrets.gpg_key
    if gpg_path is None or gpg_path not in secrets.names:
        return
    armored = secrets.get(gpg_path)
    if openpgp.facts(armored, gpg_path) != entry.halves.gpg:
        yield Finding("error", agent.name, f"the private key at {shown(gpg_path)} is not that of gpg.asc", cure)
    if openpgp.parts(armored, gpg_path)[0].secret:
        yield Finding(
            "error", agent.name, f"{shown(gpg_path)} holds the primary key, which belongs into the recovery file only",
            "export it again with gpg --export-secret-subkeys",
        )  # fmt: skip


def _primary(agent: Agent, lock: Lock, recovery: Vault) -> Iterator[Finding]:
    if agent.secrets.gpg_key is None:
        return
    path, entry = plan.recovery_path(agent), lock.get(agent.name)
    if path not in recovery.names:
        yield Finding("warning", agent.name, f"{recovery.name} has no {path}: its key cannot be renewed or revoked")
    elif entry is not None and entry.halves.gpg is not None:
        first = openpgp.parts(recovery.get(path), path)[0]
        if first.fingerprint != entry.halves.gpg.primary or not first.secret:
            yield Finding("error", agent.name, f"{recovery.name} has another key at {path} than gpg.asc")


def _read(where: Places, name: os.PathLike[str]) -> str | None:
    path = where.path(Path(name))
    return files.read_bounded(path, 16 << 20).decode("utf-8", "replace") if path.exists() else None
