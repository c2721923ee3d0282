"""What is done for a quota: values that say what they will do, and the one place that does it."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, assert_never

from town import quotas
from town.terminal import counted, shown


class Disk(NamedTuple):
    """A btrfs that holds something of an agent's: its place, a descriptor on it, the agent's subvolumes right there.

    `known`: what is on record as the agent's there; None: nothing is.
    """

    path: Path
    fd: int
    tops: tuple[int, ...]
    name: str = ""
    known: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class TurnOn:
    """Turn simple quotas on."""

    disk: Disk

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: simple ones turned on (from now on only Linux 6.7 and later mounts it)"


@dataclass(frozen=True, slots=True)
class Make:
    """Make the agent's group."""

    disk: Disk
    group: int

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: a group {_named(self.group)}"


@dataclass(frozen=True, slots=True)
class Limit:
    """Say how much the group may hold; None: as much as there is."""

    disk: Disk
    group: int
    most: int | None
    why: str

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: {self.why}"


@dataclass(frozen=True, slots=True)
class Join:
    """Count what these subvolumes hold."""

    disk: Disk
    group: int
    subvolumes: tuple[int, ...]

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: {counted(len(self.subvolumes), 'subvolume')} more counted"


@dataclass(frozen=True, slots=True)
class Leave:
    """Count what these subvolumes hold no more: they were set aside."""

    disk: Disk
    group: int
    subvolumes: tuple[int, ...]

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: {counted(len(self.subvolumes), 'subvolume')} no more counted"


@dataclass(frozen=True, slots=True)
class Expel:
    """Count what these subvolumes hold no more: others put them there, or nobody can say who did."""

    disk: Disk
    group: int
    subvolumes: tuple[int, ...]

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: {counted(len(self.subvolumes), 'subvolume')} not its own no more counted"


Action = TurnOn | Make | Limit | Join | Leave | Expel


def do(action: Action) -> None:
    """Do it. Raises QuotaFailed."""
    match action:
        case TurnOn(disk):
            quotas.turn_on(disk.fd)
        case Make(disk, group):
            quotas.make(disk.fd, group)
        case Limit(disk, group, most):
            quotas.limit(disk.fd, group, most)
        case Join(disk, group, numbers):
            for number in numbers:
                quotas.join(disk.fd, number, group)
        case Leave(disk, group, numbers) | Expel(disk, group, numbers):
            for number in numbers:
                quotas.leave(disk.fd, number, group)
        case _:
            assert_never(action)


def _at(disk: Disk) -> str:
    return shown(str(disk.path))


def _named(group: int) -> str:
    return f"{group >> 48}/{group & ((1 << 48) - 1)}"
