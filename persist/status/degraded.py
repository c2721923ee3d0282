"""Paths whose copy on this machine is used though the store could not say whether it is the newest.

STATE/degraded/AGENT.json, root's: path → `{"since", "why"}`. Written by a restore, removed by the next sync or restore
that reached the store (docs/formats/disk.md).
"""

import json
from collections.abc import Iterator
from typing import Any

from persist.proof import Trouble
from persist.status.report import Degraded
from town import files
from town.failure import ATTENTION, Failure
from town.spec import Agent, Spec
from town.terminal import shown

_LIMIT = 1 << 20


def noted(spec: Spec, agent: Agent) -> tuple[Degraded, ...]:
    """What is on record of the agent. Never raises: a record that cannot be read is a note of its own."""
    file = spec.state_dir / "degraded" / f"{agent.name}.json"
    if not file.exists():
        return ()
    try:
        tree = json.loads(files.read_bounded(file, _LIMIT))
        return tuple(_parsed(tree))
    except (Failure, ValueError, AttributeError, RecursionError):
        return (Degraded("", "", f"{file} cannot be read"),)


def _parsed(tree: Any) -> Iterator[Degraded]:
    for path, said in tree.items():
        table = said if isinstance(said, dict) else {"why": str(said)}
        yield Degraded(path, str(table.get("since", "")), str(table.get("why", "")))


def troubles(agent: Agent, found: tuple[Degraded, ...]) -> Iterator[Trouble]:
    """One for each path."""
    for one in found:
        since = f" since {shown(one.since)}" if one.since else ""
        why = f" ({shown(one.why)})" if one.why else ""
        path = shown(one.path) if one.path else "some path"
        what = f"{path}: degraded{since}: the copy on this machine is used without the store's word{why}"
        yield Trouble(ATTENTION, what, f"persist sync {agent.name} when the store answers: it reconciles them")
