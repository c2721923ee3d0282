"""Where each declared directory came from: a small record of root's beside the town's state, for `persist status`.

One JSON file for each agent, `STATE/origins/AGENT.json`, 0600: path → how (`fetched`, `made here`, …), snapshot, host,
time. It is a note, not a promise: a missing or broken one reads as "kept on this machine".
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from town import files
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shown

LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """How a directory came to this machine; the last three are those of the store's snapshot, empty for `made here`."""

    how: str
    snapshot: str = ""
    host: str = ""
    time: str = ""

    def __str__(self) -> str:
        if self.how == "fetched":
            return f"fetched {self._state()}"
        if self.how == "carried":
            return f"carried over from the home before{f', of {self._state()}' if self.snapshot else ''}"
        return shown(self.how)

    def _state(self) -> str:
        made = f" from {shown(self.host)} {shown(self.time)}" if self.host else ""
        return f"{shown(self.snapshot)}{made}"


KEPT = Origin("kept on this machine")


def carried(before: Origin | None, commit: str) -> Origin:
    """Of what was brought over from a home set aside: `before` is its origin there, `commit` the last known state."""
    short = commit[-64:][:12]
    if before is not None and before.snapshot == short:
        return replace(before, how="carried")
    return Origin("carried", short)


def known(spec: Spec, agent: Agent) -> dict[PurePosixPath, Origin]:
    """What is recorded of the agent. Never raises: what cannot be read is not known."""
    try:
        tree = json.loads(files.read_bounded(spec.state_dir / "origins" / f"{agent.name}.json", LIMIT))
    except (Failure, ValueError, RecursionError):
        return {}
    if not isinstance(tree, dict):
        return {}
    return {PurePosixPath(path): origin for path, value in tree.items() if (origin := _origin(value)) is not None}


def record(spec: Spec, agent: Agent, new: Mapping[PurePosixPath, Origin], *, forget: Iterable[PurePosixPath]) -> None:
    """Add `new`, drop `forget`; write only when that changes something. Raises files.Unwritable, OSError."""
    before = known(spec, agent)
    gone = set(forget)
    after = {path: origin for path, origin in before.items() if path not in gone} | dict(new)
    if after == before:
        return
    text = json.dumps({str(path): asdict(origin) for path, origin in sorted(after.items())}, indent=1)
    with files.opened(state(spec, "origins")) as fd:
        files.write_beneath(fd, f"{agent.name}.json", text.encode() + b"\n", mode=0o600, owner=(0, 0))


def state(spec: Spec, name: str) -> int:
    """Open `STATE/name`, made where it is missing: root's, 0700."""
    where = spec.state_dir
    with files.opened(files.open_dir(where.parent)) as above:
        owner = (os.geteuid(), os.getegid())
        return files.make_dirs(above, PurePosixPath(where.name, name), mode=0o700, owner=owner)


def _origin(value: Any) -> Origin | None:
    names = ("how", "snapshot", "host", "time")
    if isinstance(value, dict) and set(value) == set(names) and all(isinstance(value[name], str) for name in names):
        return Origin(**value)
    return None
