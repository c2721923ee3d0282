"""The command line that is running, for hints: the same one as root, and its --spec in commands that come next."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from town.terminal import shell_word

_VERBS = {
    "persist": "check init rollback restore sync lost status homes tidy recall units install uninstall "
    "log get verify prune forget repair key release adopt chown metrics sweep account failed "
    "snapshot reset diff export import",
    "identity": "gen install documents check secret host show rotate revoke import recipients publish",
}
_NO_OUT = ("host",)  # of identity: the verbs without --out
# In the environment: words of a shell that call `identity` with a spec and --out of their own, for a verb to follow.
# Whoever calls it with a spec that goes away says so there. For hints alone: what runs does not depend on it.
_CALLED = "NUKETOWN_IDENTITY"
# What a shell_word quotes is a name, whatever it spells. An apostrophe after a letter begins no quotation.
_QUOTED = r"(?<!\w)\$'(?:[^'\\]|\\.)*'|(?<!\w)'(?:[^']|'\"'\"')*'"
_COMMAND = "|".join(rf"{prog} (?:{words.replace(' ', '|')})\b" for prog, words in _VERBS.items())
_FIND = rf"{_QUOTED}|(?<![\w/.@-])(?P<command>{_COMMAND})"


class Typed(NamedTuple):
    """A command line: the words after the program's name, the spec where that is not the default one, and --out."""

    words: tuple[str, ...]
    spec: Path | None = None
    out: str | None = None


_NOW: ContextVar[Typed | None] = ContextVar("typed", default=None)


@contextmanager
def running(words: Sequence[str]) -> Iterator[None]:
    """A command runs that was typed with these words."""
    token = _NOW.set(Typed(tuple(words)))
    try:
        yield
    finally:
        _NOW.reset(token)


def reads(spec: Path) -> None:
    """The command that runs reads this spec, which is not the one that it would read by itself."""
    if (now := _NOW.get()) is not None:
        _NOW.set(now._replace(spec=spec))


def puts(out: str) -> None:
    """The command of `identity` that runs has its files there, and not beside the spec."""
    if (now := _NOW.get()) is not None:
        _NOW.set(now._replace(out=out))


def as_root(prog: str, verb: str) -> str:
    """The command line that was typed, for root: sudo drops the environment and has a PATH of its own."""
    now = _NOW.get()
    if now is None:
        return f"sudo {prog} {verb}"
    if prog == "identity" and (called := os.environ.get(_CALLED)):
        return " ".join(["sudo", called, *map(shell_word, _without(("--spec", "--out"), now.words))])
    typed = any(word.partition("=")[0] == "--spec" for word in now.words)
    spec = [] if now.spec is None or typed else ["--spec", str(now.spec)]
    return " ".join(map(shell_word, ["sudo", *_program(prog), *spec, *now.words]))


def with_spec(hint: str) -> str:
    """A hint whose commands read the spec that the command which runs reads, and the files where those are."""
    now = _NOW.get()
    if now is None:
        return hint
    spec = "" if now.spec is None else f" --spec {shell_word(str(now.spec))}"
    out = "" if now.out is None else f" --out {shell_word(now.out)}"

    def said(command: str) -> str:
        prog, verb = command.split(" ")
        if called := os.environ.get(_CALLED):  # that spec is no other command's
            return f"{called} {verb}" if prog == "identity" else command
        return command + (spec + out if prog == "identity" and verb not in _NO_OUT else spec)

    return re.sub(_FIND, lambda found: said(found[0]) if found["command"] else found[0], hint)


def _without(options: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The words without the first of each of these options, and its value: as such a program puts them there."""
    words = list(typed)
    for at in (words.index(option) for option in options if option in words):
        del words[at : at + 2]
    return words


def _program(prog: str) -> list[str]:
    """How the program that runs is called from anywhere: its absolute path, or its module."""
    called = Path(sys.argv[0])
    if called.name == prog and called.exists():
        return [str(called.absolute())]
    return [sys.executable, "-m", f"{prog}.cli"]
