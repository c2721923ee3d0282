"""The text form of OpenPGP data (RFC 4880, 6): read with or without its checksum, written with it."""

import base64

_POLYNOMIAL, _START = 0x1864CFB, 0xB704CE  # CRC-24, RFC 4880, 6.1


def dearmored(text: str) -> bytes:
    """What the first block of a key's armor holds. Raises ValueError."""
    lines = iter(text.strip().splitlines())
    if not next(lines, "").startswith("-----BEGIN PGP P"):
        raise ValueError("no armor of a key")
    for line in lines:  # headers, to the first empty line
        if not line.strip():
            break
    kept = []
    for line in lines:
        if line.startswith(("=", "-----")):  # checksum or the end
            break
        kept.append(line.strip())
    return base64.b64decode("".join(kept), validate=True)


def armored(data: bytes, kind: str = "PRIVATE KEY BLOCK") -> str:
    """The armor of a key. GnuPG 2.2 reads none without the checksum, which newer programs leave out."""
    body = base64.encodebytes(data).decode()
    checksum = base64.b64encode(_crc24(data).to_bytes(3, "big")).decode()
    return f"-----BEGIN PGP {kind}-----\n\n{body}={checksum}\n-----END PGP {kind}-----\n"


def _crc24(data: bytes) -> int:
    value = _START
    for octet in data:
        value ^= octet << 16
        for _ in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= _POLYNOMIAL
    return value
