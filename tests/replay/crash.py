"""A rollback recorded, then for each crash of it: what the disk shows, and what the next run makes of it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from demo import loopback
from tests.machine import rollbackdisk as disk
from tests.replay import image, look, recording, states
from tests.replay.look import Seen, Tree
from tests.replay.recording import Recording
from tests.replay.states import State
from town import btrfs, files, process
from town.failure import Failure

# Notes how much was in the log (its count of entries lies at byte 16) and whether there was a proof already, then does
# what the real program does; with COMMITS, what it did is committed at once, as another program's fsync may do.
_WRAPPER = """#!/bin/sh
entries=$({od} -An -v -tu8 -j16 -N8 {log} 2>/dev/null)
[ -e /run/nuketown/rollback ] && proof=yes || proof=no
printf '%s %s %s\\n' "$((entries))" "$proof" "{name} $*" >>{trace}
{program} "$@"
status=$?
if [ -n "{commits}" ]; then
    while read -r _ target kind _; do
        case $kind$target in btrfs/run/nuketown/*) {btrfs} filesystem sync "$target" ;; esac
    done </proc/self/mounts
fi
exit $status
"""


@dataclass(frozen=True, slots=True)
class Mutant(disk.Initrd):
    """An initrd with another hook in it."""

    hook: Path

    def argv(self, device: str, **environment: str) -> list[str]:
        """As with the real hook."""
        return [*disk.Initrd.argv(self, device, **environment)[:-1], str(self.hook)]


@dataclass(frozen=True, slots=True)
class Step:
    """A program that the hook ran: how much was in the log by then, whether the proof was there."""

    entries: int
    proof: bool
    words: str


@dataclass(frozen=True, slots=True)
class Proven:
    """The proof that a recorded run wrote: how many epochs were whole then, and what it names."""

    epoch: int
    uuid: UUID


@dataclass(frozen=True, slots=True)
class Rollback:
    """A rollback that was recorded, and what is needed to do the next one."""

    recording: Recording
    done: process.Done  # how the run that was recorded ended
    steps: tuple[Step, ...]
    before: Seen
    proven: Proven | None
    initrd: disk.Initrd
    scratch: Path

    def problems(self, state: State) -> list[str]:
        """What is wrong with a crash, or with the run after it. Empty: nothing."""
        try:
            with self._mounted(state) as top:
                found = [f"after the crash {what}" for what in self._of_a_crash(state, look.look(top))]
        except Failure as failure:
            return [f"after the crash {failure.what}"]
        with self._attached(state) as device:
            done = self.initrd(device)
            if done.status:
                found.append(f"the next run fails: {done.err.decode(errors='replace')}")
            with btrfs.top_level(device) as top:
                found += [f"after the next run {what}" for what in self._of_the_next_run(state, top)]
        return found

    def shows(self, state: State) -> frozenset[bytes]:
        """The names at the top level after a crash."""
        with self._mounted(state) as top:
            return frozenset(files.names(top))

    def told(self, state: State) -> str:
        """A state in words, with the step that the hook was at."""
        log = self.recording.log
        kept = [write.entry for epoch in log.epochs[state.epoch :] for write in epoch if write.number in state.kept]
        entries = max([*kept, *log.flushes[: state.epoch], -1])
        step = next((step.words for step in reversed(self.steps) if step.entries <= entries), "nothing that wrote")
        return f"state {state} (epochs before it/writes kept/write torn:sectors; the hook ran {step!r})"

    def _of_a_crash(self, state: State, seen: Seen) -> Iterator[str]:
        yield from self._always(seen)
        if self.proven is not None and state.epoch >= self.proven.epoch and seen.fresh != self.proven.uuid:
            yield f"there was a proof of {self.proven.uuid}, and @agents is {seen.fresh or 'not blank'}"

    def _of_the_next_run(self, state: State, top: int) -> Iterator[str]:
        seen = look.look(top)
        yield from self._always(seen)
        if seen.fresh is None or not disk.is_blank(top):
            yield "@agents is not blank"
            return
        if list(seen.old) != seen.kept:
            yield "something that was written to does not lie in @agents-old"
        gone = {look.NEW, look.BALLAST}
        if seen.names - gone != (self.before.names | {look.HOMES, look.OLD}) - gone or look.NEW in seen.names:
            yield f"these are at the top level: {sorted(seen.names)}"
        fresh, proof = disk.info(top, "@agents"), self.initrd.proof()
        if proof is None or (proof["uuid"], proof["id"]) != (str(fresh.uuid), str(fresh.id)):
            yield f"the proof is {proof}, @agents {fresh}"
        if self.proven is not None and state.epoch >= self.proven.epoch and seen.fresh != self.proven.uuid:
            yield "the blank @agents that there was a proof of is not kept"

    def _always(self, seen: Seen) -> Iterator[str]:
        if seen.kept != self.before.kept:
            yield f"what was written to is not there once and whole: {_difference(self.before.kept, seen.kept)}"
        if seen.outside != self.before.outside:
            yield f"what is outside changed: {seen.outside} instead of {self.before.outside}"
        if seen.blank not in (self.before.blank, _read_only(self.before.blank)):
            yield f"blank changed: {seen.blank} instead of {self.before.blank}"

    @contextmanager
    def _attached(self, state: State) -> Iterator[str]:
        with attached(self.recording, state, self.scratch) as device:
            yield device

    @contextmanager
    def _mounted(self, state: State) -> Iterator[int]:
        with self._attached(state) as device, btrfs.top_level(device) as top:
            yield top


@contextmanager
def attached(of: Recording, state: State, scratch: Path) -> Iterator[str]:
    """The disk after a crash, on a loop device."""
    file = scratch / "state.img"
    image.build(of.base, states.writes(of.log, state), file)
    try:
        with loopback.attached(file) as device:
            try:
                yield device
            finally:
                image.forget(device)
    finally:
        file.unlink()


def record(file: Path, initrd: disk.Initrd, *, commits: bool = False) -> Rollback:
    """Run the hook on the image in `file`, everything recorded. With `commits`, each of its steps is committed."""
    trace = file.with_suffix(".trace")
    trace.touch()

    ended: list[process.Done] = []
    recorded = recording.record(
        file, lambda device, log: ended.append(_traced(initrd, trace, log, commits=commits)(device))
    )
    with attached(recorded, State(0), file.parent) as device, btrfs.top_level(device) as top:
        before = look.look(top)
    steps = tuple(_step(line) for line in trace.read_text().splitlines())
    return Rollback(recorded, ended[0], steps, before, _proven(initrd, recorded, steps), initrd, file.parent)


def _step(line: str) -> Step:
    entries, proof, words = line.split(" ", 2)
    return Step(int(entries), proof == "yes", words)


def _traced(initrd: disk.Initrd, trace: Path, log: Path, *, commits: bool) -> disk.Initrd:
    """The same initrd, each program noting when it runs."""
    path = trace.with_suffix(".bin")
    path.mkdir()
    for name in os.listdir(initrd.path):
        program = path / name
        program.write_text(
            _WRAPPER.format(
                od=shutil.which("od"), log=log, trace=trace, name=name, program=initrd.path / name,
                commits="yes" if commits else "", btrfs=shutil.which("btrfs"),
            )
        )  # fmt: skip
        program.chmod(0o755)
    words = {name: getattr(initrd, name) for name in initrd.__dataclass_fields__}
    return type(initrd)(**words | {"path": path})


def _proven(initrd: disk.Initrd, recorded: Recording, steps: tuple[Step, ...]) -> Proven | None:
    """From the first step that sees a proof on: all that was flushed by then must hold what the proof says."""
    seen = [step.entries for step in steps if step.proof]
    proof = initrd.proof()
    return Proven(recorded.log.flushed(seen[0]), UUID(proof["uuid"])) if seen and proof is not None else None


def _read_only(blank: Tree) -> Tree:
    """Blank, after the hook set it read-only."""
    return tuple((*fact[:-1], True) for fact in blank)


def _difference(wanted: list[Tree], found: list[Tree]) -> str:
    missing = [tree for tree in wanted if tree not in found]
    more = [tree for tree in found if tree not in wanted]
    return f"missing or changed {missing}, too much {more}"


def keep(of: Recording, state: State, at: Path) -> str:
    """Copy a recording to where it stays; the command that makes an image of a state again."""
    at.mkdir(parents=True, exist_ok=True)
    process.run(["cp", "--sparse=always", of.files.base, of.files.log, at])
    return f"python -m tests.replay {at / of.files.base.name} {at / of.files.log.name} '{state}' IMAGE"
