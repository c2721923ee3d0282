"""A store in memory: the contract at its plainest. For tests, and to say what the other stores must do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from persist.store import Found, ObjectExists, ObjectMissing, checked_key


class MemoryStore:
    """Objects in a dictionary; safe under threads."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = Lock()
        self.requests = 0  # calls: each is one

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        data = self._found(key)
        return data[offset:] if length is None else data[offset : offset + length]

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        if not self.put_if_absent(key, data):
            raise ObjectExists(f"{key} is in the store already")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store.put_if_absent`."""
        with self._alone():
            if checked_key(key) in self._objects:
                return False
            self._objects[key] = bytes(data), self.now()
            return True

    def replace_if_unchanged(self, key: str, old: bytes, new: bytes) -> bool:
        """See `Store.replace_if_unchanged`."""
        with self._alone():
            if checked_key(key) not in self._objects or self._objects[key][0] != old:
                return False
            self._objects[key] = bytes(new), self.now()
            return True

    def list(self, prefix: str) -> Iterator[Found]:
        """See `Store.list`."""
        with self._alone():
            found = sorted(self._objects.items())
        yield from [Found(key, len(data), at) for key, (data, at) in found if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        with self._alone():
            self._objects.pop(checked_key(key), None)

    def size(self, key: str) -> int:
        """See `Store.size`."""
        return len(self._found(key))

    def now(self) -> float:
        """See `Store.now`."""
        return time.time()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            self.requests += 1
            yield

    def _found(self, key: str) -> bytes:
        with self._alone():
            try:
                return self._objects[checked_key(key)][0]
            except KeyError:
                raise ObjectMissing(f"{key} is not in the store") from None
