"""One sealed piece: AES-256-GCM, under a key that exists for one object only, with the piece's number as nonce.

The additional data says what the piece is and where it belongs, so a piece that was moved to another place, another
object or another agent is refused like one that was changed.
"""

from dataclasses import dataclass, field
from typing import Literal

from persist.bucket import FORMAT, VERSION
from persist.bucket.keys import SIZE, hkdf
from persist.store import StoreDamaged
from town.terminal import shown

Kind = Literal["data", "tree", "directory", "commit"]
TAG = 16  # bytes that sealing adds
_NONCE = 12
HINT = "put the object back from a copy of the store; nothing of it was used"


@dataclass(frozen=True, slots=True)
class Seal:
    """What one object's pieces are sealed with. `object_` is its key in the store; the last 64 hex digits salt it."""

    agent: str
    object_: str
    _key: bytes = field(repr=False)

    @classmethod
    def of(cls, agent: str, secret: bytes, object_: str) -> "Seal":
        """The seal of the object: `secret` is the agent's subkey for its kind of objects."""
        salt = bytes.fromhex(object_[-2 * SIZE :])
        return cls(agent, object_, hkdf(secret, salt, b"object"))

    def close(self, kind: Kind, number: int, piece: bytes, *, last: bool = False) -> bytes:
        """The piece, encrypted; TAG bytes longer."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._key).encrypt(number.to_bytes(_NONCE, "big"), piece, self._says(kind, number, last))

    def open(self, kind: Kind, number: int, sealed: bytes, *, last: bool = False) -> bytes:
        """What was closed, or StoreDamaged when it is not exactly that piece of this object."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self._key).decrypt(number.to_bytes(_NONCE, "big"), sealed, self._says(kind, number, last))
        except (InvalidTag, ValueError) as error:
            raise StoreDamaged(
                f"{shown(self.object_)}: {kind} {number} was changed, cut short or moved since it was written",
                hint=HINT,
            ) from error

    def _says(self, kind: Kind, number: int, last: bool) -> bytes:
        fields = (FORMAT, VERSION, kind, self.agent, self.object_, number, int(last))
        return "\0".join(map(str, fields)).encode()
