"""`identity install`: an agent's keys, documents and secrets into its fresh home, at boot, as root.

Everything is made from the spec and the secrets file; nothing that lies in the home is believed. Each piece stands for
itself: one that fails is named, the others are installed, and the command ends with the worst status of any of them.
"""

import argparse
import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from identity import gen, installed, lost, places, runtime, tenant
from identity import lock as locks
from identity.alone import alone
from identity.documents import documents
from identity.halves import Halves
from identity.keys import openpgp, ssh
from identity.lock import Entry, Lock
from identity.places import Places
from identity.plan import KeyMismatch
from identity.teller import Teller
from identity.tenant import HomeFile, Keyring
from identity.vault import Vault
from town import again, cli, machine, sops, standing, trust
from town import spec as specs
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shown


class NotRoot(Failure):
    """Only root may work as the agents."""


class NotInstalled(Failure):
    """The system refused a step outside the homes."""


class NoSecret(Failure):
    """The secrets file has no value at a path that the spec names."""


@dataclass(frozen=True, slots=True, repr=False)
class Delivery:
    """What one agent gets."""

    agent: Agent
    files: list[HomeFile]
    keyring: Keyring | None
    secrets: dict[str, bytes]


def command(arguments: argparse.Namespace) -> int:
    """`identity install [AGENT…]`."""
    spec = specs.load(cli.spec_file(arguments))
    agents = tuple(dict.fromkeys(map(spec.agent, arguments.agents))) or spec.agents
    if os.geteuid() != 0:
        what = "install works in homes as their agents, so it needs root"
        raise NotRoot(what, hint=again.as_root("identity", "install"))
    trust.refuse(spec)
    gen.no_core_dump()
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    lock = gen.read_lock(where)
    vault = _vault(spec, where, lock)
    told = Teller(arguments.dry_run)
    for agent in agents:
        _one(spec, agent, vault, lock, told)
    return told.end()


def _vault(spec: Spec, where: Places, lock: Lock) -> Vault:
    """The secrets file, to be opened with the host's key alone: at boot there is no other. Raises NoSecret."""
    vault = Vault(str(where.secrets), where.path(where.secrets), partial(sops.Keys.of_host, spec.town.host_key))
    if vault.data is None:
        raise NoSecret(f"{shown(str(vault.path))} is not there", hint=lost.file(vault.name, bool(lock)))
    return vault


def _one(spec: Spec, agent: Agent, vault: Vault, lock: Lock, told: Teller) -> None:
    try:
        machine.refuse_conflicts(spec, (agent,))
        if not told.dry:
            standing.forget(standing.INSTALLED, agent.name)
        with nullcontext() if told.dry else alone(agent):
            _install(spec, agent, _delivery(spec, agent, vault, lock, told), told)
    except (sops.NoKey, sops.Tampered, sops.BadSopsFile):
        raise  # the same for every agent
    except Failure as failure:
        told.failure(agent, failure)
    except OSError as error:
        told.failure(agent, NotInstalled(_words(error), hint="run it again; the other agents do not depend on it"))


def _words(error: OSError) -> str:
    named = f"{shown(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{named}{error.strerror or error}"


def _install(spec: Spec, agent: Agent, delivery: Delivery, told: Teller) -> None:
    before, now = installed.known(spec, agent), {}
    wanted = {str(file.path): installed.digest(file.data) for file in delivery.files if not file.seed}
    try:
        for piece in tenant.install(
            spec.home(agent), agent.person, delivery.files, delivery.keyring, dry=told.dry
        ):  # fmt: skip
            told.home(agent, piece, before)
            if piece.what != "failed" and piece.path in wanted:
                now[piece.path] = wanted[piece.path]
    finally:
        if not told.dry:
            _record(spec, agent, now)
    for piece in runtime.deliver(agent, delivery.secrets, dry=told.dry):
        told.piece(agent, piece)
    if not told.dry and agent.name not in told.failed:
        standing.note(standing.INSTALLED, agent.name)  # what lets the agent's account be opened


def _record(spec: Spec, agent: Agent, now: dict[str, str]) -> None:
    if not spec.state_dir.parent.is_dir():  # a town without its disk: what was changed cannot be told from what was not
        return
    try:
        installed.record(spec, agent, now)
    except (Failure, OSError) as error:
        what = error.what if isinstance(error, Failure) else _words(error)
        cli.warn("identity", f"{agent.name}: what was installed could not be recorded: {what}")


def _delivery(spec: Spec, agent: Agent, vault: Vault, lock: Lock, told: Teller) -> Delivery:
    entry = lock.get(agent.name)
    private = _value(vault, agent, agent.secrets.ssh_key, entry)
    armored = None if agent.secrets.gpg_key is None else _value(vault, agent, agent.secrets.gpg_key, entry)
    halves = Halves(
        ssh.public(private, agent.secrets.ssh_key),
        None if armored is None else openpgp.facts(armored, str(agent.secrets.gpg_key)),
    )
    if entry is not None and (entry.halves.ssh != halves.ssh or (halves.gpg and entry.halves.gpg != halves.gpg)):
        raise KeyMismatch(
            "its private keys are not those that keys.lock.toml names",
            hint="bring back the secrets file or the lock from git, whichever is wrong",
        )
    keyring = None
    if armored is not None and halves.gpg is not None:
        keyring = Keyring(armored.encode(), halves.gpg.primary, halves.gpg.signing)
    return Delivery(agent, _files(spec, agent, halves, private, lock), keyring, _extra(vault, agent, told))


def _files(spec: Spec, agent: Agent, halves: Halves, private: str, lock: Lock) -> list[HomeFile]:
    signers = locks.allowed_signers({**lock, agent.name: Entry(agent.git.email, halves)})
    made = [
        HomeFile(PurePosixPath(".ssh/id_ed25519"), private.encode(), 0o600),
        HomeFile(PurePosixPath(".ssh/id_ed25519.pub"), gen.ssh_line(agent, halves).encode()),
        HomeFile(PurePosixPath(".config/git/allowed_signers"), signers.encode()),
    ]
    for document in documents(spec, agent, halves):
        made += [HomeFile(home, document.text.encode()) for home in document.homes]
    if any(file.path.name == "environment.sh" for file in made):
        made.append(HomeFile(PurePosixPath(".profile"), _PROFILE, seed=True))
    return made


_PROFILE = b"""# Begun by identity; yours to change until the next boot.
if [ -r ~/.config/nuketown/environment.sh ]; then
    . ~/.config/nuketown/environment.sh
fi
"""


def _extra(vault: Vault, agent: Agent, told: Teller) -> dict[str, bytes]:
    found = {}
    for name, path in agent.secrets.extra:
        try:
            found[name] = _value(vault, agent, path).encode()
        except NoSecret as failure:
            told.failure(agent, failure)
    return found


def _name(agent: Agent, path: str) -> str:
    return next(name for name, place in agent.secrets.extra if place == path)


def _value(vault: Vault, agent: Agent, path: str, entry: Entry | None = None) -> str:
    if path not in vault.names:
        raise NoSecret(f"{vault.name} has no value at {shown(path)}", hint=_cure(vault, agent, path, entry))
    return vault.get(path)


def _cure(vault: Vault, agent: Agent, path: str, entry: Entry | None) -> str:
    if path in (agent.secrets.ssh_key, agent.secrets.gpg_key):
        half = None if entry is None else entry.halves.ssh if path == agent.secrets.ssh_key else entry.halves.gpg
        return lost.key(vault.name, agent, half is not None)
    return f"put it there with: identity secret set {agent.name} {_name(agent, path)}"
