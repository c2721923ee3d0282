"""Is this store ours? Opened means: it exists, its format is known, and its keys are those that the lock names.

What the store said last is remembered on this machine (`persist.bucket.remembered`), so that opening it again sends no
request; once a day, and whenever the caller says so, the store itself is asked.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from persist.bucket import FORMAT, VERSION, keyfile, lock, records, remembered
from persist.bucket.keyfile import KeyFile
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.lock import StoreLock
from persist.bucket.remembered import Remembered
from persist.store import (
    INIT,
    KeyMismatch,
    ObjectMissing,
    Store,
    StoreDamaged,
    StoreForeign,
    StoreMissing,
    StoreOlder,
    StoreUnreachable,
    limited,
    open_store,
    whole,
)
from town.failure import Failure
from town.spec import Spec
from town.terminal import shell_word, shown

if TYPE_CHECKING:
    from town.sops import Keys

CONFIG = "config"
ASK = 24 * 3600.0  # seconds after which what is remembered is asked for again
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Bucket:
    """A store that proved to be this town's, and what opens it.

    `asked`: the store itself was asked. Else its key is known from an earlier time, and an empty listing may also mean
    that somebody put another store in its place: `prove` tells.
    """

    store: Store
    key: TownKey = field(repr=False)
    earlier: tuple[TownKey, ...] = field(default=(), repr=False)  # keys of epochs before, oldest first
    asked: bool = True

    def keys(self, agent: str) -> AgentKeys:
        """What one agent's data is sealed with, in this epoch."""
        return AgentKeys.of(self.key, agent)

    def at_rate(self, rate: float | None) -> "Bucket":
        """The same bucket, to and from which at most `rate` bytes a second pass; None: no limit."""
        return self if rate is None else replace(self, store=limited(self.store, rate))

    def older(self, agent: str) -> tuple[AgentKeys, ...]:
        """The agent's keys of the epochs before, newest first: its history before the last `persist key rotate`."""
        return tuple(AgentKeys.of(key, agent) for key in reversed(self.earlier))


def open_bucket(spec: Spec, *, ask: bool = False, remember: bool = True) -> Bucket:
    """The town's store, proven; without a request where this machine remembers its key (`ask`: never so).

    Without `remember` nothing is written on this machine. Raises StoreMissing, StoreForeign, StoreDamaged, StoreOlder,
    KeyMismatch, and what sops raises.
    """
    locked = lock.read(spec)
    known = None if ask or locked is None else _recalled(spec, locked)
    if known is None:
        return _asked(spec, locked, remember=remember)
    bucket, age = known
    if 0 <= age < ASK:
        return bucket
    try:
        return _asked(spec, locked, remember=remember)
    except StoreUnreachable:  # who needs the store now will say so
        return bucket


def prove(spec: Spec, bucket: Bucket) -> None:
    """Ask the store of an open bucket whether it is still this town's; nothing when it was asked already.

    For who finds it empty: an emptied store, or another one in its place, is an error and never "nothing there".
    Raises as `open_bucket` does.
    """
    if not bucket.asked:
        read(spec, bucket.store, lock.read(spec))


def _recalled(spec: Spec, locked: StoreLock) -> tuple[Bucket, float] | None:
    """The bucket by what is remembered; None when that is damaged, of another store, or does not fit the lock."""
    found = remembered.recall(spec)
    if found is None:
        return None
    try:
        check_config(found.config)
        file = keyfile.opened(found.key, found.number, keys_at_hand(spec))
        file.check_number()
    except Failure:
        return None
    if not locked.fits(file.key, file.earlier):
        return None
    return Bucket(open_store(spec), file.key, file.earlier, asked=False), found.age


def _asked(spec: Spec, locked: StoreLock | None, *, remember: bool) -> Bucket:
    store = open_store(spec)
    file, data = read(spec, store, locked)
    if remember:
        remembered.remember(spec, Remembered(config(), file.number, data))
    return Bucket(store, file.key, file.earlier)


def read(spec: Spec, store: Store, locked: StoreLock | None) -> tuple[KeyFile, bytes]:
    """The key file that counts, read from the store and proven by the lock; and its bytes. Raises as `open_bucket`."""
    made = has_config(store)
    if locked is None:
        raise _without_lock(spec, made=made)
    if not made:
        raise StoreMissing(
            "the store is empty, or not the one that the lock beside the spec names",
            hint="mount the right one, or put its objects back; only where its data is gone for good, remove "
            f"{shown(str(spec.beside(lock.NAME)))} and make a new one: persist init --store",
        )
    try:
        number, data = keyfile.newest(store)
    except ObjectMissing as error:
        raise StoreDamaged(error.what, hint=error.hint) from error
    file = keyfile.opened(data, number, keys_at_hand(spec))
    if not locked.fits(file.key, file.earlier):
        raise _mismatch(spec, locked, file)
    file.check_number()
    seen = remembered.recall(spec)
    if seen is not None and (seen.number, seen.key) != (number, data) and _fits(spec, locked, seen):
        _refuse_older(spec, number, seen.number)
    return file, data


