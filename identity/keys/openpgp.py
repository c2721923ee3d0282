"""Reads fingerprints and times out of OpenPGP keys, public or secret, without gpg. Verifies no signature.

Source: RFC 4880 (packets 4.2, armor 6.2, keys 5.5, signatures 5.2.3) and GnuPG's doc/DETAILS for S2K type 101.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from identity.halves import BadKey, GpgKey
from identity.keys.armor import dearmored
from town.terminal import shown

_SECRET, _PUBLIC, _SECRET_SUB, _PUBLIC_SUB, _SIGNATURE = 5, 6, 7, 14, 2
_BINDING, _REVOKES_KEY, _REVOKES_SUBKEY = 0x18, 0x20, 0x28  # signatures below keys, RFC 4880 5.2.1
_SIGNS, _ENCRYPTS = 0x02, 0x0C
_MADE, _KEY_EXPIRES, _KEY_FLAGS = 2, 9, 27
# Octets of public key material by algorithm that GnuPG makes for ed25519 and cv25519: an OID, then MPIs.
_EDDSA, _ECDH, _ECDSA = 22, 18, 19
_ED25519 = bytes.fromhex("092b06010401da470f01")  # its OID, with the length before it
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
    encrypts: bool = False
    protected: bool = False  # the private numbers are encrypted with a passphrase
    revoked: bool = False
    bound: int = -1  # when the binding signature was made that the two above are of, in seconds of Unix time


def facts(armored: str, name: str) -> GpgKey:
    """The primary key and its newest signing subkey. Raises BadKey; `name` says where the text came from."""
    found = in_use(armored, name)
    if found is None:
        raise BadKey(f"{shown(name)} was revoked")
    return found


def in_use(armored: str, name: str) -> GpgKey | None:
    """The same of a text that may also hold keys that were revoked; None when all are. Raises BadKey."""
    every = keys(armored, name)
    found = [key for key in every if not key[0].revoked]
    if len(found) > 1 or not any(signing(key) for key in every):
        raise BadKey(f"{shown(name)} is not one OpenPGP key with a signing subkey")
    left = [part for key in found for part in signing(key) if not part.revoked]
    if not left:
        return None
    # The last of those that are equally old: gpg adds a subkey at the end.
    newest = max(reversed(left), key=lambda part: part.created)
    return GpgKey(found[0][0].fingerprint, newest.fingerprint, newest.created, newest.expires)


def keys(armored: str, name: str) -> list[list[Part]]:
    """Every OpenPGP key of the text, each as its primary key and the subkeys after it. Raises BadKey."""
    found: list[list[Part]] = []
    for part in parts(armored, name):
        if part.primary:
            found.append([part])
        elif found:
            found[-1].append(part)
        else:
            raise BadKey(f"{shown(name)} begins with a subkey")
    return found


def signing(key: list[Part]) -> list[Part]:
    """The signing subkeys of one key, in their order."""
    return [part for part in key if part.signs and not part.primary]


def older(armored: str, used: GpgKey) -> list[GpgKey]:
    """The other signing subkeys of the key in use, but for those that were revoked. Raises BadKey."""
    return [
        GpgKey(used.primary, part.fingerprint, part.created, part.expires)
        for key in keys(armored, "gpg.asc") if key[0].fingerprint == used.primary
        for part in signing(key) if part.fingerprint != used.signing and not part.revoked
    ]  # fmt: skip


def encrypts(armored: str, name: str) -> bool:
    """Whether a key that was not revoked has a subkey that others can encrypt to. Raises BadKey."""
    found = [part for key in keys(armored, name) if not key[0].revoked for part in key[1:]]
    return any(part.encrypts and not part.revoked for part in found)


def parts(armored: str, name: str) -> list[Part]:
    """Every key packet in the order of the text, at least one. Raises BadKey."""
    try:
        found = _parts(dearmored(armored))
    except (ValueError, IndexError, KeyError, struct.error, OverflowError):
        raise BadKey(f"{shown(name)} is no OpenPGP key that can be read") from None
    if not found:
        raise BadKey(f"{shown(name)} holds no OpenPGP key")
    return found


def packets(armored: str, name: str) -> list[tuple[int, bytes]]:
    """Every packet as its tag and its body, signatures included: two texts of one key are compared by them."""
    parts(armored, name)
    return list(_packets(dearmored(armored)))


def private_belongs(armored: str, name: str) -> bool | None:
    """Whether the private numbers of a primary key give its public ones; None where it is not ed25519, or protected.

    Raises BadKey.
    """
    tag, body = packets(armored, name)[0]
    public = body[: _public_size(body)]
    private = body[len(public) :]
    if tag != _SECRET or _is_stub(private):
        return False
    if body[5] != _EDDSA or body[6 : 7 + body[6]] != _ED25519 or private[0] != 0:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    # Usage 0, the seed as an MPI, a checksum; the point is an MPI that begins with 0x40.
    seed = private[3 : _after_mpi(private, 1)].rjust(32, b"\0")
    return (
        len(seed) == 32 and Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() == public[-32:]
    )


def _parts(data: bytes) -> list[Part]:
    found: list[Part] = []
    for tag, body in _packets(data):
        if tag in (_SECRET, _PUBLIC, _SECRET_SUB, _PUBLIC_SUB):
            found.append(_part(tag, body))
        elif tag == _SIGNATURE and found:
            found[-1] = _signed(found[-1], body)
    return found


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
    private = body[len(public) :]
    secret = tag in (_SECRET, _SECRET_SUB) and not _is_stub(private)
    # S2K usage 0: the private numbers follow as they are.
    return Part(digest.upper(), created, tag in (_SECRET, _PUBLIC), secret, protected=secret and private[0] != 0)


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


def _signed(part: Part, body: bytes) -> Part:
    """The key with what a signature below it says of it; signatures of other kinds say nothing here."""
    kind = body[1] if body[0] == 4 else None
    if kind == (_REVOKES_KEY if part.primary else _REVOKES_SUBKEY):
        return replace(part, revoked=True)
    return _bound(part, body) if kind == _BINDING and not part.primary else part


def _bound(part: Part, body: bytes) -> Part:
    hashed = body[6 : 6 + struct.unpack_from(">H", body, 4)[0]]
    said = dict(_subpackets(hashed))
    flags, lifetime = said.get(_KEY_FLAGS, b"\0"), int.from_bytes(said.get(_KEY_EXPIRES, b""), "big")
    made = int.from_bytes(said.get(_MADE, b""), "big")
    if made < part.bound:
        return part  # of several, the newest counts (RFC 4880, 5.2.3.3)
    expires = part.created + timedelta(seconds=lifetime) if lifetime else None
    uses = flags[0] if flags else 0
    return replace(part, signs=bool(uses & _SIGNS), encrypts=bool(uses & _ENCRYPTS), expires=expires, bound=made)


def _subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size, used = _new_length(data, at)
        at += used
        yield data[at] & 0x7F, data[at + 1 : at + size]
        at += size
