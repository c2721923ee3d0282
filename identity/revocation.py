"""What `identity revoke` will do: decided from the lock alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from identity.found import Found
from identity.lock import Entry, KeptSsh
from town.failure import Failure
from town.spec import Agent
from town.terminal import shown


class NothingToRevoke(Failure):
    """There is no such key, or what its revocation needs is not there."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose keys are revoked: an agent of the spec, or one that left it and whose keys the lock still names."""

    name: str
    agent: Agent | None

    @property
    def ssh_path(self) -> str:
        """Where the secrets file has its SSH key."""
        return self.agent.secrets.ssh_key if self.agent else f"{self.name}/ssh-key"

    @property
    def gpg_path(self) -> str:
        """Where the secrets file has its OpenPGP subkeys."""
        return (self.agent and self.agent.secrets.gpg_key) or f"{self.name}/gpg-key"


@dataclass(frozen=True, slots=True)
class RevokeSsh:
    """An SSH key; the private half goes when it is the one in use."""

    holder: Holder
    kept: KeptSsh

    def __str__(self) -> str:
        return f"revoke  SSH key of {shown(self.holder.name)}: {self.kept.key.fingerprint}"


@dataclass(frozen=True, slots=True)
class RevokeGpg:
    """A whole OpenPGP key, by the certificate in the recovery file."""

    holder: Holder
    primary: str

    def __str__(self) -> str:
        return f"revoke  OpenPGP key of {shown(self.holder.name)}: {self.primary}, with all its subkeys"


@dataclass(frozen=True, slots=True)
class RevokeSubkey:
    """One signing subkey, by the primary key in the recovery file."""

    holder: Holder
    primary: str
    subkey: str

    def __str__(self) -> str:
        return f"revoke  OpenPGP subkey of {shown(self.holder.name)}: {self.subkey}"


Action = RevokeSsh | RevokeGpg | RevokeSubkey


def plan(holder: Holder, found: Found, wanted: tuple[bool, bool, str | None]) -> list[Action]:
    """What is revoked; `wanted` is whether SSH, whether OpenPGP, and which key. Raises NothingToRevoke."""
    ssh, openpgp_too, key = wanted
    entry = found.lock.get(holder.name, Entry(""))
    return [*(_ssh(holder, entry, key) if ssh else ()), *(_gpg(holder, entry, key) if openpgp_too else ())]


def _ssh(holder: Holder, entry: Entry, key: str | None) -> Iterator[Action]:
    if not entry.ssh:
        raise NothingToRevoke(f"{shown(holder.name)} never had an SSH key")
    named = [kept for kept in entry.ssh if key in (kept.key.fingerprint, kept.key.public)]
    if key is not None and not named:
        known = ", ".join(kept.key.fingerprint for kept in entry.ssh)
        raise NothingToRevoke(f"{shown(holder.name)} never had the SSH key {shown(key)}", hint=f"it had {known}")
    kept = named[0] if named else entry.ssh[-1]
    if kept.revoked is None:
        yield RevokeSsh(holder, kept)


def _gpg(holder: Holder, entry: Entry, key: str | None) -> Iterator[Action]:
    if not entry.gpg:
        raise NothingToRevoke(f"{shown(holder.name)} never had an OpenPGP key")
    primary = entry.gpg[-1].key.primary if key is None else key
    of_key = [kept for kept in entry.gpg if kept.key.primary == primary]
    subkey = [kept for kept in entry.gpg if kept.key.signing == key]
    if not of_key and not subkey:
        known = ", ".join(dict.fromkeys(f for kept in entry.gpg for f in (kept.key.primary, kept.key.signing)))
        raise NothingToRevoke(
            f"{shown(holder.name)} never had the OpenPGP key {shown(primary)}", hint=f"it had {known}"
        )
    if of_key and any(kept.revoked is None for kept in of_key):
        yield RevokeGpg(holder, primary)
    elif subkey and subkey[0].revoked is None:
        yield RevokeSubkey(holder, subkey[0].key.primary, subkey[0].key.signing)
