"""Regular expressions as Go's RE2 reads them, searched in linear time.

A SOPS file brings its own rule, and the file may come from a hostile bucket: Python's `re` backtracks, so one long key
could keep it busy for years. Patterns are therefore parsed here (https://github.com/google/re2/wiki/Syntax) and run as
a set of states. What RE2 does not have (lookaround, backreferences, possessive repeats) is refused, and so is the
little of RE2 that nobody needs for names: `\\p{…}`, `[[:alpha:]]`, `\\Q…\\E`, `\\C`, flags other than `i` and `s`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_PATTERN = 1_000
MAX_STATES = 5_000
MAX_STEPS = 2_000_000  # over all searches with one pattern: a few seconds
MAX_REPEAT = 1_000  # RE2's own limit
MAX_DEPTH = 50

_Test = Callable[[str], bool]
_WORD = re.compile(r"[A-Za-z0-9_]")


class BadPattern(ValueError):
    """Not a regular expression that sops would take, or one that this version does not know. Says which part."""


@dataclass(frozen=True, slots=True)
class _Atom:
    test: _Test


@dataclass(frozen=True, slots=True)
class _Assert:
    kind: str  # ^ $ b B


@dataclass(frozen=True, slots=True)
class _Concat:
    parts: tuple["_Piece", ...]


@dataclass(frozen=True, slots=True)
class _Either:
    parts: tuple["_Piece", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: "_Piece"
    low: int
    high: int | None


_Piece = _Atom | _Assert | _Concat | _Either | _Repeat


@dataclass(slots=True)
class _State:
    test: _Test | None = None  # takes one character to next[0]
    guard: str = ""  # may be passed where the assertion holds
    next: list[int] = field(default_factory=list)


class GoRegex:
    """A compiled pattern. Raises BadPattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._states: list[_State] = []
        end = self._state(_State())
        self._start = self._compile(_Parser(pattern).parse(), end)
        self._end = end
        self._steps = MAX_STEPS

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in `text`. Time: states times characters; BadPattern beyond a bound."""
        active: set[int] = set()
        for position in range(len(text) + 1):
            active = self._closure(active | {self._start}, text, position)
            self._steps -= len(active)
            if self._steps < 0:
                raise BadPattern("it takes too long on the names in this file")
            if self._end in active:
                return True
            if position < len(text):
                active = self._step(active, text[position])
        return False

    def _step(self, active: set[int], character: str) -> set[int]:
        states = (self._states[number] for number in active)
        return {state.next[0] for state in states if state.test is not None and state.test(character)}

    def _closure(self, active: set[int], text: str, position: int) -> set[int]:
        seen, pending = set(active), list(active)
        while pending:
            state = self._states[pending.pop()]
            if state.test is None and (not state.guard or _holds(state.guard, text, position)):
                fresh = [number for number in state.next if number not in seen]
                seen.update(fresh)
                pending.extend(fresh)
        return seen

    def _state(self, state: _State) -> int:
        if len(self._states) >= MAX_STATES:
            raise BadPattern("it is too large")
        self._states.append(state)
        return len(self._states) - 1

    def _compile(self, piece: _Piece, after: int) -> int:
        """States that match `piece` and then go on at `after`; the number of the first."""
        match piece:
            case _Atom(test):
                return self._state(_State(test=test, next=[after]))
            case _Assert(kind):
                return self._state(_State(guard=kind, next=[after]))
            case _Concat(parts):
                for part in reversed(parts):
                    after = self._compile(part, after)
                return after
            case _Either(parts):
                return self._state(_State(next=[self._compile(part, after) for part in parts]))
            case _Repeat():
                return self._repeat(piece, after)

    def _repeat(self, piece: _Repeat, after: int) -> int:
        if piece.high is None:
            loop = self._state(_State(next=[after]))
            self._states[loop].next.append(self._compile(piece.part, loop))
            after = loop
        else:
            done = after
            for _ in range(piece.high - piece.low):
                after = self._state(_State(next=[done, self._compile(piece.part, after)]))
        for _ in range(piece.low):
            after = self._compile(piece.part, after)
        return after


def _holds(guard: str, text: str, position: int) -> bool:
    if guard == "^":
        return position == 0
    if guard == "$":
        return position == len(text)
    before = position > 0 and _WORD.match(text[position - 1]) is not None
    behind = position < len(text) and _WORD.match(text[position]) is not None
    return (before != behind) == (guard == "b")


_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": "\t\n\f\r "}
_CONTROL = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_COUNT = re.compile(r"\{(\d{1,6})(?:(,)(\d{1,6})?)?\}")
_GROUP = re.compile(r"\(\?(?:P?<([A-Za-z_][A-Za-z0-9_]*)>|([is]*)([:)]))")


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.text = pattern
        self.at = 0
        self.depth = 0

    def parse(self) -> _Piece:
        if len(self.text) > MAX_PATTERN:
            raise BadPattern(f"it is longer than {MAX_PATTERN:,} characters")
        piece = self._either(frozenset())
        if self.at < len(self.text):
            raise BadPattern("a ) closes nothing")
        return piece

    def _take(self, word: str) -> bool:
        if self.text.startswith(word, self.at):
            self.at += len(word)
            return True
        return False

    def _either(self, flags: frozenset[str]) -> _Piece:
        """Alternatives up to the end or a `)`; `(?i)` holds from where it stands to the end of its group."""
        parts: list[_Piece] = []
        branch: list[_Piece] = []
        while self.at < len(self.text) and self.text[self.at] != ")":
            if self._take("|"):
                parts.append(_Concat(tuple(branch)))
                branch = []
                continue
            piece, flags = self._piece(flags)
            branch.append(piece)
        return _Either((*parts, _Concat(tuple(branch)))) if parts else _Concat(tuple(branch))

    def _piece(self, flags: frozenset[str]) -> tuple[_Piece, frozenset[str]]:
        piece, flags = self._base(flags)
        repeated = self._count()
        if repeated is None:
            return piece, flags
        low, high = repeated
        self._take("?")  # lazy or greedy: the same answer to "does it match"
        if self.text[self.at : self.at + 1] in _REPEATS or _COUNT.match(self.text, self.at):
            raise BadPattern("a repeat follows a repeat (possessive repeats are not in RE2)")
        return _Repeat(piece, low, high), flags

    def _count(self) -> tuple[int, int | None] | None:
        character = self.text[self.at : self.at + 1]
        if character in _REPEATS:
            self.at += 1
            return _REPEATS[character]
        found = _COUNT.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        low = int(found[1])
        high = low if found[2] is None else None if found[3] is None else int(found[3])
        if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
            raise BadPattern(f"the repeat {found[0]} is not in RE2")
        return low, high

    def _base(self, flags: frozenset[str]) -> tuple[_Piece, frozenset[str]]:
        character = self.text[self.at]
        if character == "(":
            return self._group(flags)
        self.at += 1
        if character in "*+?":
            raise BadPattern(f"nothing stands before {character} that it could repeat")
        if character in "^$":
            return _Assert(character), flags
        if character == ".":
            return _Atom((lambda _: True) if "s" in flags else (lambda one: one != "\n")), flags
        if character == "[":
            return _Atom(_set(self._class(), flags)), flags
        if character == "\\":
            return self._escape(flags), flags
        return _Atom(_set(re.escape(character), flags)), flags

    def _group(self, flags: frozenset[str]) -> tuple[_Piece, frozenset[str]]:
        inner = flags
        if self.text.startswith("(?", self.at):
            found = _GROUP.match(self.text, self.at)
            if found is None:
                shown_part = self.text[self.at : self.at + 4]
                raise BadPattern(f"{shown_part!r} is not supported (lookaround and backreferences are not in RE2)")
            self.at = found.end()
            inner = flags | frozenset(found[2] or "")
            if found[3] == ")":
                return _Concat(()), inner
        else:
            self.at += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadPattern("its groups are nested too deep")
        piece = self._either(inner)
        if not self._take(")"):
            raise BadPattern("a ( is not closed")
        self.depth -= 1
        return piece, flags

    def _escape(self, flags: frozenset[str]) -> _Piece:
        character = self.text[self.at : self.at + 1]
        if character in ("A", "z", "b", "B"):
            self.at += 1
            return _Assert({"A": "^", "z": "$"}.get(character, character))
        return _Atom(_set(self._member(), flags))

    def _member(self) -> str:
        """One escaped character or class, as text for the inside of a Python character class."""
        character = self.text[self.at : self.at + 1]
        self.at += 1
        if character in _CLASSES:
            return _CLASSES[character]
        if character.lower() in _CLASSES:
            # re.ASCII makes \W and \D what RE2 means; RE2's \s has no vertical tab, Python's has.
            return "\\" + character if character != "S" else "\\S\v"
        if character in _CONTROL:
            return re.escape(_CONTROL[character])
        if character == "x" and (found := re.compile(r"[0-9a-fA-F]{2}").match(self.text, self.at)):
            self.at += 2
            return re.escape(chr(int(found[0], 16)))
        if character and ord(character) < 0x80 and not character.isalnum():
            return re.escape(character)
        raise BadPattern(f"\\{character} is not supported (backreferences are not in RE2)")

    def _class(self) -> str:
        """The inside of `[…]`, with everything escaped that Python could read as more than itself."""
        inside = "^" if self._take("^") else ""
        first = True
        while first or not self.text.startswith("]", self.at):
            if self.text.startswith("[:", self.at):
                raise BadPattern("POSIX classes such as [[:alpha:]] are not supported")
            low = self._class_member()  # a ] that comes first is itself
            first = False
            if self.text.startswith("-", self.at) and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                low += "-" + self._class_member()
            inside += low
        self.at += 1
        return inside

    def _class_member(self) -> str:
        if self.at >= len(self.text):
            raise BadPattern("a [ is not closed")
        character = self.text[self.at]
        self.at += 1
        return self._member() if character == "\\" else re.escape(character)


def _set(inside: str, flags: frozenset[str]) -> _Test:
    """A test for one character: a Python class, which has nothing to backtrack over."""
    try:
        compiled = re.compile(f"[{inside}]", re.ASCII | re.DOTALL | (re.IGNORECASE if "i" in flags else 0))
    except re.error as error:
        raise BadPattern(f"the class [{inside}] is not a valid one") from error
    return lambda character: compiled.fullmatch(character) is not None
