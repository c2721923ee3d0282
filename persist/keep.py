"""Which old homes stay: the plan of `persist tidy` as values. Nothing here touches a disk or a clock."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from persist import places
from persist.aside import Aside
from persist.kept import parsed_key
from town.spec import Btrfs, KeepHomes
from town.terminal import shown


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an entry of @agents-old."""

    entry: Aside
    why: str

    def __str__(self) -> str:
        return f"delete    {self.entry}: {self.why}"


@dataclass(frozen=True, slots=True)
class MakeBallast:
    """Make the ballast, which a rollback destroyed or nobody made yet."""

    name: str

    def __str__(self) -> str:
        return f"make      {shown(self.name)}, room for a rollback on a full disk"


@dataclass(frozen=True, slots=True)
class GiveWay:
    """Delete a home that would stay, if the ballast finds no room otherwise."""

    entry: Aside

    def __str__(self) -> str:
        return f"delete    {self.entry}: if the ballast has no room otherwise"


@dataclass(frozen=True, slots=True)
class Relieve:
    """Delete a home that would stay, if less than `free` of the filesystem is free then."""

    entry: Aside
    free: str

    def __str__(self) -> str:
        return f"delete    {self.entry}: if less than {self.free} is free then"


Action = Delete | MakeBallast | GiveWay | Relieve


def plan(
    oldest_first: Sequence[Aside], names: Btrfs, now: datetime, *, ballast: bool, spared: Container[bytes] = ()
) -> tuple[Action, ...]:
    """What a tidy does, in this order; `ballast`: whether there is one. No home of `newest`'s is in it, nor `spared`.

    Deletes come first, then the ballast, then what only a lack of room costs: each of those looks for itself.
    """
    whole = [entry for entry in oldest_first if entry.home and not entry.deleting]
    stays = newest([entry.name for entry in whole]) | {entry.name for entry in whole if entry.name in spared}
    counted = among([entry.name for entry in whole], names.keep.homes)
    deletes = [
        Delete(entry, why)
        for entry in oldest_first
        if entry.name not in stays and (why := _reason(entry, counted, names.keep, now))
    ]
    gone = stays | {delete.entry.name for delete in deletes}
    spare = [entry for entry in whole if entry.name not in gone]
    make: tuple[Action, ...] = () if ballast else (MakeBallast(names.ballast), *map(GiveWay, spare))
    return (*deletes, *make, *(Relieve(entry, names.keep.free) for entry in spare))


def newest(oldest_first: Sequence[bytes]) -> set[bytes]:
    """What always stays, of the names of homes: the newest, and the newest that a boot set aside.

    What a reset set aside is one agent's: it is no reason to let the last home of every other agent go.
    """
    boots = [name for name in oldest_first if not is_reset(name)]
    return {*oldest_first[-1:], *boots[-1:]}


def among(oldest_first: Sequence[bytes], homes: int) -> set[bytes]:
    """The newest `homes` of them. What resets set aside in one boot counts as one: no agent's pushes others' out."""
    found, counted = set[bytes](), set[tuple[str, bytes]]()
    for name in reversed(oldest_first):
        one = (parsed_key(name)[1], b"") if is_reset(name) else ("", name)
        if one in counted or len(counted) < homes:
            counted.add(one)
            found.add(name)
    return found


def is_reset(name: bytes) -> bool:
    """Whether `persist reset` set that aside, and no boot."""
    return places.RESET in name


def _reason(entry: Aside, counted: set[bytes], keep: KeepHomes, now: datetime) -> str:
    """Why an entry goes; empty when it stays. `counted`: the names of the newest homes."""
    if entry.deleting:
        return "an earlier run began it"
    if entry.home and entry.name not in counted:
        return f"not among the newest {keep.homes}"
    if now - entry.time >= timedelta(days=keep.days):
        return f"set aside {(now - entry.time).days} days ago"
    return ""
