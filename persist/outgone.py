"""`persist tidy` where nothing rolls back: homes in agents_dir/.old that `town.keep` does not keep are deleted."""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from persist import ground, keep, outgoing, places, recopied
from persist.outgoing import Entry
from town import cli, files, grammar, mounts, subvolumes
from town.failure import DONE, FAILED, Failure
from town.spec import KeepHomes, Spec
from town.terminal import shown, size

_NOTHING = "nothing to do: nothing that is kept has to go"


class CannotDelete(Failure):
    """The filesystem refused to delete an old home; what is left of it is deleted by another tidy."""


class Delete(NamedTuple):
    """Delete the homes of one boot."""

    entry: Entry
    why: str

    @property
    def name(self) -> bytes:
        return self.entry.name

    def __str__(self) -> str:
        return f"{shown(self.name)}: {self.why}"


class Forget(NamedTuple):
    """Delete a recalled copy, which lasts until the next boot."""

    name: bytes

    @property
    def why(self) -> str:
        return "recalled in an earlier boot"

    def __str__(self) -> str:
        return f"{shown(self.name)}: {self.why}"


def tidy(town: Spec, now: datetime, *, dry_run: bool, as_json: bool) -> int:
    """Delete what is not kept, each thing said when it is done. FAILED when something could not be deleted."""
    done, status = list[Delete | Forget](), DONE
    with ground.agents_dir(town) as agents, outgoing.opened(town, agents) as old:
        for action in _actions(town, agents, old, now):
            try:
                if not dry_run:
                    _do(town, agents, old, action)
            except Failure as failure:
                cli.tell("persist", failure, shown(action.name))
                status = FAILED
                continue
            done.append(action)
            if not as_json:
                print(f"{'delete    ' if dry_run else 'deleted   '}{action}", flush=True)
    if as_json:
        deleted = [{"name": cli.named(each.name), "why": each.why} for each in done]
        cli.put_json({"dry_run": dry_run, "deleted": deleted})
    elif not done and status == DONE:
        print(_NOTHING)
    return status


def _actions(town: Spec, agents: int, old: int | None, now: datetime) -> Iterator[Delete | Forget]:
    if old is not None:
        yield from _planned(old, town.town.keep, now)
    yield from map(Forget, recopied.of_earlier_boots(agents))


def _do(town: Spec, agents: int, old: int | None, action: Delete | Forget) -> None:
    if isinstance(action, Forget):
        recopied.forget(agents, action.name)
        return
    assert old is not None
    _delete(town, old, action.entry.name)


def _planned(old: int, rule: KeepHomes, now: datetime) -> Iterator[Delete]:
    """One after the other, since only then is known how much room there is. What `keep.newest` says never goes."""
    found = outgoing.entries(old)
    there = whole(found)
    yield from (Delete(entry, "an earlier run began it") for entry in found if entry not in there)
    stays = keep.newest([entry.name for entry in there])
    for entry in there:
        if entry.name not in stays and (why := reason(entry, there, rule, now) or _short(old, rule.free)):
            yield Delete(entry, why)


def whole(found: Sequence[Entry]) -> list[Entry]:
    """Those that no run began to delete."""
    return [entry for entry in found if not entry.name.startswith(places.DELETING)]


def reason(entry: Entry, whole: Sequence[Entry], rule: KeepHomes, now: datetime) -> str:
    """Why an entry goes whatever room there is; empty where it stays."""
    if entry.name not in keep.among([each.name for each in whole], rule.homes):
        return f"not among the newest {rule.homes}"
    days = (now - entry.time).days
    return f"set aside {days} days ago" if now - entry.time >= timedelta(days=rule.days) else ""


def _short(old: int, free: str) -> str:
    """What there is too little of; empty when there is enough."""
    there = os.fstatvfs(old)
    room = there.f_bavail * there.f_frsize
    wanted = grammar.free_bytes(free, there.f_blocks * there.f_frsize)
    return f"room for only {size(room)} was left, less than {free}" if room < wanted else ""


def _delete(town: Spec, old: int, name: bytes) -> None:
    place = os.fsencode(os.path.realpath(town.town.agents_dir / outgoing.DIRECTORY)) + b"/" + name
    found = [mount.target for mount in mounts.table() if mount.target == place or mount.target.startswith(place + b"/")]
    if found:
        raise CannotDelete(f"something is mounted in it: {shown(found[0])}", hint="unmount it, then: persist tidy")
    try:
        if not name.startswith(places.DELETING):
            os.rename(name, places.DELETING + name, src_dir_fd=old, dst_dir_fd=old)
            name = places.DELETING + name
        files.remove_tree(old, name, other=subvolumes.remove)
    except OSError as error:
        raise CannotDelete(f"cannot be deleted: {error.strerror}", hint="dmesg and lsattr may say why") from error
