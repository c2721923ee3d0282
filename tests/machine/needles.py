"""Secrets in every form in which bytes of them could lie somewhere: raw, hex, base64 at any offset, the text itself."""

import base64
import re
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from identity.keys import openpgp

_SECRET_TAGS = (5, 7)


class Needles:
    """What is looked for."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}

    def text(self, name: str, value: str) -> None:
        """A secret that is text: a token, a key file's line."""
        self.raw(name, value.encode())

    def raw(self, name: str, value: bytes) -> None:
        assert len(value) >= 12, "too short to be told from anything else"
        for form in (value, value.hex().encode(), value.hex().upper().encode(), *_base64(value)):
            self._forms[form] = name

    def ssh(self, name: str, pem: str) -> None:
        """An ed25519 key in OpenSSH form: its 32 secret bytes. The rest of the file is public, or padding."""
        key = serialization.load_ssh_private_key(pem.encode(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
        self.raw(name, key.private_bytes_raw())

    def pgp(self, name: str, armored: str) -> None:
        """An OpenPGP key: the secret numbers of every packet that has them (RFC 4880 5.5.3, S2K usage 0)."""
        for tag, body in openpgp.packets(armored, name):
            private = body[openpgp._public_size(body) :] if tag in _SECRET_TAGS else b""
            if private[:1] == b"\0":
                size = (int.from_bytes(private[1:3], "big") + 7) // 8
                self.raw(f"{name}, packet {tag}", private[3 : 3 + size])

    def names(self) -> set[str]:
        return set(self._forms.values())

    def within(self, data: bytes) -> set[str]:
        """Which of the secrets these bytes hold, also where line breaks or indentation run through them."""
        joined = re.sub(rb"\s|\\n|\\r", b"", data)
        return {name for form, name in self._forms.items() if form in data or form in joined}

    def anywhere(self, data: Iterable[bytes]) -> set[str]:
        return set().union(*map(self.within, data))


def _base64(value: bytes) -> Iterator[bytes]:
    """What is the same in base64 however many bytes stand before and after."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + value)
        yield text[(0, 2, 3)[before] : (len(value) + before) // 3 * 4]
