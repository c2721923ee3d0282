"""What `identity rotate` will do: decided from the lock, the names in the files, and the key in the recovery file."""

from collections.abc import Iterator
from dataclasses import dataclass

from identity import lost, mismatch
from identity.found import Found
from identity.halves import GpgKey, SshKey
from identity.keys import openpgp
from identity.lock import Entry
from identity.plan import recovery_path
from town.failure import Failure
from town.spec import Agent
from town.terminal import shown


class NothingToRotate(Failure):
    """The agent has no such key, or what a new one needs is not there."""


@dataclass(frozen=True, slots=True)
class RotateSsh:
    """A new SSH key; `old` is used until now, None where it was revoked."""

    agent: Agent
    old: SshKey | None

    def __str__(self) -> str:
        return f"rotate  SSH key of {self.agent.name}: in use was {self.old.fingerprint if self.old else 'none'}"


@dataclass(frozen=True, slots=True)
class RotateGpg:
    """A new signing subkey under the same primary key; `old` is the one before it."""

    agent: Agent
    old: GpgKey

    def __str__(self) -> str:
        return f"rotate  OpenPGP subkey of {self.agent.name}: the last was {self.old.signing}"


@dataclass(frozen=True, slots=True)
class ProlongGpg:
    """The same signing subkey, for two years from now."""

    agent: Agent
    old: GpgKey

    def __str__(self) -> str:
        return f"prolong OpenPGP subkey of {self.agent.name}: {self.old.signing}"


@dataclass(frozen=True, slots=True)
class SucceedGpg:
    """A new OpenPGP key beside one whose primary key was revoked, `old`."""

    agent: Agent
    old: GpgKey

    def __str__(self) -> str:
        return f"make    OpenPGP key of {self.agent.name}: {self.old.primary} was revoked"


Action = RotateSsh | RotateGpg | ProlongGpg | SucceedGpg


def plan(agent: Agent, found: Found, wanted: list[str]) -> list[Action]:
    """What is to be made; `wanted` has any of ssh, gpg, extend. Raises NothingToRotate, KeyMismatch."""
    if found.secrets.data is None:
        raise NothingToRotate(f"{shown(found.secrets.name)} is not there", hint=lost.file(found.secrets.name, True))
    entry = found.lock.get(agent.name, Entry(agent.git.email))
    return [*(_ssh(agent, entry, found) if "ssh" in wanted else ()), *(_gpg(agent, entry, found, wanted))]


def _ssh(agent: Agent, entry: Entry, found: Found) -> Iterator[Action]:
    if not entry.ssh:
        raise NothingToRotate(f"{agent.name} has no SSH key yet", hint=f"identity gen {agent.name}")
    mismatch.same(agent, "SSH key", found.public[agent.name].ssh, entry.halves.ssh)
    yield RotateSsh(agent, entry.halves.ssh)


def _gpg(agent: Agent, entry: Entry, found: Found, wanted: list[str]) -> Iterator[Action]:
    if "gpg" not in wanted:
        return
    if agent.secrets.gpg_key is None:
        cure = f'name the place of one: secrets.gpg_key = "{agent.name}/gpg-key", then: identity gen {agent.name}'
        raise NothingToRotate(f"{agent.name} has no OpenPGP key in the spec", hint=cure)
    if not entry.gpg:
        raise NothingToRotate(f"{agent.name} has no OpenPGP key yet", hint=f"identity gen {agent.name}")
    if recovery_path(agent) not in found.recovery.names:
        cure = lost.recovery(found.recovery.name, [agent.name])
        raise NothingToRotate(f"{shown(found.recovery.name)} has no primary key of {agent.name}", hint=cure)
    mismatch.same(agent, "OpenPGP key", found.public[agent.name].gpg, entry.halves.gpg)
    yield _gpg_action(agent, entry, found, "extend" in wanted)


def _gpg_action(agent: Agent, entry: Entry, found: Found, extend: bool) -> Action:
    last, path = entry.gpg[-1].key, recovery_path(agent)
    first = openpgp.parts(found.recovery.get(path), path)[0]
    mismatch.primary(agent, first.fingerprint, last.primary, found.recovery, path)
    if extend and entry.gpg_revoked:
        raise NothingToRotate(
            f"the OpenPGP key of {agent.name} was revoked: it cannot be prolonged",
            hint=f"make another with: identity rotate {agent.name} --gpg",
        )
    if first.revoked:
        return SucceedGpg(agent, last)
    return ProlongGpg(agent, last) if extend else RotateGpg(agent, last)
