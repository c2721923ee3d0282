"""`identity publish`: an agent's public keys into its account at GitHub, compared by fingerprint and by nothing else.

Only what is missing is uploaded. What stands there and is out of date is told; `--replace` takes it out, and nothing
but keys that keys.lock.toml names as this agent's is ever taken out.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from identity import found, guard, mismatch, places, publish_account, publish_key, publish_token, publish_wire, tree
from identity.keys import openpgp
from identity.places import Places
from identity.publish_account import GPG, SIGNING, SSH, Account, Shelf, Standing
from identity.publish_wire import Wire
from town import cli, trust
from town import spec as specs
from town.failure import DONE, Failure, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

GITHUB = "https://api.github.com"
_LIMIT = 1 << 20  # bytes of a public key


class NoKeys(Failure):
    """The agent has no keys that could be published."""


class WrongAccount(Failure):
    """The token is another account's than the one that was named."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Put a public key into a list of the account."""

    shelf: Shelf
    fingerprint: str
    text: str
    title: str

    def __str__(self) -> str:
        return f"upload  {self.shelf} {self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a key of this agent out of a list of the account."""

    shelf: Shelf
    fingerprint: str
    number: int

    def __str__(self) -> str:
        return f"remove  {self.shelf} {self.fingerprint}"


Action = Upload | Remove


@dataclass(frozen=True, slots=True)
class Mine:
    """What one agent has to publish, and what it had."""

    title: str
    email: str
    ssh: tuple[str, str] | None  # fingerprint and line of the key in use
    signs: bool  # whether commits are signed with it
    gone: frozenset[str]  # fingerprints of SSH keys that were rotated or revoked
    revoked: frozenset[str]
    gpg: dict[str, str]  # every OpenPGP key of gpg.asc by its primary's fingerprint
    primary: str | None  # the one in use


def command(arguments: argparse.Namespace) -> int:
    """`identity publish AGENT --github`."""
    if not arguments.github:
        raise WrongUsage("publish needs to know where to", hint="--github is the one that is known")
    guard.no_core_dump()
    api = publish_wire.api(arguments.api or GITHUB)
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse_as_root(spec)
    agent = spec.agent(arguments.agent)
    mine = _mine(spec, agent, places.places(spec, None if arguments.out is None else Path(arguments.out)))
    token = publish_token.read(arguments.token_file)
    if arguments.api:
        cli.advise("identity", f"the token in {shown(token.file)} goes to {api}")
    account = publish_account.account(Wire(api, token))
    _refuse_other(account, arguments.account)
    standing = {shelf: account.keys(shelf) for shelf in _shelves(mine)}
    _warn(mine, standing, account, arguments.replace)
    return _do(list(actions(mine, standing, arguments.replace)), account, arguments.dry_run)


def _refuse_other(account: Account, wanted: str | None) -> None:
    if wanted is not None and wanted.lower() != account.login.lower():
        raise WrongAccount(
            f"the token is of the account {account.login}, not of {shown(wanted)}",
            hint="use a token of the agent's own account: an SSH key there can do all that the account can",
        )


def _mine(spec: Spec, agent: Agent, where: Places) -> Mine:
    entry, public = found.read_lock(where).get(agent.name), found.public(where, agent)
    if entry is None:
        raise NoKeys(f"{agent.name} has no keys yet", hint=f"identity gen {agent.name}")
    mismatch.same(agent, "SSH key", public.ssh, entry.halves.ssh)
    mismatch.same(agent, "OpenPGP key", public.gpg, entry.halves.gpg)
    ssh = entry.halves.ssh
    return Mine(
        f"{agent.name} of {spec.town.domain}",
        agent.git.email,
        None if ssh is None else (ssh.fingerprint, ssh.public),
        agent.git.signing == "ssh",
        frozenset(one.key.fingerprint for one in entry.ssh if not one.in_use),
        frozenset(one.key.fingerprint for one in entry.ssh if one.revoked is not None),
        {} if agent.secrets.gpg_key is None or not entry.gpg else _gpg(agent, where),
        None if agent.secrets.gpg_key is None or entry.halves.gpg is None else entry.halves.gpg.primary,
    )


