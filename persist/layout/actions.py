"""What a town needs on its disks, as values: each action prints as one line, and `doing` carries it out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from town.failure import Failure
from town.spec import Btrfs
from town.terminal import shown

ROOT = (0, 0)
CLOSED, PASSED_THROUGH = 0o700, 0o711
# The beginning of a cure, for what a plan that adopts takes over.
ADOPTING = "where something else made this layout: persist init --adopt --dry-run"


class NotAsItShouldBe(Failure):
    """Something stands where the layout belongs, and is something else. A person decides what becomes of it.

    Carries everything that was found, each with its own cure.
    """

    def __init__(self, wrong: tuple[tuple[str, str], ...]) -> None:
        assert wrong
        super().__init__("; ".join(what for what, _ in wrong), hint="; ".join(cure for _, cure in wrong if cure))
        self.wrong = wrong

    @property
    def each(self) -> Iterator[Failure]:
        """One failure for each thing that is wrong."""
        return (Failure(what, hint=cure) for what, cure in self.wrong)


@dataclass(frozen=True, slots=True)
class MakeBlank:
    """Make the empty subvolume that every boot starts from."""

    name: str

    def __str__(self) -> str:
        return f"make      {shown(self.name)}, a subvolume, empty, root:root 0755, read-only"


@dataclass(frozen=True, slots=True)
class SetBlankMode:
    """Give the blank subvolume, which is root's and empty, the group and mode that the hook asks for."""

    name: str
    mode: int  # that it has now

    def __str__(self) -> str:
        return f"set       {shown(self.name)} root:root 0755 (it is {self.mode:04o})"


@dataclass(frozen=True, slots=True)
class SetReadOnly:
    """Make the blank subvolume read-only: it is empty, and should stay so."""

    name: str

    def __str__(self) -> str:
        return f"set       {shown(self.name)} read-only"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Make the subvolume that holds the homes, as a snapshot of blank."""

    blank: str
    name: str

    def __str__(self) -> str:
        return f"snapshot  {shown(self.blank)} as {shown(self.name)}"


@dataclass(frozen=True, slots=True)
class MakeAtTop:
    """Make a directory of root's alone at the top level of the town's filesystem."""

    name: str

    def __str__(self) -> str:
        return f"make      {shown(self.name)}, a directory at the top level, root:root 0700"


@dataclass(frozen=True, slots=True)
class CloseAtTop:
    """Close a directory of root's at the top level to everybody else."""

    name: str
    mode: int  # that it has now

    def __str__(self) -> str:
        return f"set       {shown(self.name)} root:root 0700 (it is {self.mode:04o})"


@dataclass(frozen=True, slots=True)
class MakeBallast:
    """Make what the hook may destroy when metadata is full."""

    names: Btrfs

    def __str__(self) -> str:
        return f"make      {shown(self.names.ballast)}, a subvolume of 16 MiB of metadata, for a disk that is full"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a directory of root's on this machine; parents that are missing get root and 0755."""

    path: Path
    mode: int

    def __str__(self) -> str:
        return f"make      {shown(str(self.path))}, a directory, root:root {self.mode:04o}"


@dataclass(frozen=True, slots=True)
class Take:
    """Give root a directory on the way to an agent's data, closed to everybody else until all below it is settled."""

    path: Path  # at or below persist_dir/agents
    owner: int  # the uid that it has now: root's, or that of an agent of the spec
    mode: int  # that it has now

    def __str__(self) -> str:
        whose = "others may write to it" if self.owner == 0 else f"it is uid {self.owner}'s"
        return f"take      {shown(str(self.path))} for root, 0700 ({whose}, {self.mode:04o}): no data below it changes"


@dataclass(frozen=True, slots=True)
class Close:
    """Close an agent's declared directory to everybody but the agent."""

    path: Path
    owner: int
    mode: int  # that it has now

    def __str__(self) -> str:
        closed = self.mode & CLOSED
        return (
            f"close     {shown(str(self.path))} to others than uid {self.owner}: {closed:04o} (it is {self.mode:04o})"
        )


@dataclass(frozen=True, slots=True)
class LetPass:
    """Let others pass through a directory of root's: what they may not see below it is closed by then."""

    path: Path

    def __str__(self) -> str:
        return f"set       {shown(str(self.path))} root:root {PASSED_THROUGH:04o}"


OnDisk = MakeBlank | SetBlankMode | SetReadOnly | Snapshot | MakeAtTop | CloseAtTop | MakeBallast
Adoption = Take | Close | LetPass
Action = OnDisk | MakeDirectory | Adoption


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, in order; what needs attention and stops nothing (what, cure); what a person should know."""

    actions: tuple[Action, ...]
    warnings: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Findings:
    """A plan while it grows, and what stands in the way: (what, cure)."""

    actions: list[Action] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plan(self) -> Plan:
        """The plan. Raises NotAsItShouldBe with everything that stands in the way."""
        if self.wrong:
            raise NotAsItShouldBe(tuple(self.wrong))
        return Plan(tuple(self.actions), tuple(self.warnings), tuple(self.notes))
