"""`identity revoke`: publish that a key is not to be believed any more, whatever it signed and whenever.

An SSH key goes into revoked.krl and keeps a line in allowed_signers that is good for nothing; an OpenPGP key is
published with its revocation certificate, a subkey with a signature of its primary key. The agent loses its private
half, and gets another key only by `rotate`.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import assert_never

from identity import amending, clock, lost, mismatch, places, tree
from identity.amending import Amended
from identity.found import Found, find
from identity.keys import gpg, openpgp, subkeys
from identity.lock import Entry, KeptGpg
from identity.places import Places
from identity.plan import recovery_path, revocation_path
from identity.revocation import Action, Holder, NothingToRevoke, RevokeGpg, RevokeSsh, RevokeSubkey, plan
from identity.texts import Text, of_lock, sealed
from town import cli, trust
from town import spec as specs
from town.failure import WrongUsage
from town.spec import Spec
from town.terminal import shown

_LIMIT = 1 << 20  # bytes of a public key


@dataclass
class _Made:
    entry: Entry
    armored: dict[str, str] = field(default_factory=dict)  # gpg.asc by agent


def command(arguments: argparse.Namespace) -> int:
    """`identity revoke AGENT [--ssh] [--gpg] [--key FINGERPRINT]`."""
    ssh, openpgp_too = _which(arguments)
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse_as_root(spec)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    key = None if arguments.key is None else _canonical(arguments.key)

    def amend(now: datetime) -> Amended:
        return _amended(spec, arguments.agent, where, (ssh, openpgp_too, key), now)

    words = [
        "revoke",
        arguments.agent,
        *(["ssh"] if ssh else []),
        *(["gpg"] if openpgp_too else []),
        *filter(None, [key]),
    ]
    return amending.carry_out(where, " ".join(words), amend, dry=arguments.dry_run)


def _which(arguments: argparse.Namespace) -> tuple[bool, bool]:
    if not (arguments.ssh or arguments.gpg or arguments.key):
        raise WrongUsage(
            "revoke needs --ssh, --gpg or --key FINGERPRINT",
            hint="say which of its keys; --dry-run shows what would be revoked: it cannot be taken back",
        )
    if arguments.key is None:
        return arguments.ssh, arguments.gpg
    ssh = arguments.key.startswith(("SHA256:", "ssh-"))
    if (arguments.ssh and not ssh) or (arguments.gpg and ssh):
        raise WrongUsage(
            f"--key {shown(arguments.key)} is no fingerprint of that kind of key",
            hint="SHA256:… goes with --ssh, 40 hex digits go with --gpg; --key alone is enough",
        )
    return ssh, not ssh


def _canonical(key: str) -> str:
    """A fingerprint as the lock writes it."""
    if key.startswith(("SHA256:", "ssh-")):
        return key.strip()
    return "".join(key.split()).removeprefix("0x").upper()


def _amended(spec: Spec, name: str, where: Places, wanted: tuple[bool, bool, str | None], now: datetime) -> Amended:
    agent = next((agent for agent in spec.agents if agent.name == name), None)
    agents = () if agent is None else (agent,)
    found = find(spec, agents, where)
    if agent is None and name not in found.lock:
        spec.agent(name)  # raises: neither the spec nor the lock knows it
    clock.refuse_behind(now, found)
    actions = plan(Holder(name, agent), found, wanted)
    if not actions:
        return Amended((), ())
    made = _apply(actions, found, where, now)
    texts = [*sealed(spec, where, found, now), *_public(spec, Holder(name, agent), found, made)]
    return Amended(actions, texts, [*amending.unproven(found), *_hints(Holder(name, agent), actions, found)])


def _apply(actions: list[Action], found: Found, where: Places, now: datetime) -> _Made:
    made = _Made(found.lock[actions[0].holder.name])
    with ExitStack() as stack:
        home: Path | None = None
        if any(not isinstance(action, RevokeSsh) for action in actions):
            home = stack.enter_context(gpg.throw_away_home())
        for action in actions:
            match action:
                case RevokeSsh():
                    _revoke_ssh(action, found, made, now)
                case RevokeGpg() | RevokeSubkey():
                    assert home is not None
                    _revoke_gpg(action, home, found, where, made, now)
                case _:
                    assert_never(action)
    return made


def _revoke_ssh(action: RevokeSsh, found: Found, made: _Made, now: datetime) -> None:
    if action.kept.in_use:
        _take_away(found, action.holder.ssh_path)
    gone = replace(action.kept, revoked=now)
    made.entry = replace(made.entry, ssh=tuple(gone if kept == action.kept else kept for kept in made.entry.ssh))


def _take_away(found: Found, path: str) -> None:
    if path in found.secrets.names:
        found.secrets.removed.add(path)


def _revoke_gpg(
    action: RevokeGpg | RevokeSubkey, home: Path, found: Found, where: Places, made: _Made, now: datetime
) -> None:
    holder, path = action.holder, recovery_path(action.holder)
    whole, published = _in_recovery(found, holder, path), _published(holder, where)
    mismatch.primary(holder, openpgp.parts(whole, path)[0].fingerprint, action.primary, found.recovery, path)
    if isinstance(action, RevokeSubkey):
        changed = subkeys.without_subkey(home, whole, published, action.subkey)
    else:
        by = revocation_path(holder)
        changed = subkeys.revoked(home, whole, published, _in_recovery(found, holder, by), by)
    found.recovery.added[path] = changed.whole
    made.armored[holder.name] = changed.public
    made.entry = replace(made.entry, gpg=tuple(_marked(kept, action, now) for kept in made.entry.gpg))
    if made.entry.gpg_revoked:
        _take_away(found, holder.gpg_path)


def _marked(kept: KeptGpg, action: RevokeGpg | RevokeSubkey, now: datetime) -> KeptGpg:
    meant = action.primary == kept.key.primary
    if isinstance(action, RevokeSubkey):
        meant = action.subkey == kept.key.signing
    return replace(kept, revoked=now) if meant and kept.revoked is None else kept


def _in_recovery(found: Found, holder: Holder, path: str) -> str:
    if path not in found.recovery.names:
        raise NothingToRevoke(
            f"{shown(found.recovery.name)} has no {shown(path)}, which an OpenPGP key is revoked with",
            hint=lost.recovery(found.recovery.name, [holder.name]),
        )
    return found.recovery.get(path)


def _published(holder: Holder, where: Places) -> str:
    name = places.gpg_public(holder)
    if (data := tree.read(where, name, _LIMIT)) is None:
        raise NothingToRevoke(f"{name} is not there", hint=f"bring it back from git: git checkout -- {name}")
    return data.decode("utf-8", "replace")


def _public(spec: Spec, holder: Holder, found: Found, made: _Made) -> Iterator[Text]:
    lock = {**found.lock, holder.name: made.entry}
    if holder.agent is None:  # its documents are no business of the spec any more
        if made.entry.halves.ssh is None:
            yield str(places.ssh_public(holder)), None
        if holder.name in made.armored:
            yield str(places.gpg_public(holder)), made.armored[holder.name]
    yield from of_lock(spec, () if holder.agent is None else (holder.agent,), lock, made.armored)


def _hints(holder: Holder, actions: list[Action], found: Found) -> Iterator[str]:
    name, gone = holder.name, [_kind(action) for action in actions if _in_use(action, found.lock[holder.name])]
    if holder.agent is not None and gone:
        yield f"commit these files, and run identity install {name} on its machine: what lies in its home still signs"
    else:
        yield "commit these files"
    if any(isinstance(action, RevokeSsh) for action in actions):
        yield "whoever verifies needs allowed_signers as it is now, and gpg.ssh.revocationFile = identities/revoked.krl"
    yield "a forge where the public key was uploaded does not know of it: take it out there"
    if holder.agent is not None and gone:
        yield f"a new key in its place: identity rotate {name} {' '.join(dict.fromkeys(gone))}"


def _kind(action: Action) -> str:
    return "--ssh" if isinstance(action, RevokeSsh) else "--gpg"


def _in_use(action: Action, before: Entry) -> bool:
    """Whether the agent had the private half until now."""
    last = before.halves.gpg
    match action:
        case RevokeSsh():
            return action.kept.in_use
        case RevokeGpg():
            return last is not None and last.primary == action.primary
        case RevokeSubkey():
            return last is not None and last.signing == action.subkey
