"""`persist tidy`: delete old homes that `keep` does not keep, and make the ballast anew when it is gone.

Planned as values, done in one loop. One entry that cannot be deleted stops no other. A rollback never waits for a
tidy: the tidy waits for it.
"""

import argparse
import os
import sys
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import assert_never

from persist import aside, ballast, device, ground, leftovers, prune, rollback, room, shelving, spared
from persist.aside import Aside
from persist.keep import Action, Delete, GiveWay, MakeBallast, Relieve, plan
from persist.prune import InUse, Old
from persist.tidied import NOTHING, Outcome, as_json, tell_in_use, tell_plan
from town import btrfs, cli, files, spec, trust
from town.failure import DONE, FAILED, Failure, TryLater
from town.spec import Btrfs, Spec
from town.terminal import counted, say, shown

LOCK = "tidy.lock"


class Running(TryLater):
    """Another tidy runs. Trying again may help."""


def command(arguments: argparse.Namespace) -> int:
    """Tidy, or with --dry-run say what would be done. Status 1 when something could not be deleted or made."""
    town = spec.load(cli.spec_file(arguments))
    ground.require_root("tidy", "it deletes old homes")
    trust.refuse(town)
    now = datetime.fromtimestamp(time.time(), UTC)
    if town.town.btrfs is None:
        from persist import outgone

        return outgone.tidy(town, now, dry_run=arguments.dry_run, as_json=arguments.json)
    if arguments.dry_run:
        with device.top(town) as top:
            return tell_plan(top, _names(town), now, json=arguments.json, stays=_spared(town, top))
    busy = Running("another persist tidy is running", hint="wait until it has ended")
    with device.top(town) as top, rollback.alone(LOCK, busy):
        outcome = Tidy(top, _names(town), _spared(town, top)).run(now, quiet=arguments.json)
        if arguments.json:
            cli.put_json(as_json(top, _names(town), outcome))
    for name, failure in outcome.failed:
        cli.tell("persist", failure, shown(name))
    if outcome.no_ballast is not None:
        cli.tell("persist", outcome.no_ballast)
    return FAILED if outcome.failed or outcome.no_ballast is not None else DONE


