"""The form in which SOPS files are mostly written, read line by line: what a YAML library takes 40 ms for takes one.

Block maps with plain keys, lists of such maps, and values that are plain words, `ENC[…]`, text in double quotes without
escapes, or literal blocks: all of it ASCII, no line ambiguous. Anything else is not read here, nor called wrong:
`town.sops.nodes` reads it, and says what is the matter. Where both read a file, they read the same.
"""

import re

from town.sops.nodes import Mapping, Node, Scalar, Sequence
from town.sops.scalars import resolve

_MOST_BYTES = 256 << 10
_MOST_LINES = 4000
_DEEPEST = 8
_LINE = re.compile(
    r"( *)(- )?"
    r"([A-Za-z_][A-Za-z0-9_.-]{0,99}):"
    r'(?: (?:(ENC\[[A-Za-z0-9_+/=:,]+\])|"([ !#-\[\]-~]*)"|([A-Za-z0-9_][A-Za-z0-9_.-]*)|(\|)))?'
)
_TEXT = re.compile(r"( +)([!-~][ -~]*)")


class _OtherFormError(Exception):
    """It is written in another way."""


def read(data: bytes) -> Mapping | None:
    """The top-level map; its nodes do not know their places in the text. None: `nodes.parse` has to read it."""
    if len(data) > _MOST_BYTES or not data.isascii() or not data.endswith(b"\n"):
        return None
    lines = data.decode("ascii").split("\n")[:-1]
    if len(lines) > _MOST_LINES:
        return None
    reader = _Reader(lines)
    try:
        found = reader.map(0, 0)
        return found if reader.at == len(lines) else None
    except (_OtherFormError, ValueError):  # ValueError: a plain word that programs read differently
        return None


class _Reader:
    def __init__(self, lines: list[str]) -> None:
        self._lines, self.at = lines, 0
        self._read: tuple[int, re.Match[str] | None] = (-1, None)

    def map(self, indent: int, depth: int) -> Mapping:
        """The map that begins at this line, whose keys stand in the column `indent`."""
        items: dict[str, tuple[Scalar, Node]] = {}
        first = True
        while (line := self._line()) is not None:
            # The first key of a map in a list stands behind the dash.
            column = len(line[1]) + (2 if line[2] else 0)
            if column < indent or (line[2] and not first):
                break
            key = line[3]
            if column > indent or key in items or resolve(key) != key or depth > _DEEPEST:
                raise _OtherFormError
            name = Scalar(key, 0, 0, self.at + 1)
            self.at += 1
            items[key] = name, self._value(line, indent, depth)
            first = False
        if not items:
            raise _OtherFormError
        return Mapping(tuple(items.values()), 0, 0, 0, flow=False)

    def _line(self) -> re.Match[str] | None:
        if self.at >= len(self._lines):
            return None
        if self._read[0] != self.at:
            self._read = self.at, _LINE.fullmatch(self._lines[self.at])
        if self._read[1] is None:
            raise _OtherFormError
        return self._read[1]

    def _value(self, line: re.Match[str], indent: int, depth: int) -> Node:
        number = self.at
        _, _, _, sealed, quoted, plain, literal = line.groups()
        if sealed is not None or quoted is not None:
            return Scalar(quoted if sealed is None else sealed, 0, 0, number)
        if plain is not None:
            return Scalar(resolve(plain), 0, 0, number)
        if literal is not None:
            return Scalar(self._literal(indent), 0, 0, number, literal=True)
        below = self._line()
        if below is None or len(below[1]) <= indent:
            raise _OtherFormError
        return self._list(len(below[1]), depth + 1) if below[2] else self.map(len(below[1]), depth + 1)

    def _list(self, indent: int, depth: int) -> Sequence:
        items: list[Node] = []
        while (line := self._line()) is not None and line[2] and len(line[1]) == indent:
            items.append(self.map(indent + 2, depth + 1))
        return Sequence(tuple(items), 0, 0, 0, flow=False)

    def _literal(self, indent: int) -> str:
        """The lines of a literal block, `|`: all in one column, and empty ones between them."""
        found: list[str] = []
        column = 0
        while self.at < len(self._lines):
            text = _TEXT.fullmatch(self._lines[self.at])
            if text is not None and column == 0:
                column = len(text[1])
            if text is None and not (self._lines[self.at] == "" and found):
                break
            if text is not None and len(text[1]) < column:
                break
            found.append("" if text is None else self._lines[self.at][column:])
            self.at += 1
        if not found or found[-1] == "" or column <= indent:
            raise _OtherFormError
        return "\n".join(found) + "\n"
