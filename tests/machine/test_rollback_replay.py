"""Every write of a rollback recorded; each crash that they allow is made, mounted, and the hook run on it again."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from persist import aside, ballast, prune
from tests.machine import rollbackdisk as disk
from tests.replay import crash, image, log, look, mutants, starts, states, tidying
from tests.replay.states import State
from tests.scale import SCALE, SEED, times
from town import btrfs, files, kernel, process

pytestmark = pytest.mark.root
Count = Callable[[str, object], None]  # pytest's record_property: the run's last words add them up

WHOLE = SCALE >= 10  # `make prove`: every prefix of every recording
_COIN = random.Random(SEED)
CASES = [
    pytest.param(start, commits, id=f"{start.__name__}, {'each step committed' if commits else 'as it is'}")
    for start in starts.STARTS
    for commits in ((False, True) if WHOLE else (_COIN.random() < 0.5,))
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, gone with the test: each crash is a small image, written anew."""
    path = tmp_path / "memory"
    path.mkdir()
    kernel.mount("tmpfs", str(path), "tmpfs", kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV, "mode=0755,size=1g")
    yield path
    kernel.umount(str(path), kernel.MNT_DETACH)


def _replayed(rolled: crash.Rollback, name: str, chosen: Iterable[State], kept: Path) -> None:
    """Fails with the first crash that is not as it should be, and with what makes it again."""
    for state in chosen:
        if problems := rolled.problems(state):
            again = crash.keep(rolled.recording, state, kept)
            pytest.fail("\n".join([f"{name}, NUKETOWN_SEED={SEED}: {rolled.told(state)}", *problems, again]))


def _recorded(memory: Path, *, commits: bool = False) -> crash.Rollback:
    rolled = crash.record(memory / "disk.img", disk.make_initrd(memory / "initrd", "dash"), commits=commits)
    assert rolled.done.status == 0, rolled.done.err
    assert rolled.proven is not None
    assert rolled.recording.is_whole(memory / "whole.img")  # the disk before and every write are the disk after
    return rolled


@pytest.mark.parametrize(("start", "commits"), CASES)
def test_every_crash_of_a_rollback_is_finished_by_the_next_run(
    memory: Path, tmp_path: Path, start: starts.Start, commits: bool, record_property: Count
) -> None:
    starts.make(memory / "disk.img", start)
    rolled = _recorded(memory, commits=commits)
    name = f"{start.__name__} {commits}"
    dice = random.Random(f"{SEED} {name}")
    chosen = states.sample(rolled.recording.log, dice, max(4, times(2)), every_prefix=WHOLE)
    assert len(chosen) >= (24 if WHOLE else 5) or start is starts.fresh  # that one writes nothing: one state
    record_property("crash states", len(chosen))
    _replayed(rolled, name, chosen, tmp_path / "recording")


def test_every_crash_on_a_full_filesystem_is_finished_by_the_next_run(
    memory: Path, tmp_path: Path, record_property: Count
) -> None:
    """The ballast is destroyed for room; no home is, wherever that is cut off: it was not all cleaned up by then."""
    starts.make_full(memory / "disk.img")
    rolled = _recorded(memory)
    assert b"@agents-ballast is given up for room" in rolled.done.err
    gone = next(state for state in states.commits(rolled.recording.log) if look.BALLAST not in rolled.shows(state))
    more = states.commits(rolled.recording.log) if WHOLE else []
    chosen = dict.fromkeys([gone, *more, *states.sample(rolled.recording.log, random.Random(SEED), times(2))])
    record_property("crash states", len(chosen))
    _replayed(rolled, "full", chosen, tmp_path / "recording")


def test_with_each_step_committed_a_rollback_has_more_crashes(memory: Path) -> None:
    """What commits between the steps is what makes them fall apart: it must be in the recording."""
    for directory in (memory / "one", memory / "other"):
        directory.mkdir()
        starts.make(directory / "disk.img", starts.dirty)
    once, often = (_recorded(memory / name, commits=name == "other") for name in ("one", "other"))
    assert len(often.recording.log.flushes) > len(once.recording.log.flushes) > 3


def test_every_crash_of_a_tidy_is_finished_by_the_next_rollback_and_tidy(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Count
) -> None:
    """Old homes with nested subvolumes, read-only ones among them, are pruned, and the ballast is made anew."""
    monkeypatch.setattr(ballast, "SIZE", 1 << 20)
    starts.make(memory / "disk.img", starts.old_homes)
    tidied = tidying.record(memory / "disk.img", disk.make_initrd(memory / "initrd", "dash"))
    assert tidied.recording.is_whole(memory / "whole.img")
    assert (len(tidied.before.old), len(tidied.after.old)) == (4, 1)
    more = states.commits(tidied.recording.log) if WHOLE else []
    chosen = dict.fromkeys([*more, *states.sample(tidied.recording.log, random.Random(SEED), times(3))])
    record_property("crash states", len(chosen))
    for state in chosen:
        if problems := tidied.problems(state):
            again = crash.keep(tidied.recording, state, tmp_path / "recording")
            pytest.fail("\n".join([f"tidy, NUKETOWN_SEED={SEED}: state {state}", *problems, again]))


