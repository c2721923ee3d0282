"""A store in memory: the contract at its plainest. For tests, and to say what the other stores must do."""

from collections.abc import Iterator
from threading import Lock

from persist.store import Found, ObjectExists, ObjectMissing, checked_key


class MemoryStore:
    """Objects in a dictionary; safe under threads."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = Lock()

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
        with self._lock:
            if checked_key(key) in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def replace_if_unchanged(self, key: str, old: bytes, new: bytes) -> bool:
        """See `Store.replace_if_unchanged`."""
        with self._lock:
            if self._objects.get(checked_key(key)) != old:
                return False
            self._objects[key] = bytes(new)
            return True

    def list(self, prefix: str) -> Iterator[Found]:
        """See `Store.list`."""
        yield from [Found(key, len(data)) for key, data in sorted(self._objects.items()) if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._objects.pop(checked_key(key), None)

    def size(self, key: str) -> int:
        """See `Store.size`."""
        return len(self._found(key))

    def _found(self, key: str) -> bytes:
        try:
            return self._objects[checked_key(key)]
        except KeyError:
            raise ObjectMissing(f"{key} is not in the store") from None
