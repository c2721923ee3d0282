"""`identity gen`: makes what is missing, never replaces a key. Plan, make in memory, prove, then write as one step."""

import argparse
import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from identity import journal, lost, places
from identity import lock as locks
from identity.documents import documents
from identity.halves import GpgKey, Halves, SshKey
from identity.keys import gpg, openpgp, ssh
from identity.lock import Entry
from identity.places import Places
from identity.plan import (
    Action,
    DeriveGpg,
    DeriveSsh,
    Found,
    KeyMismatch,
    MakeGpg,
    MakeSsh,
    plan,
    public,
    recovery_path,
    revocation_path,
    with_primary,
)  # fmt: skip
from identity.vault import Vault, vaults
from town import cli, files, sops
from town import spec as specs
from town.failure import DONE, Failure, TryLater, WrongUsage
from town.locks import take
from town.spec import Agent, Spec
from town.terminal import say, shown


class NoRecipients(Failure):
    """Nobody is named for whom the secrets would be encrypted."""


class NotWritable(Failure):
    """The files cannot be written where they belong."""


@dataclass
class Made:
    """What the actions gave: public halves by agent, armored public keys that are to be written."""

    ssh: dict[str, SshKey] = field(default_factory=dict)
    gpg: dict[str, GpgKey] = field(default_factory=dict)
    armored: dict[str, str] = field(default_factory=dict)


def command(arguments: argparse.Namespace) -> int:
    """`identity gen AGENT…|--all`."""
    if arguments.all == bool(arguments.agents):
        raise WrongUsage("gen needs either agents or --all", hint="identity gen ada, or identity gen --all")
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.agents if arguments.all else tuple(dict.fromkeys(map(spec.agent, arguments.agents)))
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    now = datetime.now(UTC)
    no_core_dump()
    if arguments.dry_run:
        return _dry_run(spec, agents, where, now)
    refuse_unnamed(spec, agents, where)
    with locked(where):
        writes = journal.finish(where)
        more, hints = prepare(spec, agents, where, now)
        if more:
            journal.commit(where, more)
    for one in [*writes, *more]:
        print(shown(one.name))
    if not writes and not more:
        print("nothing to do")
    for hint in hints:
        cli.advise("identity", hint)
    return DONE


def no_core_dump() -> None:
    """A crash of this process or of a child leaves no memory, and so no key, on a disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _dry_run(spec: Spec, agents: tuple[Agent, ...], where: Places, now: datetime) -> int:
    left = journal.pending(where)
    if left:
        for one in left:
            print(f"finish  {shown(one.name)}")
        say("identity: hint: a run was interrupted; what comes after it is planned when it is finished")
        return DONE
    for action in plan(agents, find(spec, agents, where)):
        print(shown(str(action)))
    writes, hints = prepare(spec, agents, where, now)
    for one in writes:
        print(f"write   {shown(one.name)}")
    if not writes:
        print("nothing to do")
    for hint in hints:
        cli.advise("identity", hint)
    return DONE


@contextmanager
def locked(where: Places) -> Iterator[None]:
    """Only one run at a time over the same files. Leaves no file behind: the directories themselves are locked.

    Raises TryLater while another run works there, NotWritable (also for what is done meanwhile).
    """
    wanted = {
        where.path(place).resolve()
        for place in (places.IDENTITIES, where.secrets.parent, where.recovery.parent)
    }  # fmt: skip
    with _writable(where), ExitStack() as stack:
        for directory in sorted(wanted):
            directory.mkdir(parents=True, exist_ok=True)
            fd = stack.enter_context(files.opened(files.open_dir(directory)))
            busy = f"another run of identity works on {shown(str(directory))}"
            take(fd, TryLater(busy, hint="wait until it has ended"))
        yield


@contextmanager
def _writable(where: Places) -> Iterator[None]:
    """A refused write is told with the directory that everything lies in, and where else it may lie."""
    try:
        yield
    except (OSError, files.Unwritable) as error:
        cause = error.__cause__ if isinstance(error, files.Unwritable) else error
        if not isinstance(cause, OSError) or cause.errno not in _REFUSED:
            raise
        raise NotWritable(
            f"nothing can be written in {shown(os.path.abspath(where.root))}: {cause.strerror}",
            hint="write elsewhere with --out DIR, or run it as who may write there, for example with sudo",
        ) from error


_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def refuse_unnamed(spec: Spec, agents: tuple[Agent, ...], where: Places) -> None:
    """Whoever may open a file that is to be made must be known before anything is. Raises NoRecipients."""
    if not where.path(where.secrets).exists():
        everybody(spec, where)
    if any(agent.secrets.gpg_key for agent in agents) and not where.path(where.recovery).exists():
        humans(spec, where)


def find(spec: Spec, agents: tuple[Agent, ...], where: Places) -> Found:
    """What is there, read without any private key."""
    secrets, recovery = vaults(spec, where.root)
    return Found(secrets, recovery, read_lock(where), {agent.name: public(where, agent) for agent in agents})


def read_lock(where: Places) -> dict[str, Entry]:
    """The lock beside the spec; empty when there is none. Raises locks.BadLock."""
    path = where.path(places.LOCK)
    return locks.parse(files.read_bounded(path, 16 << 20), str(path)) if path.exists() else {}


def prepare(
    spec: Spec, agents: tuple[Agent, ...], where: Places, now: datetime
) -> tuple[list[journal.Write], list[str]]:
    """Everything that is to be written, in order, and hints for the person. Makes keys in memory; writes nothing."""
    for agent in agents:
        gpg.user_id_is_plain(agent.git.name, agent.git.email)
    found = find(spec, agents, where)
    made = apply(plan(agents, found), found)
    texts = [*_sealed(spec, where, found, now), *_public_texts(spec, agents, found, made)]
    writes = [journal.write(where, name, text) for name, text in texts]
    hints = [
        unproven(vault)
        for vault in (found.recovery, found.secrets) if not vault.proven
    ]  # fmt: skip
    return [one for one in writes if one.changes], [*hints, *no_recovery(found)]


def unproven(vault: Vault) -> str:
    """What is said when a new file could not be decrypted again."""
    return f"that {shown(vault.name)} decrypts was not proven here: no private key at hand opens it"


def no_recovery(found: Found) -> list[str]:
    """What is said when keys exist whose recovery file does not."""
    if found.recovery.data is not None or found.recovery.added or not (names := with_primary(found.lock)):
        return []
    return [f"{shown(found.recovery.name)} is not there: {lost.recovery(found.recovery.name, names)}"]


def apply(actions: list[Action], found: Found) -> Made:
    """Make and derive keys. Private halves go into the vaults' additions and nowhere else."""
    made = Made()
    with ExitStack() as stack:
        home: Path | None = None
        if any(isinstance(action, (MakeGpg, DeriveGpg)) for action in actions):
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
                case _:
                    assert_never(action)
    return made


