"""Values of a spec as words of a unit: quoted as systemd reads them, or refused."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from town.failure import Failure
from town.terminal import shown

_ODD = re.compile(r"[^A-Za-z0-9/_.+-]")
_SIGNS = {" ": "a blank", "\t": "a tab", "\n": "a line break"}


class CannotBeWritten(Failure):
    """A value of the spec has no form in a unit, or in a file that a shell and systemd both read."""


def wrong_in(program: str) -> str:
    """What keeps a path from being the program of a unit; empty when nothing does."""
    if not program.startswith("/"):
        return "it is not an absolute path"
    if odd := _ODD.search(program):
        sign = _SIGNS.get(odd[0]) or shown(odd[0])
        return f"it holds {sign}; what may be in it: A-Z, a-z, 0-9 and / _ . + -"
    if "//" in program or os.path.normpath(program) != program:
        return "it is not in its shortest form: without //, without . and .. and without a / at the end"
    return ""


def program(path: str) -> str:
    """The first word of ExecStart=. Raises CannotBeWritten."""
    if wrong := wrong_in(path):
        raise CannotBeWritten(
            f"{shown(path)} cannot be the program of a unit: {wrong}",
            hint="install nuketown elsewhere, or make a link to it, and name that: --program /usr/local/bin/persist",
        )
    return path


def literal(text: str) -> str:
    """Text in which no specifier is read (systemd.unit(5), "Specifiers")."""
    return text.replace("%", "%%")


def argument(text: str) -> str:
    """One word of ExecStart= (systemd.service(5), "Command lines"). Raises CannotBeWritten."""
    return quoted(text).replace("$", "$$")


def quoted(text: str) -> str:
    """One word of a list (systemd.syntax(7), "Quoting"). Raises CannotBeWritten."""
    escaped = literal(_line(text))
    if re.fullmatch(r"[^\s\"'\\;]+", escaped):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def paths(found: Iterable[Path | str], before: str = "") -> str:
    """A list of paths, each once, each with the sign `before` in front. Raises CannotBeWritten."""
    return " ".join(quoted(f"{before}{path}") for path in dict.fromkeys(map(str, found)))


def where(path: Path) -> str:
    """Where= of a mount unit: one path to the end of the line. Raises CannotBeWritten."""
    text = _line(str(path))
    if text != text.strip() or text.endswith("\\"):
        raise CannotBeWritten(f"agents_dir {shown(text)} ends as no line of a unit can", hint="choose another path")
    return literal(text)


def shell_quotable(value: str, key: str) -> str:
    """A value that a shell and systemd read alike between single quotes. Raises CannotBeWritten."""
    # A backslash too: systemd before 240 reads it as an escape between single quotes, a shell never does.
    if any(character in "'\\" or not character.isprintable() for character in value):
        raise CannotBeWritten(
            f"town.btrfs.{key.lower()} holds a quote, a backslash or a control character: {shown(value)}",
            hint="name the device by UUID=…, or by a path without them",
        )
    return value


def _line(text: str) -> str:
    if not text.isprintable() and any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise CannotBeWritten(f"{shown(text)} holds a control character", hint="give it a plain name")
    return text
