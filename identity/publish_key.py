"""gpg.asc as what an account takes: one OpenPGP key at a time. It holds several once a primary key was given up.

What is uploaded is written anew from the packets that were looked at: nothing else that the file may hold goes along.
"""

import base64
import textwrap
from collections.abc import Iterable

from identity.keys import openpgp
from identity.mismatch import KeyMismatch
from town.terminal import shown

_PRIMARY = 6
_PUBLIC = (2, _PRIMARY, 13, 14, 17)  # signature, key, user id, subkey, attribute (RFC 4880 4.3)
_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"


def split(armored: str, name: str) -> dict[str, str]:
    """Each key by its primary fingerprint, armored. Raises BadKey, and KeyMismatch when anything in it is private."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    packets, primaries = openpgp.packets(armored, name), [one for one in openpgp.parts(armored, name) if one.primary]
    if packets[0][0] != _PRIMARY or any(tag not in _PUBLIC for tag, _ in packets):
        raise KeyMismatch(
            f"{shown(name)} holds more than public keys: it is not published", hint="bring it back from git"
        )
    fingerprints = iter(primaries)
    for tag, body in packets:
        if tag == _PRIMARY:
            found[next(fingerprints).fingerprint] = here = []
        here.append((tag, body))
    return {fingerprint: _armored(each) for fingerprint, each in found.items()}


def _armored(packets: Iterable[tuple[int, bytes]]) -> str:
    data = b"".join(b"%c\xff%b%b" % (0xC0 | tag, len(body).to_bytes(4, "big"), body) for tag, body in packets)
    lines = textwrap.wrap(base64.b64encode(data).decode(), 64)
    return "\n".join([_BEGIN, "", *lines, "=" + base64.b64encode(_crc24(data)).decode(), _END, ""])


def _crc24(data: bytes) -> bytes:
    """The checksum of an armor, RFC 4880 6.1."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = crc << 1 ^ (0x1864CFB if crc & 0x800000 else 0)
    return (crc & 0xFFFFFF).to_bytes(3, "big")
