"""What is derived from the town's keys: HKDF-SHA256 (RFC 5869), one subkey for each purpose, agent and epoch."""

import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from persist.bucket import FORMAT, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from blake3 import blake3

SIZE = 32  # bytes of every key, salt and id
_SALT = f"{FORMAT} {VERSION}".encode()


@dataclass(frozen=True, slots=True)
class TownKey:
    """The 256-bit key of one epoch of a store; epochs are counted from 1. It never appears in a repr."""

    secret: bytes = field(repr=False)
    epoch: int = 1

    def __post_init__(self) -> None:
        assert len(self.secret) == SIZE

    @classmethod
    def random(cls, epoch: int = 1) -> "TownKey":
        """A new key."""
        return cls(secrets.token_bytes(SIZE), epoch)

    @property
    def commitment(self) -> str:
        """What the lock beside the spec holds, in hex: it names this key and tells nothing about it."""
        return self.derived("commitment", "").hex()

    def derived(self, purpose: str, agent: str, length: int = SIZE) -> bytes:
        """The subkey for a purpose and an agent (empty: the town itself)."""
        return hkdf(self.secret, _SALT, f"{purpose}\0{agent}".encode(), length)


@dataclass(frozen=True, slots=True)
class AgentKeys:
    """What one agent's data is sealed and named with in one epoch. Nothing of it opens another agent's."""

    agent: str
    place: str  # the name that stands for the agent in keys of objects, 32 hex digits
    epoch: int
    pack: bytes = field(repr=False)
    commit: bytes = field(repr=False)  # also of branches
    lease: bytes = field(repr=False)
    tomb: bytes = field(repr=False)
    data: bytes = field(repr=False)  # ids of pieces of files
    tree: bytes = field(repr=False)  # ids of pieces of listings: a file can never pass for one
    chunks: int = field(repr=False)  # moves the boundaries of chunks

    @classmethod
    def of(cls, town: TownKey, agent: str) -> "AgentKeys":
        """The keys of one agent of a town, in the epoch of that key."""
        return cls(
            agent,
            place=town.derived("place", agent, 16).hex(),
            epoch=town.epoch,
            pack=town.derived("pack", agent),
            commit=town.derived("commit", agent),
            lease=town.derived("lease", agent),
            tomb=town.derived("tomb", agent),
            data=town.derived("id data", agent),
            tree=town.derived("id tree", agent),
            chunks=int.from_bytes(town.derived("chunks", agent, 8), "big") >> 1,  # pyfastcdc takes 63 bits
        )

    def id(self, kind: str, piece: bytes | memoryview) -> bytes:
        """The id of a piece (`data` or `tree`): BLAKE3 keyed for the agent, so equal pieces of two agents differ."""
        return _blake3()(piece, key=self.tree if kind == "tree" else self.data).digest()


@lru_cache(maxsize=1)
def _blake3() -> "type[blake3]":
    # An import statement in `id` would be run for every piece.
    from blake3 import blake3

    return blake3


@lru_cache(maxsize=1)
def _hkdf() -> "Callable[[bytes, bytes, bytes, int], bytes]":
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return lambda secret, salt, info, length: HKDF(SHA256(), length, salt, info).derive(secret)


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = SIZE) -> bytes:
    """HKDF-SHA256."""
    return _hkdf()(secret, salt, info, length)
