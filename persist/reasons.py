"""Why a kept home is kept, and how long: in words, by the rules that `persist tidy` goes by."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from persist import aside, keep, outgoing, outgone, shelves, spared
from persist.kept import Kept
from persist.shelves import Shelves
from town.failure import Failure
from town.spec import KeepHomes, Spec
from town.terminal import shown

_STAYS = "until persist homes --delete"


def of_all(town: Spec, where: Shelves, homes: Sequence[Kept], now: datetime) -> dict[Kept, str]:
    """A sentence, without a full stop, for each. `now` is aware."""
    entries = _entries(town, where, now) if any(home.kind == "aside" for home in homes) else {}
    return {home: _why(home, entries) for home in homes}


def _why(home: Kept, entries: Mapping[bytes, str]) -> str:
    about = home.about
    said = f": {shown(about.message)}" if about.message else ""
    match home.kind:
        case "aside":
            return entries.get(home.key, "set aside by a rollback")
        case "snapshot":
            taken = "taken by recall --replace" if about.of else "taken on purpose"
            return f"{taken}, stays {_STAYS}{said}"
        case "imported":
            host = about.origin.get("host", "")
            return f"imported{f' from {shown(host)}' if host else ''}, stays {_STAYS}{said}"
        case "recalled":
            of = f" of {shown(about.of)}" if about.of else ""
            at = f", at {shown(about.place)}" if about.place else ""
            return f"a recalled copy{of}{at}, goes with the next boot{said}"


def _entries(town: Spec, where: Shelves, now: datetime) -> dict[bytes, str]:
    """By the name of what was set aside at a boot."""
    if town.town.btrfs is None:
        with shelves.old(town, None, where.agents) as old:
            return {} if old is None else _outgoing(old, town.town.keep, now)
    assert where.top is not None
    names, stays = town.town.btrfs, spared.entries(town, where.top, town.town.btrfs)
    with aside.directory(where.top, names) as directory:
        found = [] if directory is None else aside.read(directory, now, _ignore)
    newest = keep.newest([entry.name for entry in found if entry.home and not entry.deleting])
    actions = keep.plan(found, names, now, ballast=True)
    goes = {action.entry.name: action.why for action in actions if isinstance(action, keep.Delete)}
    return {
        entry.name: _words(
            names.keep,
            (now - entry.time).days,
            newest=entry.name in newest,
            goes=goes.get(entry.name, ""),
            spared=stays.get(entry.name, ""),
        )
        for entry in found
    }


def _outgoing(old: int, rule: KeepHomes, now: datetime) -> dict[bytes, str]:
    whole = outgone.whole(outgoing.entries(old))
    newest = keep.newest([entry.name for entry in whole])
    return {
        entry.name: _words(
            rule,
            (now - entry.time).days,
            newest=entry.name in newest,
            goes=outgone.reason(entry, whole, rule, now),
        )
        for entry in whole
    }


def _words(rule: KeepHomes, age: int, *, newest: bool, goes: str, spared: str = "") -> str:
    if newest:
        return "the newest home always stays"
    if goes and spared:
        return f"stays, though {goes}: {spared}"
    if goes:
        return f"goes with the next persist tidy: {goes}"
    left = max(1, rule.days - age)
    return f"among the newest {rule.homes}, for {left} day{'' if left == 1 else 's'} while {rule.free} is free"


def _ignore(_name: bytes, _failure: Failure) -> None:
    pass
