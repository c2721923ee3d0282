"""gitignore(5): which names a work tree does not count. Every match takes time that is bounded by its lengths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

MOST = 256 << 10  # bytes of one file
_RULES = 2000  # of one file
_LONGEST = 1024  # bytes of a pattern
_STAR = object()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: whether it takes back, is for directories alone, and the parts of its path; one part: a bare name."""

    negated: bool
    directory: bool
    anchored: bool
    parts: tuple[bytes, ...]

    def fits(self, path: Sequence[bytes], *, directory: bool, check: Callable[[], None] = lambda: None) -> bool:
        """Whether it is about `path`, relative to the directory that has the rule. `check` may end it by raising."""
        if self.directory and not directory:
            return False
        check()
        if not self.anchored:
            return _name_fits(self.parts[0], path[-1])
        tokens = [_STAR if part == b"**" else part for part in self.parts]

        def one(part: bytes, name: bytes) -> bool:
            check()
            return _name_fits(part, name)

        return _fits(tokens, path, one)


def rules(text: bytes) -> list[Rule]:
    """The rules of a file, in their order."""
    found = (_rule(line) for line in text.splitlines()[:_RULES] if len(line) <= _LONGEST)
    return [rule for rule in found if rule is not None]


def _rule(line: bytes) -> Rule | None:
    if not line.endswith(b"\\ "):
        line = line.rstrip(b" \t\r")
    if not line or line.startswith(b"#"):
        return None
    negated, line = line.startswith(b"!"), line.removeprefix(b"!")
    directory, line = line.endswith(b"/"), line.rstrip(b"/")
    anchored = b"/" in line
    parts = tuple(part for part in line.split(b"/") if part)
    if not parts:
        return None
    if anchored and parts[-1] == b"**":
        parts = (*parts, b"*")  # all that lies in it, not itself
    return Rule(negated, directory, anchored, parts)


def _name_fits(pattern: bytes, name: bytes) -> bool:
    if not any(sign in pattern for sign in b"*?[\\"):
        return pattern == name
    return _fits(_tokens(pattern), name, lambda token, byte: token(byte))


def _tokens(pattern: bytes) -> list[object]:
    """A function for each byte that has to fit, _STAR for any number of them."""
    found: list[object] = []
    at = 0
    while at < len(pattern):
        sign, at = pattern[at : at + 1], at + 1
        if sign == b"*":
            found.append(_STAR)
        elif sign == b"?":
            found.append(lambda _byte: True)
        elif sign == b"[" and (end := pattern.find(b"]", at + 1)) >= 0:
            found.append(_one_of(pattern[at:end]))
            at = end + 1
        else:
            if sign == b"\\" and at < len(pattern):
                sign, at = pattern[at : at + 1], at + 1
            found.append(sign[0].__eq__)
    return found


def _one_of(said: bytes) -> Callable[[int], bool]:
    negated = said[:1] in (b"!", b"^")
    said = said[1:] if negated else said
    within = set[int]()
    at = 0
    while at < len(said):
        last = said[at + 2] if said[at + 1 : at + 2] == b"-" and at + 2 < len(said) else said[at]
        within.update(range(said[at], last + 1))
        at += 3 if last != said[at] else 1
    return lambda byte: (byte in within) != negated


def _fits(tokens: Sequence[object], items: Sequence[_T], one: Callable[..., bool]) -> bool:
    """The two sequences held against each other; back to the last star where they differ, never to one before."""
    token, at, star, kept = 0, 0, -1, 0
    while at < len(items):
        if token < len(tokens) and tokens[token] is _STAR:
            star, kept, token = token, at, token + 1
        elif token < len(tokens) and one(tokens[token], items[at]):
            token, at = token + 1, at + 1
        elif star >= 0:
            kept += 1
            token, at = star + 1, kept
        else:
            return False
    return all(left is _STAR for left in tokens[token:])
