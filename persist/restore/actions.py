"""What was found and what a restore will do, as values; what is done is printed as one line each."""

from dataclasses import dataclass
from datetime import UTC
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from persist.outgoing import DIRECTORY as OLD
from town.failure import Failure
from town.spec import Persist
from town.terminal import shown

if TYPE_CHECKING:
    from persist.fetch import Held

# In the place of a directory; then of a file, where `differs` is another one than what is kept.
Target = Literal["missing", "empty", "filled", "bound", "in place", "to be copied", "to be kept", "differs"]


Credentials = Literal["live", "newest", "asked"]


class HidesData(Failure):
    """The home already holds data where a directory is to be bound: a mount would hide it. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class FoundDirectory:
    """One declared path as it is now: is something kept of it apart from the home, and what is in its place there.

    `aside`: the subvolume of a home set aside that has what is missing, 0: none. `unsure`: what is there came from one,
    and the store was not asked yet whether it has something newer.
    """

    entry: Persist
    source: bool
    target: Target
    aside: int = 0
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an interrupted restore left: a hidden name in agents_dir, the home, or under persist_dir."""

    place: Literal["agents", "home", "persisted", "above persisted"]
    directory: Path
    name: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A fetch that was cut off and can be gone on with: of which path, of what (`Held.key`), in which staging."""

    path: PurePosixPath
    key: str
    stage: str


@dataclass(frozen=True, slots=True)
class Found:
    """What one agent has on this machine. `subvolumes`: homes lie on btrfs; `persisted`: its directory exists.

    `old`: a home is there that is of an earlier boot, where nothing rolls back; `home` is false then.
    """

    home: bool
    subvolumes: bool
    persisted: bool
    directories: tuple[FoundDirectory, ...]
    leftovers: tuple[Leftover, ...] = ()
    begun: tuple[Begun, ...] = ()
    old: bool = False


@dataclass(frozen=True, slots=True)
class Remote:
    """The store's answer: the agent's newest snapshot, None when it has none (first use), or why there is no answer.

    `over`: a person named the snapshot, so it also takes the place of what is there. `credentials`: that too.
    `later`: it is not asked now; what only it can say waits.
    """

    held: "Held | None" = None
    failure: Failure | None = None
    over: bool = False
    credentials: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True)
class RemoveLeftover:
    """Remove what an interrupted restore left. It was never shown under its own name."""

    leftover: Leftover

    def __str__(self) -> str:
        return f"remove  {shown(str(self.leftover.directory / self.leftover.name))} (an interrupted restore left it)"


@dataclass(frozen=True, slots=True)
class SetAside:
    """Set the home of an earlier boot aside: one rename. Only where nothing rolls back."""

    path: Path

    def __str__(self) -> str:
        return f"move    {shown(str(self.path))} (of an earlier boot) into {shown(str(self.path.parent / OLD))}"


@dataclass(frozen=True, slots=True)
class MakeHome:
    """An empty home, the agent's, 0700; on btrfs a subvolume."""

    path: Path
    subvolume: bool

    def __str__(self) -> str:
        return f"make    {shown(str(self.path))} (the home{', a subvolume' if self.subvolume else ''})"


@dataclass(frozen=True, slots=True)
class MakePersisted:
    """The agent's directory under persist_dir: root's, 0711, so that the agent cannot swap what is bound."""

    path: Path

    def __str__(self) -> str:
        return f"make    {shown(str(self.path))} (root's, holds what is bound)"


@dataclass(frozen=True, slots=True)
class MakeSource:
    """An empty directory under persist_dir, the agent's, 0700."""

    entry: Persist
    path: Path
    why: str

    def __str__(self) -> str:
        return f"make    {shown(str(self.path))} (empty: {self.why})"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """An empty directory in the home itself, the agent's, 0700."""

    entry: Persist
    path: Path
    why: str

    def __str__(self) -> str:
        return f"make    {shown(str(self.path))} (empty: {self.why})"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring `entry` back from the store, beside its place; it appears at `path` when it is whole and verified.

    `over`: something is there, which is set aside in the same moment. `credentials`: those of the state come where they
    were asked for, or where it is the newest state and none is live on this machine; else the live ones stay.
    """

    entry: Persist
    path: Path
    held: "Held"
    over: bool = False
    credentials: Credentials = "live"

    def __str__(self) -> str:
        aside = " (what is there is set aside)" if self.over else ""
        return f"fetch   {shown(str(self.path))} from {origin(self.held)}{aside}"


@dataclass(frozen=True, slots=True)
class Carry:
    """Bring a directory of the home over from a home set aside: a snapshot of the subvolume that it is there."""

    entry: Persist
    path: Path
    aside: int

    def __str__(self) -> str:
        return f"keep    {shown(str(self.path))} (from the home set aside, subvolume {self.aside})"


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the store whether it has a newer state of what was brought over; if so, fetch that over it.

    Its answer, or why there is none, where another directory needed it already.
    """

    entry: Persist
    path: Path
    held: "Held | None" = None
    failure: Failure | None = None

    def __str__(self) -> str:
        return f"ask     the store for a newer state of {shown(str(self.path))}"


@dataclass(frozen=True, slots=True)
class Bind:
    """Make `source` appear at `target`."""

    entry: Persist
    source: Path
    target: Path

    def __str__(self) -> str:
        return f"bind    {shown(str(self.source))} -> {shown(str(self.target))}"


@dataclass(frozen=True, slots=True)
class CopyIn:
    """Copy what is kept of a declared file into the home, whole. `over`: in the place of what is there."""

    entry: Persist
    source: Path
    target: Path
    over: bool = False

    def __str__(self) -> str:
        return f"copy    {shown(str(self.source / self.target.name))} -> {shown(str(self.target))}"


@dataclass(frozen=True, slots=True)
class CopyOut:
    """Keep what the home has of a declared file: nothing is kept of it yet, or another takes its place."""

    entry: Persist
    source: Path
    target: Path

    def __str__(self) -> str:
        return f"keep    {shown(str(self.target))} -> {shown(str(self.source / self.target.name))}"


@dataclass(frozen=True, slots=True)
class Waits:
    """A directory of which only the store can say what it holds, which is not asked now."""

    entry: Persist

    def __str__(self) -> str:
        return f"wait    {shown(str(self.entry.path))} (it comes from the store)"


@dataclass(frozen=True, slots=True)
class Blocked:
    """A directory that cannot come back now. Where the entry is not required this is a warning."""

    entry: Persist
    failure: Failure

    def __str__(self) -> str:
        return f"cannot  {shown(str(self.entry.path))}: {self.failure.what}"


OfEntry = MakeSource | MakeDirectory | Fetch | Carry | Ask | Bind | CopyIn | CopyOut | Waits | Blocked
Action = RemoveLeftover | SetAside | MakeHome | MakePersisted | OfEntry
Late = Fetch | Ask | Blocked | Waits  # what a later restore may go on with


def origin(held: "Held") -> str:
    """`SNAPSHOT from HOST TIME`, safe to print: a store wrote the host's name."""
    return f"{shown(held.snapshot)} from {shown(held.host)} {when(held)}"


def when(held: "Held") -> str:
    """When the snapshot was made, in UTC: `2026-11-21T10:15:00Z`."""
    return held.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