def _fits(spec: Spec, locked: StoreLock, seen: Remembered) -> bool:
    """Whether what is remembered is of the store and the epoch that the lock names: it may have been made anew."""
    try:
        file = keyfile.opened(seen.key, seen.number, keys_at_hand(spec))
    except Failure:
        return False
    return locked.fits(file.key, file.earlier)


def _refuse_older(spec: Spec, number: int, seen: int) -> None:
    """A key file that was seen here does not go away, and does not change: nobody replaces an object."""
    place = spec.state_dir / remembered.DIRECTORY
    if number < seen:
        raise StoreOlder(
            f"the store's newest key file is {keyfile.name(number)}, and {keyfile.name(seen)} was seen here: "
            "somebody put an older state of the store there",
            hint=f"bring the newer one back: {shown(str(place / f'key-{seen:016x}'))} is a copy of it; "
            f"only when the older one is meant: rm -r {shell_word(str(place))}",
        )
    if number == seen:
        raise StoreDamaged(
            f"{keyfile.name(number)} in the store was changed since this machine saw it",
            hint=f"bring it back: {shown(str(place / f'key-{number:016x}'))} is a copy of it as it was",
        )


def _mismatch(spec: Spec, locked: StoreLock, file: KeyFile) -> Failure:
    path, found = shown(str(spec.beside(lock.NAME))), tuple(one.commitment for one in (*file.earlier, file.key))
    if found[: locked.epoch] == locked.all:
        unfinished = lock.read(spec, lock.BEGUN) is not None
        return KeyMismatch(
            f"the store's key was rotated: it is in epoch {len(found)}, and {path} knows {locked.epoch} only",
            hint="finish it: persist key rotate" if unfinished else f"bring {path} from the machine that rotated it",
        )
    if locked.all[: len(found)] == found:
        return StoreOlder(
            f"the store shows a key of epoch {len(found)}, and {path} names epoch {locked.epoch}: "
            "somebody put an older state of the store there",
            hint=f"bring back the newer {keyfile.PREFIX}<number>; nothing was read or written",
        )
    return KeyMismatch(
        "another town's store, or a swapped key: its key is not the one that the lock beside the spec names",
        hint=f"compare town.store with {path}; nothing was read or written",
    )


def config() -> bytes:
    """The object `config` of a new store."""
    return records.written({"format": FORMAT, "version": VERSION}) + b"\n"


def has_config(store: Store) -> bool:
    """Whether the store was made, whole. Raises StoreForeign for a format that this version does not know."""
    try:
        data = whole(store, CONFIG, _LIMIT)
    except ObjectMissing:
        return False
    check_config(data)
    return True


def check_config(data: bytes) -> None:
    """Refuse an object `config` that is not of this format and version. Raises StoreForeign, StoreDamaged."""
    try:
        found = records.read(data, CONFIG)
    except StoreDamaged as damaged:
        raise StoreDamaged(
            "the store's object `config` cannot be read", hint=f"bring it back; it holds: {config().decode().strip()}"
        ) from damaged
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StoreForeign(
            "what lies in the store was not made by nuketown",
            hint="compare town.store with where the store is; only a new town needs another, empty place",
        )
    if type(found.get("version")) is not int or found["version"] != VERSION:
        raise StoreForeign(
            f"the store has the format version {shown(str(found.get('version')))}, this program knows {VERSION}",
            hint="install the nuketown that wrote it",
        )


def keys_at_hand(spec: Spec) -> "Keys":
    """What can open SOPS files here: the host's key, and the caller's own."""
    from town import sops

    return sops.Keys.of_host(spec.town.host_key) | sops.Keys.of_person()


def _without_lock(spec: Spec, *, made: bool) -> StoreMissing | StoreForeign:
    path = shown(str(spec.beside(lock.NAME)))
    if made:
        return StoreForeign(
            f"there is a store, but {path} is missing, so nobody can say that it is this town's",
            hint="bring the lock from where the spec is kept, or from the machine that ran `persist init --store`",
        )
    return StoreMissing("the town's store was not made yet", hint=INIT)
