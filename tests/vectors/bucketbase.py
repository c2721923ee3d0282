"""The format's text once more, for vectors: keys, sealing, and one file for each vector."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = Path(__file__).parent / "bucket"
SALT = b"nuketown-store 2"
MACHINE = "5" * 32


def fixed(label: str, length: int = 32) -> bytes:
    """What stands for random bytes."""
    return hashlib.sha256(label.encode()).digest()[:length]


TOWN = fixed("the town's key")


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869 for up to 32 bytes."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\1", "sha256")[:length]


def subkey(purpose: str, agent: str = "ada", length: int = 32) -> bytes:
    return hkdf(TOWN, SALT, f"{purpose}\0{agent}".encode(), length)


PLACE = subkey("place", length=16).hex()


def sealed(
    kind: str, object_: str, number: int, piece: bytes, last: int, *, agent: str = "ada", version: int = 2
) -> bytes:
    purpose = kind if kind in ("commit", "lease", "tomb") else "pack"
    key = hkdf(subkey(purpose, agent), bytes.fromhex(object_[-64:]), b"object")
    says = "\0".join(map(str, ("nuketown-store", version, kind, agent, object_, number, last)))
    return AESGCM(key).encrypt(number.to_bytes(12, "big"), piece, says.encode())


def squeezed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_checksum=False).compress(data)


def line(record: object) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def id_of(kind: str, piece: bytes, agent: str = "ada") -> bytes:
    return blake3(piece, key=subkey(f"id {kind}", agent)).digest()


def write(name: str, why: str, what: str, expect: str, /, **fields: Any) -> None:
    text = json.dumps({"why": why, "what": what, "expect": expect} | fields, indent=1)
    (HERE / f"{name}.json").write_text(text + "\n")


def altered(fields: dict[str, Any], at: int, flip: int = 1) -> dict[str, Any]:
    data = bytearray.fromhex(fields["data"])
    data[at] ^= flip
    return fields | {"data": data.hex()}


ENTRY = {"name": "projects", "kind": "dir", "mode": 0o750, "mtime": 1_700_000_000_123_456_789, "content": []}
HELLO = b"hello, town\n"
