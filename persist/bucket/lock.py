"""`identities/store.lock.toml`, beside the spec: which key the town's store has. Everybody may read it.

SOPS does not say who wrote a file, so a store's key proves nothing by itself; every machine accepts only the key whose
commitment stands here. `persist init --store` writes it once; nothing else does.
"""

import hmac
import os
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from persist.bucket import FORMAT, VERSION
from persist.bucket.keys import SIZE, TownKey
from persist.store import StoreForeign
from town import files
from town.failure import Failure
from town.spec import Spec
from town.terminal import shown, toml_string

NAME = Path("identities/store.lock.toml")
BEGUN = Path("identities/store.lock.toml.begun")  # what an init that is under way, or was cut off, has settled
_LIMIT = 64 << 10


class BadLock(Failure):
    """The lock beside the spec cannot be read, or is not a lock."""


@dataclass(frozen=True, slots=True)
class StoreLock:
    """The commitment of a store's key, in hex, and when it was made."""

    commitment: str
    made: str

    @classmethod
    def of(cls, key: TownKey, now: datetime) -> "StoreLock":
        """The lock of a new key."""
        return cls(key.commitment, now.isoformat(timespec="seconds"))

    def fits(self, key: TownKey) -> bool:
        """Whether `key` is the one that the lock names."""
        return hmac.compare_digest(self.commitment, key.commitment)

    @property
    def text(self) -> str:
        """The file."""
        return (
            "# Which key the town's store has. Written once, by `persist init --store`; keep it with the spec.\n"
            f"format = {toml_string(FORMAT)}\nversion = {VERSION}\n"
            f"commitment = {toml_string(self.commitment)}\nmade = {toml_string(self.made)}\n"
        )


def read(spec: Spec, name: Path = NAME) -> StoreLock | None:
    """The lock beside the spec; None when there is none. Raises BadLock, StoreForeign, Unreadable."""
    path = spec.beside(name)
    if not os.path.lexists(path):
        return None
    try:
        table = tomllib.loads(files.read_bounded(path, _LIMIT).decode())
    except ValueError as error:
        raise BadLock(f"{shown(str(path))} is not TOML: {shown(str(error))}", hint=_CURE) from error
    if table.get("format") != FORMAT or table.get("version") != VERSION:
        raise StoreForeign(f"{shown(str(path))} is of a format that this version does not know")
    commitment, made = table.get("commitment"), table.get("made", "")
    if not isinstance(commitment, str) or not isinstance(made, str) or len(commitment) != 2 * SIZE:
        raise BadLock(f"{shown(str(path))} holds no commitment", hint=_CURE)
    return StoreLock(commitment, made)


def write(spec: Spec, lock: StoreLock, name: Path = NAME) -> None:
    """Write the lock beside the spec, durably, owned like the directory it lies in. Raises Unwritable."""
    path = spec.beside(name)
    try:
        found = spec.file.absolute().parent.stat()
        path.parent.mkdir(mode=0o755, exist_ok=True)
        if path.parent.stat().st_uid != found.st_uid and not os.listdir(path.parent):
            os.chown(path.parent, found.st_uid, found.st_gid)
    except OSError as error:
        raise files.Unwritable(f"{shown(str(path.parent))} cannot be made: {error.strerror}") from error
    files.write_whole(path, lock.text.encode(), owner=(found.st_uid, found.st_gid))


_CURE = "bring it back from where the spec is kept (git)"
