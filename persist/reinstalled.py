"""What `identity install` put into a home and puts there again at the next boot: by its record, file by file.

STATE/installed/AGENT.json, docs/formats/identity.md. A file that the agent changed since comes back without the change.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from persist import worth
from town import files, kernel
from town.failure import Failure
from town.spec import Agent, Spec

Known = Mapping[bytes, bool]
_VERSIONS = (1, 2)
_LIMIT = 1 << 20  # bytes of the record, and of a file that is compared
_MOST = 1000  # files
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


def read(spec: Spec, agent: Agent, home: int) -> Known:
    """By path whether what lies there is what was installed. Raises nothing: what cannot be read is not known."""
    with suppress(Failure, ValueError, RecursionError):
        tree = json.loads(files.read_bounded(spec.state_dir / "installed" / f"{agent.name}.json", _LIMIT))
        return {os.fsencode(path): _same(home, path, digest) for path, digest in _recorded(tree)[:_MOST]}
    return {}


def comes_back(path: bytes, known: Known) -> bool:
    """Whether a file of that path is there again, as it is, after the boot; by its name where nothing is recorded."""
    return known.get(path, worth.regenerated(path))


def _recorded(tree: Any) -> list[tuple[str, str]]:
    if not isinstance(tree, dict) or tree.get("version") not in _VERSIONS or not isinstance(tree.get("files"), dict):
        return []
    return [(path, digest) for path, digest in tree["files"].items() if isinstance(digest, str)]


def _same(home: int, path: str, digest: str) -> bool:
    stay = files.BENEATH | kernel.RESOLVE_NO_XDEV
    with suppress(OSError, Failure, ValueError), files.opened(kernel.openat2(home, path, _FLAGS, 0, stay)) as fd:
        return hashlib.sha256(files.read_fd(fd, _LIMIT, "")).hexdigest() == digest
    return False
