"""Reading a tree from outside key by key: each value converted once, each mistake noted with its key path.

A converter takes the raw value and its Place; it gives the value, notes problems on the place, or raises Wrong or
Noted. A key that went wrong has its default: reading goes on, so that all mistakes of a file come out at once.
"""

import re
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from town.failure import Problem
from town.grammar import Wrong, holds_secret, line, quoted
from town.terminal import toml_string

T = TypeVar("T")
D = TypeVar("D")
MOST_PROBLEMS = 200
_BARE_KEY = r"[A-Za-z0-9_-]{1,60}"


class EnoughProblems(Exception):
    """So many that nobody reads on."""


class Noted(Exception):
    """What is wrong with this value is noted already, at a closer place."""


class Place:
    """A key path of the file, and the list that its problems go to."""

    def __init__(self, where: str, problems: list[Problem]) -> None:
        self.where = where
        self.problems = problems

    def wrong(self, what: str, cure: str = "") -> None:
        """Note a problem here. Raises EnoughProblems after 200."""
        if len(self.problems) >= MOST_PROBLEMS:
            cured = "correct those above first"
            self.problems.append(Problem("", f"there are more than {MOST_PROBLEMS} problems", cured))
            raise EnoughProblems
        self.problems.append(Problem(self.where, what, cure))

    def key(self, key: str) -> "Place":
        """The place of a key of the table here."""
        bare = key if re.fullmatch(_BARE_KEY, key) and not holds_secret(key) else _quoted_key(key)
        return Place(f"{self.where}.{bare}" if self.where else bare, self.problems)

    def item(self, index: int) -> "Place":
        """The place of an item of the array here; counted from 0."""
        return Place(f"{self.where}[{index}]", self.problems)


Convert = Callable[[object, Place], T]


def _quoted_key(key: str) -> str:
    return quoted(key) if quoted(key).startswith("(") else toml_string(key[:60])


def attempt(convert: Convert[T], value: object, place: Place, default: D) -> T | D:
    """The converted value; `default` after noting what is wrong with it."""
    try:
        return convert(value, place)
    except Wrong as wrong:
        place.wrong(wrong.what, wrong.cure)
        return default
    except Noted:
        return default


class Table:
    """One table of the file. As a context: at its end the keys that nobody took are problems."""

    def __init__(self, value: object, place: Place, example: str = "a table") -> None:
        if not isinstance(value, dict):
            raise Wrong(f"is {kind(value)}, not a table", f"write {example}")
        self.tree: dict[str, Any] = value
        self.place = place
        self._known: list[str] = []

    def take(self, key: str, convert: Convert[T], default: D) -> T | D:
        """The value of `key`, or `default` where it is left out or wrong."""
        self._known.append(key)
        if key not in self.tree:
            return default
        return attempt(convert, self.tree[key], self.place.key(key), default)

    def need(self, key: str, convert: Convert[T], default: D, cure: str) -> T | D:
        """The value of a key that may not be left out; `default` stands in when it is missing or wrong."""
        if key not in self.tree:
            self.place.key(key).wrong("is missing", cure)
        return self.take(key, convert, default)

    def has(self, key: str) -> bool:
        """Whether the file has that key."""
        return key in self.tree

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, kind_: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            for key in self.tree:
                if key not in self._known:
                    self.place.key(key).wrong("is not a key that is known here", self._hint(key))

    def _hint(self, key: str) -> str:
        from difflib import get_close_matches

        near = get_close_matches(key[:100].lower().replace("-", "_"), self._known, n=1, cutoff=0.5)
        if near:
            return f"did you mean {near[0]}?"
        return f"known here: {', '.join(self._known)}"


def kind(value: object) -> str:
    """What a value of TOML is, in words."""
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int():
            return "an integer"
        case float():
            return "a float"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or a time"


def text(check: Callable[[str], T], example: str) -> Convert[T]:
    """A string that passes `check`; `example` is what a right one looks like, as TOML."""

    def convert(value: object, _: Place) -> T:
        if not isinstance(value, str):
            raise Wrong(f"is {kind(value)}, not a string", f"write it as in {example}")
        return check(value)

    return convert


def flag(value: object, _: Place) -> bool:
    """A boolean."""
    if not isinstance(value, bool):
        raise Wrong(f"is {kind(value)}, not a boolean", "write true or false, without quotes")
    return value


def whole(low: int, high: int) -> Convert[int]:
    """An integer from `low` to `high`, both included. A boolean is none."""

    def convert(value: object, _: Place) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(f"is {kind(value)}, not an integer", f"write a number from {low} to {high}, without quotes")
        if not low <= value <= high:
            # An integer of thousands of digits cannot even be printed.
            named = str(value) if abs(value) < 1 << 64 else "a number of more than 64 bits"
            raise Wrong(f"{named} is outside {low}-{high}", f"write a number from {low} to {high}")
        return value

    return convert


def indexed(convert: Convert[T], example: str) -> Convert[tuple[tuple[int, T], ...]]:
    """An array as (index, item), each item converted; items that are wrong are noted and left out."""

    def items(value: object, place: Place) -> Iterable[tuple[int, T]]:
        if not isinstance(value, list):
            raise Wrong(f"is {kind(value)}, not an array", f"write it as in {example}")
        nothing = object()
        for index, item in enumerate(value):
            found = attempt(convert, item, place.item(index), nothing)
            if found is not nothing:
                yield index, found  # type: ignore[misc]

    return lambda value, place: tuple(items(value, place))


def array(convert: Convert[T], example: str) -> Convert[tuple[T, ...]]:
    """An array, each item converted; items that are wrong are noted and left out."""
    listed = indexed(convert, example)
    return lambda value, place: tuple(item for _, item in listed(value, place))


def pairs(name: Callable[[str], str], convert: Convert[T], example: str) -> Convert[tuple[tuple[str, T], ...]]:
    """A table of free keys, each checked by `name`, as (key, value) in the order of the file."""

    def items(value: object, place: Place) -> Iterable[tuple[str, T]]:
        if not isinstance(value, dict):
            raise Wrong(f"is {kind(value)}, not a table", f"write it as in {example}")
        nothing = object()
        for key, item in value.items():
            at = place.key(key)
            named = attempt(lambda found, _: name(str(found)), key, at, nothing)
            found = attempt(convert, item, at, nothing)
            if named is not nothing and found is not nothing:
                yield key, found  # type: ignore[misc]

    return lambda value, place: tuple(items(value, place))


def one_of(choices: tuple[str, ...], hints: dict[str, str] | None = None) -> Callable[[str], str]:
    """A check that the text is one of `choices`; `hints` maps well-known mistakes to the right one."""

    def check(found: str) -> str:
        if line(found) in choices:
            return found
        from difflib import get_close_matches

        near = [(hints or {}).get(found, "")] if found in (hints or {}) else get_close_matches(found[:60], choices, n=1)
        listed = ", ".join(choices)
        cure = f"did you mean {near[0]}? It is one of {listed}" if near else f"write one of {listed}"
        raise Wrong(f"{quoted(found)} is not known", cure)

    return check
