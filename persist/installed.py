"""What `persist install` put on a machine: /etc/nuketown/installed.json, root's, 0644.

`{"version": 2, "initrd": …, "program": …, "files": {path: SHA-256 as written}, "links": {path: target},
"directories": […], "lines": {path: lines of ours in it}, "made": [files that were made for lines]}`; `program` is what
--program said, null where nothing did. Version 1 had neither `lines` nor `made`.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import initrd
from persist.placing import Tree
from town.failure import Failure
from town.terminal import shell_word, shown

RECORD = "/etc/nuketown/installed.json"
_VERSION = 2


class BadRecord(Failure):
    """The record of what was installed cannot be read."""


@dataclass(slots=True)
class Record:
    """What was installed: files with the SHA-256 of what was written, links, directories that were made.

    `initrd` is a kind of initrd or "none"; `program` is the one that a person named; `lines` are those of ours in files
    of others, and `made` such files that were not there before.
    """

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    initrd: str = "none"
    program: str | None = None
    lines: dict[str, list[str]] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def data(self) -> bytes:
        """The file."""
        said = {"version": _VERSION, "initrd": self.initrd, "program": self.program, "files": self.files,
                "links": self.links, "directories": self.folders, "lines": self.lines, "made": self.made}  # fmt: skip
        return json.dumps(said, indent=1, sort_keys=True).encode() + b"\n"


def digest(data: bytes) -> str:
    """What the record holds of a file."""
    return hashlib.sha256(data).hexdigest()


def read(there: Tree) -> Record | None:
    """The record of a machine; None when nothing is installed. Raises BadRecord."""
    if there.entry(RECORD) is None:
        return None
    try:
        said: dict[str, Any] = json.loads(there.read(RECORD))
        if said["version"] not in (1, _VERSION):
            raise ValueError(f"its version is {said['version']}, this program knows {_VERSION}")
        record = Record(
            dict(said["files"]), dict(said["links"]), list(said["directories"]), said["initrd"], said.get("program"),
            {path: list(lines) for path, lines in dict(said.get("lines", {})).items()}, list(said.get("made", [])),
        )  # fmt: skip
        _refuse(record)
    except (ValueError, KeyError, TypeError, AttributeError, Failure) as error:
        name = there.name(RECORD)
        raise BadRecord(
            f"{shown(name)} cannot be read: {shown(str(error))}",
            hint=f"look at it; then mv {shell_word(name)} {shell_word(name + '.old')}",
        ) from error
    return record


def _refuse(record: Record) -> None:
    paths = [*record.files, *record.links, *record.folders, *record.lines, *record.made]
    if not all(isinstance(path, str) and path.startswith("/") and ".." not in path for path in paths):
        raise ValueError("a path in it is not one of a file on this machine")
    if record.initrd not in (*initrd.KINDS, "none"):
        raise ValueError("its kind of initrd is unknown")
    if not all(isinstance(line, str) for lines in record.lines.values() for line in lines):
        raise TypeError("a line in it is not a text")
    if not isinstance(record.program, str | None):
        raise TypeError("its program is not a text")
