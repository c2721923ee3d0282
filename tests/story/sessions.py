"""Terminal sessions of a document: what is typed there is run, and what is shown there must be said.

In a ```console block `# COMMAND` is typed by root and `ada$ COMMAND` by that agent, in its home; the lines below are
what it says, in any order, for a terminal shows two streams. `…` stands for some characters, a line of nothing else
for some lines. Times and numbers of boots differ from run to run: one in the document stands for the one that is said
in its place, wherever it is shown or typed again. A command ends well, or with the status of what needs attention,
unless it is shown to say that there is an error or what it cannot do.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from town.failure import ATTENTION, DONE

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"(?:([a-z]+)\$|#) (.*)")
_BOOT = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STAMP = rf"\d{{8}}T\d{{6}}Z(?:-{_BOOT})?|\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC|{_BOOT}"
_SHOWN = re.compile(rf"…|{_STAMP}| +")
_ANY = "…"


@dataclass(slots=True)
class Typed:
    """One command of a document: who types it (empty: root), and what it is shown to say."""

    who: str
    command: str
    says: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        return any(re.match(r"\w+: (error|cannot)[: ]", line) for line in self.says)


Run = Callable[[str, str], tuple[int, str]]  # who, a command: its status, and all that it said


class Differs(Exception):
    """A command said something else than the document shows."""


def typed(document: str) -> list[Typed]:
    """Every command of a document, in its order; a line that ends with a backslash goes on."""
    found: list[Typed] = []
    for line in "".join(_BLOCK.findall(document)).replace("\\\n", "").splitlines():
        prompt = _PROMPT.fullmatch(line)
        if prompt is not None:
            found.append(Typed(prompt[1] or "", prompt[2]))
        else:
            found[-1].says.append(line)
    return found


def play(commands: list[Typed], run: Run) -> None:
    """Run them all. Raises Differs at the first that says something else."""
    stamps: dict[str, str] = {}
    for one in commands:
        command = re.sub(_STAMP, lambda found: stamps.get(found[0], found[0]), one.command)
        status, said = run(one.who, command)
        lines = [line.rstrip() for line in said.splitlines()]
        if wrong := _compared(one, status, lines, stamps):
            told = "\n".join(f"  | {line}" for line in lines)
            raise Differs(f"{one.who or '#'} {command}\n{wrong}; status {status}; it said:\n{told}")


def _compared(one: Typed, status: int, lines: list[str], stamps: dict[str, str]) -> str:
    if (status not in (DONE, ATTENTION)) != one.fails:
        return "it ended otherwise than shown"
    left = list(lines)
    for shown in one.says:
        if shown.strip() == _ANY:
            continue
        match = next(filter(None, (_matched(shown, line, stamps) for line in left)), None)
        if match is None:
            return f"shown, and not said: {shown}"
        left.remove(match)
    return "" if not left or any(shown.strip() == _ANY for shown in one.says) else f"said, and not shown: {left[0]}"


def _matched(shown: str, line: str, stamps: dict[str, str]) -> str | None:
    """The line, if it is what is shown; then the times and numbers that were not known yet are."""
    names: list[str] = []

    def pattern(found: re.Match[str]) -> str:
        if found[0] == _ANY:
            return ".*"
        if found[0].isspace():
            return " +"
        if found[0] in stamps:
            return re.escape(stamps[found[0]])
        names.append(found[0])
        return f"({_STAMP})"

    at, parts = 0, []
    for found in _SHOWN.finditer(shown.rstrip()):
        parts += [re.escape(shown[at : found.start()]), pattern(found)]
        at = found.end()
    match = re.fullmatch("".join([*parts, re.escape(shown.rstrip()[at:])]), line)
    if match is None:
        return None
    stamps.update(zip(names, match.groups(), strict=True))
    return line
