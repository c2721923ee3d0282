"""How far a restore of one declared path came, so that the next goes on there and not from the beginning.

Beside the plan, in STATE/restore (root's, 0700), lie a claim (which state, which staging), written when the plan is
whole; a mark, the last row of the plan whose frame was written, for this boot; and sometimes a checkpoint, a row before
which everything is on the disk. After a kill the mark counts, for what was written stays in the kernel; after a power
cut only the checkpoint does, so a half-written file never counts as done. What lies between the two is read back before
a restore goes on (`persist.fill.left`): the disk may have been torn away without a boot.
"""

import hashlib
import json
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from town import bootid, files, kernel
from town.failure import Failure
from town.spec import Agent, Spec

VERSION = 1  # of the plan and of what lies beside it: another one is not gone on with
EVERY_BYTES = 1 << 30  # written, after which there is a checkpoint
EVERY_SECONDS = 30.0
_MARK = struct.Struct("=36sq")
_LIMIT = 1 << 20
_STAGE = re.compile(r"\.nuketown-[0-9a-f]{12}")
_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A restore that was begun: of which path, of what (`key`), in which staging, and what the plan holds."""

    path: PurePosixPath
    key: str  # names the state, how its packs are to be read, and the owner
    stage: str  # the hidden name
    token: str  # lies in the staging too, where only root can put it
    files: int
    directories: int
    bytes: int


class Ledger:
    """The files beside a staging. One process at a time: who restores an agent holds its lock."""

    def __init__(self, spec: Spec, agent: Agent, path: PurePosixPath) -> None:
        self._where = spec.state_dir / "restore"
        self._stem = _stem(agent, path)
        self._path = path
        self._mark: int | None = None
        self._since = (0, time.monotonic())

    @property
    def plan(self) -> Path:
        """Where the plan lies, or is to be made."""
        return self._where / f"{self._stem}.plan"

    def claim(self) -> Claim | None:
        """What was begun and can be gone on with; None where nothing was, or nobody knows how far it came."""
        claim = _read(self._where / f"{self._stem}.claim")
        if claim is None or claim.path != self._path or self.after() is None or not self.plan.exists():
            return None
        return claim

    def begin(self, claim: Claim) -> None:
        """The plan is whole: from now on this can be gone on with."""
        self._write("claim", json.dumps(asdict(claim) | {"path": str(claim.path), "version": VERSION}).encode())
        self.go_on(0)

    def go_on(self, after: int) -> None:
        """Note from here on, for this boot, that everything up to the row `after` was written."""
        path = self._where / f"{self._stem}.mark"
        self._mark = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.pwrite(self._mark, _MARK.pack(_boot(), after), 0)
        self._since = (0, time.monotonic())

    def after(self) -> int | None:
        """The row up to which everything is written; None when nobody knows."""
        with suppress(Failure, ValueError, struct.error):
            boot, after = _MARK.unpack(files.read_bounded(self._where / f"{self._stem}.mark", _LIMIT))
            if boot == _boot():
                return int(after)
        return self._checkpointed()

    def kept(self) -> int:
        """The row up to which everything is on the disk, whatever became of the mount; 0 when nobody knows."""
        return self._checkpointed() or 0

    def _checkpointed(self) -> int | None:
        with suppress(Failure, ValueError):
            return int(files.read_bounded(self._where / f"{self._stem}.disk", _LIMIT))
        return None

    def note(self, after: int, written: int, staging: int) -> None:
        """Everything up to the row `after` was written, `written` bytes since the last call; `staging` is open."""
        assert self._mark is not None
        os.pwrite(self._mark, _MARK.pack(_boot(), after), 0)
        bytes_, began = self._since
        self._since = (bytes_ + written, began)
        if bytes_ + written >= EVERY_BYTES or time.monotonic() - began >= EVERY_SECONDS:
            self._checkpoint(after, staging)

    def _checkpoint(self, after: int, staging: int) -> None:
        # The plan and the files first: what the checkpoint says must be so whenever it can be read.
        with files.opened(os.open(self.plan, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            os.fsync(fd)
        kernel.syncfs(staging)
        self._write("disk", str(after).encode())
        self._since = (0, time.monotonic())

    def close(self) -> None:
        """Keep everything for the next run."""
        if self._mark is not None:
            os.close(self._mark)
            self._mark = None

    def clear(self) -> None:
        """Forget all of it. The claim first: without it the rest counts for nothing."""
        self.close()
        for kind in ("claim", "disk", "mark", "plan"):
            with suppress(FileNotFoundError):
                (self._where / f"{self._stem}.{kind}").unlink()

    def _write(self, kind: str, data: bytes) -> None:
        with files.opened(files.open_dir(self._where)) as directory:
            files.write_beneath(directory, f"{self._stem}.{kind}", data, mode=0o600)


def begun(spec: Spec, agent: Agent) -> tuple[Claim, ...]:
    """Every restore of the agent that was begun and not ended. Never raises: what cannot be read was not begun."""
    found = []
    for path in _claims(spec, agent):
        claim = _read(path)
        if claim is not None and Ledger(spec, agent, claim.path).claim() == claim:
            found.append(claim)
    return tuple(found)


def sweep(spec: Spec, agent: Agent, keep: Iterable[PurePosixPath]) -> None:
    """Remove what is left of restores of other paths than `keep`: their stagings are gone."""
    kept = {_stem(agent, path) for path in keep}
    where = spec.state_dir / "restore"
    with suppress(FileNotFoundError):
        for name in os.listdir(where):
            stem, _, kind = name.rpartition(".")
            ours = stem.rpartition(".")[0] == agent.name and kind in ("claim", "disk", "mark", "plan")
            if ours and stem not in kept:
                (where / name).unlink()


def _stem(agent: Agent, path: PurePosixPath) -> str:
    return f"{agent.name}.{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def _claims(spec: Spec, agent: Agent) -> Iterator[Path]:
    with suppress(OSError):
        for name in sorted(os.listdir(spec.state_dir / "restore")):
            if name.endswith(".claim") and name.removesuffix(".claim").rpartition(".")[0] == agent.name:
                yield spec.state_dir / "restore" / name


def _read(path: Path) -> Claim | None:
    try:
        tree: Any = json.loads(files.read_bounded(path, _LIMIT))
        if tree.pop("version") != VERSION or not _STAGE.fullmatch(tree["stage"]) or not _TOKEN.fullmatch(tree["token"]):
            return None
        return Claim(**(tree | {"path": PurePosixPath(tree["path"])}))
    except (Failure, ValueError, KeyError, TypeError, AttributeError):
        return None


def _boot() -> bytes:
    return bootid.text().encode()
