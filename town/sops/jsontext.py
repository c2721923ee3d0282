"""JSON text as the nodes of `town.sops.nodes`, and written as sops 3.13 writes it (stores/json/store.go): with tabs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from town.sops import nodes, writing
from town.sops.errors import BadSopsFile
from town.sops.nodes import Composer, Node
from town.sops.scalars import INT64
from town.terminal import shown

_TOKEN = re.compile(
    r"[ \t\r\n]*(?:"
    r'(?P<string>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")'
    r"|(?P<word>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![0-9A-Za-z.])|(?:true|false|null)\b)"
    r"|(?P<mark>[][{}:,]))"
)
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class _Mark:
    index: int
    line: int


@dataclass(frozen=True, slots=True)
class _Event:
    start_mark: _Mark
    end_mark: _Mark
    value: str = ""
    style: str | None = None  # '"' for strings; a plain scalar of JSON is one of YAML and means the same
    anchor: None = None
    flow_style: bool = True


# The names by which nodes.Composer knows events.
class ScalarEvent(_Event):
    """A string, number, true, false or null."""


class MappingStartEvent(_Event):
    """`{`"""


class MappingEndEvent(_Event):
    """`}`"""


class SequenceStartEvent(_Event):
    """`[`"""


class SequenceEndEvent(_Event):
    """`]`"""


_BRACKETS: dict[str, type[_Event]] = {
    "{": MappingStartEvent,
    "}": MappingEndEvent,
    "[": SequenceStartEvent,
    "]": SequenceEndEvent,
}


def parse(data: bytes, name: str) -> tuple[str, nodes.Mapping]:
    """The text and the top-level object. Raises BadSopsFile; `name` is for the message.

    Bounds and rules are those of `nodes.parse`: string keys each once, integers of 64 bits, finite numbers.
    """
    text = nodes.decoded(data, name)
    composer = Composer(name)
    for event in _Scanner(text, name).events():
        composer.take(event)
    return text, composer.document()


class _Scanner:
    """Tokens in the order that the grammar of RFC 8259 asks for, as events."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.at = text, name, 0
        self.line, self.counted = 0, 0

    def events(self) -> Iterator[_Event]:
        closing: list[str] = []
        while True:
            event = self._value(closing)
            yield event
            if isinstance(event, MappingStartEvent | SequenceStartEvent):
                closing.append("}" if isinstance(event, MappingStartEvent) else "]")
                if self._peek() != closing[-1]:
                    yield from self._key(closing)
                    continue
            while closing and (mark := self._peek()) != ",":
                if mark != closing[-1]:
                    raise self._wrong()
                yield self._bracket()
                closing.pop()
            if not closing:
                break
            self._take(",")
            yield from self._key(closing)
        if _SPACE.match(self.text, self.at).end() != len(self.text):  # type: ignore[union-attr]
            raise self._wrong("something follows the object: one document in each file is supported")

    def _value(self, closing: Sequence[str]) -> _Event:
        found = _TOKEN.match(self.text, self.at)
        if found is None or (found["mark"] or "{") not in "{[" or (not closing and found["mark"] != "{"):
            raise self._wrong() if closing else self._wrong("the top level is not a map")
        return self._bracket() if found["mark"] else self._scalar(found)

    def _key(self, closing: Sequence[str]) -> Iterator[_Event]:
        if closing[-1] != "}":
            return
        found = _TOKEN.match(self.text, self.at)
        if found is None or found["string"] is None:
            raise self._wrong()
        yield self._scalar(found)
        self._take(":")

    def _scalar(self, found: re.Match[str]) -> ScalarEvent:
        kind = "string" if found["string"] is not None else "word"
        start, self.at = self._mark(found.start(kind)), found.end()
        if kind == "word":
            return ScalarEvent(start, self._mark(self.at), _as_sops_reads(found["word"]))
        value = json.loads(found["string"])
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self._wrong("a string is not valid Unicode")
        return ScalarEvent(start, self._mark(self.at), value, '"')

    def _bracket(self) -> _Event:
        found = _TOKEN.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return _BRACKETS[found["mark"]](self._mark(found.start("mark")), self._mark(self.at))

    def _peek(self) -> str | None:
        found = _TOKEN.match(self.text, self.at)
        return None if found is None else found["mark"]

    def _take(self, mark: str) -> None:
        found = _TOKEN.match(self.text, self.at)
        if found is None or found["mark"] != mark:
            raise self._wrong()
        self.at = found.end()

    def _mark(self, index: int) -> _Mark:
        self.line += self.text.count("\n", self.counted, index)
        self.counted = max(index, self.counted)
        return _Mark(index, self.line)

    def _wrong(self, what: str = "this is not valid JSON") -> BadSopsFile:
        at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
        line = self.text.count("\n", 0, at) + 1
        return BadSopsFile(
            f"{shown(self.name)}: line {line}: {what}",
            hint="it may be cut off or hand-edited: bring back the last good version",
        )


