"""YAML text as nodes that know where they stand in it, so that one value can be replaced and no other byte changes.

ruamel.yaml scans; what a plain scalar means, `town.sops.scalars` says. A SOPS file comes from a bucket or a checkout
that others can write: size, depth and number of nodes are bounded, and anchors, aliases, tags and directives are
refused before anything is built from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from town.sops.errors import BadSopsFile
from town.sops.scalars import Plain, Time, resolve
from town.terminal import shown

MAX_BYTES = 4 << 20
MAX_DEPTH = 64
_MARKS = 1000  # exclamation marks in a row
MAX_NODES = 20_000


@dataclass(frozen=True, slots=True, repr=False)
class Scalar:
    """A leaf: its text as YAML gives it, its value, and the characters [start, end) that it takes."""

    value: Plain
    start: int
    end: int
    line: int
    literal: bool = False  # | or >: ends with its own line break


@dataclass(frozen=True, slots=True, repr=False)
class Sequence:
    """A list."""

    items: tuple["Node", ...]
    start: int
    end: int
    line: int
    flow: bool


@dataclass(frozen=True, slots=True, repr=False)
class Mapping:
    """A map with string keys, each once, in the order of the document."""

    items: tuple[tuple[Scalar, "Node"], ...]
    start: int
    end: int
    line: int
    flow: bool

    def get(self, key: str) -> "Node | None":
        """The value of a key."""
        return next((value for name, value in self.items if name.value == key), None)


Node = Scalar | Sequence | Mapping


def parse(data: bytes, name: str, *, aliases: bool = False) -> tuple[str, Mapping]:
    """The text and the top-level map of one YAML document. Raises BadSopsFile; `name` is for the message.

    With `aliases` (configuration files) an alias stands for the node it names.
    """
    text = decoded(data, name)
    if "!" * _MARKS in text:  # each costs the reader a look at all that follow
        raise BadSopsFile(f"{shown(name)} has {_MARKS} exclamation marks in a row, which no such file has")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    line = 1
    composer = Composer(name, aliases)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            line = event.start_mark.line + 1
            composer.take(event)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = mark.line + 1 if mark is not None else line
        # Not chained: the library's message quotes the text around the error, and that may be a secret.
        raise BadSopsFile(
            f"{shown(name)}: line {where} is not valid YAML",
            hint="it may be cut off or hand-edited: bring back the last good version",
        ) from None
    except (ValueError, OverflowError, IndexError, AssertionError):  # what the scanner does not foresee: \UFFFFFFFF
        raise BadSopsFile(f"{shown(name)}: line {line} or a later one is not valid YAML") from None
    return text, composer.document()


def decoded(data: bytes, name: str) -> str:
    """The text of a file that is not empty and not too large. Raises BadSopsFile."""
    if len(data) > MAX_BYTES:
        raise BadSopsFile(f"{shown(name)} is larger than the {MAX_BYTES:,} bytes that such a file may have")
    if not data.strip():
        raise BadSopsFile(f"{shown(name)} is empty", hint="bring back the last good version")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSopsFile(f"{shown(name)} is not UTF-8 text") from None
    if text.startswith("\ufeff"):
        raise BadSopsFile(f"{shown(name)} starts with a byte order mark", hint="save it without one")
    return text


class _Open:
    """A collection whose end has not been seen."""

    def __init__(self, event: Any, mapping: bool) -> None:
        self.event = event
        self.mapping = mapping
        self.items: list[Node] = []
        self.key: Scalar | None = None
        self.pairs: list[tuple[Scalar, Node]] = []
        self.names: set[str] = set()


class Composer:
    """Builds nodes from parser events, without recursion."""

    def __init__(self, name: str, aliases: bool = False) -> None:
        self.name = name
        self.aliases = aliases
        self.open: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.count = 0
        self.documents = 0
        self.root: Node | None = None

    def take(self, event: Any) -> None:
        """One event, of ruamel.yaml or with the same name and fields. Raises BadSopsFile."""
        kind = type(event).__name__
        match kind:
            case "ScalarEvent":
                self._admit(event)
                self._place(self._scalar(event), event)
            case "MappingStartEvent" | "SequenceStartEvent":
                self._admit(event)
                self.open.append(_Open(event, kind.startswith("Mapping")))
            case "MappingEndEvent" | "SequenceEndEvent":
                done = self.open.pop()
                self._place(self._collection(done, event), done.event)
            case "AliasEvent":
                self._alias(event)
            case "DocumentStartEvent":
                self._document(event)

    def document(self) -> Mapping:
        """The top-level map, after the last event. Raises BadSopsFile."""
        if self.root is None:
            raise BadSopsFile(f"{shown(self.name)} is empty", hint="bring back the last good version")
        if not isinstance(self.root, Mapping):
            raise BadSopsFile(f"{shown(self.name)}: the top level is not a map")
        return self.root

    def _refuse(self, event: Any, what: str, hint: str = "") -> NoReturn:
        raise BadSopsFile(f"{shown(self.name)}: line {event.start_mark.line + 1}: {what}", hint=hint)

    def _document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self._refuse(event, "a second YAML document begins", "keep one document in each file")
        if getattr(event, "version", None) or getattr(event, "tags", None):
            self._refuse(event, "a YAML directive (%YAML, %TAG) is not supported")

    def _admit(self, event: Any) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES:,} keys and values")
        if len(self.open) >= MAX_DEPTH:
            self._refuse(event, f"nested more than {MAX_DEPTH} deep")
        if event.anchor is not None and not self.aliases:
            self._refuse(event, "anchors (&) are not supported", "write the value out where it is used")
        tag = getattr(event, "ctag", None) or getattr(event, "tag", None)
        if tag is not None:
            self._refuse(event, "tags (!) are not supported", "quote the value instead")

    def _alias(self, event: Any) -> None:
        if not self.aliases:
            self._refuse(event, "aliases (*) are not supported", "write the value out where it is used")
        if event.anchor not in self.anchors:
            self._refuse(event, "an alias (*) names no anchor (&)")
        self.count += 1
        self._place(self.anchors[event.anchor], None)

    def _place(self, node: Node, event: Any) -> None:
        if event is not None and event.anchor is not None:
            self.anchors[event.anchor] = node
        if not self.open:
            self.root = node
            return
        above = self.open[-1]
        if not above.mapping:
            above.items.append(node)
        elif above.key is None:
            above.key = self._key(node, above)
        else:
            above.pairs.append((above.key, node))
            above.key = None

    def _key(self, node: Node, above: _Open) -> Scalar:
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or isinstance(node.value, Time):
            raise BadSopsFile(
                f"{shown(self.name)}: line {node.line}: a key is not a string", hint="put the key in double quotes"
            )
        if node.value in above.names:
            raise BadSopsFile(
                f"{shown(self.name)}: line {node.line}: the key {shown(node.value)} stands twice in one map",
                hint="look which one is right, and remove the other",
            )
        above.names.add(node.value)
        return node

    def _collection(self, done: _Open, event: Any) -> Node:
        start, line, flow = done.event.start_mark.index, done.event.start_mark.line + 1, bool(done.event.flow_style)
        if done.mapping:
            return Mapping(tuple(done.pairs), start, event.end_mark.index, line, flow)
        return Sequence(tuple(done.items), start, event.end_mark.index, line, flow)

    def _scalar(self, event: Any) -> Scalar:
        line = event.start_mark.line + 1
        start, end = event.start_mark.index, event.end_mark.index
        value: Plain = event.value
        if event.style is None or event.style == "":
            try:
                value = resolve(event.value)
            except ValueError as error:
                raise BadSopsFile(
                    f"{shown(self.name)}: line {line}: {error}", hint="put the value in double quotes"
                ) from None
        return Scalar(value, start, end, line, literal=event.style in ("|", ">"))


def plain(node: Node, name: str) -> Any:
    """A node as dicts, lists and scalars; bounded, so that aliases of aliases cannot blow it up. Raises BadSopsFile."""
    return _plain(node, name, iter(range(MAX_NODES)), MAX_DEPTH)


def _plain(node: Node, name: str, budget: Iterator[int], depth: int) -> Any:
    if next(budget, None) is None or depth == 0:
        raise BadSopsFile(f"{shown(name)}: its aliases stand for more than {MAX_NODES:,} values or {MAX_DEPTH} levels")
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [_plain(item, name, budget, depth - 1) for item in node.items]
        case Mapping():
            return {str(key.value): _plain(value, name, budget, depth - 1) for key, value in node.items}
