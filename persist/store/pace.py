"""`--limit-rate`: one budget of bytes a second for everything that passes, both ways and in all threads."""

import time
from collections.abc import Iterator
from io import BytesIO
from threading import Lock
from typing import Protocol, runtime_checkable

from persist.store import Found, Store


class Pace:
    """So many bytes a second. Whoever wants to pass takes its turn: the line is used up to the rate, never above."""

    def __init__(self, rate: float) -> None:
        """`rate` in bytes a second, more than 0."""
        assert rate > 0
        self._rate = rate
        self._free = 0.0  # by the monotonic clock: when the line has carried all that was asked for
        self._lock = Lock()

    def take(self, size: int) -> None:
        """Wait until `size` bytes more may have passed."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


class PacedBody(BytesIO):
    """Bytes that are sent no faster than a pace allows, however large the pieces that are asked for."""

    _PIECE = 16 << 10

    def __init__(self, data: bytes, pace: Pace) -> None:
        """`data` whole; every read of it counts."""
        super().__init__(data)
        self._pace = pace

    def read(self, size: int | None = -1, /) -> bytes:
        """At most 16 KiB, once the pace allows them."""
        wanted = self._PIECE if size is None or size < 0 else min(size, self._PIECE)
        piece = super().read(wanted)
        self._pace.take(len(piece))
        return piece


@runtime_checkable
class Paceable(Protocol):
    """A store that can slow down while bytes pass."""

    def paced(self, pace: Pace) -> Store:
        """The same store at that pace."""
        ...


class PacedStore:
    """A store whose calls wait for their turn as a whole, where the store itself cannot slow down."""

    def __init__(self, store: Store, pace: Pace) -> None:
        """`store`, to and from which bytes pass at `pace`."""
        self._store = store
        self._pace = pace

    @property
    def requests(self) -> int:
        """See `Store.requests`."""
        return self._store.requests

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        data = self._store.get(key, offset, length)
        self._pace.take(len(data))
        return data

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        self._pace.take(len(data))
        self._store.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store.put_if_absent`."""
        self._pace.take(len(data))
        return self._store.put_if_absent(key, data)

    def replace_if_unchanged(self, key: str, old: bytes, new: bytes) -> bool:
        """See `Store.replace_if_unchanged`."""
        self._pace.take(len(new))
        return self._store.replace_if_unchanged(key, old, new)

    def list(self, prefix: str) -> Iterator[Found]:
        """See `Store.list`."""
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._store.delete(key)

    def size(self, key: str) -> int:
        """See `Store.size`."""
        return self._store.size(key)

    def now(self) -> float:
        """See `Store.now`."""
        return self._store.now()


def limited(store: Store, rate: float) -> Store:
    """See `persist.store.limited`."""
    pace = Pace(rate)
    return store.paced(pace) if isinstance(store, Paceable) else PacedStore(store, pace)
