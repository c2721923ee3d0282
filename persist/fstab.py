"""Lines of fstab(5) that make a machine's boot wait for the agents' homes, or fail with them."""

import re
from dataclasses import dataclass
from pathlib import Path

from town import files
from town.terminal import shown

FSTAB = Path("/etc/fstab")
_LIMIT = 1 << 20
_HARMLESS = frozenset({"nofail", "noauto"})


@dataclass(frozen=True, slots=True)
class Line:
    """One line that mounts something at a path; `table` is the file that it stands in, `number` counts from 1."""

    table: Path
    number: int
    source: str
    options: frozenset[str]

    @property
    def holds_boot(self) -> bool:
        """Whether systemd-fstab-generator(8) makes local-fs.target, and with it every login, depend on it."""
        return not self.options & _HARMLESS

    def __str__(self) -> str:
        return f"{shown(str(self.table))} line {self.number} mounts {shown(self.source)}"


def lines(target: Path, table: Path = FSTAB) -> list[Line]:
    """The lines that mount something at `target`. Raises files.Unreadable when there is a table that cannot be read."""
    try:
        text = files.read_bounded(table, _LIMIT).decode("utf-8", "surrogateescape")
    except files.Unreadable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    return [
        found for number, line in enumerate(text.split("\n"), 1) if (found := _at(table, line, number, str(target)))
    ]


def _at(table: Path, line: str, number: int, target: str) -> Line | None:
    fields = [_plain(field) for field in re.split(r"[ \t]+", line.strip(" \t"))]
    if line.lstrip(" \t").startswith("#") or len(fields) < 2 or _normal(fields[1]) != target:
        return None
    return Line(table, number, fields[0], frozenset(fields[3].split(",")) if len(fields) > 3 else frozenset())


def _normal(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part)


def _plain(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
