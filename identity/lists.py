"""A list in a text that people write (TOML, YAML in flow style): one item put in or taken out, every other byte kept.

A list is known by where its items stand and by where what is between its brackets begins and ends. Commas, comments
and line breaks between the items are the writer's, and the new item is written as those beside it are.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_TO_COMMA = re.compile(r"(?:[ \t\r\n]|#[^\n]*(?:\n|$))*,")


class Unforeseen(Exception):
    """A text is laid out in a way in which it cannot be changed here."""


class Span(NamedTuple):
    """The characters [start, end) of a text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """What stands there."""
        return text[self.start : self.end]


def with_item(text: str, inside: Span, items: Sequence[Span], new: str) -> str:
    """The text with `new` as the last item."""
    if not items:
        return _first(text, inside, new)
    last = items[-1]
    comma = _comma(text, last.end, inside.end)
    begun = line_start(text, last.start)
    if not text[begun : last.start].strip() and "\n" in text[last.end : inside.end]:
        return _on_a_line(text, last, comma, new)
    if comma is None:
        return f"{text[: last.end]}, {new}{text[last.end :]}"
    return f"{text[: comma + 1]} {new},{text[comma + 1 :]}"


def without_item(text: str, inside: Span, items: Sequence[Span], index: int) -> str:
    """The text without an item, the comma that goes with it, and its line where it stands alone on that."""
    item = items[index]
    comma = _comma(text, item.end, inside.end)
    if (line := _own_line(text, inside, item, comma)) is not None:
        return text[: line.start] + text[line.end :]
    if comma is not None:
        return _cut(text, item.start, _after_space(text, comma + 1))
    if index > 0:
        before = _comma(text, items[index - 1].end, item.start)
        assert before is not None, "a comma stands between two items"
        return text[:before] + text[item.end :]
    return text[: inside.start] + text[inside.end :] if not _besides(text, inside, item) else _cut(text, *item)


def line_start(text: str, at: int) -> int:
    """Where the line of a character begins."""
    return text.rfind("\n", 0, at) + 1


def line_end(text: str, at: int) -> int:
    """Where the line of a character ends, behind its line break."""
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def line_break(text: str) -> str:
    """The line break that a text has."""
    return "\r\n" if "\r\n" in text else "\n"


def _first(text: str, inside: Span, new: str) -> str:
    held = inside.of(text)
    space = " " if held.startswith(" ") and not held.strip() else ""
    rest = inside.end if not held.strip() else inside.start
    return f"{text[: inside.start]}{space}{new}{space}{text[rest:]}"


def _on_a_line(text: str, last: Span, comma: int | None, new: str) -> str:
    """A line of its own behind that of the last item, and behind the comment on it."""
    begun = line_start(text, last.start)
    end = line_end(text, last.end if comma is None else comma)
    added = text[begun : last.start] + new + ("," if comma is not None else "") + line_break(text)
    if comma is not None:
        return text[:end] + added + text[end:]
    return f"{text[: last.end]},{text[last.end : end]}{added}{text[end:]}"


def _own_line(text: str, inside: Span, item: Span, comma: int | None) -> Span | None:
    start = line_start(text, item.start)
    end = line_end(text, item.end)
    if start <= inside.start or end > inside.end or text[start : item.start].strip():
        return None
    if comma is not None and comma >= end:
        return None  # it leads the next line
    rest = text[item.end if comma is None else comma + 1 : end].strip()
    return Span(start, end) if not rest or rest.startswith("#") else None


def _besides(text: str, inside: Span, item: Span) -> str:
    return (text[inside.start : item.start] + text[item.end : inside.end]).strip()


def _cut(text: str, start: int, end: int) -> str:
    if text[end : end + 1] in ("\r", "\n"):  # no space is left at the end of a line
        start = len(text[:start].rstrip(" \t"))
    return text[:start] + text[end:]


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def _comma(text: str, start: int, end: int) -> int | None:
    """Where the next comma stands that is not in a comment."""
    found = _TO_COMMA.match(text, start, end)
    return None if found is None else found.end() - 1
