"""Whether a SOPS file is the town's own: only who could open it before has its data key.

To make a SOPS file takes public recipients alone, and whoever made it keeps its data key. A file that came with git is
therefore believed by what nobody else could put into it: the private halves of the keys that the lock names. They are
held against the public ones by computing these anew, for public numbers stand in a private key for everybody to copy.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from identity.found import Found
from identity.halves import BadKey, SshKey
from identity.keys import openpgp, ssh
from identity.plan import recovery_path
from identity.revocation import Holder
from identity.vault import Vault
from town import sops
from town.spec import Spec


class _Key(NamedTuple):
    path: str
    belongs: Callable[[str], bool | None]  # to the private half; None: nobody can tell here


def secrets(spec: Spec, found: Found) -> bool:
    """Whether the secrets file holds the SSH keys in use. Raises as Vault.document does."""
    return _vouched(found.secrets, list(_ssh(spec, found)))


def recovery(found: Found) -> bool:
    """Whether the recovery file holds the primary keys. Raises as Vault.document does."""
    return _vouched(found.recovery, list(_primary(found)))


def contradicted(spec: Spec, found: Found) -> bool:
    """Whether the lock names keys in use and the secrets file does not hold them. Raises as Vault.document does."""
    return any(_ssh(spec, found)) and not secrets(spec, found)


def _vouched(vault: Vault, keys: list[_Key]) -> bool:
    """One key is held and none is missing, but those that this run replaces: who lost one still has the others."""
    if vault.data is None:
        return True
    said = {key.path: _said(vault, key) for key in keys}
    replaced = vault.added.keys() | vault.removed
    return True in said.values() and not any(one is False for path, one in said.items() if path not in replaced)


def _said(vault: Vault, key: _Key) -> bool | None:
    try:
        return key.path in vault.names and key.belongs(vault.get(key.path))
    except (BadKey, sops.BadSopsFile):
        return False


def _ssh(spec: Spec, found: Found) -> Iterator[_Key]:
    for agent in spec.agents:
        entry = found.lock.get(agent.name)
        if entry is not None and (known := entry.halves.ssh) is not None:
            path = agent.secrets.ssh_key
            yield _Key(path, partial(_is, path, known))


def _primary(found: Found) -> Iterator[_Key]:
    for name, entry in found.lock.items():
        if (known := entry.halves.gpg) is not None:
            path = recovery_path(Holder(name, None))
            yield _Key(path, partial(_holds, path, known.primary))


def _is(path: str, known: SshKey, text: str) -> bool:
    return ssh.public(text, path) == known


def _holds(path: str, primary: str, text: str) -> bool | None:
    (first, *_), *others = openpgp.keys(text, path)
    return False if others or first.fingerprint != primary else openpgp.private_belongs(text, path)
