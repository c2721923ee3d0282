"""Bytes of a TOML file to a tree, with every way in which that fails said clearly and soon.

A hostile file costs no more than a good one: its size, its depth and the length of its dotted keys are bounded.
"""

import re
import tomllib
from typing import Any

from town.failure import Problem
from town.grammar import holds_secret
from town.terminal import shown

LIMIT = 1 << 20  # bytes
DEPTH = 24  # tables and arrays inside each other
# tomllib needs time quadratic in the parts of one dotted key: 26,000 parts in 100 kB take 14 s.
_PART = rb"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_PARTS = 64
_LONG_KEY = rb"(?<![A-Za-z0-9_-])" + _PART + rb"(?:[ \t]*+\.[ \t]*+" + _PART + rb"){%d}" % _PARTS
_POSITION = r" ?\(at (?:(line \d+, column \d+)|end of document)\)$"
_NESTED = Problem(
    "", f"tables and arrays lie more than {DEPTH} deep", "no spec needs that: look for a bracket too many"
)


class NotToml(Exception):
    """The bytes are no TOML document that a spec may be; carries the one Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def tree(data: bytes, limit: int = LIMIT) -> dict[str, Any]:
    """The tables of a document of at most `limit` bytes. Raises NotToml."""
    if len(data) > limit:
        raise NotToml(Problem("", f"is larger than {limit:,} bytes", "name the spec, not another file"))
    text = _text(data)
    if (found := _long_key(data)) >= 0:
        raise NotToml(Problem(_at(data, found), f"a dotted key has more than {_PARTS} parts", "shorten it"))
    try:
        made = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotToml(_syntax(str(error), data)) from error
    except RecursionError as error:
        raise NotToml(_NESTED) from error
    except ValueError as error:  # int() of more than 4300 digits
        raise NotToml(Problem("", "a number has too many digits", "no key of a spec takes one")) from error
    if _depth(made) > DEPTH:
        raise NotToml(_NESTED)
    return made


def _long_key(data: bytes) -> int:
    """Where a dotted key of too many parts begins; -1 when there is none. A key stands on one line."""
    if all(line.count(b".") < _PARTS for line in data.split(b"\n")):
        return -1
    found = re.search(_LONG_KEY, data)
    return found.start() if found else -1


def _text(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        raise NotToml(Problem("line 1", "begins with a byte order mark", "save it as UTF-8 without one"))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise NotToml(Problem(_at(data, error.start), byte, "save the file as UTF-8")) from error
    if (nul := data.find(b"\0")) >= 0:
        raise NotToml(Problem(_at(data, nul), "holds a NUL byte", "remove it; a text file has none"))
    return text


def _at(data: bytes, offset: int) -> str:
    line, begin = data.count(b"\n", 0, offset) + 1, data.rfind(b"\n", 0, offset)
    return f"line {line}, byte {offset - begin}"


def _syntax(message: str, data: bytes) -> Problem:
    found = re.search(_POSITION, message)
    what = message[: found.start()] if found else message
    lines = data.count(b"\n") + 1
    where = (found.group(1) if found else None) or f"line {lines} (the end)"
    return Problem(
        where, f"not TOML: {_lowered(what)}", "look at that line, and for a quote or bracket left open above it"
    )


def _lowered(message: str) -> str:
    # tomllib's messages hold characters and keys of the file, some of them as repr() writes them.
    if holds_secret(message):
        return "a private key stands where a key of a table belongs"
    text = shown(message).replace("\\\\", "\\")
    return text[:1].lower() + text[1:200]


def _depth(made: dict[str, Any]) -> int:
    """How deep the tree is, without recursion: table headers can nest deeper than Python's stack."""
    level: list[Any] = [made]
    depth = 0
    while level and depth <= DEPTH:
        depth += 1
        below = [value for item in level for value in (item.values() if isinstance(item, dict) else item)]
        level = [value for value in below if isinstance(value, (dict, list))]
    return depth