class Tidy:
    """One run on the filesystem whose top level is open as `top`."""

    def __init__(self, top: int, names: Btrfs, spared_: Container[bytes] = ()) -> None:
        self._top, self._names, self._spared = top, names, spared_
        self._outcome = Outcome()
        self._progress = _Progress()

    def run(self, now: datetime, *, quiet: bool = False) -> Outcome:
        """Plan, then do; each thing is said on standard output when it is done, unless `quiet`."""
        with aside.directory(self._top, self._names) as directory:
            found = [] if directory is None else aside.read(directory, now, self._broken)
            actions = plan(found, self._names, now, ballast=ballast.whole(self._top, self._names), spared=self._spared)
            old = None if directory is None else Old(self._top, directory, self._names.old)
            for line in self._apply(old, actions):
                if not quiet:
                    print(line, flush=True)
        for line in self._sweep(now):
            if not quiet:
                print(line, flush=True)
        if not quiet and self._outcome == Outcome():
            print(NOTHING)
        return self._outcome

    def _apply(self, old: Old | None, actions: Iterable[Action]) -> Iterator[str]:
        relieved = False
        for action in actions:
            match action:
                case Delete(entry, why):
                    assert old is not None
                    yield from self._delete(old, entry, why)
                case MakeBallast(name):
                    yield from self._make_ballast(name)
                case GiveWay(entry):
                    assert old is not None
                    if isinstance(self._outcome.no_ballast, ballast.NoRoom):
                        yield from self._delete(old, entry, "the ballast had no room")
                        yield from self._make_ballast(self._names.ballast)
                case Relieve(entry, free):
                    assert old is not None
                    if relieved or entry.name in self._outcome.tried:
                        continue
                    settled = room.settled(self._top)
                    relieved = not settled or not (lack := room.short(self._top, free))
                    if not settled:
                        say("persist: note: what was deleted is still being freed; a later persist tidy goes on")
                    if not relieved:
                        yield from self._delete(old, entry, lack)
                case _:
                    assert_never(action)

    def _sweep(self, now: datetime) -> Iterator[str]:
        """The snapshots of syncs that were killed more than a day ago, of agents that the spec does not name too."""
        for name, failure in leftovers.swept(self._top, now.timestamp()):
            if failure is not None:
                self._broken(name, failure)
                continue
            self._outcome.swept.append(name)
            yield f"deleted   {shown(name)}: a sync that was killed left it"
        self._sweep_snapshots()

    def _sweep_snapshots(self) -> None:
        """What killed commands left hidden among the snapshots; those themselves stay, whatever `keep` says."""
        with suppress(FileNotFoundError), files.opened(files.enter(self._top, self._names.snapshots)) as above:
            for name in files.names(above):
                with suppress(NotADirectoryError), files.opened(files.enter(above, name)) as fd:
                    if shelving.sweep(fd):
                        self._broken(name, Failure("what is left of a snapshot cannot be deleted", hint=prune.LOOK))

    def _broken(self, name: bytes, failure: Failure) -> None:
        self._outcome.failed.append((name, failure))

    def _delete(self, old: Old, entry: Aside, why: str) -> Iterator[str]:
        try:
            try:
                prune.delete(old, entry, self._progress.step)
            finally:
                self._progress.clear()
        except InUse as failure:
            self._outcome.in_use.append((entry, failure))
            tell_in_use(failure)
        except FileNotFoundError:
            pass  # a rollback that needed room, or a person, was faster
        except Failure as failure:
            self._broken(entry.name, failure)
        except OSError as error:
            self._broken(entry.name, Failure(f"cannot be deleted: {error.strerror}", hint=prune.LOOK))
        else:
            self._outcome.deleted.append((entry, why))
            yield f"deleted   {entry}: {why}"

    def _make_ballast(self, name: str) -> Iterator[str]:
        room.settled(self._top)
        _wait_for_rollback()
        wanted = ballast.fits(self._top) or ballast.missing(self._top, self._names)
        try:
            if wanted:
                ballast.make(self._top, self._names, tight=True)
        except (btrfs.BtrfsFailed, ballast.Busy) as failure:
            self._outcome.no_ballast = failure
            return
        self._outcome.no_ballast = None
        self._outcome.made_ballast = self._outcome.made_ballast or wanted
        if wanted:
            yield f"made      {shown(name)}"
        if not ballast.whole(self._top, self._names):
            say(f"persist: note: {shown(name)} is smaller than it should be: there is no room for all of it")


def _wait_for_rollback() -> None:
    began = time.monotonic()
    while rollback.is_running():
        if time.monotonic() - began > room.LONG:
            raise rollback.Running("a rollback is running", hint="run persist tidy again when it has ended")
        time.sleep(0.1)


class _Progress:
    """A line on a terminal that says how far a long deletion is; nothing anywhere else."""

    def __init__(self) -> None:
        self._count, self._shown, self._asked = 0, time.monotonic(), 0.0
        self._terminal = os.isatty(2)

    def step(self) -> None:
        """One more subvolume is about to go; a rollback that runs goes first."""
        if time.monotonic() - self._asked > 0.5:  # /proc/locks is as long as agents make it
            _wait_for_rollback()
            self._asked = time.monotonic()
        self._count += 1
        if self._terminal and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            print(f"\r{counted(self._count, 'subvolume')} deleted", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _spared(town: Spec, top: int) -> Container[bytes]:
    found = spared.entries(town, top, _names(town))
    for name, why in found.items():
        say(f"persist: note: {shown(name)} stays: {why}")
    return found


def _names(town: Spec) -> Btrfs:
    assert town.town.btrfs is not None, "device.top refuses a town without"
    return town.town.btrfs