def _gpg(agent: Agent, where: Places) -> dict[str, str]:
    name = places.gpg_public(agent)
    return publish_key.split((tree.read(where, name, _LIMIT) or b"").decode("utf-8", "replace"), str(where.path(name)))


def _shelves(mine: Mine) -> list[Shelf]:
    """The lists that matter for this agent: a token needs no right to the others."""
    signing = (mine.signs and mine.ssh is not None) or bool(mine.revoked)
    return [SSH, *([SIGNING] if signing else []), *([GPG] if mine.gpg else [])]


def actions(mine: Mine, standing: dict[Shelf, list[Standing]], replace: bool) -> Iterator[Action]:
    """What must be done, what is taken out first. Nothing when all stands there already."""
    for shelf, one in stale(mine, standing) if replace else ():
        yield Remove(shelf, one.fingerprint, one.number)
    for shelf in (SSH, SIGNING):
        wanted = mine.ssh if shelf is SSH or mine.signs else None
        if wanted is not None and wanted[0] not in {one.fingerprint for one in standing[shelf]}:
            yield Upload(shelf, *wanted, mine.title)
    yield from _gpg_uploads(mine, standing.get(GPG, []), replace)


def _gpg_uploads(mine: Mine, standing: list[Standing], replace: bool) -> Iterator[Upload]:
    for fingerprint, text in mine.gpg.items():
        here = [one for one in standing if one.fingerprint == fingerprint]
        old = replace and any(not _current(text, one) for one in here)
        if old or (not here and fingerprint == mine.primary):
            yield Upload(GPG, fingerprint, text, mine.title)


def stale(mine: Mine, standing: dict[Shelf, list[Standing]]) -> Iterator[tuple[Shelf, Standing]]:
    """Keys of this agent that stand there and should not, or not as they are.

    A rotated key no longer opens the account, and goes on proving what it signed; a revoked one does neither.
    """
    for shelf, gone in ((SSH, mine.gone), (SIGNING, mine.revoked)):
        for one in standing.get(shelf, ()):
            if one.fingerprint in gone:
                yield shelf, one
    for one in standing.get(GPG, ()):
        if one.fingerprint in mine.gpg and not _current(mine.gpg[one.fingerprint], one):
            yield GPG, one


def _current(armored: str, one: Standing) -> bool:
    """Whether all that is in gpg.asc stands there: subkeys, expiry, revocations."""
    if one.packets:
        return set(openpgp.packets(armored, "gpg.asc")) <= one.packets
    return {part.fingerprint for part in openpgp.parts(armored, "gpg.asc")} <= one.parts


def _warn(mine: Mine, standing: dict[Shelf, list[Standing]], account: Account, replace: bool) -> None:
    for shelf, one in () if replace else stale(mine, standing):
        why = "revoked" if one.fingerprint in mine.revoked else "rotated"
        cure = "publish again with --replace, which takes it out there"
        if shelf is GPG:
            why, cure = "in an older state", f"{cure} and uploads it anew"
        cli.warn("identity", f"{account} has the {shelf} {one.fingerprint}, {why}", cure)
    for one in standing.get(GPG, ()):
        if one.fingerprint == mine.primary:
            _warn_unproven(mine, one, account)


def _warn_unproven(mine: Mine, one: Standing, account: Account) -> None:
    if one.emails and (mine.email, True) not in one.emails:
        cure = "add the address to the account and confirm it: until then commits are shown as unverified"
        cli.warn("identity", f"{mine.email} is no confirmed address of {account}", cure)


def _do(todo: list[Action], account: Account, dry: bool) -> int:
    for action in todo:
        if not dry:
            _act(action, account)
        print(f"{action} ({account})", flush=True)
    if not todo:
        print("nothing to do")
    return DONE


def _act(action: Action, account: Account) -> None:
    match action:
        case Upload(shelf, fingerprint, text, title):
            account.add(shelf, title, text, fingerprint)
        case Remove(shelf, _, number):
            account.remove(shelf, number)
        case _:
            assert_never(action)
