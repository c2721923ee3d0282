"""Keys that somebody brings: what their files hold, and whether the agent may have them."""

import sys
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, assert_never

from identity import mismatch
from identity.found import Found
from identity.halves import GpgKey, SshKey
from identity.keys import openpgp, opensshfile, ssh, whole
from identity.mismatch import KeyMismatch
from identity.plan import recovery_path, with_primary
from town import files
from town.failure import Failure, WrongUsage
from town.spec import Agent
from town.terminal import shown

_LIMIT = 1 << 20  # bytes of a key
_Key = TypeVar("_Key", SshKey, GpgKey)


class AlreadyThere(Failure):
    """The agent, or another one, has a key that stands in the way. It is not replaced."""


@dataclass(frozen=True, slots=True, repr=False)
class TakeSsh:
    """An SSH key becomes the agent's."""

    agent: Agent
    private: str
    key: SshKey

    def __str__(self) -> str:
        return f"import  SSH key of {self.agent.name}: {self.key.fingerprint}"


@dataclass(frozen=True, slots=True, repr=False)
class TakeGpg:
    """An OpenPGP key becomes the agent's: its primary for the recovery file, a signing subkey for the agent."""

    agent: Agent
    key: whole.Brought
    signing: str | None  # None: a new one is made

    def __str__(self) -> str:
        subkey = f"signing subkey {self.signing}" if self.signing else "a new signing subkey"
        return f"import  OpenPGP key of {self.agent.name}: {self.key.primary}, {subkey}"


Action = TakeSsh | TakeGpg


def look(agent: Agent, ssh_file: str | None, gpg_file: str | None, now: datetime) -> list[Action]:
    """What the files hold, looked at. Raises BadKey, WrongUsage, files.Unreadable."""
    found: list[Action] = []
    if ssh_file is not None:
        private = opensshfile.brought(_read(ssh_file), ssh_file)
        found.append(TakeSsh(agent, private, ssh.public(private, ssh_file)))
    if gpg_file is not None:
        if agent.secrets.gpg_key is None:
            cure = f'say git.signing = "gpg", or secrets.gpg_key = "{agent.name}/gpg-key", in agents.{agent.name}'
            raise WrongUsage(f"{agent.name} has no OpenPGP key in the spec", hint=cure)
        key = whole.brought(_read(gpg_file), gpg_file)
        signs = key.signing(now)
        found.append(TakeGpg(agent, key, None if signs is None else signs.fingerprint))
    return found


def _read(file: str) -> bytes:
    if file != "-":
        return files.read_bounded(file, _LIMIT)
    data = sys.stdin.buffer.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise WrongUsage(f"standard input is larger than the {_LIMIT:,} bytes that a key may have")
    return data


def is_new(action: Action, found: Found) -> bool:
    """Whether there is something to take: False when the agent has this very key. Raises AlreadyThere, KeyMismatch."""
    match action:
        case TakeSsh():
            _refuse_other_owner(action.agent, action.key.fingerprint, found)
            return _is_new_ssh(action, found)
        case TakeGpg():
            _refuse_other_owner(action.agent, action.key.primary, found)
            return _is_new_gpg(action, found)
        case _:
            assert_never(action)


def _refuse_other_owner(agent: Agent, fingerprint: str, found: Found) -> None:
    for name, entry in found.lock.items():
        keys = {*(one.key.fingerprint for one in entry.ssh), *(one.key.primary for one in entry.gpg)}
        if name != agent.name and fingerprint in keys:
            raise AlreadyThere(
                f"{fingerprint} is a key of {shown(name)}: what {agent.name} signs would be taken for {shown(name)}'s",
                hint=f"give each agent a key of its own: identity gen {agent.name}",
            )


def _is_new_ssh(action: TakeSsh, found: Found) -> bool:
    agent, path = action.agent, action.agent.secrets.ssh_key
    entry = found.lock.get(agent.name)
    if entry is not None and entry.ssh_revoked:
        raise _revoked(agent, "SSH key", "--ssh")
    known = _known(found.public[agent.name].ssh, entry.halves.ssh if entry else None)
    if path in found.secrets.names and not known:
        known = [ssh.public(found.secrets.get(path), path)]
    for key in known:
        if key != action.key:
            raise _other(agent, "SSH key", key.fingerprint, action.key.fingerprint, "--ssh")
    return path not in found.secrets.names


def _is_new_gpg(action: TakeGpg, found: Found) -> bool:
    agent, path = action.agent, action.agent.secrets.gpg_key
    assert path is not None
    entry, public = found.lock.get(agent.name), found.public[agent.name]
    if public.revoked or (entry is not None and entry.gpg_revoked):
        raise _revoked(agent, "OpenPGP key", "--gpg")
    known = _known(public.gpg, entry.halves.gpg if entry else None)
    if path in found.secrets.names and not known:
        known = [openpgp.facts(found.secrets.get(path), path)]
    for key in known:
        if key.primary != action.key.primary:
            raise _other(agent, "OpenPGP key", key.primary, action.key.primary, "--gpg")
        if path not in found.secrets.names and key.signing != action.signing:
            raise KeyMismatch(
                f"{shown(action.key.name)} lacks the private signing subkey {key.signing}, which {agent.name} uses",
                hint="bring the file that has it, or the secrets file from git",
            )
    if path in found.secrets.names:
        return False
    _refuse_other_primary(action, found)
    return True


def _refuse_other_primary(action: TakeGpg, found: Found) -> None:
    agent, path = action.agent, recovery_path(action.agent)
    if path in found.recovery.names:
        there = openpgp.keys(found.recovery.get(path), path)[-1][0].fingerprint
        mismatch.primary(agent, there, action.key.primary, found.recovery, path)
    elif found.recovery.data is None and (names := with_primary(found.lock)):
        raise mismatch.second_recovery(agent, found, names)


def _other(agent: Agent, what: str, there: str, brought: str, option: str) -> AlreadyThere:
    return AlreadyThere(
        f"{agent.name} has an {what} already, {there}, and this one is {brought}",
        hint=f"a key is not replaced by import; a new one in its place: identity rotate {agent.name} {option}",
    )


def _revoked(agent: Agent, what: str, option: str) -> AlreadyThere:
    return AlreadyThere(
        f"the {what} of {agent.name} was revoked", hint=f"a new one in its place: identity rotate {agent.name} {option}"
    )


def _known(*halves: _Key | None) -> list[_Key]:
    return [key for key in halves if key is not None]
