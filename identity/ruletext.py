"""The text of .sops.yaml: one recipient put into a creation rule or taken out, every other byte as its writer left it.

Anchors, comments and quotes stay. What comes out is read again and held against what was meant: a layout that this does
not foresee is refused, never guessed at.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from identity.lists import Span, Unforeseen, line_break, line_end, line_start, with_item, without_item
from identity.readers import canonical
from town.sops import editing, nodes, writing
from town.sops.nodes import Mapping, Node, Scalar, Sequence

KINDS = ("age", "pgp")
_FLOW_ITEM = re.compile(r"""(?P<comment>#[^\n]*)|"[^"\n]*"|'[^'\n]*'|[^\s,#'"](?:[^\s,]|[ \t]+(?=[^\s,#]))*""")


@dataclass(frozen=True, slots=True)
class Rule:
    """One creation rule of a text: `name` is the file for messages, `position` counts from 0."""

    text: str
    name: str
    position: int

    @property
    def recipients(self) -> tuple[str, ...]:
        """Who it names, in canonical form. Raises Unforeseen for several key groups, sops.BadSopsFile."""
        return tuple(dict.fromkeys(canonical(one) for kind in KINDS for one in _words(self._group().get(kind))))

    def with_recipient(self, new: str) -> str:
        """The text with one more, in canonical form. Raises Unforeseen, sops.BadSopsFile."""
        return self._proved(self._with(new), (*self.recipients, new))

    def without(self, gone: str) -> str:
        """The text with one less, in canonical form. Raises Unforeseen, sops.BadSopsFile."""
        rule, wanted = self, tuple(one for one in self.recipients if one != gone)
        while gone in rule.recipients:  # a rule may name somebody twice
            rule = Rule(rule._less(gone), self.name, self.position)
        return self._proved(rule.text, wanted)

    def _proved(self, new: str, wanted: tuple[str, ...]) -> str:
        made = Rule(new, self.name, self.position)
        if set(made.recipients) != set(wanted) or made._rest() != self._rest():
            raise Unforeseen
        return new

    def _rest(self) -> Any:
        """All that the file says but who this rule names."""
        tree = nodes.plain(self._root(), self.name)
        rule = tree["creation_rules"][self.position]
        for group in (rule, *(rule.get("key_groups") or ())):
            for kind in KINDS:
                group.pop(kind, None)
        return tree

    def _root(self) -> Mapping:
        return nodes.parse(self.text.encode(), self.name, aliases=True)[1]

    def _group(self) -> Mapping:
        """The map that names the recipients: the rule, or its only key group."""
        rules = self._root().get("creation_rules")
        rule = rules.items[self.position] if isinstance(rules, Sequence) else None
        groups = rule.get("key_groups") if isinstance(rule, Mapping) else None
        if isinstance(groups, Sequence) and len(groups.items) == 1:
            rule = groups.items[0]
        elif isinstance(groups, Sequence) and groups.items:
            raise Unforeseen
        if not isinstance(rule, Mapping):
            raise Unforeseen
        return rule

    def _with(self, new: str) -> str:
        text, group = self.text, self._group()
        kind, plain = ("age", new) if new.startswith("age1") else ("pgp", writing.quoted(new))
        match group.get(kind):
            case None:
                added = {kind: writing.Raw(new) if kind == "age" else new}  # a str is quoted
                return editing.applied(text, [editing.append(text, group, added, 1)])
            case Scalar(value=None) as empty:
                key = next(key for key, _ in group.items if key.value == kind)
                return editing.applied(text, [editing.replace(text, key, empty, plain)])
            case Scalar() as scalar:
                return self._longer(_own(group, scalar), new)
            case Sequence(flow=True) as listed:
                _own(group, listed)
                return with_item(text, *_flow_items(text, listed), plain)
            case Sequence() as listed:
                return self._line_more(self._dashes(group, listed)[-1], plain)
            case _:
                raise Unforeseen

    def _less(self, gone: str) -> str:
        text, group = self.text, self._group()
        node = next(found for kind in KINDS if gone in map(canonical, _words(found := group.get(kind))))
        if isinstance(node, Scalar):
            return self._shorter(_own(group, node), gone)
        assert isinstance(node, Sequence)
        alone = [at for at, item in enumerate(node.items) if [canonical(one) for one in _words(item)] == [gone]]
        if not alone:
            raise Unforeseen  # several stand in one string of a list
        if node.flow:
            _own(group, node)
            return without_item(text, *_flow_items(text, node), alone[0])
        dash = self._dashes(group, node)[alone[0]]
        return text[: line_start(text, dash)] + text[line_end(text, dash) :]

    def _longer(self, scalar: Scalar, new: str) -> str:
        """One more in a string with commas between them."""
        inside = self._content(scalar)
        held = inside.of(self.text)
        comma = "" if not held.strip() or held.rstrip().endswith(",") else ","
        at = inside.start + len(held.rstrip())
        last = self.text[line_start(self.text, at) : at]
        space = line_break(self.text) + last[: len(last) - len(last.lstrip())] if scalar.literal else ""
        return f"{self.text[:at]}{comma}{space}{new}{self.text[at:]}"

    def _shorter(self, scalar: Scalar, gone: str) -> str:
        """One less in a string with commas between them; where it was the only one, an empty string is left."""
        inside, text = self._content(scalar), self.text
        pieces = [Span(*found.span()) for found in re.finditer(r"[^\s,](?:[^,\n]*[^\s,])?", inside.of(text))]
        items = [Span(inside.start + piece.start, inside.start + piece.end) for piece in pieces]
        index = next((at for at, item in enumerate(items) if canonical(item.of(text)) == gone), None)
        if index is None:
            raise Unforeseen
        if len(items) == 1:
            return f'{text[: scalar.start]}""{text[scalar.end :]}' if not scalar.literal else text[: items[0].start]
        if index < len(items) - 1:
            return text[: items[index].start] + text[items[index + 1].start :]
        return text[: items[index - 1].end] + text[items[index].end :]

    def _content(self, scalar: Scalar) -> Span:
        """Where the words of a string stand, without quotes and the line that begins a block."""
        if scalar.literal:
            return Span(line_end(self.text, scalar.start), scalar.end)
        quoted = self.text[scalar.start] in "\"'"
        return Span(scalar.start + quoted, scalar.end - quoted)

    def _dashes(self, group: Mapping, listed: Sequence) -> list[int]:
        """Where each item of a block list begins: an alias has no place of its own, its line has."""
        _own(group, listed)
        column = listed.start - line_start(self.text, listed.start)
        end = max(listed.end, line_end(self.text, listed.start))
        found = re.finditer(rf"^[ ]{{{column}}}-(?=[ \t\r\n])", self.text[:end], re.MULTILINE)
        dashes = [one.end() - 1 for one in found if one.end() > listed.start]
        if len(dashes) != len(listed.items):
            raise Unforeseen
        return dashes

    def _line_more(self, dash: int, plain: str) -> str:
        at = line_end(self.text, dash)
        head = self.text[line_start(self.text, dash) : dash]
        ending = line_break(self.text)
        begun = "" if self.text[:at].endswith("\n") else ending
        return f"{self.text[:at]}{begun}{head}- {plain}{'' if begun else ending}{self.text[at:]}"


def _words(node: Node | None) -> Iterator[str]:
    match node:
        case Scalar(value=str() as text):
            yield from filter(None, map(str.strip, text.split(",")))
        case Sequence():
            for item in node.items:
                yield from _words(item)


def _own(group: Mapping, node: Any) -> Any:
    """A value that stands in the rule itself: what an alias names is other rules' too. Raises Unforeseen."""
    if not group.start <= node.start <= node.end <= max(group.end, node.start):
        raise Unforeseen
    return node


def _flow_items(text: str, listed: Sequence) -> tuple[Span, list[Span]]:
    inside = Span(listed.start + 1, listed.end - 1)
    found = (one for one in _FLOW_ITEM.finditer(inside.of(text)) if not one["comment"])
    items = [Span(inside.start + one.start(), inside.start + one.end()) for one in found]
    if len(items) != len(listed.items):
        raise Unforeseen
    return inside, items
