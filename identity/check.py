"""`identity check`: read-only. Everything that gen makes, held against the spec, the lock and itself.

What needs a private key is checked as far as the keys at hand allow. What could not be checked is said, and is no
finding: continuous integration has no keys and must be able to pass.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Literal

from identity import gen, journal, places, plan
from identity import lock as locks
from identity.documents import documents
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
from town.terminal import say, shown

Level = Literal["error", "warning", "unchecked"]
_SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: the file or the agent it is about, what, and the cure."""

    level: Level
    where: str
    what: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {shown(self.where)}: {self.what}"


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
        if one.level == "unchecked":
            say(f"identity: {one}")
            continue
        print(one)
        if one.cure:
            say(f"identity: hint: {one.cure}")
    if status == DONE:
        print("everything is as the spec says")
    return status


def _status(found: list[Finding]) -> int:
    levels = {one.level for one in found}
    return BROKEN if "error" in levels else ATTENTION if "warning" in levels else DONE


def findings(spec: Spec, agents: tuple[Agent, ...], where: Places, now: datetime) -> Iterator[Finding]:
    """Everything that is to be said, files first."""
    secrets, recovery = vaults(spec, where.root)
    lock = cache(lambda: gen.read_lock(where))  # a lock that cannot be read is told wherever it is needed
    yield from _caught(str(places.JOURNAL), lambda: _journal(where))
    yield from _caught(secrets.name, lambda: _secrets_file(spec, secrets))
    if any(agent.secrets.gpg_key for agent in spec.agents):
        yield from _caught(recovery.name, lambda: _recovery_file(spec, recovery))
    yield from _caught(str(places.LOCK), lambda: _town_files(where, lock()))
    for agent in agents:
        yield from _caught(agent.name, lambda agent=agent: _agent(spec, agent, where, secrets, lock(), now))  # type: ignore[misc]
    yield from _opened(agents, lock, secrets, recovery)


def _caught(where: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a failure that ends it is one of them."""
    try:
        yield from check()
    except Failure as failure:
        yield Finding("error", where, failure.what, failure.hint)


def _journal(where: Places) -> Iterator[Finding]:
    if journal.pending(where):
        yield Finding("warning", str(places.JOURNAL), "a run of gen was interrupted", "identity gen --all finishes it")


def _secrets_file(spec: Spec, vault: Vault) -> Iterator[Finding]:
    if vault.data is None:
        yield Finding("error", vault.name, "is not there", "identity gen --all")
        return
    if spec.town.recipients is not None:
        wanted = spec.town.recipients
        yield from _recipients(vault, wanted.humans, tuple(one for _, one in wanted.hosts))
    else:
        vault.names  # noqa: B018 - reads it: an unreadable file is a finding


def _recovery_file(spec: Spec, vault: Vault) -> Iterator[Finding]:
    if vault.data is None:
        yield Finding(
            "error", vault.name, "is not there", "bring it back from git, or identity gen --all in a new town"
        )
    elif spec.town.recipients is not None:
        yield from _recipients(vault, spec.town.recipients.humans, ())
        hosts = {_canonical(one): name for name, one in spec.town.recipients.hosts}
        for one in sops.recipients_of(vault.data, str(vault.path)):
            if _canonical(one) in hosts:
                yield Finding(
                    "error", vault.name, f"the host {hosts[_canonical(one)]} can open it: it is for humans only",
                    f"sops updatekeys {vault.name}, then rotate what is in it",
                )  # fmt: skip


def _recipients(vault: Vault, humans: tuple[str, ...], hosts: tuple[str, ...]) -> Iterator[Finding]:
    assert vault.data is not None
    there = set(map(_canonical, sops.recipients_of(vault.data, str(vault.path))))
    cure = f"sops updatekeys {vault.name}"
    if not there & set(map(_canonical, humans)):
        yield Finding("error", vault.name, "no human of the spec can open it", cure)
    for one in humans:
        if _canonical(one) not in there:
            yield Finding("warning", vault.name, f"{shown(one)} (human) cannot open it", cure)
    for one in hosts:
        if _canonical(one) not in there:
            yield Finding("error", vault.name, f"{shown(one)} (host) cannot open it: install would fail", cure)
    for one in sorted(there - set(map(_canonical, (*humans, *hosts)))):
        yield Finding("warning", vault.name, f"{shown(one)} can open it and is not in the spec", cure)


def _canonical(recipient: str) -> str:
    try:
        return sops.canonical(recipient)
    except sops.BadRecipient:
        return recipient  # a key service, say: it stands for itself


def _town_files(where: Places, lock: Lock) -> Iterator[Finding]:
    if not where.path(places.LOCK).exists():
        yield Finding("error", str(places.LOCK), "is not there", "identity gen --all")
    elif _read(where, places.ALLOWED_SIGNERS) != locks.allowed_signers(lock):
        yield Finding(
            "error", str(places.ALLOWED_SIGNERS), "speaks for other keys than keys.lock.toml",
            "look at it with git diff, then: identity gen --all",
        )  # fmt: skip


def _agent(spec: Spec, agent: Agent, where: Places, secrets: Vault, lock: Lock, now: datetime) -> Iterator[Finding]:
    missing = list(_missing_values(agent, secrets))
    yield from missing
    entry, public = lock.get(agent.name), plan.public(where, agent)
    if entry is None or public.ssh is None or (agent.secrets.gpg_key is not None and public.gpg is None):
        yield Finding("error", agent.name, "its public keys are not all there", f"identity gen {agent.name}")
        return
    plan.same(agent, "SSH key", public.ssh, entry.halves.ssh)
    plan.same(agent, "OpenPGP key", public.gpg, entry.halves.gpg)
    yield from _expiry(agent, entry.halves, now)
    yield from _drift(spec, agent, where, entry.halves)


def _missing_values(agent: Agent, secrets: Vault) -> Iterator[Finding]:
    if secrets.data is None:
        return
    for path in filter(None, (agent.secrets.ssh_key, agent.secrets.gpg_key)):
        if path not in secrets.names:
            yield Finding("error", agent.name, f"{secrets.name} has no {shown(path)}", f"identity gen {agent.name}")
    for name, path in agent.secrets.extra:
        if path not in secrets.names:
            yield Finding(
                "warning", agent.name, f"{secrets.name} has no {shown(path)}, which is to become {shown(name)}",
                f"identity secret set {agent.name} {name}",
            )  # fmt: skip


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


def _opened(agents: tuple[Agent, ...], lock: Callable[[], Lock], secrets: Vault, recovery: Vault) -> Iterator[Finding]:
    """What only a private key can tell."""
    for vault, check in ((secrets, _private), (recovery, _primary)):
        if vault.data is None:
            continue
        try:
            vault.document  # noqa: B018 - opens it
        except sops.NoKey:
            yield Finding("unchecked", vault.name, "no key at hand opens it, so its values were not looked at")
            continue
        except Failure as failure:
            yield Finding("error", vault.name, failure.what, failure.hint)
            continue
        for agent in agents:
            yield from _caught(agent.name, lambda agent=agent, vault=vault, check=check: check(agent, lock(), vault))  # type: ignore[misc]


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
