"""Where a town's data lies away from its homes: objects by key, behind one protocol. `open_store` chooses by URL.

A store is not trusted: whoever runs it may read, change, drop and replay objects. What makes that harmless is in
`persist.bucket`; a store only promises that what it acknowledged is durable and that an object appears whole.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from town import store_url
from town.failure import BAD_CONFIG, Failure, TryLater
from town.spec import Spec
from town.terminal import shown

_KEY = r"[a-z0-9][a-z0-9._-]{0,199}(/[a-z0-9][a-z0-9._-]{0,199}){0,7}"
INIT = "`persist init --store` makes it, once"


class StoreMissing(Failure):
    """There is no store where the spec says, or it is empty. Never taken for "nothing to restore"."""


class NoStore(StoreMissing):
    """The spec names no store. It must change first."""

    status = BAD_CONFIG


class NoSuchBucket(StoreMissing):
    """The server knows no bucket of the name that the spec says."""


class StoreForeign(Failure):
    """What lies there is not a store of this town, or of a version that this program does not know."""


class StoreDamaged(Failure):
    """An object is missing, cut short, changed or not what its name says."""


class StoreOlder(Failure):
    """The store shows an older state than this machine has seen: somebody put it back, or dropped what was newer."""


class StoreFull(Failure):
    """No space is left where the store lies. Nothing that was there is lost."""


class StoreDenied(Failure):
    """The store may not be read or written with the rights at hand."""


class NoCredentials(StoreDenied):
    """Nothing says with which key the store is to be asked."""


class WrongCredentials(StoreDenied):
    """The store does not know the key, or not with that secret."""


class StoreRefused(Failure):
    """The store refused a request for a reason of its own; its words are in the message."""


class StoreUnreachable(TryLater):
    """The store did not answer, or not to the end. Trying again may help."""


class NotAStore(StoreUnreachable):
    """Something else than a store answered: a web server, a proxy, a page to log in. Trying again may help."""


class ClockSkew(TryLater):
    """The clock of this machine and that of the store differ too much. Trying again helps once it is set."""


class WrongRegion(Failure):
    """The bucket lies in another region than the spec says. It must change first."""

    status = BAD_CONFIG


class TlsFailed(Failure):
    """The server did not prove that it is the one that the URL names."""


class KeyMismatch(Failure):
    """The store's key is not the one that the lock beside the spec names."""


class ObjectMissing(StoreDamaged):
    """An object that was asked for by its key is not there."""


class ObjectExists(Failure):
    """An object of that key is there already; it was not touched."""


class BadKey(Failure):
    """A key that no object may have: it would leave the store or hide in it."""


class Found(NamedTuple):
    """One object of a listing; `size` in bytes, `modified` in seconds since the epoch by the store's own clock."""

    key: str
    size: int
    modified: float = 0.0


class Store(Protocol):
    """Objects by key. Every call may raise StoreUnreachable, StoreDenied, BadKey; writes also StoreFull.

    All of it may be called by several threads at once. A write whose outcome is unknown is settled inside, by reading
    the key back. docs/s3.md says where a server without conditional writes promises less.
    """

    @property
    def requests(self) -> int:
        """How many requests were sent so far, second tries included."""
        ...

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes from `offset`, at most `length` (fewer where the object ends). Raises ObjectMissing."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store an object under a new key, whole and durable. Raises ObjectExists where the store can tell."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Like `put`; False when the key is taken. Of several at once exactly one gets True."""
        ...

    def replace_if_unchanged(self, key: str, old: bytes, new: bytes) -> bool:
        """Put `new` where exactly `old` is; False when it is not. Of several at once at most one gets True."""
        ...

    def list(self, prefix: str) -> Iterator[Found]:
        """Every object whose key starts with `prefix`, in the order of the keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object, durably; one that is not there is no error."""
        ...

    def size(self, key: str) -> int:
        """The object's length in bytes. Raises ObjectMissing."""
        ...

    def now(self) -> float:
        """Seconds since the epoch by the store's own clock, to about a second."""
        ...


def checked_key(key: str) -> str:
    """`key` when an object may have it: `[a-z0-9][a-z0-9._-]*` components, no `..`. Raises BadKey."""
    if not re.fullmatch(_KEY, key):
        raise BadKey(
            f"{shown(key)} is no key of a store", hint="keys are lower-case letters, digits, `.`, `_`, `-`, `/`"
        )
    return key


def whole(store: Store, key: str, limit: int) -> bytes:
    """An object that may have at most `limit` bytes. Raises ObjectMissing, StoreDamaged when it is larger."""
    data = store.get(key, 0, limit + 1)
    if len(data) > limit:
        raise StoreDamaged(f"{shown(key)} in the store is larger than the {limit:,} bytes that it may have")
    return data


def checked_url(spec: Spec) -> str:
    """The URL of the town's store. Raises NoStore."""
    url = spec.town.store
    if url is None:
        raise NoStore(
            f"{shown(str(spec.file))}: the town has no store",
            hint="set town.store, for example file:///var/lib/nuketown/store",
        )
    return url


def open_store(spec: Spec, *, make: bool = False) -> Store:
    """The store that the spec names; with `make`, its directory is made when it is missing, none above it.

    A bucket is never made, and is asked nothing here. Raises NoStore, StoreMissing, StoreDenied, Unsafe. Whose store it
    is, `persist.bucket.opening` finds out.
    """
    from persist.store.directory import DirectoryStore

    match store_url.parse(checked_url(spec)):
        case store_url.Directory(path):
            return DirectoryStore.make(path) if make else DirectoryStore(path)
        case store_url.Bucket() as place:
            from persist.store.s3 import S3Store

            return S3Store.of(spec, place)


def limited(store: Store, rate: float) -> Store:
    """The same store, to and from which at most `rate` bytes a second pass: one budget for all threads, both ways."""
    from persist.store.pace import limited

    return limited(store, rate)
