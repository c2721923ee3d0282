"""Which keys lie in a GnuPG keybox (pubring.kbx): their primary fingerprints, by the few fields that say so.

Source: GnuPG's kbx/keybox-blob.c. Numbers are big-endian.
"""

import struct
from collections.abc import Iterator

_HEAD = struct.Struct(">IBB")  # length of the blob, its type, its version
_KEYS = struct.Struct(">HH")  # how many keys (the primary first), bytes that are said of each
_EMPTY, _HEADER, _OPENPGP = 0, 1, 2
_FIRST, _FINGERPRINT = 20, 20  # where the first key is told of, and how long its fingerprint is
_MAGIC = b"KBXf"


def primaries(data: bytes) -> list[str]:
    """The fingerprints of the primary keys, in capitals. Raises ValueError on anything else than OpenPGP keys."""
    if data[8:12] != _MAGIC:
        raise ValueError("no keybox")
    return [_primary(blob) for kind, blob in _blobs(data) if kind == _OPENPGP]


def _blobs(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, kind, _ = _unpacked(_HEAD, data, at)
        if length < _HEAD.size or at + length > len(data) or kind not in (_EMPTY, _HEADER, _OPENPGP):
            raise ValueError("a blob of another form")
        yield kind, data[at : at + length]
        at += length


def _primary(blob: bytes) -> str:
    count, size = _unpacked(_KEYS, blob, 16)
    if count < 1 or size < _FINGERPRINT or _FIRST + count * size > len(blob):
        raise ValueError("a blob of no key")
    return blob[_FIRST : _FIRST + _FINGERPRINT].hex().upper()


def _unpacked(form: struct.Struct, data: bytes, at: int) -> tuple[int, ...]:
    if at + form.size > len(data):
        raise ValueError("cut off")
    return form.unpack_from(data, at)
