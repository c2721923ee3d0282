"""YAML text as sops writes it: block style, four spaces, lists indented, whatever could be misread in double quotes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STEP = 4
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# sops-nix reads with a YAML 1.1 library: an unquoted key `n` is false to it and it panics.
_WORDS = frozenset(["y", "yes", "n", "no", "true", "false", "on", "off", "null"])
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_WORD = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")


def key(name: str) -> str:
    """A map key: plain where every YAML reads it as that string, else in double quotes."""
    if _PLAIN_KEY.fullmatch(name) and name.lower() not in _WORDS:
        return name
    return quoted(name)


def quoted(text: str) -> str:
    """A string as a YAML double-quoted scalar on one line; JSON reads it as the same."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable() and character != "\ufeff":
        return character
    code = ord(character)
    return f"\\u{code:04X}" if code < 0x10000 else character  # JSON has no longer escape, and YAML takes it as it is


class Raw(str):
    """A scalar that is YAML text already, such as `ENC[…]`, `null` or `true`."""


def word(text: str) -> str:
    """A short string of the metadata, without quotes where no YAML can misread it."""
    plain = re.fullmatch(r"[A-Za-z_^(][A-Za-z0-9_^$|()./+*?\\-]*", text) and text.lower() not in _WORDS
    return Raw(text) if plain else text


def is_word(text: str) -> bool:
    """Whether the text of a Raw is a number, true, false or null in YAML and in JSON."""
    return _WORD.fullmatch(text) is not None


class Literal(str):
    """A string of printable ASCII lines, written as a literal block (`|`, `|-`)."""


def block(tree: Mapping[str, Any], indent: int = 0) -> str:
    """A map as block text, each line ending in a line break. Leaves are Raw, Literal or str (quoted)."""
    return "".join(line + "\n" for line in _map_lines(tree, indent, indent + STEP))


def flow(tree: Mapping[str, Any]) -> str:
    """The items of a map for a place inside `{…}`: every key and value that may hold a comma is quoted."""
    return ", ".join(f"{quoted(name)}: {_flow_value(value)}" for name, value in tree.items())


def _flow_value(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + flow(value) + "}"
        case list():
            return "[" + ", ".join(map(_flow_value, value)) + "]"
        case Raw() if is_word(value):
            return value
        case _:
            return quoted(str(value))


def _map_lines(tree: Mapping[str, Any], indent: int, below: int) -> Iterator[str]:
    for name, value in tree.items():
        yield from _entry(" " * indent + key(name) + ":", value, below)


def _list_lines(items: Sequence[Any], indent: int) -> Iterator[str]:
    for item in items:
        # As go.yaml.in does: the keys stand two columns behind the dash, what is below them four.
        match item:
            case Mapping() if item:
                lines = _map_lines(item, indent + 2, indent + STEP)
            case list() if item:
                lines = _list_lines(item, indent + 2)
            case _:
                yield from _entry(" " * indent + "-", item, indent + STEP)
                continue
        first, *rest = lines
        yield " " * indent + "- " + first.lstrip(" ")
        yield from rest


def _entry(head: str, value: Any, indent: int) -> Iterator[str]:
    match value:
        case Mapping() if value:
            yield head
            yield from _map_lines(value, indent, indent + STEP)
        case list() if value:
            yield head
            yield from _list_lines(value, indent)
        case Mapping():
            yield f"{head} {{}}"
        case list():
            yield f"{head} []"
        case Literal():
            yield f"{head} |" + ("" if value.endswith("\n") else "-")
            yield from (" " * indent + line if line else "" for line in value.removesuffix("\n").split("\n"))
        case Raw():
            yield f"{head} {value}"
        case _:
            yield f"{head} {quoted(value)}"
