"""What a restore will do, as values: decided from the spec and from what was found, printed as one line each.

The order in a plan is the promise: leftovers go first, a directory is whole before it is bound, so no program ever
sees a half-filled one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from persist import places
from town.failure import Failure
from town.spec import Agent, Persist, Spec
from town.terminal import shell_word, shown

if TYPE_CHECKING:
    from persist.fetch import Held

Target = Literal["missing", "empty", "filled", "bound"]


class HidesData(Failure):
    """The home already holds data where a directory is to be bound: a mount would hide it. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class FoundDirectory:
    """One declared path as it is now: does its data lie under persist_dir, and what is in its place in the home."""

    entry: Persist
    source: bool
    target: Target


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
    """What one agent has on this machine. `subvolumes`: homes lie on btrfs; `persisted`: its directory exists."""

    home: bool
    subvolumes: bool
    persisted: bool
    directories: tuple[FoundDirectory, ...]
    leftovers: tuple[Leftover, ...] = ()
    begun: tuple[Begun, ...] = ()


@dataclass(frozen=True, slots=True)
class Remote:
    """The store's answer: the agent's newest snapshot, None when it has none (first use), or why there is no answer.

    `over`: a person named the snapshot, so it also takes the place of what is there.
    """

    held: "Held | None" = None
    failure: Failure | None = None
    over: bool = False


@dataclass(frozen=True, slots=True)
class RemoveLeftover:
    """Remove what an interrupted restore left. It was never shown under its own name."""

    leftover: Leftover

    def __str__(self) -> str:
        return f"remove  {shown(str(self.leftover.directory / self.leftover.name))} (an interrupted restore left it)"


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

    `over`: something is there, which is set aside in the same moment.
    """

    entry: Persist
    path: Path
    held: "Held"
    over: bool = False

    def __str__(self) -> str:
        aside = " (what is there is set aside)" if self.over else ""
        return f"fetch   {shown(str(self.path))} from {origin(self.held)}{aside}"


@dataclass(frozen=True, slots=True)
class Bind:
    """Make `source` appear at `target`."""

    entry: Persist
    source: Path
    target: Path

    def __str__(self) -> str:
        return f"bind    {shown(str(self.source))} -> {shown(str(self.target))}"


@dataclass(frozen=True, slots=True)
class Blocked:
    """A directory that cannot come back now. Where the entry is not required this is a warning."""

    entry: Persist
    failure: Failure

    def __str__(self) -> str:
        return f"cannot  {shown(str(self.entry.path))}: {self.failure.what}"


Action = RemoveLeftover | MakeHome | MakePersisted | MakeSource | MakeDirectory | Fetch | Bind | Blocked


def origin(held: "Held") -> str:
    """`SNAPSHOT from HOST TIME`, safe to print: a store wrote the host's name."""
    return f"{shown(held.snapshot)} from {shown(held.host)} {when(held)}"


def when(held: "Held") -> str:
    """When the snapshot was made, in UTC: `2026-11-21T10:15:00Z`."""
    return held.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_store(entry: Persist) -> bool:
    """Whether a missing directory is asked of the store: caches and credentials never are."""
    return entry.synced and entry.class_ == "data"


def needs_store(spec: Spec, found: Found, *, over: bool = False) -> bool:
    """Whether the plan depends on the store: something that it may hold is not on this machine, or to be replaced."""
    wanted = (there.entry for there in found.directories if over or not _present(there))
    return spec.town.store is not None and any(map(from_store, wanted))


def restore(spec: Spec, agent: Agent, found: Found, remote: Remote) -> tuple[Action, ...]:
    """Everything that is missing, in order; nothing when nothing is. Raises HidesData."""
    return tuple(_actions(spec, agent, found, remote))


def _actions(spec: Spec, agent: Agent, found: Found, remote: Remote) -> Iterator[Action]:
    making = list(_making(spec, agent, found, remote))
    going_on = {begun.stage for begun in found.begun if any(_goes_on(begun, action) for action in making)}
    yield from (RemoveLeftover(left) for left in found.leftovers if left.name not in going_on)
    yield from making


def _goes_on(begun: Begun, action: Action) -> bool:
    """Whether an action goes on with what was begun, or will when the store answers."""
    if isinstance(action, Fetch):
        return action.entry.path == begun.path and action.held.key == begun.key
    return isinstance(action, Blocked) and action.entry.path == begun.path


def _making(spec: Spec, agent: Agent, found: Found, remote: Remote) -> Iterator[Action]:
    if not found.home:
        yield MakeHome(spec.home(agent), found.subvolumes)
    if not found.persisted and any(there.entry.bound for there in found.directories):
        yield MakePersisted(places.persisted(spec, agent))
    for there in found.directories:
        directory = _bound if there.entry.bound else _stored
        yield from directory(spec, agent, there, remote)


def _present(there: FoundDirectory) -> bool:
    return there.source if there.entry.bound else there.target != "missing"


def _bound(spec: Spec, agent: Agent, there: FoundDirectory, remote: Remote) -> Iterator[Action]:
    entry, source, target = there.entry, places.source(spec, agent, there.entry), spec.home(agent) / there.entry.path
    over = there.source and _over(entry, remote)
    if there.target == "bound" and not over:
        return
    if there.target == "filled":
        yield _hides(entry, target)
        return
    if not there.source or over:
        came = _came(entry, source, remote, over=over)
        yield MakeSource(entry, source, came) if isinstance(came, str) else came
        if isinstance(came, Blocked):
            return
    yield Bind(entry, source, target)


def _stored(spec: Spec, agent: Agent, there: FoundDirectory, remote: Remote) -> Iterator[Action]:
    over = there.target != "missing" and _over(there.entry, remote)
    if there.target == "missing" or over:
        path = spec.home(agent) / there.entry.path
        came = _came(there.entry, path, remote, over=over)
        yield MakeDirectory(there.entry, path, came) if isinstance(came, str) else came


def _over(entry: Persist, remote: Remote) -> bool:
    """Whether what is there gives way: to a snapshot that was named, and holds it."""
    return remote.over and from_store(entry) and remote.held is not None and entry.path in remote.held.paths


def _came(entry: Persist, path: Path, remote: Remote, *, over: bool) -> Fetch | Blocked | str:
    """How a missing directory comes: from the store, not now, or empty (then: why)."""
    if not from_store(entry):
        return "first use" if entry.class_ == "data" else f"first use, class {entry.class_}"
    if remote.failure is not None:
        return Blocked(entry, remote.failure)
    if remote.held is None:
        return "first use: the store has nothing of this agent"
    if entry.path not in remote.held.paths:
        return f"first use: not in {origin(remote.held)}"
    return Fetch(entry, path, remote.held, over)


def _hides(entry: Persist, target: Path) -> Blocked:
    name = shell_word(str(target))
    failure = HidesData(
        f"{shown(str(target))} already holds data in the home, which a mount would hide",
        hint=f"mv {name} {shell_word(f'{target}.before')}, restore, then copy back what belongs there",
    )
    if entry.required:
        raise failure
    return Blocked(entry, failure)
