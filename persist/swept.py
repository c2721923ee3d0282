"""What sweeps of this boot found, for the gate and for `persist status`: /run/nuketown/swept.json, root's, 0600.

`{"version": 1, "boot": boot id, "agents": {NAME: {…}}}`; what an agent's table holds is in docs/formats/disk.md.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from persist import proof
from persist.ground import refuse_others
from town import files, locks
from town.failure import Failure, TryLater
from town.spec import Agent

_VERSION = 1
_LIMIT = 16 << 20


class Busy(TryLater):
    """Another sweep is running. Trying again may help."""


def file() -> Path:
    """Where the record is."""
    return proof.PROOF.with_name("swept.json")


def known() -> Mapping[str, Mapping[str, Any]]:
    """By agent what was found at this boot; empty when nobody looked, or when it is not root's word. Never raises."""
    try:
        with files.opened(files.open_dir(file().parent)) as directory:
            refuse_others(directory, file().parent)
            with files.opened(files.open_beneath(directory, file().name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
                refuse_others(fd, file())
                tree = json.loads(files.read_fd(fd, _LIMIT, "swept.json"))
    except (Failure, OSError, ValueError, RecursionError):
        return {}
    if not isinstance(tree, dict) or (tree.get("version"), tree.get("boot")) != (_VERSION, proof.boot_id()):
        return {}
    agents = tree.get("agents")
    return {name: one for name, one in agents.items() if isinstance(one, dict)} if isinstance(agents, dict) else {}


def missing(agent: Agent) -> str:
    """Why what an agent left outside its home may still be there at this boot; empty when it is gone."""
    found = known().get(agent.name)
    if found is None or found.get("uid") != agent.uid:
        return "what it left outside its home was not swept at this boot"
    if found.get("whole") is not True:
        return "what it left outside its home could not all be taken away"
    return ""


@contextmanager
def alone() -> Iterator[int]:
    """/run/nuketown, open, while no other sweep runs. Raises Busy, Unsafe."""
    path, busy = file().parent, Busy("another sweep is running", hint="wait for it, then try again")
    with (
        files.opened(files.open_dir(path.parent)) as above,
        # Its mode must not depend on the umask: agents find their homes and secrets below it.
        files.opened(files.make_dirs(above, PurePosixPath(path.name), mode=0o755, owner=(0, 0))) as directory,
    ):
        refuse_others(directory, path)
        with locks.held(directory, "sweep.lock", busy):
            yield directory


def record(directory: int, new: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what was found of these agents into the record; what it says of others at this boot stays. Raises OSError."""
    agents = {**known(), **new}
    text = json.dumps({"version": _VERSION, "boot": proof.boot_id(), "agents": agents}, indent=1)
    files.write_beneath(directory, file().name, text.encode() + b"\n", mode=0o600, owner=(0, 0))
