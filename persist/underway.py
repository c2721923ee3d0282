"""What a reset or a replacement of a home has begun: /run/nuketown/underway/AGENT.json, root's, 0600, so that a later
run, when the first was killed, knows which home was to go and what is to be started again. It goes with the boot, which
ends what was begun; and it can be written while the disk is full.

    {"version": 1, "boot": "…", "verb": "reset ada", "home": "…", "place": "20261122T…", "source": "", "stood": {…}}
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from persist import ground
from persist.stopping import Stood
from town import bootid, files, standing
from town.failure import Failure
from town.spec import Agent

_VERSION, _DIRECTORY, _LIMIT = 1, "underway", 1 << 16
_ROOT = (0, 0)


@dataclass(frozen=True, slots=True)
class Underway:
    """A reset ("reset") or a replacement ("recall AGENT@NAME --replace") that was begun.

    `home`: the UUID of the home that is to go, in hex (of a plain directory: its inode and generation); `place`: where
    it goes, a name in @agents-old or of the agent's in @agents-snapshots; `source`: which kept home, AGENT@NAME, is to
    take its place, empty for a reset.
    """

    verb: str
    home: str
    place: str
    stood: Stood
    source: str = ""


def read(agent: Agent) -> Underway | None:
    """What was begun in this boot and not ended; None where nothing was, or nobody can say."""
    with suppress(Failure, ValueError, RecursionError, KeyError, TypeError):
        tree = json.loads(files.read_bounded(standing.RUN / _DIRECTORY / f"{agent.name}.json", _LIMIT))
        if tree["version"] == _VERSION and tree["boot"] == bootid.text():
            return _parsed(tree)
    return None


def _parsed(tree: Any) -> Underway:
    said = tree["stood"]
    stood = Stood(bool(said["target"]), tuple(map(str, said["units"])), bool(said["opened"]), bool(said["installed"]))
    return Underway(str(tree["verb"]), str(tree["home"]), str(tree["place"]), stood, str(tree.get("source", "")))


def write(agent: Agent, what: Underway) -> None:
    """Write down what is about to be done. Raises OSError, Failure."""
    text = json.dumps({"version": _VERSION, "boot": bootid.text(), **asdict(what)})
    with _directory() as fd:
        files.write_beneath(fd, f"{agent.name}.json", text.encode() + b"\n", mode=0o600, owner=_ROOT)


def forget(agent: Agent) -> None:
    """It ended. Raises OSError."""
    with _directory() as fd, suppress(FileNotFoundError):
        os.unlink(f"{agent.name}.json", dir_fd=fd)


@contextmanager
def _directory() -> Iterator[int]:
    with files.opened(files.open_dir(standing.RUN.parent)) as above:
        path = PurePosixPath(standing.RUN.name, _DIRECTORY)
        fd = files.make_dirs(above, path, mode=0o700, owner=_ROOT, parents=(0o755, _ROOT))
    with files.opened(fd):
        ground.refuse_others(fd, standing.RUN / _DIRECTORY)
        yield fd
