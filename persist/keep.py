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
    """What a tidy does, in this order; `ballast`: whether there is one. The newest home is never in it, nor `spared`.

    Deletes come first, then the ballast, then what only a lack of room costs: each of those looks for itself.
    """
    whole = [entry for entry in oldest_first if entry.home and not entry.deleting]
    newest = {entry.name for entry in whole[-1:]} | {entry.name for entry in whole if entry.name in spared}
    among = _newest(whole, names.keep.homes)
    deletes = [
        Delete(entry, why)
        for entry in oldest_first
        if entry.name not in newest and (why := _reason(entry, among, names.keep, now))
    ]
    gone = newest | {delete.entry.name for delete in deletes}
    spare = [entry for entry in whole if entry.name not in gone]
    make: tuple[Action, ...] = () if ballast else (MakeBallast(names.ballast), *map(GiveWay, spare))
    return (*deletes, *make, *(Relieve(entry, names.keep.free) for entry in spare))


def _newest(whole: Sequence[Aside], homes: int) -> set[bytes]:
    """The names of the newest homes. What resets set aside in one boot counts as one: no agent's pushes others' out."""
    among, counted = set[bytes](), set[tuple[str, bytes]]()
    for entry in reversed(whole):
        one = (parsed_key(entry.name)[1], b"") if places.RESET in entry.name else ("", entry.name)
        if one in counted or len(counted) < homes:
            counted.add(one)
            among.add(entry.name)
    return among


def _reason(entry: Aside, among: set[bytes], keep: KeepHomes, now: datetime) -> str:
    """Why an entry goes; empty when it stays. `among`: the names of the newest homes."""
    if entry.deleting:
        return "an earlier run began it"
    if entry.home and entry.name not in among:
        return f"not among the newest {keep.homes}"
    if now - entry.time >= timedelta(days=keep.days):
        return f"set aside {(now - entry.time).days} days ago"
    return ""