def _derived_ssh(agent: Agent, found: Found) -> SshKey:
    key = ssh.public(found.secrets.get(agent.secrets.ssh_key), agent.secrets.ssh_key)
    entry = found.lock.get(agent.name)
    for other in (found.public[agent.name].ssh, entry.halves.ssh if entry else None):
        _belongs(agent, "SSH key", key, other, agent.secrets.ssh_key)
    return key


def _make_gpg(agent: Agent, home: Path, found: Found, made: Made) -> None:
    assert agent.secrets.gpg_key is not None
    key = gpg.generate(home, agent.git.name, agent.git.email)
    found.recovery.added[recovery_path(agent)] = key.whole
    found.recovery.added[revocation_path(agent)] = key.revocation
    found.secrets.added[agent.secrets.gpg_key] = key.subkeys
    made.gpg[agent.name] = openpgp.facts(key.subkeys, agent.secrets.gpg_key)
    made.armored[agent.name] = key.public


def _derive_gpg(agent: Agent, home: Path, found: Found, made: Made) -> None:
    path = agent.secrets.gpg_key
    assert path is not None
    private = found.secrets.get(path)
    facts = openpgp.facts(private, path)
    entry = found.lock.get(agent.name)
    for other in (found.public[agent.name].gpg, entry.halves.gpg if entry else None):
        _belongs(agent, "OpenPGP key", facts, other, path)
    made.gpg[agent.name] = facts
    if found.public[agent.name].gpg is None:
        made.armored[agent.name] = gpg.public(home, private, path)


def _belongs(agent: Agent, what: str, derived: object, other: object, path: str) -> None:
    if other is not None and other != derived:
        raise KeyMismatch(
            f"the private {what} of {agent.name} at {path} is not that of its public key",
            hint="look at what changed with: git log -p - then bring back the halves that belong together",
        )


def _sealed(spec: Spec, where: Places, found: Found, now: datetime) -> Iterator[tuple[str, str]]:
    # Recovery first: a primary key without its subkey is seen by the next run, a subkey without its primary is not.
    if found.recovery.added:
        yield found.recovery.name, found.recovery.sealed(humans(spec, where), now)
    if found.secrets.added:
        yield found.secrets.name, found.secrets.sealed(everybody(spec, where), now)


def everybody(spec: Spec, where: Places) -> tuple[str, ...]:
    """Who may open the secrets file: the spec's recipients, else those of .sops.yaml. Raises NoRecipients."""
    if spec.town.recipients is not None:
        return spec.town.recipients.all
    return _of_rules(where, where.secrets)


def humans(spec: Spec, where: Places) -> tuple[str, ...]:
    """Who may open the recovery file: humans only. Raises NoRecipients."""
    if spec.town.recipients is not None:
        return spec.town.recipients.humans
    return _of_rules(where, where.recovery)


def _of_rules(where: Places, file: Path) -> tuple[str, ...]:
    found = sops.creation_recipients(where.path(file), start=where.root)
    if not found:
        raise NoRecipients(
            f"nobody is named who may open {shown(str(file))}",
            hint='name at least one human in town.recipients of the spec: humans = ["age1…"], or write .sops.yaml',
        )
    return tuple(found)


def _public_texts(spec: Spec, agents: tuple[Agent, ...], found: Found, made: Made) -> Iterator[tuple[str, str]]:
    lock = dict(found.lock)
    for agent in agents:
        halves = _halves(agent, found, made)
        lock[agent.name] = Entry(locks.principal(agent.git.email), halves)
        yield str(places.ssh_public(agent)), ssh_line(agent, halves)
        if agent.name in made.armored:
            yield str(places.gpg_public(agent)), made.armored[agent.name]
        for document in documents(spec, agent, halves):
            yield str(places.document(agent, document.path)), document.text
    yield str(places.ALLOWED_SIGNERS), locks.allowed_signers(lock)
    yield str(places.LOCK), locks.text(lock)


def ssh_line(agent: Agent, halves: Halves) -> str:
    """ssh.pub: the key and the agent's address as its comment."""
    return f"{halves.ssh.public} {agent.git.email}\n"


def _halves(agent: Agent, found: Found, made: Made) -> Halves:
    entry = found.lock.get(agent.name)
    ssh_half = made.ssh.get(agent.name) or (entry.halves.ssh if entry else None)
    assert ssh_half is not None, "the plan makes or derives every key that the lock does not name"
    gpg_half = made.gpg.get(agent.name) or (entry.halves.gpg if entry else None)
    return Halves(ssh_half, gpg_half)
