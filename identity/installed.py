"""What was last installed into a home, by digest: root's record, so that a change of the agent's can be told from one
of the spec. docs/formats/identity.md has its form.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from town import files
from town.failure import Failure
from town.spec import Agent, Spec

VERSION = 1
_DIRECTORY, _LIMIT = "installed", 1 << 20  # bytes


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def known(spec: Spec, agent: Agent) -> dict[str, str]:
    """Digests by path below the home. Never raises: what cannot be read is not known."""
    try:
        tree = json.loads(files.read_bounded(spec.state_dir / _DIRECTORY / f"{agent.name}.json", _LIMIT))
    except (Failure, ValueError, RecursionError):
        return {}
    return _digests(tree)


def _digests(tree: Any) -> dict[str, str]:
    if not isinstance(tree, dict) or tree.get("version") != VERSION or not isinstance(tree.get("files"), dict):
        return {}
    return {path: value for path, value in tree["files"].items() if isinstance(value, str)}


def record(spec: Spec, agent: Agent, new: Mapping[str, str]) -> None:
    """Add digests; writes only when that changes something. Raises files.Unreadable, OSError."""
    before = known(spec, agent)
    after = {**before, **new}
    if after == before:
        return
    text = json.dumps({"version": VERSION, "files": dict(sorted(after.items()))}, indent=1) + "\n"
    where = spec.state_dir
    with files.opened(files.open_dir(where.parent)) as above:
        owner = (os.geteuid(), os.getegid())
        fd = files.make_dirs(above, PurePosixPath(where.name, _DIRECTORY), mode=0o700, owner=owner)
    with files.opened(fd):
        files.write_beneath(fd, f"{agent.name}.json", text.encode(), mode=0o600)
