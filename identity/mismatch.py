"""What does not belong together, each case in its own words. Nothing is repaired: a person decides what is right."""

import re
from collections.abc import Iterable

from identity import lost, places
from identity.found import Found
from identity.lock import Lock
from identity.places import Named
from identity.vault import Vault
from town.failure import Failure
from town.spec import Agent
from town.terminal import shown

_LOCK = str(places.LOCK)


class KeyMismatch(Failure):
    """Halves of a key do not belong together, or one that must exist does not. Never repaired by a new key."""


def orphan(agent: Agent, what: str, path: str, traces: Iterable[str], vault: Vault) -> KeyMismatch:
    """A key without its private half; `traces` says where it is known."""
    known = " and ".join(traces)
    if vault.data is None:
        return KeyMismatch(
            f"{shown(vault.name)} is not there, where the private {what} of {agent.name} belongs that {known} names",
            hint=lost.file(vault.name, True),
        )
    option = "--ssh" if what == "SSH key" else "--gpg"
    return KeyMismatch(
        f"the {what} of {agent.name} has a public half in {known} but no private half at {path} in {shown(vault.name)}",
        hint=f"bring {shown(vault.name)} back from git, or the private half from where it is kept: identity import "
        f"{agent.name} {option} FILE. No new key is made unasked: if this one is truly gone, identity rotate "
        f"{agent.name} {option} makes another, and what was signed still verifies",
    )


def subkey_lost(agent: Agent, path: str, found: Found) -> KeyMismatch:
    """The recovery file has an OpenPGP key of which the secrets file and the lock know nothing."""
    secrets, recovery = shown(found.secrets.name), shown(found.recovery.name)
    return KeyMismatch(
        f"{recovery} holds an OpenPGP key of {agent.name}, but {secrets} has no {path}",
        hint=f"bring {secrets} back from git, or, if that key was never used, take {agent.name} out of {recovery} "
        f"with: sops {recovery}",
    )


def no_primary(agent: Agent, found: Found) -> KeyMismatch:
    """A subkey is wanted, and the recovery file has no primary key to make it with."""
    name = shown(found.recovery.name)
    return KeyMismatch(
        f"{name} has no primary key of {agent.name}, which alone can make the subkey for gpg_encryption",
        hint=f"bring {name} back from git or a backup, or take gpg_encryption out of agents.{agent.name}.secrets",
    )


def second_recovery(agent: Agent, found: Found, names: list[str]) -> KeyMismatch:
    """A new recovery file would lack the primary keys of `names`, and stand in the way when it is brought back."""
    name = found.recovery.name
    return KeyMismatch(
        f"{shown(name)}, where the primary key of {agent.name} belongs, is not there",
        hint=lost.recovery(name, names),
    )


def other_recovery(agent: Agent, found: Found, names: list[str]) -> KeyMismatch:
    """A recovery file that lacks the primary keys of `names` is not the one that belongs to the lock."""
    name = shown(found.recovery.name)
    return KeyMismatch(
        f"{name} has no primary key of {', '.join(map(shown, names))}, and {_LOCK} names their OpenPGP keys: it is not "
        f"the file that belongs here, and no key is made for {agent.name}",
        hint=lost.recovery(found.recovery.name, names),
    )


def same(agent: Agent, what: str, one: object, other: object) -> None:
    """The public half's file and the lock's entry, where both are there. Raises KeyMismatch."""
    if one is not None and other is not None and one != other:
        file = places.ssh_public(agent) if what == "SSH key" else places.gpg_public(agent)
        raise KeyMismatch(
            f"{file} is not the {what} that keys.lock.toml names for {agent.name}",
            hint="look at what changed with: git log -p identities/ - then bring the right one back",
        )


def belongs(agent: Agent, what: str, private: object, public: object, path: str) -> None:
    """A public half that is known, and what was derived from the private one at `path`. Raises KeyMismatch."""
    if public is not None and public != private:
        raise KeyMismatch(
            f"the private {what} of {agent.name} at {path} is not that of its public key",
            hint="look at what changed with: git log -p - then bring back the halves that belong together",
        )


