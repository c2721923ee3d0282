"""What was last installed into a home: root's record, so that a change of the agent's can be told from one of the spec,
and so that what the spec no longer has can be taken away. docs/formats/identity.md has its form.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from town import files
from town.failure import Failure
from town.spec import Agent, Spec

VERSION = 3
_KNOWN = (1, 2, VERSION)  # version 1 had no `gpg`, 2 neither `brought` nor `keys`
_DIRECTORY, _LIMIT = "installed", 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What lies in a home by our hand. `files`: SHA-256 by path below the home; `gpg`: imported signing subkeys.

    `brought`: what else, that is the agent's to change and stays; `keys`: primary keys in the public keyring.
    """

    files: dict[str, str] = field(default_factory=dict)
    gpg: tuple[str, ...] = ()
    brought: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def known(spec: Spec, agent: Agent) -> Record:
    """The record of an agent. Never raises: what cannot be read is not known."""
    try:
        tree = json.loads(files.read_bounded(spec.state_dir / _DIRECTORY / f"{agent.name}.json", _LIMIT))
    except (Failure, ValueError, RecursionError):
        return Record()
    return _record(tree)


def _record(tree: Any) -> Record:
    if not isinstance(tree, dict) or tree.get("version") not in _KNOWN or not isinstance(tree.get("files"), dict):
        return Record()
    return Record(
        _digests(tree["files"]), _texts(tree.get("gpg")), _digests(tree.get("brought")), _texts(tree.get("keys"))
    )


def _digests(tree: Any) -> dict[str, str]:
    return {path: value for path, value in tree.items() if isinstance(value, str)} if isinstance(tree, dict) else {}


def _texts(tree: Any) -> tuple[str, ...]:
    return tuple(one for one in tree if isinstance(one, str)) if isinstance(tree, list) else ()


def record(spec: Spec, agent: Agent, new: Record) -> None:
    """Write the record when it is another than before. Raises files.Unreadable, OSError."""
    if new == known(spec, agent):
        return
    tree = {
        "version": VERSION,
        "files": dict(sorted(new.files.items())),
        "gpg": sorted(new.gpg),
        "brought": dict(sorted(new.brought.items())),
        "keys": sorted(new.keys),
    }
    where = spec.state_dir
    with files.opened(files.open_dir(where.parent)) as above:
        owner = (os.geteuid(), os.getegid())
        fd = files.make_dirs(above, PurePosixPath(where.name, _DIRECTORY), mode=0o700, owner=owner)
    with files.opened(fd):
        files.write_beneath(fd, f"{agent.name}.json", (json.dumps(tree, indent=1) + "\n").encode(), mode=0o600)