def _as_sops_reads(word: str) -> str:
    """An integer beyond 64 bits is a float to sops."""
    whole = word.lstrip("-").isdigit() and len(word) <= 400 and int(word) not in INT64
    return word + ".0" if whole else word


def tidied(text: str, name: str) -> str:
    """JSON text laid out as sops lays it out. Raises BadSopsFile."""
    return block(_tree(parse(text.encode(), name)[1]))


def _tree(node: Node) -> Any:
    match node:
        case nodes.Mapping():
            return {str(key.value): _tree(value) for key, value in node.items}
        case nodes.Sequence():
            return [_tree(item) for item in node.items]
        case nodes.Scalar(value=str() as value):
            return value
        case nodes.Scalar():
            return writing.Raw(_word(node.value))


def block(tree: Mapping[str, Any]) -> str:
    """A map as sops lays it out. Leaves are str, or Raw: a word of JSON (42, true, null), else text like a str."""
    return _laid_out(tree, "\n") + "\n"


def _laid_out(value: Any, line: str) -> str:
    below = line + "\t"
    match value:
        case Mapping() if value:
            items = (f"{_string(key)}: {_laid_out(item, below)}" for key, item in value.items())
            return "{" + below + f",{below}".join(items) + line + "}"
        case list() if value:
            return "[" + below + f",{below}".join(_laid_out(item, below) for item in value) + line + "]"
        case Mapping():
            return "{}"
        case list():
            return "[]"
        case writing.Raw() if writing.is_word(value):
            return value
        case _:
            return _string(value)


def _word(value: object) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case float():
            return number(value)
        case _:
            return str(value)


def number(value: float) -> str:
    """A float as encoding/json writes it: the shortest digits, an exponent below 1e-6 and from 1e21.

    >>> number(1.0), number(1e21), number(2.5e-7)
    ('1', '1e+21', '2.5e-7')
    """
    from town.sops.values import float_text

    if value == 0 or 1e-6 <= abs(value) < 1e21:
        text = float_text(value)
        # Beyond 2^53 the shortest digits are not the number itself, and a whole number would be read to the letter; -0
        # would be read as 0. sops writes them so, and does not know its own seal again.
        lost = value.is_integer() and int(text) in INT64 and (int(text) != value or text == "-0")
        return text + ".0" if lost else text
    mantissa, exponent = repr(value).split("e")
    return f"{mantissa.removesuffix('.0')}e{exponent[0]}{exponent[1:].lstrip('0')}"


_ESCAPED = re.compile('["\\\\\x00-\x1f<>&\u2028\u2029]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _string(text: str) -> str:
    """A string as encoding/json writes it, with the characters of HTML escaped."""
    return '"' + _ESCAPED.sub(lambda found: _SHORT.get(found[0], f"\\u{ord(found[0]):04x}"), text) + '"'
