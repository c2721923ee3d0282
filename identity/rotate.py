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

from identity import amending, clock, mismatch, places, signers, tree
from identity.amending import Amended
from identity.found import Found, find, read_lock
from identity.keys import gpg, openpgp, ssh, subkeys
from identity.lock import Entry, KeptGpg, KeptSsh
from identity.places import Places
from identity.plan import recovery_path, revocation_path
from identity.rotation import Action, NothingToRotate, ProlongGpg, RotateGpg, RotateSsh, SucceedGpg, plan
from identity.texts import of_lock, sealed
from town import cli, trust
from town import spec as specs
from town.failure import WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

_LIMIT = 1 << 20  # bytes of a public key
_WHILE = timedelta(minutes=10)  # from the first key that a run makes to its journal, at most
_LASTS = timedelta(days=730)  # what gpg takes gpg.SUBKEY_LASTS for


@dataclass
class _Made:
    entry: Entry
    armored: dict[str, str] = field(default_factory=dict)  # gpg.asc by agent


def command(arguments: argparse.Namespace) -> int:
    """`identity rotate AGENT [--ssh] [--gpg [--extend]]`."""
    if not (arguments.ssh or arguments.gpg) or (arguments.extend and not arguments.gpg):
        raise WrongUsage(
            "rotate needs --ssh, --gpg or both; --extend goes with --gpg",
            hint=f"identity rotate {shown(arguments.agent)} --ssh (or --gpg, or --gpg --extend)",
        )
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse_as_root(spec)
    agent = spec.agent(arguments.agent)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    wanted = [name for name in ("ssh", "gpg", "extend") if getattr(arguments, name)]

    def amend(now: datetime) -> Amended:
        return _amended(spec, agent, where, wanted, now)

    def made(began: datetime) -> bool:
        return _just_made(read_lock(where).get(agent.name), wanted, began)

    return amending.carry_out(where, " ".join(["rotate", agent.name, *wanted]), amend, dry=arguments.dry_run, made=made)


def _just_made(entry: Entry | None, wanted: list[str], began: datetime) -> bool:
    """Whether the keys in use are those of a run that began to write then: any other journal stands for no rotation."""
    times = [] if entry is None else list(_times(entry, wanted))
    return bool(times) and all(time is not None and abs(time - began) < _WHILE for time in times)


def _times(entry: Entry, wanted: list[str]) -> Iterator[datetime | None]:
    """When each of the keys in use that are wanted was made or prolonged, as far as the lock says."""
    if "ssh" in wanted:
        yield entry.ssh[-1].since if entry.ssh else None
    if "gpg" in wanted:
        key = entry.halves.gpg
        if "extend" not in wanted:
            yield None if key is None else key.created
        else:
            yield None if key is None or key.expires is None else key.expires - _LASTS


def _amended(spec: Spec, agent: Agent, where: Places, wanted: list[str], now: datetime) -> Amended:
    found = find(spec, (agent,), where)
    clock.refuse_behind(now, found)
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
    if (data := tree.read(where, name, _LIMIT)) is None:
        raise NothingToRotate(f"{name} is not there", hint=f"bring it back from git: git checkout -- {name}")
    return data.decode("utf-8", "replace")


def _hints(agent: Agent, actions: list[Action]) -> Iterator[str]:
    name = agent.name
    if any(isinstance(action, RotateSsh) for action in actions):
        yield (
            f"what {name} signs with its old SSH key from now on does not verify: commit these files and run "
            f"identity install {name} on its machine before it signs again"
        )
    if any(not isinstance(action, RotateSsh) for action in actions):
        yield f"commit these files and run identity install {name} on its machine"
    upload = f"identity publish {name} --github --token-file FILE"
    yield f"wherever the public key was uploaded, upload the new one: {upload}"
    if old := _old(actions):
        yield (
            "who has the old private key can still sign with it, under an older date: if that may be anybody else, "
            f"revoke it, and what it signed: identity revoke {name} --key {old[0]}"
        )


def _old(actions: list[Action]) -> list[str]:
    """Fingerprints of keys that were in use and are believed further."""
    ssh = [action.old.fingerprint for action in actions if isinstance(action, RotateSsh) and action.old is not None]
    return ssh + [action.old.signing for action in actions if isinstance(action, RotateGpg)]
