"""`identity rotate`: a new key in the place of one that is in use, is lost or was revoked.

What was signed before still verifies: an SSH key keeps its line in allowed_signers, valid before the rotation; an
OpenPGP subkey stays in gpg.asc, and the new one is under the same primary key.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never

from identity import amending, mismatch, places, signers
from identity.amending import Amended
from identity.found import Found, find
from identity.keys import gpg, openpgp, ssh, subkeys
from identity.lock import Entry, KeptGpg, KeptSsh
from identity.places import Places
from identity.plan import recovery_path, revocation_path
from identity.rotation import Action, NothingToRotate, ProlongGpg, RotateGpg, RotateSsh, SucceedGpg, plan
from identity.texts import of_lock, sealed
from town import cli, files
from town import spec as specs
from town.failure import WrongUsage
from town.spec import Agent, Spec

_LIMIT = 1 << 20  # bytes of a public key


@dataclass
class _Made:
    entry: Entry
    armored: dict[str, str] = field(default_factory=dict)  # gpg.asc by agent


def command(arguments: argparse.Namespace) -> int:
    """`identity rotate AGENT [--ssh] [--gpg [--extend]]`."""
    if not (arguments.ssh or arguments.gpg) or (arguments.extend and not arguments.gpg):
        raise WrongUsage(
            "rotate needs --ssh, --gpg or both; --extend goes with --gpg", hint="identity rotate ada --ssh"
        )
    spec = specs.load(cli.spec_file(arguments))
    agent = spec.agent(arguments.agent)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    wanted = [name for name in ("ssh", "gpg", "extend") if getattr(arguments, name)]

    def amend(now: datetime) -> Amended:
        return _amended(spec, agent, where, wanted, now)

    return amending.carry_out(where, " ".join(["rotate", agent.name, *wanted]), amend, dry=arguments.dry_run)


def _amended(spec: Spec, agent: Agent, where: Places, wanted: list[str], now: datetime) -> Amended:
    found = find(spec, (agent,), where)
    actions = plan(agent, found, wanted)
    made = _apply(actions, found, where, now)
    email = signers.principal(agent.git.email)
    lock = {**found.lock, agent.name: replace(made.entry, email=email)}
    mismatch.twins(lock)
    texts = [*sealed(spec, where, found, now), *of_lock(spec, (agent,), lock, made.armored)]
    return Amended(actions, texts, [*amending.unproven(found), *_hints(agent, actions)])


def _apply(actions: list[Action], found: Found, where: Places, now: datetime) -> _Made:
    made = _Made(found.lock[actions[0].agent.name])
    with ExitStack() as stack:
        home: Path | None = None
        if any(not isinstance(action, RotateSsh) for action in actions):
            home = stack.enter_context(gpg.throw_away_home())
        for action in actions:
            match action:
                case RotateSsh(agent):
                    _rotate_ssh(agent, found, made, now)
                case RotateGpg(agent) | ProlongGpg(agent):
                    assert home is not None
                    _change_gpg(action, home, found, where, made)
                case SucceedGpg(agent):
                    assert home is not None
                    _succeed_gpg(action, home, found, where, made)
                case _:
                    assert_never(action)
    return made


def _rotate_ssh(agent: Agent, found: Found, made: _Made, now: datetime) -> None:
    private, path = ssh.generate(), agent.secrets.ssh_key
    found.secrets.added[path] = private
    *before, last = made.entry.ssh
    # ssh-keygen reads no further than a key whose time ends before it began, or at the same second.
    until = now if last.since is None else max(now, last.since + timedelta(seconds=1))
    old = replace(last, until=until) if last.in_use else last
    made.entry = replace(made.entry, ssh=(*before, old, KeptSsh(ssh.public(private, path), since=now)))


def _change_gpg(action: RotateGpg | ProlongGpg, home: Path, found: Found, where: Places, made: _Made) -> None:
    agent, whole, published = action.agent, found.recovery.get(recovery_path(action.agent)), _published(action, where)
    change = subkeys.rotated if isinstance(action, RotateGpg) else subkeys.prolonged
    changed = change(home, whole, published)
    found.recovery.added[recovery_path(agent)] = changed.whole
    path = str(agent.secrets.gpg_key)
    found.secrets.added[path] = changed.subkeys
    made.armored[agent.name] = changed.public
    new = openpgp.facts(changed.subkeys, path)
    kept = tuple(_timed(one, changed.public) for one in made.entry.gpg)
    added = () if kept[-1].key.signing == new.signing else (KeptGpg(new),)
    made.entry = replace(made.entry, gpg=(*kept, *added))


def _timed(kept: KeptGpg, public: str) -> KeptGpg:
    """An entry with the expiry that the public key has now."""
    for part in openpgp.parts(public, "gpg.asc"):
        if part.fingerprint == kept.key.signing:
            return replace(kept, key=replace(kept.key, expires=part.expires))
    return kept


def _succeed_gpg(action: SucceedGpg, home: Path, found: Found, where: Places, made: _Made) -> None:
    agent, path = action.agent, recovery_path(action.agent)
    new = subkeys.succeeded(
        home, agent.git.name, agent.git.email, _published(action, where), encryption=agent.secrets.gpg_encryption
    )
    # What was encrypted to the old key may still have to be read.
    found.recovery.added[f"{agent.name}/gpg-revoked-{action.old.primary}"] = found.recovery.get(path)
    found.recovery.added |= {path: new.whole, revocation_path(agent): new.revocation}
    found.secrets.added[str(agent.secrets.gpg_key)] = new.subkeys
    made.armored[agent.name] = new.public
    made.entry = replace(made.entry, gpg=(*made.entry.gpg, KeptGpg(openpgp.facts(new.subkeys, path))))


def _published(action: RotateGpg | ProlongGpg | SucceedGpg, where: Places) -> str:
    """gpg.asc, which must be there: only it has every older subkey. Raises NothingToRotate."""
    name = places.gpg_public(action.agent)
    if not where.path(name).exists():
        raise NothingToRotate(f"{name} is not there", hint=f"bring it back from git: git checkout -- {name}")
    return files.read_bounded(where.path(name), _LIMIT).decode("utf-8", "replace")


def _hints(agent: Agent, actions: list[Action]) -> Iterator[str]:
    name = agent.name
    if any(isinstance(action, RotateSsh) for action in actions):
        yield (
            f"what {name} signs with its old SSH key from now on does not verify: commit these files and run "
            f"identity install {name} on its machine before it signs again"
        )
    if any(not isinstance(action, RotateSsh) for action in actions):
        yield f"commit these files and run identity install {name} on its machine"
    yield f"wherever the public key was uploaded, upload the new one: identity publish {name} --github"