def no_primary_here(agent: Agent, holds: bool, path: str) -> None:
    """The secrets file has no primary key: a machine that is broken into could make subkeys. Raises KeyMismatch."""
    if holds:
        raise KeyMismatch(
            f"{path} holds the whole OpenPGP key of {agent.name}: the primary key belongs into the recovery file only",
            hint="look at how it came there with: git log -p - then put there what gpg --export-secret-subkeys gives; "
            "hosts could read the primary key, so a new one is wiser",
        )


def primary(agent: Named, there: str, wanted: str, recovery: Vault, path: str) -> None:
    """The primary key in the recovery file is that of the agent's subkeys. Raises KeyMismatch."""
    if there != wanted:
        raise KeyMismatch(
            f"{shown(recovery.name)} has the primary key {there} at {path}, and the key of {agent.name} is {wanted}",
            hint=f"look at what changed with: git log -p - then bring the right {shown(recovery.name)} back",
        )


def older_subkeys(agent: Agent, missing: list[str]) -> None:
    """gpg.asc is gone, and what is left does not hold every subkey that the lock names. Raises KeyMismatch."""
    if missing:
        raise KeyMismatch(
            f"{places.gpg_public(agent)} is not there, and it alone held {', '.join(missing)}, which {_LOCK} names",
            hint=f"bring it back from git: git checkout -- {places.gpg_public(agent)}. Without it older commits of "
            f"{agent.name} do not verify",
        )


def revoked(agent: Agent) -> KeyMismatch:
    """gpg.asc says that the key was revoked, and the lock does not."""
    return KeyMismatch(
        f"{places.gpg_public(agent)} says that the OpenPGP key of {agent.name} was revoked, and {_LOCK} does not",
        hint="look at what changed with: git log -p identities/ - then bring back the files that belong together",
    )


def lost_lock(lock: Lock, allowed: str) -> None:
    """A lock is made anew from keys that are there, beside an allowed_signers that knows more. Raises KeyMismatch."""
    known = {one.key.public for entry in lock.values() for one in entry.ssh}
    there = re.findall(r"^[^#\n]*?(ssh-ed25519 [A-Za-z0-9+/=]+)", allowed, re.MULTILINE)
    if more := [key for key in there if key not in known]:
        raise KeyMismatch(
            f"{_LOCK} is not there, and {places.ALLOWED_SIGNERS} has keys that cannot be found again: {len(more)}",
            hint=f"bring it back from git: git checkout -- {_LOCK}. If it is lost for good, identity gen --all finds "
            f"the keys in use again, once {places.ALLOWED_SIGNERS} is removed: older commits do not verify then",
        )


def twins(lock: Lock) -> None:
    """No two agents have one key or one address: what one signs would be the other's. Raises KeyMismatch."""
    _one_address(lock)
    owners: dict[str, str] = {}
    for name, entry in sorted(lock.items()):
        keys = [*(one.key.fingerprint for one in entry.ssh), *{one.key.primary for one in entry.gpg}]
        for fingerprint in keys:
            if (other := owners.setdefault(fingerprint, name)) != name:
                raise KeyMismatch(
                    f"{shown(other)} and {shown(name)} have one and the same key in {_LOCK}: {fingerprint}",
                    hint=f"somebody edited it: git log -p {_LOCK} - then bring back the last good one",
                )


def _one_address(lock: Lock) -> None:
    """allowed_signers knows agents by their addresses, and forges compare those without regard to case."""
    owners: dict[str, str] = {}
    believed = {name: one.email for name, one in sorted(lock.items()) if any(kept.revoked is None for kept in one.ssh)}
    for name, email in believed.items():
        if (other := owners.setdefault(email.casefold(), name)) != name:
            raise KeyMismatch(
                f"{shown(other)} and {shown(name)} have one and the same address in {_LOCK}: {shown(email)}",
                hint="give each a git.email of its own in the spec; where one of them is no agent of yours, somebody "
                f"edited it: git log -p {_LOCK} - then bring back the last good one",
            )
