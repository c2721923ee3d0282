"""A `persist tidy` recorded, and each crash of it: what is kept is whole, the rest may be half gone, it can go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from persist import tidy
from tests.machine import rollbackdisk as disk
from tests.replay import crash, look, recording
from tests.replay.look import Seen, Tree
from tests.replay.recording import Recording
from tests.replay.states import State
from town import btrfs
from town.failure import Failure
from town.spec import Btrfs

NAMES = Btrfs("unused")


@dataclass(frozen=True, slots=True)
class Tidied:
    """A tidy that was recorded: the disk before and after."""

    recording: Recording
    before: Seen
    after: Seen
    initrd: disk.Initrd
    scratch: Path

    def problems(self, state: State) -> list[str]:
        """What is wrong with a crash, or with the rollback and the tidy after it. Empty: nothing."""
        kept, home = [*self.after.old], [tree for tree in (self.before.homes,) if tree is not None]
        try:
            with crash.attached(self.recording, state, self.scratch) as device, btrfs.top_level(device) as top:
                seen = look.look(top)
                found = [f"after the crash {what}" for what in self._always(seen, kept)]
                if seen.homes != self.before.homes:
                    found.append(f"after the crash @agents changed: {seen.homes}")
        except Failure as failure:
            return [f"after the crash {failure.what}"]
        with crash.attached(self.recording, state, self.scratch) as device:
            done = self.initrd(device)
            if done.status:
                return [*found, f"the next rollback fails: {done.err.decode(errors='replace')}"]
            with btrfs.top_level(device) as top:
                found += [f"after the rollback {what}" for what in self._always(look.look(top), kept + home)]
                run(top)
                seen = look.look(top)
        # The home that was in use is the newest now, and the others are older than `keep` allows.
        found += [f"after the next tidy {what}" for what in self._always(seen, home)]
        if list(seen.old) != home or not {look.BALLAST} <= seen.names or look.NEW_BALLAST in seen.names:
            found.append(f"after the next tidy these are there: {sorted(seen.names)}, {len(seen.old)} old")
        return found

    def _always(self, seen: Seen, wanted: list[Tree]) -> Iterator[str]:
        """What has to go may be whole, half gone or gone; all else that was set aside is there, whole, and once."""
        doomed = self.before.roots.keys() - self.after.roots.keys()
        others = [tree for uuid, tree in seen.roots.items() if uuid not in doomed]
        if sorted(others, key=repr) != sorted(wanted, key=repr):
            yield f"what is kept is not whole: {others} instead of {wanted}"
        if (seen.outside, seen.blank) != (self.before.outside, self.before.blank):
            yield "blank or what is outside changed"


def record(file: Path, initrd: disk.Initrd) -> Tidied:
    """Tidy the image in `file`, everything recorded."""

    def tidied(device: str, _: Path) -> None:
        with btrfs.top_level(device) as top:
            run(top)

    recorded = recording.record(file, tidied)
    before, after = (_seen(recorded, state, file.parent) for state in (State(0), State(len(recorded.log.epochs))))
    return Tidied(recorded, before, after, initrd, file.parent)


def run(top: int) -> None:
    """What `persist tidy` does, on an open top level. Raises AssertionError when something could not be done."""
    outcome = tidy.Tidy(top, NAMES).run(datetime.now(UTC), quiet=True)
    assert not outcome.failed, outcome
    assert not outcome.in_use, outcome
    assert outcome.no_ballast is None, outcome


def _seen(recorded: Recording, state: State, scratch: Path) -> Seen:
    with crash.attached(recorded, state, scratch) as device, btrfs.top_level(device) as top:
        return look.look(top)
