"""`persist diff`: what was created, changed, removed and renamed between two homes of an agent.

Kept homes, the living home (as it is in this moment) and states of the store. Content, modes, owners, attributes and
ACLs are compared, times are not. Nothing is changed, and no program is run on what lies in a home.
"""

import argparse
import json
from contextlib import ExitStack
from dataclasses import dataclass, field

from persist import ground, kept
from persist.difference import pairs, sides
from persist.difference.found import Change, Found
from persist.difference.pairs import Pairs
from town import cli, spec, trust
from town.failure import DONE, Failure
from town.terminal import counted, say, shown, size

FOLDED = 40  # things in a directory that is new, or gone: above, one line stands for all of them
LONGEST = 240  # characters of a path in a line
_SHOWN = 20  # notes


class CompareFailed(Failure):
    """A home could not be read to its end. Nothing was changed."""


class NothingCompared(Failure):
    """The two hold nothing that both of them have."""


@dataclass(slots=True)
class Notes:
    """What was not compared, and why: each once."""

    lines: dict[str, None] = field(default_factory=dict)
    more: int = 0

    def add(self, what: str, path: bytes) -> None:
        """One more; `path`: where, if it is said of one place."""
        line = f"{_short(path)}: {what}" if path else what
        if line not in self.lines:
            if len(self.lines) >= _SHOWN:
                self.more += 1
            else:
                self.lines[line] = None

    @property
    def all(self) -> list[str]:
        """Safe to print."""
        return [*self.lines, *([f"and {self.more:,} more like it"] if self.more else [])]


def command(arguments: argparse.Namespace) -> int:
    """Compare two homes and print what differs."""
    town = spec.load(cli.spec_file(arguments))
    texts = arguments.one, arguments.other or f"{sides.whose(arguments.one)}@{kept.NOW}"
    ground.require_root("diff")
    trust.refuse(town)
    notes = Notes()
    with ExitStack() as stack:
        one, other = sides.opened(town, texts, stack, notes.add)
        found = Found()
        stack.callback(found.close)
        try:
            compared = compare(one, other, found, notes, stack)
        except OSError as error:
            raise CompareFailed(f"{one.name} and {other.name}: {cli.unexpected(error)}") from error
        names = one.name, other.name
        if not compared:
            raise _nothing(names, notes)
        _put_json(names, found, notes) if arguments.json else _put_text(names, found, notes)
    return DONE


def _nothing(names: tuple[str, str], notes: Notes) -> NothingCompared:
    for note in notes.all:
        say(f"note: {note}")
    return NothingCompared(
        f"nothing was compared: {shown(names[0])} and {shown(names[1])} hold nothing that both of them have",
        hint="the living home, and snapshots, have also what the store holds",
    )


def compare(one: sides.Side, other: sides.Side, found: Found, notes: Notes, stack: ExitStack) -> bool:
    """Tell `found` of every difference, and settle it; false where nothing was compared. Raises OSError, Failure."""
    done: list[Pairs] = []
    for pair in sides.pairs(one, other, notes.add, stack):
        done.append(Pairs(len(done), pair.one, pair.other, found, notes.add))
        done[-1].run(roots=pair.roots)
    found.twins(lambda side, place: pairs.digest(done[place[0]], side, place[1]))
    found.settle(lambda before, now: pairs.differences((done[before[0]], before[1]), (done[now[0]], now[1])))
    return bool(done)


def _put_text(names: tuple[str, str], found: Found, notes: Notes) -> None:
    counts, folded = found.counts(), ("", b"")
    for change in found:
        if change.sort == folded[0] and change.path.startswith(folded[1] + b"/"):
            continue
        line = _line(change)
        if change.sort in ("created", "removed") and change.kind == "directory":
            held = found.below(change)
            if held[0] > FOLDED:
                folded = change.sort, change.path
                line = f"{change.sort}  {_short(change.path)}/…  {counted(held[0], 'file')}, {size(held[1])}"
        print(line)
    for note in notes.all:
        say(f"note: {note}")
    total = ", ".join(f"{number:,} {sort}" for sort, number in counts.items())
    say(f"{names[0]} → {names[1]}: {total or 'no difference'}")


def _line(change: Change) -> str:
    path = _short(change.path) + ("/" if change.kind == "directory" and change.path else "")
    what = f": {', '.join(change.what)}" if change.what else ""
    if change.sort == "too deep":
        return f"changed  {path}…: {counted(change.number, 'difference')} below a path that no program can name"
    if change.before is not None:
        return f"renamed  {_short(change.before)} → {path}{what}"
    held = f"  {size(change.size)}" if change.kind == "file" and change.sort in ("created", "removed") else ""
    return f"{change.sort}  {path}{what}{held}"


def _short(path: bytes) -> str:
    text = shown(path) or "."
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _put_json(names: tuple[str, str], found: Found, notes: Notes) -> None:
    # Written while it is read: of a million differences nothing is held whole.
    head = json.dumps({"one": names[0], "other": names[1]})
    print(f'{head[:-1]}, "changes": [')
    before = ""
    for change in found:
        print(before + json.dumps(_json(change)))
        before = ","
    print(f'], "counts": {json.dumps(found.counts())}, "notes": {json.dumps(notes.all)}}}')


def _json(change: Change) -> dict[str, object]:
    told: dict[str, object] = {
        "change": change.sort,
        "path": cli.named(change.path),
        "kind": change.kind,
        "bytes": change.size,
        "what": list(change.what),
    }
    if change.before is not None:
        told["before"] = cli.named(change.before)
    if change.number:
        told["differences"] = change.number
    return told
