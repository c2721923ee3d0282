"""What `persist tidy` says: what it would do, and what it did."""

import os
from collections.abc import Container
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from persist import aside, ballast, room
from persist.aside import Aside
from persist.keep import Action, Delete, GiveWay, MakeBallast, Relieve, plan
from persist.prune import InUse, Old, refuse_in_use
from town import cli, space
from town.failure import DONE, Failure
from town.spec import Btrfs
from town.terminal import say, shown

NOTHING = "nothing to do: nothing that is kept has to go"


@dataclass(slots=True)
class Outcome:
    """What a tidy did, and what it could not do."""

    deleted: list[tuple[Aside, str]] = field(default_factory=list)
    in_use: list[tuple[Aside, InUse]] = field(default_factory=list)
    failed: list[tuple[bytes, Failure]] = field(default_factory=list)
    no_ballast: Failure | None = None
    made_ballast: bool = False
    swept: list[bytes] = field(default_factory=list)  # snapshots that killed syncs left

    @property
    def tried(self) -> set[bytes]:
        """The names of the entries that need no second try."""
        return {entry.name for entry, _ in (*self.deleted, *self.in_use)} | {name for name, _ in self.failed}


def tell_plan(top: int, names: Btrfs, now: datetime, *, json: bool, stays: Container[bytes] = ()) -> int:
    """Print what a tidy would do now, without what it would leave alone."""
    with aside.directory(top, names) as directory:
        found = [] if directory is None else aside.read(directory, now, _tell_broken)
        actions = plan(found, names, now, ballast=ballast.whole(top, names), spared=stays)
        free = {entry.name for entry in found if directory is not None and _free(Old(top, directory, names.old), entry)}
    likely = [action for action in actions if isinstance(action, MakeBallast) or action.entry.name in free]
    likely = [action for action in likely if _likely(top, action)]
    if json:
        cli.put_json({"dry_run": True, "actions": [_plain(action) for action in likely], **_state(top, names)})
    else:
        print("\n".join(map(str, likely)) or NOTHING)
    return DONE


def tell_in_use(failure: InUse) -> None:
    """Say that an old home stays for now."""
    say(f"persist: note: {failure.what}: it stays")


def _free(old: Old, entry: Aside) -> bool:
    try:
        refuse_in_use(old, entry.name)
    except InUse as failure:
        tell_in_use(failure)
        return False
    return True


def _tell_broken(name: bytes, failure: Failure) -> None:
    cli.tell("persist", failure, shown(name))


def _likely(top: int, action: Action) -> bool:
    """Whether an action would be done if nothing changed before its turn."""
    match action:
        case GiveWay():
            return not ballast.fits(top)
        case Relieve(_, free):
            return bool(room.short(top, free))
        case _:
            return True


def _plain(action: Action) -> dict[str, object]:
    match action:
        case Delete(entry, why):
            return {"do": "delete", "name": cli.named(entry.name), "why": why, "if_needed": False}
        case GiveWay(entry):
            return {"do": "delete", "name": cli.named(entry.name), "why": "room for the ballast", "if_needed": True}
        case Relieve(entry, free):
            return {"do": "delete", "name": cli.named(entry.name), "why": f"less than {free} free", "if_needed": True}
        case MakeBallast(name):
            return {"do": "make", "name": cli.named(os.fsencode(name)), "why": "missing", "if_needed": False}
        case _:
            assert_never(action)


def as_json(top: int, names: Btrfs, outcome: Outcome) -> dict[str, object]:
    return {
        "dry_run": False,
        "deleted": [{"name": cli.named(entry.name), "why": why} for entry, why in outcome.deleted],
        "in_use": [{"name": cli.named(entry.name), "what": failure.what} for entry, failure in outcome.in_use],
        "failed": [_failed(name, failure) for name, failure in outcome.failed],
        "made_ballast": outcome.made_ballast,
        "swept": [cli.named(name) for name in outcome.swept],
        **_state(top, names),
    }


def _failed(name: bytes, failure: Failure) -> dict[str, object]:
    return {"name": cli.named(name), "what": failure.what, "hint": failure.hint}


def _state(top: int, names: Btrfs) -> dict[str, object]:
    found = space.of(top)
    return {
        "ballast": not ballast.missing(top, names),
        "free": {
            "wanted": names.keep.free,
            "enough": not room.short(top, names.keep.free),
            "data": {"used": found.data.used, "room": found.data.room},
            "metadata": {"used": found.metadata.used, "room": found.metadata.room},
        },
    }
