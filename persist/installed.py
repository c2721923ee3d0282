"""What `persist install` put on a machine: /etc/nuketown/installed.json, root's, 0644.

`{"version": 1, "initrd": …, "program": …, "files": {path: SHA-256 as written}, "links": {path: target},
"directories": […]}`; `program` is what --program said, null where nothing did.
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
_VERSION = 1


class BadRecord(Failure):
    """The record of what was installed cannot be read."""


@dataclass(slots=True)
class Record:
    """What was installed: files with the SHA-256 of what was written, links, directories that were made.

    `initrd` is a kind of initrd or "none"; `program` is the one that a person named.
    """

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    initrd: str = "none"
    program: str | None = None

    def data(self) -> bytes:
        """The file."""
        said = {"version": _VERSION, "initrd": self.initrd, "program": self.program, "files": self.files,
                "links": self.links, "directories": self.folders}  # fmt: skip
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
        if said["version"] != _VERSION:
            raise ValueError(f"its version is {said['version']}, this program knows {_VERSION}")
        record = Record(
            dict(said["files"]), dict(said["links"]), list(said["directories"]), said["initrd"], said.get("program")
        )
        _refuse(record)
    except (ValueError, KeyError, TypeError, AttributeError, Failure) as error:
        name = there.name(RECORD)
        raise BadRecord(
            f"{shown(name)} cannot be read: {shown(str(error))}",
            hint=f"look at it; then mv {shell_word(name)} {shell_word(name + '.old')}",
        ) from error
    return record


def _refuse(record: Record) -> None:
    paths = [*record.files, *record.links, *record.folders]
    if not all(isinstance(path, str) and path.startswith("/") and ".." not in path for path in paths):
        raise ValueError("a path in it is not one of a file on this machine")
    if record.initrd not in (*initrd.KINDS, "none"):
        raise ValueError("its kind of initrd is unknown")
    if not isinstance(record.program, str | None):
        raise TypeError("its program is not a text")
