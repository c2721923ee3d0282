"""What `persist status` knows: values, and how bad each is."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from persist.proof import Rollback, Trouble
from persist.quota import Standing
from persist.restore.origins import Origin
from town.failure import DONE
from town.spec import Agent, Persist

State = Literal["bound", "copied", "in the home", "missing", "not bound", "not copied", "unknown"]


class Measure(NamedTuple):
    """How much lies somewhere: apparent bytes and files; not `whole` when the time for it was over: at least so much.

    `of`: `now`, or `last sync` where a look at it all would have taken too long.
    """

    bytes: int
    files: int
    whole: bool = True
    of: Literal["now", "last sync"] = "now"


class Degraded(NamedTuple):
    """A path whose copy on this machine is used without the store's word: since when (as recorded), and why."""

    path: str
    since: str
    why: str


class Unit(NamedTuple):
    """A unit of systemd's as it is; `agent` is empty for those of the town."""

    name: str
    active: str  # active, activating, inactive, failed
    result: str
    agent: str = ""

    @property
    def failed(self) -> bool:
        return self.active == "failed"


class Directory(NamedTuple):
    """One declared path and where its data is; `since` when it is on this machine in this form."""

    entry: Persist
    state: State
    origin: Origin | None
    since: datetime | None = None
    size: Measure | None = None


class Thing(NamedTuple):
    """Something that an agent left which is not in the spec any more; safe to print. `next`: what takes it away."""

    kind: str
    where: str
    next: str
    size: Measure | None = None
    entries: int | None = None


class Gone(NamedTuple):
    """An agent that is not in the spec any more, and what there is of it."""

    name: str
    things: tuple[Thing, ...]


@dataclass(slots=True)
class Report:
    """What is known of one agent."""

    agent: Agent
    home: bool = False
    owner: int | None = None  # uid of whatever has the home's name, also when it is no home of the agent's
    looked: bool = False
    subvolume: bool | None = None
    since: datetime | None = None
    directories: list[Directory] = field(default_factory=list)
    synced: dict[str, object] | None = None
    lost: Measure | None = None
    degraded: tuple[Degraded, ...] = ()
    quota: tuple[Standing, ...] = ()
    units: tuple[Unit, ...] = ()
    swept: dict[str, Any] | None = None
    account: Literal["open", "closed"] | None = None  # None: no rule closes accounts on this machine
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def level(self) -> int:
        return max((trouble.level for trouble in self.troubles), default=DONE)


@dataclass(slots=True)
class Whole:
    """What is known of the town itself: its rollback, and what is wrong with that, with the ballast, with the store."""

    rollback: Rollback
    btrfs: bool = False  # whether there is a rollback to prove
    has_store: bool = False
    doubt: Trouble | None = None
    ballast: Trouble | None = None
    store: Trouble | None = None
    units: tuple[Unit, ...] = ()
    unit_troubles: tuple[Trouble, ...] = ()
    gone: tuple[Gone, ...] = ()

    @property
    def troubles(self) -> Iterator[Trouble]:
        for trouble in (self.doubt, self.ballast, self.store, *self.unit_troubles):
            if trouble is not None:
                yield trouble

    @property
    def level(self) -> int:
        return max((trouble.level for trouble in self.troubles), default=DONE)
