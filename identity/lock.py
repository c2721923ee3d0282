"""identities/keys.lock.toml: which keys each agent has and had. What follows from it is in identity.signers.

The lock is what keys are held against: a file that disagrees with it stops everything. No entry is ever taken out: a
key that was rotated or revoked stays, for its commits are still there to be judged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from identity.halves import BadKey, GpgKey, Halves, SshKey, ssh_key
from town import toml
from town.failure import Failure
from town.terminal import shown

VERSION = 2
LIMIT = 16 << 20  # bytes: some 50,000 keys
_KNOWN = (1, VERSION)  # version 1 had no times: since, until, revoked
_HEADER = "Written by identity gen: the keys that each agent has. Commit it; do not edit it."


class BadLock(Failure):
    """keys.lock.toml cannot be read, or was written by a newer version."""


@dataclass(frozen=True, slots=True)
class KeptSsh:
    """An SSH key that an agent has or had. None: from the beginning, until now, not revoked. Times are UTC seconds."""

    key: SshKey
    since: datetime | None = None
    until: datetime | None = None
    revoked: datetime | None = None

    @property
    def in_use(self) -> bool:
        """Whether the agent holds the private half."""
        return self.until is None and self.revoked is None


@dataclass(frozen=True, slots=True)
class KeptGpg:
    """An OpenPGP signing subkey that an agent has or had, with its primary key; `revoked` is UTC seconds."""

    key: GpgKey
    revoked: datetime | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One agent's keys, the oldest first, and the address that stands for it in allowed_signers."""

    email: str
    ssh: tuple[KeptSsh, ...] = ()
    gpg: tuple[KeptGpg, ...] = ()

    @property
    def halves(self) -> Halves:
        """The keys in use: the last of each kind, unless it was revoked."""
        return Halves(
            self.ssh[-1].key if self.ssh and self.ssh[-1].in_use else None,
            self.gpg[-1].key if self.gpg and self.gpg[-1].revoked is None else None,
        )

    @property
    def ssh_revoked(self) -> bool:
        """Whether the last SSH key was revoked: there is none in use, and only `rotate` makes one."""
        return bool(self.ssh) and self.ssh[-1].revoked is not None

    @property
    def gpg_revoked(self) -> bool:
        """Whether the last OpenPGP subkey was revoked: there is none in use, and only `rotate` makes one."""
        return bool(self.gpg) and self.gpg[-1].revoked is not None


Lock = Mapping[str, Entry]


def entry(known: Entry | None, email: str, halves: Halves, older: Iterable[GpgKey] = ()) -> Entry:
    """An agent's entry with this address and these keys in use, after `older`. What the lock knew of others stays.

    For keys that gen made or derived: a key in use is not replaced here, `rotated` does that.
    """
    made = replace(known or Entry(email), email=email)
    if halves.ssh is not None and made.halves.ssh is None:
        made = replace(made, ssh=(*made.ssh, KeptSsh(halves.ssh)))
    if halves.gpg is not None and made.halves.gpg is None:
        made = replace(made, gpg=(*made.gpg, *map(KeptGpg, older), KeptGpg(halves.gpg)))
    return made


def parse(data: bytes, name: str) -> dict[str, Entry]:
    """The lock from its file's bytes; `name` is for the message. Raises BadLock."""
    try:
        tree = toml.tree(data, LIMIT)
        if tree.get("version") not in _KNOWN:
            raise BadLock(
                f"{shown(name)} has version {shown(str(tree.get('version'))[:40])}, this program knows {VERSION}",
                hint="use the version of nuketown that wrote it, or a newer one",
            )
        return {agent: _entry(agent, table, name) for agent, table in tree.get("agents", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, toml.NotToml, BadKey) as error:
        raise BadLock(
            f"{shown(name)} cannot be read: {shown(str(error))}",
            hint="bring back the last good one: git checkout -- identities/keys.lock.toml",
        ) from error


def text(lock: Lock) -> str:
    """The lock as its file, agents in the order of their names."""
    import tomlkit

    made = tomlkit.document()
    made.add(tomlkit.comment(_HEADER))
    made.add("version", VERSION)
    agents = tomlkit.table(is_super_table=True)
    for agent, one in sorted(lock.items()):
        agents.add(agent, tomlkit.item(_tree(one)))
    made.add("agents", agents)
    return tomlkit.dumps(made)


def _entry(agent: str, table: dict[str, Any], name: str) -> Entry:
    _refuse_unknown(agent, table, {"email", "ssh", "gpg"})
    ssh = tuple(_ssh(agent, one, name) for one in table.get("ssh", []))
    if any(kept.in_use for kept in ssh[:-1]):
        raise ValueError(f"{agent} has an SSH key in use that is not its last")
    return Entry(_text(table["email"]), ssh, tuple(_kept_gpg(agent, one) for one in table.get("gpg", [])))


def _ssh(agent: str, table: dict[str, Any], name: str) -> KeptSsh:
    _refuse_unknown(agent, table, {"public", "fingerprint", "since", "until", "revoked"})
    key = ssh_key(_text(table["public"]), name)
    if key.fingerprint != table["fingerprint"]:
        raise ValueError(f"an SSH key of {agent} has another fingerprint than the one beside it")
    since, until = _time(table.get("since")), _time(table.get("until"))
    if since is not None and until is not None and until <= since:
        raise ValueError(f"the time of an SSH key of {agent} ends before it began")
    return KeptSsh(key, since, until, _time(table.get("revoked")))


def _kept_gpg(agent: str, table: dict[str, Any]) -> KeptGpg:
    _refuse_unknown(agent, table, {"primary", "signing", "created", "expires", "revoked"})
    created = _time(table["created"])
    assert created is not None, "TOML has no null"
    key = GpgKey(_text(table["primary"]), _text(table["signing"]), created, _time(table.get("expires")))
    return KeptGpg(key, _time(table.get("revoked")))


def _refuse_unknown(agent: str, table: dict[str, Any], known: set[str]) -> None:
    if unknown := table.keys() - known:
        raise ValueError(f"{agent} has a key {min(unknown)!r} that this program does not know")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is expected, not {value!r}")
    return value


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError(f"a time with its zone is expected, not {value!r}")
    return value.astimezone(UTC)


def _tree(one: Entry) -> dict[str, Any]:
    tree: dict[str, Any] = {"email": one.email}
    if one.ssh:
        tree["ssh"] = [_said(_ssh_facts(kept)) for kept in one.ssh]
    if one.gpg:
        tree["gpg"] = [_said(_gpg_facts(kept)) for kept in one.gpg]
    return tree


def _ssh_facts(kept: KeptSsh) -> dict[str, Any]:
    return {
        "public": kept.key.public, "fingerprint": kept.key.fingerprint,
        "since": kept.since, "until": kept.until, "revoked": kept.revoked,
    }  # fmt: skip


def _gpg_facts(kept: KeptGpg) -> dict[str, Any]:
    key = kept.key
    return {
        "primary": key.primary, "signing": key.signing, "created": key.created, "expires": key.expires,
        "revoked": kept.revoked,
    }  # fmt: skip


def _said(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