def test_a_tidy_that_takes_more_than_it_should_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the right homes in the end, but for a moment one of them is somewhere else."""
    monkeypatch.setattr(ballast, "SIZE", 1 << 20)
    starts.make(memory / "disk.img", starts.old_homes)

    def careless(old: prune.Old, entry: aside.Aside, step: Callable[[], None]) -> None:
        newest = files.names(old.directory)[-1]
        os.rename(newest, "@moved", src_dir_fd=old.directory, dst_dir_fd=old.top)
        real(old, entry, step)
        os.rename("@moved", newest, src_dir_fd=old.top, dst_dir_fd=old.directory)

    real = prune.delete
    with monkeypatch.context() as patched:
        patched.setattr(prune, "delete", careless)
        tidied = tidying.record(memory / "disk.img", disk.make_initrd(memory / "initrd", "dash"))
    every = states.commits(tidied.recording.log)
    assert tidied.problems(every[-1]) == []
    assert any("what is kept is not whole" in problem for state in every for problem in tidied.problems(state)[:1])


# ---- the replay can fail


def _mutated(memory: Path, functions: str) -> crash.Rollback:
    starts.make(memory / "disk.img", starts.dirty)
    initrd = disk.make_initrd(memory / "initrd", "dash")
    hook = mutants.write(memory / "hook.sh", functions)
    return crash.record(memory / "disk.img", crash.Mutant(initrd.shell, initrd.path, initrd.run, hook))


def _caught(rolled: crash.Rollback) -> list[str]:
    every = states.prefixes(rolled.recording.log)
    return next((problems for state in reversed(every) if (problems := rolled.problems(state))), [])


@pytest.mark.parametrize("name", mutants.ONLY_BY_A_CRASH)
def test_a_hook_that_only_a_crash_shows_to_be_wrong_is_caught(memory: Path, name: str) -> None:
    functions, says = mutants.ONLY_BY_A_CRASH[name]
    rolled = _mutated(memory, functions)
    assert (rolled.done.status, rolled.problems(State(len(rolled.recording.log.epochs)))) == (0, []), rolled.done.err
    assert any(says in problem for problem in _caught(rolled))


@pytest.mark.parametrize("name", mutants.ALWAYS)
def test_a_hook_that_is_wrong_at_once_is_caught(memory: Path, name: str) -> None:
    functions, says = mutants.ALWAYS[name]
    assert any(says in problem for problem in _caught(_mutated(memory, functions)))


def test_a_write_that_the_log_does_not_have_is_seen(memory: Path) -> None:
    starts.make(memory / "disk.img", starts.dirty)
    rolled = _recorded(memory)
    with rolled.recording.files.disk.open("r+b") as file:
        file.seek(96 << 20)
        file.write(b"x")
    assert not rolled.recording.is_whole(memory / "whole.img")


# ---- its own tools


def test_two_crashes_of_one_disk_are_mounted_at_once_each_as_it_is(memory: Path) -> None:
    """The kernel knows filesystems by UUID, on the whole machine: each image has one of its own."""
    starts.make(memory / "disk.img", starts.dirty)
    rolled = _recorded(memory)
    (memory / "other").mkdir()
    with (
        crash.attached(rolled.recording, State(0), memory) as first,
        btrfs.top_level(first) as before,
        crash.attached(rolled.recording, State(len(rolled.recording.log.epochs)), memory / "other") as second,
        btrfs.top_level(second) as after,
    ):
        assert look.look(before).homes is not None
        assert look.look(after).homes is None
        assert look.look(after).kept == look.look(before).kept


def test_a_state_is_made_again_from_what_a_failure_prints(memory: Path) -> None:
    starts.make(memory / "disk.img", starts.dirty)
    rolled = _recorded(memory)
    state = states.prefixes(rolled.recording.log)[-2]
    words = shlex.split(crash.keep(rolled.recording, state, memory / "kept"))
    assert (words[0], words[-1]) == ("python", "IMAGE")
    process.run([sys.executable, *words[1:-1], memory / "again.img"], cwd=Path(__file__).parents[2])
    image.build(rolled.recording.base, states.writes(rolled.recording.log, state), memory / "here.img")
    for name in ("again.img", "here.img"):  # all but the UUID, which is new each time
        with (memory / name).open("r+b") as file:
            for offset, _ in image.SUPERBLOCKS[:2]:
                file.seek(offset)
                file.write(bytes(48))
    assert image.same(memory / "again.img", memory / "here.img")


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.replay import recording, starts
from town import btrfs
def run(device, log):
    with btrfs.top_level(device):
        print(device, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
disk = Path(sys.argv[1]) / "disk.img"
starts.make(disk, starts.fresh)
recording.record(disk, run)
"""


def test_a_recording_that_is_killed_leaves_no_daemon_and_no_loop_device(tmp_path: Path) -> None:
    killed = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", KILLED, tmp_path],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        env=process.environment({"PYTHONPATH": "."}),
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.startswith(b"/dev/loop")
    end = time.monotonic() + 20
    while (left := _left(tmp_path)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def _left(path: Path) -> list[str]:
    """Processes and loop devices that have to do with what lies at `path`."""
    found = []
    for file in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/sys/block").glob("loop*/loop/backing_file")]:
        try:
            words = file.read_bytes()
        except OSError:  # it went meanwhile
            continue
        if os.fsencode(path) in words and str(os.getpid()) not in file.parts:
            found.append(f"{file}: {words!r}")
    return found


def test_the_log_of_a_rollback_holds_few_requests(memory: Path) -> None:
    """A rollback of one home is some ten block requests, whatever the home: what a recording is worth rests on it."""
    starts.make(memory / "disk.img", starts.nested)
    recorded: log.Log = _recorded(memory).recording.log
    assert 4 <= recorded.requests + len(recorded.flushes) <= 20
