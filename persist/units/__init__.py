"""The units of a town, rendered from the spec. The templates lie beside this module: units but for their @words@.

A unit's links are those that `systemctl enable` makes from its [Install] section.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persist import device
from town import unitname
from town.failure import Failure
from town.spec import Btrfs, Spec
from town.terminal import shown

SERVICE, TIDY = "nuketown-rollback.service", "nuketown-tidy.service"
MARK = b"# Written by nuketown"
_HERE = Path(__file__).parent
_ODD = re.compile(r"[^A-Za-z0-9/_.+-]")
_SIGNS = {" ": "a blank", "\t": "a tab", "\n": "a line break"}
_CHECK = 90  # seconds for a check, once the device is there
_HOOK = 600  # and for a rollback: a disk full of unwritten data is flushed first
_INSTALL = {"WantedBy": "wants", "RequiredBy": "requires"}


class CannotBeWritten(Failure):
    """A value of the spec has no form in a unit, or in a file that a shell and systemd both read."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit file. `links`: the names, relative to its directory, of the links that enable it."""

    name: str
    text: str

    @property
    def links(self) -> tuple[str, ...]:
        found = re.findall(r"(?m)^(WantedBy|RequiredBy)=(.*)$", self.text.partition("\n[Install]\n")[2])
        return tuple(f"{by}.{_INSTALL[key]}/{self.name}" for key, units in found for by in units.split())


def render(spec: Spec, *, program: str, file: str, in_initrd: bool) -> tuple[Unit, ...]:
    """The units of a town. `program` is the command `persist` and `file` the spec, both by absolute path.

    `in_initrd`: the hook ran before the host started; else it is run by the unit itself. Raises device.NoBtrfs,
    CannotBeWritten or unitname.NameTooLong.
    """
    if spec.town.btrfs is None:
        raise device.NoBtrfs(
            f"{shown(str(spec.file))} has no [town.btrfs]: there is nothing to roll back and no unit to write",
            hint="add [town.btrfs] with the device to the spec",
        )
    mount = unitname.mount(spec.town.agents_dir)
    words = _words(spec, spec.town.btrfs, program, file, in_initrd=in_initrd) | {"mount": _literal(mount)}
    return tuple(
        Unit(name, _filled(template, words))
        for name, template in ((SERVICE, SERVICE), (mount, "agents.mount"), (TIDY, TIDY))
    )


def environment(names: Btrfs) -> str:
    """/etc/nuketown/rollback.conf: read by systemd as EnvironmentFile= and by a shell. Raises CannotBeWritten."""
    said = {
        "DEVICE": names.device,
        "SUBVOLUME": names.subvolume,
        "BLANK": names.blank,
        "WAIT": str(names.wait_seconds),
    }
    return "# Written by nuketown from the spec: persist install writes it again.\n" + "".join(
        f"NUKETOWN_{key}='{_quotable(value, key)}'\n" for key, value in said.items()
    )


def _words(spec: Spec, names: Btrfs, program: str, file: str, *, in_initrd: bool) -> dict[str, str]:
    persist = f"{_program(program)} --spec {_argument(file)}"
    confirm = f"ExecStart={persist} rollback --confirm"
    wait = names.wait_seconds
    return {
        "persist": persist,
        "spec": _quoted(file),
        "where": _where(spec.town.agents_dir),
        "subvolume": names.subvolume,
        "what": "Check that this boot began with blank homes" if in_initrd else "Give this boot blank homes",
        "commands": confirm if in_initrd else f"ExecStart={persist} rollback\n{confirm}",
        "timeout": f"{wait + _CHECK}s" if in_initrd else f"{wait + _HOOK + _CHECK}s",
        "hardening": (_HERE / "hardening.conf").read_text().rstrip("\n"),
    }


def _filled(template: str, words: dict[str, str]) -> str:
    # One pass: what a value holds is never taken for a word.
    return re.sub(r"@([a-z]+)@", lambda found: words[found[1]], (_HERE / template).read_text())


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


def _program(path: str) -> str:
    if wrong := wrong_in(path):
        raise CannotBeWritten(
            f"{shown(path)} cannot be the program of a unit: {wrong}",
            hint="install nuketown elsewhere, or make a link to it, and name that: --program /usr/local/bin/persist",
        )
    return path


def _literal(text: str) -> str:
    return text.replace("%", "%%")  # systemd.unit(5), "Specifiers"


def _argument(text: str) -> str:
    """One word of ExecStart= (systemd.service(5), "Command lines")."""
    return _quoted(text).replace("$", "$$")


def _quoted(text: str) -> str:
    """One word of a list (systemd.syntax(7), "Quoting")."""
    escaped = _literal(_line(text))
    if re.fullmatch(r"[^\s\"'\\;]+", escaped):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _where(path: Path) -> str:
    text = _line(str(path))
    if text != text.strip() or text.endswith("\\"):
        raise CannotBeWritten(f"agents_dir {shown(text)} ends as no line of a unit can", hint="choose another path")
    return _literal(text)


def _line(text: str) -> str:
    if not text.isprintable() and any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise CannotBeWritten(f"{shown(text)} holds a control character", hint="give it a plain name")
    return text


def _quotable(value: str, key: str) -> str:
    # A backslash too: systemd before 240 reads it as an escape between single quotes, a shell never does.
    if any(character in "'\\" or not character.isprintable() for character in value):
        raise CannotBeWritten(
            f"town.btrfs.{key.lower()} holds a quote, a backslash or a control character: {shown(value)}",
            hint="name the device by UUID=…, or by a path without them",
        )
    return value


def links(units: tuple[Unit, ...]) -> Iterator[tuple[str, str]]:
    """Every link that enables one of the units, relative to their directory, and the name that it leads to."""
    for unit in units:
        for link in unit.links:
            yield link, unit.name


def own_program() -> str:
    """The command `persist` of this installation, by absolute path: beside the interpreter, else on PATH."""
    import shutil
    import sys

    beside = Path(sys.executable).with_name("persist")
    return str(beside) if beside.exists() else os.path.abspath(shutil.which("persist") or "/usr/bin/persist")
