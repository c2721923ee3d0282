"""Recipients: what they are called, and the data key wrapped for them.

An ssh-ed25519 key is written as the age recipient of the same key, because sops-nix passes a raw SSH recipient at
build time and fails at activation. The conversion is that of ssh-to-age: the Edwards point as its Montgomery
u-coordinate (RFC 7748, section 4.1), in Bech32 (BIP 173) with the prefix `age`.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from town.sops import gpg
from town.sops.errors import BadRecipient
from town.sops.scalars import resolves_to_itself
from town.sops.writing import Literal, Raw
from town.terminal import shown

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_P = 2**255 - 19
_D = (-121665 * pow(121666, -1, _P)) % _P
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


def canonical(recipient: str) -> str:
    """A recipient as it is written into files and compared: `age1…` or a fingerprint in upper-case hex.

    `ssh-ed25519 AAAA… comment` becomes the age recipient of that key. Raises BadRecipient.
    """
    text = recipient.strip()
    if text.startswith("age1"):
        return _age(text)
    if text.startswith("ssh-"):
        return _age_of_ssh(text)
    fingerprint = re.sub(r"^0X", "", text.replace(" ", "").upper())
    if _FINGERPRINT.fullmatch(fingerprint):
        return fingerprint
    raise BadRecipient(
        f"{_short(text)} is no recipient that is known here",
        hint="give age1…, ssh-ed25519 AAAA… or the 40 hexadecimal digits of an OpenPGP fingerprint",
    )


def _short(text: str) -> str:
    return shown(text if len(text) <= 100 else text[:100] + "…")


def _age(text: str) -> str:
    if text.startswith("age1pq1") or text.count("1") > 1:
        raise BadRecipient(
            f"{_short(text)} belongs to an age plugin or is post-quantum, which is not supported",
            hint="use a plain age1… recipient: age-keygen makes one",
        )
    import pyrage

    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise BadRecipient(
            f"{_short(text)} is no age recipient: a character is wrong or missing", hint="copy it again, whole"
        ) from None
    if _low_order(text):
        raise BadRecipient(
            f"{_short(text)} is a point that everybody knows the private key of", hint="age-keygen makes a real one"
        )
    return text


def _low_order(recipient: str) -> bool:
    """Whether the X25519 point of an age recipient gives the same secret with every key (RFC 7748, section 6.1)."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    values = [_ALPHABET.index(character) for character in recipient.rpartition("1")[2][:-6]]  # 6: the checksum
    number = 0
    for value in values:
        number = number << 5 | value
    point = (number >> len(values) * 5 % 8).to_bytes(len(values) * 5 // 8, "big")
    try:
        X25519PrivateKey.from_private_bytes(bytes(range(32))).exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError:
        return True
    return False


def _age_of_ssh(text: str) -> str:
    kind, _, rest = text.partition(" ")
    if kind != "ssh-ed25519":
        raise BadRecipient(f"{_short(kind)} keys are not supported", hint="use an ssh-ed25519 key, or age-keygen")
    try:
        blob = base64.b64decode(rest.strip().split(" ")[0], validate=True)
    except binascii.Error:
        blob = b""
    head = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
    if not blob.startswith(head) or len(blob) != len(head) + 32:
        raise BadRecipient(f"{_short(text)} is no ssh-ed25519 public key", hint="copy the whole line of the .pub file")
    point = montgomery(blob[len(head) :])
    if point is None:
        raise BadRecipient(f"{_short(text)} is no point of the curve", hint="copy the whole line of the .pub file")
    return bech32("age", point)


def montgomery(edwards: bytes) -> bytes | None:
    """The X25519 public key (32 bytes) of an Ed25519 public key, or None when that is no usable point."""
    y = int.from_bytes(edwards, "little") & ((1 << 255) - 1)
    if y >= _P or y in (0, 1, _P - 1):
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(square, (_P - 1) // 2, _P) != 1:
        return None
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(32, "little")


def age_identity(seed: bytes) -> str:
    """The age private key of an Ed25519 seed (32 bytes): its X25519 scalar (RFC 8032, section 5.1.5), in Bech32."""
    scalar = bytearray(hashlib.sha512(seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = (scalar[31] & 127) | 64
    return bech32("age-secret-key-", bytes(scalar)).upper()


def bech32(prefix: str, data: bytes) -> str:
    """Bech32 (BIP 173), without its limit of 90 characters, as age uses it."""
    bits = int.from_bytes(data, "big") << (-len(data) * 8 % 5)
    count = (len(data) * 8 + 4) // 5
    values = [bits >> 5 * (count - 1 - position) & 31 for position in range(count)]
    expanded = [ord(one) >> 5 for one in prefix] + [0] + [ord(one) & 31 for one in prefix]
    checksum = _polymod([*expanded, *values, *[0] * 6]) ^ 1
    values += [checksum >> 5 * (5 - position) & 31 for position in range(6)]
    return prefix + "1" + "".join(_ALPHABET[value] for value in values)


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    return check


def wrap(
    data_key: bytes, recipients: Iterable[str], now: str, gnupg_home: Path | None
) -> Iterator[tuple[str, dict[str, str]]]:
    """The entry of each canonical recipient for a list of a sops block, and which list. Raises BadRecipient."""
    for one in recipients:
        if one.startswith("age1"):
            yield "age", {"enc": Literal(_sealed(data_key, one)), "recipient": Raw(one)}
        else:
            sealed = Literal(gpg.encrypt(data_key, one, gnupg_home))
            yield "pgp", {"created_at": now, "enc": sealed, "fp": _plain(one)}


def _plain(fingerprint: str) -> str:
    """Digits alone, or digits around an E, would be read as a number: those stay quoted."""
    return Raw(fingerprint) if resolves_to_itself(fingerprint) else fingerprint


def _sealed(data_key: bytes, recipient: str) -> str:
    import pyrage

    to = pyrage.x25519.Recipient.from_str(recipient)
    armored: bytes = pyrage.encrypt(data_key, [to], armored=True)
    return armored.decode("ascii")
