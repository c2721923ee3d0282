"""Lines of ours in files that belong to others: put there, kept right, taken back; all other lines stay as they are.

A block stands together between its first and its last line; other lines are looked at one by one.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from persist.placing import Action, File, NotOurs, Remove, Tree, Write
from town.failure import Failure
from town.terminal import say, shown


class HalfABlock(Failure):
    """A block of ours has lost its first or its last line: what is ours cannot be told from what is not."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that a file should hold, without line ends; a `block` goes before a line that begins as `before` has it."""

    path: str
    lines: tuple[str, ...]
    block: bool = False
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """What the record has of it: which lines of each file are ours, and which files were made for them."""

    lines: Mapping[str, Sequence[str]]
    made: Sequence[str]


def plan(there: Tree, wanted: Sequence[Lines], old: Placed) -> tuple[list[Action], Placed]:
    """What has to be done for the lines to stand there, and what the record should have then. Raises HalfABlock."""
    actions: list[Action] = []
    lines: dict[str, Sequence[str]] = {}
    made: list[str] = []
    for want in wanted:
        found, text = _read(there, want.path)
        ours = old.lines.get(want.path, ())
        new, mine = _with_block(there, want, text) if want.block else _with_lines(want, text, ours)
        if mine or want.path in old.made:
            lines[want.path] = mine
        if (found is None and mine) or want.path in old.made:
            made.append(want.path)
        actions += _written(want.path, found, text, new)
    still = {want.path for want in wanted}
    gone = Placed({path: kept for path, kept in old.lines.items() if path not in still}, old.made)
    actions += removals(there, gone)
    return actions, Placed(lines, made)


def removals(there: Tree, old: Placed) -> Iterator[Action]:
    """What takes our lines away again. A block that somebody changed stays, and is said."""
    for path, ours in old.lines.items():
        found, text = _read(there, path)
        if found is None:
            continue
        new = _without(text, ours)
        if new is None:
            say(f"persist: note: {shown(there.name(path))} stays: what was put there was changed since")
        elif path in old.made and not "".join(new).strip():
            yield Remove(path)
        else:
            yield from _written(path, found, text, new)


def _read(there: Tree, path: str) -> tuple[os.stat_result | None, list[str]]:
    """The file and its lines, with their ends."""
    found = there.entry(path)
    if found is None:
        return None, []
    if not stat.S_ISREG(found.st_mode):
        raise NotOurs(f"{shown(there.name(path))} is no regular file", hint="look at it, then move it away")
    return found, there.read(path).decode("utf-8", "surrogateescape").splitlines(keepends=True)


def _written(path: str, found: os.stat_result | None, old: list[str], new: list[str]) -> list[Action]:
    """The file with its own owner and mode."""
    if old == new:
        return []
    data = "".join(new).encode("utf-8", "surrogateescape")
    if found is None:
        return [Write(File(path, data), None)]
    before = "".join(old).encode("utf-8", "surrogateescape")
    return [Write(File(path, data, stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)), before)]


def _with_lines(want: Lines, text: list[str], ours: Sequence[str]) -> tuple[list[str], list[str]]:
    """The text with every line, and those of them that are ours: that we put there, now or before."""
    stale = set(ours) - set(want.lines)
    kept = [line for line in text if line.rstrip("\r\n") not in stale]
    there = {line.rstrip("\r\n") for line in kept}
    missing = [line for line in want.lines if line not in there]
    mine = [line for line in want.lines if line in missing or line in ours]
    return [*_ended(kept), *(f"{line}\n" for line in missing)] if missing else kept, mine


def _with_block(there: Tree, want: Lines, text: list[str]) -> tuple[list[str], list[str]]:
    plain = [line.rstrip("\r\n") for line in text]
    mark = want.lines[0].partition(":")[0]
    first = [at for at, line in enumerate(plain) if line.partition(":")[0] == mark]
    last = [at for at, line in enumerate(plain) if line == want.lines[-1]]
    block = [f"{line}\n" for line in want.lines]
    if not first and not last:
        at = _place(plain, want.before)
        return [*_ended(text[:at]), *block, *text[at:]], list(want.lines)
    if len(first) != 1 or len(last) != 1 or last[0] < first[0]:
        name = shown(there.name(want.path))
        raise HalfABlock(
            f"{name} holds no whole block of nuketown's, but a part of one",
            hint=f"remove the lines from {want.lines[0][:16]!r} to {want.lines[-1]!r} there, as far as they are",
        )
    return [*text[: first[0]], *block, *text[last[0] + 1 :]], list(want.lines)


def _place(plain: list[str], before: tuple[str, ...]) -> int:
    """Where a new block goes: before the first line that begins as one of `before` does; the earlier of these first."""
    for sign in before:
        for at, line in enumerate(plain):
            if line.lstrip().startswith(sign):
                return at
    return len(plain)


def _ended(text: list[str]) -> list[str]:
    """The text, with an end to its last line."""
    return [*text[:-1], f"{text[-1]}\n"] if text and not text[-1].endswith("\n") else text


def _without(text: list[str], ours: Sequence[str]) -> list[str] | None:
    """The text without our lines; None when they are a block that is not there as it was written."""
    plain, wanted = [line.rstrip("\r\n") for line in text], list(ours)
    if not wanted or not wanted[0].startswith("#"):
        return [line for line, bare in zip(text, plain, strict=True) if bare not in set(wanted)]
    for at in range(len(plain) - len(wanted) + 1):
        if plain[at : at + len(wanted)] == wanted:
            return [*text[:at], *text[at + len(wanted) :]]
    return None if any(line in plain for line in wanted) else text
