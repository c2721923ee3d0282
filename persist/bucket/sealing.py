"""One sealed piece: AES-256-GCM, under a key that exists for one object only, with the piece's number as nonce.

The additional data says what the piece is and where it belongs, so a piece that was moved to another place, another
object or another agent is refused like one that was changed.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from persist.bucket import FORMAT, VERSION
from persist.bucket.keys import SIZE, hkdf
from persist.store import StoreDamaged, StoreForeign
from town.terminal import shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Kind = Literal["data", "tree", "directory", "commit", "lease", "tomb"]
TAG = 16  # bytes that sealing adds
_NONCE = 12
HINT = "put the object back from a copy of the store; nothing of it was used"


@dataclass(frozen=True, slots=True)
class Seal:
    """What one object's pieces are sealed with. `object_` is its key in the store; the last 64 hex digits salt it.

    Several threads may use one seal at once.
    """

    agent: str
    object_: str
    _cipher: "AESGCM" = field(repr=False, compare=False)
    _place: bytes = field(repr=False)  # what the additional data says of the object

    @classmethod
    def of(cls, agent: str, secret: bytes, object_: str) -> "Seal":
        """The seal of the object: `secret` is the agent's subkey for its kind of objects."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt = bytes.fromhex(object_[-2 * SIZE :])
        place = f"\0{agent}\0{object_}\0".encode()
        return cls(agent, object_, AESGCM(hkdf(secret, salt, b"object")), place)

    def close(self, kind: Kind, number: int, piece: bytes | memoryview, *, last: bool = False) -> bytes:
        """The piece, encrypted; TAG bytes longer."""
        return self._cipher.encrypt(number.to_bytes(_NONCE, "big"), piece, self._says(kind, number, last))

    def open(self, kind: Kind, number: int, sealed: bytes | memoryview, *, last: bool = False) -> bytes:
        """What was closed, or StoreDamaged when it is not exactly that piece of this object."""
        try:
            return self._cipher.decrypt(number.to_bytes(_NONCE, "big"), sealed, self._says(kind, number, last))
        except (_invalid(), ValueError) as error:
            raise StoreDamaged(
                f"{shown(self.object_)}: {kind} {number} was changed, cut short or moved since it was written",
                hint=HINT,
            ) from error

    def _says(self, kind: Kind, number: int, last: bool) -> bytes:
        return b"%b%b%b%d\0%d" % (_HEAD, kind.encode(), self._place, number, last)


_HEAD = f"{FORMAT}\0{VERSION}\0".encode()


@lru_cache(maxsize=1)
def _invalid() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def after_header(data: bytes, header: bytes, where: str) -> bytes:
    """What stands behind the first line of an object that is one sealed piece: `nuketown KIND VERSION`.

    Raises StoreForeign for another version, StoreDamaged for anything else.
    """
    if data.startswith(header):
        return data[len(header) :]
    kind = header.split()[1]
    if re.match(rb"nuketown " + kind + rb" [0-9]+\n", data):
        raise StoreForeign(f"{where} is of another version of the format", hint="install the nuketown that wrote it")
    raise StoreDamaged(f"{where} is not a {kind.decode()}")
