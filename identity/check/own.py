"""The town's own private keys in a text: of its agents, and of those who open its secrets. No mark excuses them.

They are known by their public halves, so no private key is needed to tell them from the keys of a test.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from identity.check.forms import plain
from identity.halves import BadKey, SshKey
from identity.keys import openpgp
from identity.lock import Lock
from town.terminal import shown

_PGP = b"PGP PRIVATE KEY BLOCK-----"
_AGE = re.compile(rb"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}", re.IGNORECASE)
_WRAPPED = re.compile(rb"LS0tLS1CRUdJTi[A-Za-z0-9+/\s]+")  # base64 of "-----BEGIN " and what follows
_BETWEEN = b" \t\r\n\"',"  # what stands between the lines of a key that was put into another file
_MOST, _LONGEST = 10_000, 16 << 20  # age keys, bytes of OpenPGP keys: a text with more is the town's, to be safe


@dataclass(frozen=True, slots=True)
class Own:
    """What the private keys of a town are known by, each with what it is."""

    ssh: dict[bytes, str]  # base64 that an OpenSSH file has of the public half, and no public key has
    gpg: dict[str, str]  # fingerprints
    age: dict[str, str]  # recipients

    @classmethod
    def of_town(cls, lock: Lock, recipients: Iterable[str]) -> Self:
        """From public halves alone."""
        return cls(
            {_inside(kept.key): f"the SSH key of {shown(name)}" for name, one in lock.items() for kept in one.ssh},
            {
                fingerprint: f"the OpenPGP key of {shown(name)}"
                for name, one in lock.items() for kept in one.gpg
                for fingerprint in (kept.key.primary, kept.key.signing)
            },
            {one: f"the private key of {one}, which opens the town's secrets" for one in recipients},
        )  # fmt: skip

    def held(self, data: bytes) -> list[str]:
        """Which of them a text holds, in any of the wrappings that `forms` knows."""
        texts = [one.replace(b"\\n", b"\n").replace(b"\\r", b"\n") for one in plain(data)]
        texts += [_decoded(found) for one in texts for found in _WRAPPED.findall(one)]
        return sorted({what for one in texts for what in (*self._ssh(one), *self._gpg(one), *self._age(one))})

    def _ssh(self, text: bytes) -> Iterator[str]:
        joined = text.translate(None, _BETWEEN)
        yield from (what for inside, what in self.ssh.items() if inside in joined)

    def _gpg(self, text: bytes) -> Iterator[str]:
        spent = 0
        for block in text.split(b"-----END " + _PGP)[:-1]:
            _, begun, body = block.rpartition(b"-----BEGIN " + _PGP)
            spent += len(body)
            if begun and spent <= _LONGEST:
                yield from self._of_block(begun + body)
        if spent > _LONGEST:
            yield "more OpenPGP keys than can be looked at"

    def _of_block(self, block: bytes) -> Iterator[str]:
        lines = [line.strip(_BETWEEN) for line in block.splitlines()]
        try:
            parts = openpgp.parts(b"\n".join(lines).decode("ascii", "replace"), "a text")
        except BadKey:
            return
        yield from (self.gpg[part.fingerprint] for part in parts if part.secret and part.fingerprint in self.gpg)

    def _age(self, text: bytes) -> Iterator[str]:
        import pyrage

        keys = {found.decode().upper() for found in _AGE.findall(text)} if self.age else set()
        if len(keys) > _MOST:
            yield "more age keys than can be looked at"
            return
        for key in keys:
            try:
                recipient = str(pyrage.x25519.Identity.from_str(key).to_public())
            except pyrage.IdentityError:  # a checksum that is wrong
                continue
            if recipient in self.age:
                yield self.age[recipient]


def _inside(key: SshKey) -> bytes:
    """Base64 in OpenSSH's file of a key without a passphrase: 30 bytes of the public half (PROTOCOL.key).

    A public key has the same bytes at another place, and so other base64.
    """
    blob = base64.b64decode(key.public.split()[1])
    head = b"openssh-key-v1\0" + _string(b"none") + _string(b"none") + _string(b"") + b"\0\0\0\1" + _string(blob)
    return base64.b64encode(head)[84:124]


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _decoded(found: bytes) -> bytes:
    held = b"".join(found.split())
    held = held[: len(held) - (len(held) % 4 == 1)]
    return base64.b64decode(held + b"=" * (-len(held) % 4))
