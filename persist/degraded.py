"""Writes which copies on this machine are used without the store's word: STATE/degraded/AGENT.json, root's, 0600.

Path → `{"since", "why"}`, which `persist.status.degraded` reads. Gone when a sync or a restore has reached the store.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from town import files
from town.failure import Failure
from town.spec import Agent, Spec

_LIMIT = 1 << 20  # bytes


def note(spec: Spec, agent: Agent, path: PurePosixPath, why: str, now: datetime) -> None:
    """Record that the copy here is used, and why; since when stays as it was. Raises OSError, Failure."""

    def noted(before: dict[str, Any]) -> dict[str, Any]:
        said = before.get(str(path))
        since = said.get("since") if isinstance(said, dict) else None
        fresh = now.astimezone(UTC).isoformat(timespec="seconds")
        return {**before, str(path): {"since": since or fresh, "why": why}}

    _change(spec, agent, noted)


def forget(spec: Spec, agent: Agent, path: PurePosixPath | None = None) -> None:
    """The store was reached: drop the note of one path, or all. Raises OSError, Failure."""
    if there(spec, agent):
        _change(spec, agent, lambda before: {} if path is None else {k: v for k, v in before.items() if k != str(path)})


def there(spec: Spec, agent: Agent) -> bool:
    """Whether there is any note."""
    return os.path.lexists(spec.state_dir / "degraded" / f"{agent.name}.json")


def _change(spec: Spec, agent: Agent, to: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from persist.restore import origins

    name = f"{agent.name}.json"
    with files.opened(origins.state(spec, "degraded")) as directory:
        after = to(_read(spec, agent))
        if after:
            files.write_beneath(directory, name, json.dumps(after, indent=1).encode() + b"\n", mode=0o600, owner=(0, 0))
        else:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)


def _read(spec: Spec, agent: Agent) -> dict[str, Any]:
    try:
        tree = json.loads(files.read_bounded(spec.state_dir / "degraded" / f"{agent.name}.json", _LIMIT))
    except (Failure, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}
