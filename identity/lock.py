"""identities/keys.lock.toml: which keys each agent has. And identities/allowed_signers, which follows from it.

The lock is what keys are held against: a file that disagrees with it stops everything, and nothing rewrites an entry.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from identity.halves import BadKey, GpgKey, Halves, ssh_key
from town.failure import Failure
from town.terminal import shown

VERSION = 1
_HEADER = "Written by identity gen: the keys that each agent has. Commit it; do not edit it."


class BadLock(Failure):
    """keys.lock.toml cannot be read, or was written by a newer version."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One agent's keys, and the address that stands for it in allowed_signers."""

    email: str
    halves: Halves


Lock = Mapping[str, Entry]


def parse(data: bytes, name: str) -> dict[str, Entry]:
    """The lock from its file's bytes; `name` is for the message. Raises BadLock."""
    try:
        tree = tomllib.loads(data.decode())
        if tree.get("version") != VERSION:
            raise BadLock(f"{shown(name)} has version {tree.get('version')!r}, this program knows {VERSION}")
        return {agent: _entry(agent, table, name) for agent, table in tree.get("agents", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, BadKey) as error:
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
    for agent, entry in sorted(lock.items()):
        agents.add(agent, tomlkit.item(_tree(entry)))
    made.add("agents", agents)
    return tomlkit.dumps(made)


def allowed_signers(lock: Lock) -> str:
    """The file that `gpg.ssh.allowedSignersFile` names (ssh-keygen(1), ALLOWED SIGNERS). Raises BadKey."""
    lines = [
        f'{principal(entry.email)} namespaces="git" {entry.halves.ssh.public}\n' for _, entry in sorted(lock.items())
    ]
    return "".join(lines)


def principal(email: str) -> str:
    """An address as a principal that matches itself and nothing else. Raises BadKey."""
    # The field is a list of patterns: `*@x` would speak for everybody, `a,b` for two.
    if not email or any(character in '*?!,"#\\' or character.isspace() or ord(character) < 0x21 for character in email):
        raise BadKey(
            f"{shown(email)} cannot stand in allowed_signers: it would be read as a pattern",
            hint="change git.email of the agent in the spec",
        )
    return email


def _entry(agent: str, table: dict[str, Any], name: str) -> Entry:
    newest = table["ssh"][-1]
    key = ssh_key(_text(newest["public"]), name)
    if key.fingerprint != newest["fingerprint"]:
        raise ValueError(f"the SSH key of {agent} has another fingerprint than the one beside it")
    pgp = table.get("gpg", [])
    return Entry(_text(table["email"]), Halves(key, _gpg(pgp[-1]) if pgp else None))


def _gpg(table: dict[str, Any]) -> GpgKey:
    expires = table.get("expires")
    return GpgKey(
        _text(table["primary"]),
        _text(table["signing"]),
        _time(table["created"]),
        None if expires is None else _time(expires),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is expected, not {value!r}")
    return value


def _time(value: object) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError(f"a time with its zone is expected, not {value!r}")
    return value.astimezone(UTC)


def _tree(entry: Entry) -> dict[str, Any]:
    key, gpg = entry.halves.ssh, entry.halves.gpg
    tree: dict[str, Any] = {
        "email": entry.email,
        "ssh": [{"public": key.public, "fingerprint": key.fingerprint}],
    }
    if gpg is not None:
        facts = {"primary": gpg.primary, "signing": gpg.signing, "created": gpg.created, "expires": gpg.expires}
        tree["gpg"] = [{name: value for name, value in facts.items() if value is not None}]
    return tree
