"""What a sync is told to do, and what it says that it did."""

from datetime import UTC, datetime
from typing import NamedTuple

from town import terminal
from town.failure import DONE
from town.terminal import shown


class Options(NamedTuple):
    """What the command line says. `take_over`: go on over what another machine wrote; `limited`: --limit-rate."""

    dry_run: bool = False
    accept_loss: bool = False
    take_over: bool = False
    limited: bool = False


class Summary(NamedTuple):
    """What one sync of one agent did. `new_bytes` went to the store; `snapshot` is empty when it holds none yet.

    `read_files` and `read_bytes`: what was new or had changed; `requests` went to the store in `seconds`.
    """

    agent: str
    time: datetime
    snapshot: str
    files: int
    bytes: int
    new_bytes: int
    committed: bool
    would_commit: bool = False  # a dry run, after which a sync would commit
    stopped: tuple[str, ...] = ()
    status: int = DONE
    read_files: int = 0
    read_bytes: int = 0
    packs: int = 0
    requests: int = 0
    store: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        differs = self.committed or self.would_commit
        if not self.snapshot and not differs:
            return f"{self.agent}: nothing to sync yet"
        held = f"{terminal.counted(self.files, 'file')}, {terminal.size(self.bytes)}"
        when = self.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"{self.agent}: {held}; {self._new(differs)}; snapshot {self.snapshot or '(none yet)'} {when}"

    def _new(self, differs: bool) -> str:
        if not differs:
            return "nothing new"
        read = f"{terminal.counted(self.read_files, 'file')}, {terminal.size(self.read_bytes)} read"
        sent = f"{terminal.counted(self.packs, 'pack')}, {terminal.counted(self.requests, 'request')}"
        return f"{terminal.size(self.new_bytes)} new ({read}; {sent}) in {shown(self.store)}"
