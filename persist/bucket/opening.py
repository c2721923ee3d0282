"""Is this store ours? Opened means: it exists, its format is known, and its key is the one that the lock names."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from persist.bucket import FORMAT, VERSION, lock, records
from persist.bucket.keys import SIZE, AgentKeys, TownKey
from persist.store import (
    INIT,
    KeyMismatch,
    ObjectMissing,
    Store,
    StoreDamaged,
    StoreForeign,
    StoreMissing,
    open_store,
    whole,
)
from town.spec import Spec
from town.terminal import shown

if TYPE_CHECKING:
    from town.sops import Keys

CONFIG, KEY = "config", "key"
KEY_PATH = "store-key"  # in the SOPS file
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Bucket:
    """A store that proved to be this town's, and what opens it."""

    store: Store
    key: TownKey = field(repr=False)

    def keys(self, agent: str) -> AgentKeys:
        """What one agent's data is sealed with."""
        return AgentKeys.of(self.key, agent)


def open_bucket(spec: Spec) -> Bucket:
    """The town's store, proven. Raises StoreMissing, StoreForeign, StoreDamaged, KeyMismatch, and what sops raises."""
    locked = lock.read(spec)
    store = open_store(spec)
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
        key = unlocked(spec, store)
    except ObjectMissing as error:
        raise StoreDamaged("the store has no key any more", hint="put `key` back from a copy of the store") from error
    if not locked.fits(key):
        raise KeyMismatch(
            "another town's store, or a swapped key: its key is not the one that the lock beside the spec names",
            hint=f"compare town.store with {shown(str(spec.beside(lock.NAME)))}; nothing was read or written",
        )
    return Bucket(store, key)


def config() -> bytes:
    """The object `config` of a new store."""
    return records.written({"format": FORMAT, "version": VERSION}) + b"\n"


def has_config(store: Store) -> bool:
    """Whether the store was made, whole. Raises StoreForeign for a format that this version does not know."""
    try:
        data = whole(store, CONFIG, _LIMIT)
    except ObjectMissing:
        return False
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
    if found.get("version") != VERSION:
        raise StoreForeign(
            f"the store has the format version {shown(str(found.get('version')))}, this program knows {VERSION}",
            hint="install the nuketown that wrote it",
        )
    return True


def unlocked(spec: Spec, store: Store) -> TownKey:
    """The key that the store's SOPS file holds, opened with the host's or the caller's own keys; not proven yet.

    Raises ObjectMissing, StoreDamaged, and what sops raises.
    """
    from town import sops

    data = whole(store, KEY, _LIMIT)
    return parsed_key(sops.load(data, "the store's key", keys_at_hand(spec)).get(KEY_PATH))


def keys_at_hand(spec: Spec) -> "Keys":
    """What can open SOPS files here: the host's key, and the caller's own."""
    from town import sops

    return sops.Keys.of_host(spec.town.host_key) | sops.Keys.of_person()


def parsed_key(text: str | None) -> TownKey:
    """A key as the SOPS file holds it: 64 hex digits. Raises StoreDamaged."""
    try:
        secret = bytes.fromhex(text or "")
    except ValueError:
        secret = b""
    if len(secret) != SIZE:
        raise StoreDamaged("the store's key file opens, but holds no key of 256 bits")
    return TownKey(secret)


def _without_lock(spec: Spec, *, made: bool) -> StoreMissing | StoreForeign:
    path = shown(str(spec.beside(lock.NAME)))
    if made:
        return StoreForeign(
            f"there is a store, but {path} is missing, so nobody can say that it is this town's",
            hint="bring the lock from where the spec is kept, or from the machine that ran `persist init --store`",
        )
    return StoreMissing("the town's store was not made yet", hint=INIT)
