"""What stands in gpg.asc and is not of the lock: whoever imports that file believes all of it.

`identity.keys.openpgp` verifies no signature, and gpg reads more forms than it does. So the file must be one plain
block of public keys, and every key in it that signs must be one that the lock names, revoked or not.
"""

import re
from collections.abc import Iterator

from identity import places
from identity.halves import GpgKey
from identity.keys import openpgp
from identity.lock import Entry
from identity.places import Named
from town.failure import Failure

_LINE = r"[A-Za-z0-9+/]{1,100}={0,2}[ \t]*\r?\n"
_ONE_BLOCK = re.compile(
    r"\s*-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[A-Za-z]+: [ -~]*\r?\n)*[ \t]*\r?\n"
    rf"(?:{_LINE})+(?:={_LINE})?-----END PGP PUBLIC KEY BLOCK-----\s*"
)
_SIGNATURE, _KEY, _USER_ID, _SUBKEY, _ATTRIBUTE = 2, 6, 13, 14, 17  # RFC 4880, 4.3
_PUBLIC = {_SIGNATURE, _KEY, _USER_ID, _SUBKEY, _ATTRIBUTE}


class Stranger(Failure):
    """gpg.asc holds something that no gen, rotate or import put there."""


def found(text: str, name: str, entry: Entry) -> Iterator[str]:
    """What a gpg.asc holds besides the keys of `entry`, as the rest of a sentence about it. Raises BadKey."""
    return _found(text, name, {(kept.key.primary, kept.key.signing) for kept in entry.gpg})


def refuse(agent: Named, text: str | None, used: GpgKey | None, entry: Entry | None) -> None:
    """A gpg.asc with more than that. Raises Stranger, BadKey.

    `used`: the key that the entry is to be derived from where the lock names none. None: none is wanted.
    """
    if text is None:
        return
    name = str(places.gpg_public(agent))
    known = {(kept.key.primary, kept.key.signing) for kept in entry.gpg} if entry else set()
    locked = entry.halves.gpg if entry else None
    if used is not None and locked is not None and used != locked:
        what = f"is not the OpenPGP key that {places.LOCK.name} names for {agent.name}"
        raise Stranger(f"{name} {what}", hint=cure(name))
    if not known and used is not None:
        known = {(used.primary, used.signing)}
    for what in _found(text, name, known):
        raise Stranger(f"{name} {what}", hint=cure(name))


def cure(name: str) -> str:
    """For a person: nobody else can tell whose key it is."""
    return f"look at who put it there, and bring both files back from git: git log -p {name} {places.LOCK}"


def _found(text: str, name: str, known: set[tuple[str, str]]) -> Iterator[str]:
    if not _ONE_BLOCK.fullmatch(text):
        yield "is not one block with a public key and nothing besides"
        return
    if kinds := {tag for tag, _ in openpgp.packets(text, name)} - _PUBLIC:
        yield f"holds a packet of type {min(kinds)}, which belongs into no public key"
    for key in openpgp.keys(text, name):
        if key[0].fingerprint not in {primary for primary, _ in known}:
            yield f"holds the key {key[0].fingerprint}, which {places.LOCK.name} does not name"
            continue
        # gpg takes a subkey only with a signature of its primary key, and one that is revoked for nothing new.
        for part in openpgp.signing(key):
            if not part.revoked and (key[0].fingerprint, part.fingerprint) not in known:
                yield f"holds the signing subkey {part.fingerprint}, which {places.LOCK.name} does not name"
