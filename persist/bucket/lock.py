"""`identities/store.lock.toml`, beside the spec: which keys the town's store has. Everybody may read it.

SOPS does not say who wrote a file, so a store's key proves nothing by itself; every machine accepts only the keys
whose commitments stand here, one for each epoch. `persist init --store` writes it, `persist key rotate` adds to it;
nothing else does.
"""

import hmac
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from persist.bucket import FORMAT, VERSION
from persist.bucket.keys import SIZE, TownKey
from persist.store import StoreForeign
from town import files, locks
from town.failure import Failure, TryLater
from town.spec import Spec
from town.terminal import shown, toml_string

NAME = Path("identities/store.lock.toml")
BEGUN = Path("identities/store.lock.toml.begun")  # what an init or rotate that was cut off had settled
_LIMIT = 1 << 20
_COMMITMENT = re.compile(rf"[0-9a-f]{{{2 * SIZE}}}")


class BadLock(Failure):
    """The lock beside the spec cannot be read, or is not a lock."""


@dataclass(frozen=True, slots=True)
class StoreLock:
    """The commitments of a store's keys, in hex: of the newest epoch, of those before (oldest first); when it began."""

    commitment: str
    made: str
    earlier: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: TownKey, now: datetime, earlier: Iterable[TownKey] = ()) -> "StoreLock":
        """The lock of a new key, after those of `earlier` epochs."""
        return cls(key.commitment, now.isoformat(timespec="seconds"), tuple(old.commitment for old in earlier))

    @property
    def epoch(self) -> int:
        """The number of the newest epoch."""
        return len(self.earlier) + 1

    @property
    def all(self) -> tuple[str, ...]:
        """The commitments of all epochs, oldest first."""
        return (*self.earlier, self.commitment)

    def fits(self, key: TownKey, earlier: Iterable[TownKey] = ()) -> bool:
        """Whether `key` is the one that the lock names, and `earlier` are those of all epochs before."""
        found = "".join(one.commitment for one in (*earlier, key))
        return hmac.compare_digest("".join(self.all), found)

    @property
    def text(self) -> str:
        """The file."""
        earlier = "".join(f"    {toml_string(one)},\n" for one in self.earlier)
        return (
            "# Which keys the town's store has: written by `persist init --store` and `persist key rotate`.\n"
            "# Keep it with the spec.\n"
            f"format = {toml_string(FORMAT)}\nversion = {VERSION}\n"
            f"commitment = {toml_string(self.commitment)}\nmade = {toml_string(self.made)}\n"
            + (f"earlier = [ # of the epochs before, oldest first\n{earlier}]\n" if earlier else "")
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
    made, earlier = table.get("made", ""), table.get("earlier", [])
    if not isinstance(earlier, list) or not isinstance(made, str):
        raise BadLock(f"{shown(str(path))} is not a lock", hint=_CURE)
    found = [*earlier, table.get("commitment")]
    if not all(isinstance(one, str) and _COMMITMENT.fullmatch(one) for one in found):
        raise BadLock(f"{shown(str(path))} holds no commitment", hint=_CURE)
    return StoreLock(found[-1], made, tuple(found[:-1]))


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


@contextmanager
def alone(spec: Spec) -> Iterator[None]:
    """One change of a town's lock at a time on this machine; on another, the store's put_if_absent decides."""
    with files.opened(os.open(spec.file.absolute().parent, files.DIRECTORY & ~os.O_NOFOLLOW)) as fd:
        # Whoever may read this directory may also lock it: never wait for them.
        locks.take(
            fd, TryLater("somebody holds a lock on the spec's directory", hint="lslocks shows who; then try again")
        )
        yield


_CURE = "bring it back from where the spec is kept (git)"
