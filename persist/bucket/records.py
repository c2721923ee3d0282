"""JSON as the format writes it: canonical, no key that is not known. Bytes are strings of code points 0-255."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from persist.store import StoreDamaged
from town.terminal import shown

T = TypeVar("T")
_decoder = json.JSONDecoder()


def written(record: object) -> bytes:
    """One line of ASCII JSON, keys sorted, no spaces: equal records are equal bytes."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def read(data: bytes, what: str) -> Any:
    """What `written` wrote. Raises StoreDamaged that names `what`."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"{what} is not a record that this format knows") from error


def lines(data: bytes, what: str) -> Iterator[Any]:
    """The records that stand in `data`, one a line. Raises StoreDamaged that names `what`."""
    try:
        text, at = data.decode("ascii"), 0
        while at < len(text):
            record, at = _decoder.raw_decode(text, at)
            if text[at : at + 1] != "\n":
                raise ValueError("a line that does not end where its record does")
            at += 1
            yield record
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"{what} is not a record that this format knows") from error


def checked(what: str, make: Callable[[Any], T], record: Any, keys: Mapping[str, type | tuple[type, ...]]) -> T:
    """`make(record)` when the record is an object with no other keys than `keys`, each of its type.

    Raises StoreDamaged, also when `make` finds a key missing or a value that does not fit (KeyError, ValueError …).
    """
    if not isinstance(record, dict):
        raise StoreDamaged(f"{what} is not an object of the format")
    for key, value in record.items():
        # JSON has no types derived from others, but bool from int here: so this is exact, and quick.
        if type(value) is not keys.get(key):
            _check_type(what, key, value, keys)
    try:
        return make(record)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise StoreDamaged(f"{what} does not fit the format: {shown(repr(error))}") from error


def _check_type(what: str, key: str, value: Any, keys: Mapping[str, type | tuple[type, ...]]) -> None:
    if key not in keys:
        raise StoreDamaged(f"{what} holds {shown(str(key))}, which this version does not know")
    allowed = keys[key]
    if type(value) not in (allowed if isinstance(allowed, tuple) else (allowed,)):
        raise StoreDamaged(f"{what}: {key} is not of the type that the format says")


def text(raw: bytes) -> str:
    """Bytes as a JSON string: each byte the code point of the same number."""
    return raw.decode("latin-1")


def raw(value: str) -> bytes:
    """What `text` was made from. Raises ValueError for a code point above 255."""
    return value.encode("latin-1")
