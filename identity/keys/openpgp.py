"""Reads fingerprints and times out of OpenPGP keys, public or secret, without gpg. Verifies no signature.

Source: RFC 4880 (packets 4.2, armor 6.2, keys 5.5, signatures 5.2.3) and GnuPG's doc/DETAILS for S2K type 101.
"""

import base64
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from identity.halves import BadKey, GpgKey
from town.terminal import shown

_SECRET, _PUBLIC, _SECRET_SUB, _PUBLIC_SUB, _SIGNATURE = 5, 6, 7, 14, 2
_BINDING, _SIGNS = 0x18, 0x02
_KEY_EXPIRES, _KEY_FLAGS = 9, 27
# Octets of public key material by algorithm that GnuPG makes for ed25519 and cv25519: an OID, then MPIs.
_EDDSA, _ECDH, _ECDSA = 22, 18, 19
_MPIS = {1: 2, 2: 2, 3: 2, 16: 3, 17: 4}


@dataclass(frozen=True, slots=True)
class Part:
    """One key packet: the primary or a subkey; `secret` when the packet carries the private numbers too."""

    fingerprint: str
    created: datetime
    primary: bool
    secret: bool
    signs: bool = False
    expires: datetime | None = None


def facts(armored: str, name: str) -> GpgKey:
    """The primary key and its newest signing subkey. Raises BadKey; `name` says where the text came from."""
    found = parts(armored, name)
    signing = [part for part in found if part.signs and not part.primary]
    if not found[0].primary or sum(part.primary for part in found) != 1 or not signing:
        raise BadKey(f"{shown(name)} is not one OpenPGP key with a signing subkey")
    newest = max(signing, key=lambda part: part.created)
    return GpgKey(found[0].fingerprint, newest.fingerprint, newest.created, newest.expires)


def parts(armored: str, name: str) -> list[Part]:
    """Every key packet in the order of the text, at least one. Raises BadKey."""
    try:
        found = _parts(_dearmored(armored))
    except (ValueError, IndexError, KeyError, struct.error, OverflowError):
        raise BadKey(f"{shown(name)} is no OpenPGP key that can be read") from None
    if not found:
        raise BadKey(f"{shown(name)} holds no OpenPGP key")
    return found


def _parts(data: bytes) -> list[Part]:
    found: list[Part] = []
    for tag, body in _packets(data):
        if tag in (_SECRET, _PUBLIC, _SECRET_SUB, _PUBLIC_SUB):
            found.append(_part(tag, body))
        elif tag == _SIGNATURE and found and not found[-1].primary:
            found[-1] = _bound(found[-1], body)
    return found


def _dearmored(text: str) -> bytes:
    lines = iter(text.strip().splitlines())
    if not next(lines).startswith("-----BEGIN PGP P"):
        raise ValueError
    for line in lines:  # headers, to the first empty line
        if not line.strip():
            break
    kept = []
    for line in lines:
        if line.startswith(("=", "-----")):  # checksum or the end
            break
        kept.append(line)
    return base64.b64decode("".join(kept), validate=True)


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise ValueError
        at += 1
        if head & 0x40:
            tag = head & 0x3F
            size, used = _new_length(data, at)
        else:
            tag, used = head >> 2 & 0xF, 1 << (head & 3)
            if used > 4:
                raise ValueError  # of indeterminate length
            size = int.from_bytes(data[at : at + used], "big")
        at += used
        if at + size > len(data):
            raise ValueError
        yield tag, data[at : at + size]
        at += size


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 192:
        return first, 1
    if first < 224:
        return (first - 192 << 8) + data[at + 1] + 192, 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), 5
    raise ValueError  # partial lengths are for data, not for keys


def _part(tag: int, body: bytes) -> Part:
    if body[0] != 4:
        raise ValueError
    public = body[: _public_size(body)]
    digest = hashlib.sha1(b"\x99" + struct.pack(">H", len(public)) + public, usedforsecurity=False).hexdigest()
    created = datetime.fromtimestamp(struct.unpack_from(">I", body, 1)[0], UTC)
    secret = tag in (_SECRET, _SECRET_SUB) and not _is_stub(body[len(public) :])
    return Part(digest.upper(), created, tag in (_SECRET, _PUBLIC), secret)


def _public_size(body: bytes) -> int:
    algorithm, at = body[5], 6
    if algorithm in (_EDDSA, _ECDH, _ECDSA):
        at += 1 + body[at]  # the curve's OID
        at = _after_mpi(body, at)
        return at + 1 + body[at] if algorithm == _ECDH else at  # ECDH: KDF parameters
    for _ in range(_MPIS[algorithm]):
        at = _after_mpi(body, at)
    return at


def _after_mpi(body: bytes, at: int) -> int:
    return at + 2 + (int.from_bytes(body[at : at + 2], "big") + 7) // 8


def _is_stub(private: bytes) -> bool:
    # S2K usage 254 or 255, cipher, S2K type 101, hash, "GNU", 1: the private numbers were left out.
    return private[0] in (254, 255) and private[2] == 101 and private[4:7] == b"GNU"


def _bound(part: Part, body: bytes) -> Part:
    """The subkey with what its binding signature says of it; other signatures say nothing here."""
    if body[0] != 4 or body[1] != _BINDING:
        return part
    hashed = body[6 : 6 + struct.unpack_from(">H", body, 4)[0]]
    said = dict(_subpackets(hashed))
    flags, lifetime = said.get(_KEY_FLAGS, b"\0"), int.from_bytes(said.get(_KEY_EXPIRES, b""), "big")
    expires = part.created + timedelta(seconds=lifetime) if lifetime else None
    return Part(part.fingerprint, part.created, False, part.secret, bool(flags[0] & _SIGNS), expires)


def _subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size, used = _new_length(data, at)
        at += used
        yield data[at] & 0x7F, data[at + 1 : at + size]
        at += size
