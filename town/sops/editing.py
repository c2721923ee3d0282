"""Changes to YAML text that leave every other byte as it is: values replaced where they stand, keys added behind."""

from collections.abc import Iterable
from collections.abc import Mapping as Map
from dataclasses import dataclass
from typing import Any

from town.sops import writing
from town.sops.nodes import Mapping, Node, Scalar, Sequence


@dataclass(frozen=True, slots=True, repr=False)
class Edit:
    """Put `text` in the place of the characters [start, end). `depth`: at one place, the deeper map comes first."""

    start: int
    end: int
    text: str
    depth: int = 0


def applied(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits; they do not overlap."""
    pieces, at = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, -edit.depth)):
        assert edit.start >= at
        pieces += [text[at : edit.start], edit.text]
        at = edit.end
    return "".join([*pieces, text[at:]])


def replace(text: str, key: Scalar, old: Scalar, new: str) -> Edit:
    """Put YAML text in the place of the value of `key`."""
    if old.start == old.end:  # `key:` and nothing
        after = _after_colon(text, key)
        return Edit(after, after, " " + new)
    return over(text, old, new)


def over(text: str, old: Scalar, new: str) -> Edit:
    """Put YAML text in the place of a value that stands there."""
    # The span of a literal block takes in the blank lines behind it.
    end = old.start + len(text[old.start : old.end].rstrip()) if old.literal else old.end
    return Edit(old.start, end, new)


def removal(text: str, below: Mapping, name: str) -> Edit:
    """Take a key out of a map; comments before it stay."""
    entries = list(below.items)
    position = next(position for position, (key, _) in enumerate(entries) if key.value == name)
    key, value = entries[position]
    end = end_of(text, key, value)
    if not below.flow:
        behind = text.find("\n", max(end - 1, key.end)) + 1
        return Edit(line_start(text, key.start), behind or len(text), "")
    if position > 0:
        return Edit(end_of(text, *entries[position - 1]), end, "")
    return Edit(key.start, entries[1][0].start if len(entries) > 1 else end, "")


def append(text: str, below: Mapping, additions: Map[str, Any], depth: int) -> Edit:
    """Add keys at the end of a map; at the top level that is before `sops`, and before comments that follow."""
    entries = [entry for entry in below.items if depth > 0 or entry[0].value != "sops"]
    if below.flow:
        return _append_flow(text, below, entries, additions)
    first_line = line_start(text, below.start)
    block = writing.block(additions, below.start - first_line)
    if not entries:
        return Edit(first_line, first_line, block, depth)
    end = end_of(text, *entries[-1])
    if text[end - 1] != "\n":
        found = text.find("\n", end)
        end = found + 1 if found >= 0 else len(text)
    return Edit(end, end, block if text[end - 1] == "\n" else "\n" + block, depth)


def _append_flow(text: str, below: Mapping, entries: list[tuple[Scalar, Node]], additions: Map[str, Any]) -> Edit:
    added = writing.flow(additions)
    if entries:
        return Edit(at := end_of(text, *entries[-1]), at, ", " + added)
    return Edit(at := below.start + 1, at, added + (", " if below.items else ""))


def end_of(text: str, key: Scalar | None, value: Node) -> int:
    """Where a value ends. A block collection ends with its last value, not with the comments behind it."""
    match value:
        case Scalar() if value.start == value.end and key is not None:
            return _after_colon(text, key)
        case Mapping() if not value.flow:
            return end_of(text, *value.items[-1])
        case Sequence() if not value.flow:
            return end_of(text, None, value.items[-1])
        case _:
            return value.end


def _after_colon(text: str, key: Scalar) -> int:
    return text.index(":", key.end) + 1


def line_start(text: str, at: int) -> int:
    """Where the line of a character begins."""
    return text.rfind("\n", 0, at) + 1
