"""One table of scenarios over the hook, in each shell that an initrd has, and over `persist rollback`."""

import os
import random
import re
import shutil
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import initrd as source
from tests.machine import rollbackdisk as disk
from tests.machine import scenarios
from tests.machine import scenariostates as states
from tests.machine import test_rollback_crash as crash
from tests.machine.scenariodisks import DEVICES
from tests.machine.scenariofull import FULL, NO_ROOM
from tests.machine.scenarios import NAMES, Disk
from tests.machine.scenariotable import STATES, Closed, Either, Scenario, Works
from tests.scale import SCALE, SEED, times
from town import btrfs, files, process

pytestmark = pytest.mark.root

COMMAND = "persist rollback"
RUNNERS = (*disk.SHELLS, COMMAND)
# Copies that another test recalled may be mounted below the machine's own /run/nuketown: those were there before.
MOUNTED = "grep /nuketown/ /proc/self/mountinfo"
NOTHING_MOUNTED = f'[ "$({MOUNTED})" = "$were" ] || {{ {MOUNTED} >&2; exit 1; }} && exit $status'
OWN = {"rollback.lock", "top", ".clock", ".id", ".words", "ballast.lock"}


# ---------------------------------------------------------------- who runs it


@contextmanager
def _later(happens: Callable[[], None] | None) -> Iterator[None]:
    """It happens a second from now, or not at all."""
    if happens is None:
        yield
        return
    timer = threading.Timer(1, happens)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@dataclass
class Runner:
    """The hook under one shell, or the command; with a /run of its own that the next run finds again."""

    kind: str
    at: Path

    def __post_init__(self) -> None:
        self.initrd = disk.make_initrd(self.at / "initrd", "dash" if self.kind == COMMAND else self.kind)

    def __call__(self, made: Disk) -> process.Done:
        inside = (
            f'mount --bind "$1" /run && {{ were=$({MOUNTED}) || :; }} && {{ {made.before}\n}} && shift && '
            f'{{ "$@"; status=$?; }} && {NOTHING_MOUNTED}'
        )
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh", str(self.initrd.run)]
        with _later(made.meanwhile):
            return process.run([*argv, *self._words(made)], cwd=source.hook().parent.parent, check=False)

    def _words(self, made: Disk) -> list[str]:
        path = self._path(made)
        if self.kind == COMMAND:
            return ["env", f"PATH={path}", sys.executable, "-m", "persist.cli", "--spec", self._spec(made), "rollback"]
        told = {"PATH": path, "NUKETOWN_DEVICE": made.told, "NUKETOWN_WAIT": str(made.wait)}
        return ["env", "-i", *(f"{key}={value}" for key, value in told.items()), *self.initrd.shell, str(source.hook())]

    def _path(self, made: Disk) -> str:
        """The programs of the scenario, then those of an initrd, or for the command those of this machine."""
        own = self.at / "programs"
        own.mkdir(exist_ok=True)
        for name, text in made.programs.items():
            (own / name).write_text(text.replace("THE_REAL_ONE", str(shutil.which(name))))
            (own / name).chmod(0o755)
        return f"{own}:{os.environ['PATH'] if self.kind == COMMAND else self.initrd.path}"

    def _spec(self, made: Disk) -> str:
        file, agents = self.at / "town.toml", self.at / "agents"
        agents.mkdir(exist_ok=True)
        file.write_text(
            f'[town]\nagents_dir = "{agents}"\npersist_dir = "{self.at}/persisted"\n'
            f'human = {{ user = "root", name = "Jo", email = "jo@example.test" }}\n'
            f'[town.btrfs]\ndevice = "{made.told}"\nwait = "{made.wait}s"\n[agents.ada]\nuid = {scenarios.ADA}\n'
        )
        return str(file)

    @property
    def left(self) -> set[str]:
        """What is in /run/nuketown, but for the command's lock and what the hook leaves for itself."""
        return set(os.listdir(self.initrd.run / "nuketown")) - OWN

    def stale_proof(self) -> None:
        """The proof of an earlier run in this boot: a run that fails must not leave it."""
        (self.initrd.run / "nuketown").mkdir(mode=0o755, exist_ok=True)
        (self.initrd.run / "nuketown/rollback").write_text("version=1\n")


# ---------------------------------------------------------------- what must hold


@dataclass(frozen=True)
class Before:
    """What is compared: everything that is there, the names, which subvolumes they are."""

    everything: Counter[scenarios.Entry]
    names: list[bytes]
    old: list[str]
    uuids: dict[str, str]


def look(made: Disk) -> Before:
    with made.top() as top:
        uuids = {}
        for name in (NAMES.subvolume, NAMES.blank, NAMES.ballast):
            if os.fsencode(name) in files.names(top) and _is_subvolume(top, name):
                uuids[name] = _uuid(top, name)
        return Before(scenarios.inventory(top), files.names(top), _old_homes(top), uuids)


def _is_subvolume(top: int, name: str) -> bool:
    entry = os.stat(name, dir_fd=top, follow_symlinks=False)
    return stat.S_ISDIR(entry.st_mode) and entry.st_ino == btrfs.FIRST_INODE


def _uuid(top: int, name: str) -> str:
    return str(disk.info(top, name).uuid)


def _old_homes(top: int) -> list[str]:
    path = f"/proc/self/fd/{top}/{NAMES.old}"
    return sorted(os.listdir(path)) if os.path.isdir(path) and not os.path.islink(path) else []


def check_works(runner: Runner, made: Disk, before: Before, done: process.Done, expected: Works) -> None:
    assert done.status == 0, done.err
    after = look(made)
    with made.top() as top:
        assert disk.is_blank(top)
        fresh = disk.info(top, NAMES.subvolume)
        assert disk.info(top, NAMES.blank).read_only
    assert expected.warns.encode() in done.err
    proof = runner.initrd.proof()
    assert proof is not None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (proof["boot_id"], proof["uuid"], proof["id"]) == (boot, str(fresh.uuid), str(fresh.id))
    assert runner.left == {"rollback"}  # no reason, no directory that was mounted on
    assert b"@agents.new" not in after.names
    assert after.uuids[NAMES.blank] == before.uuids[NAMES.blank]
    lost = set(before.old) - set(after.old)
    if not expected.oldest_may_go:
        assert not lost
        assert after.everything == before.everything
        assert len(after.old) == len(before.old) + expected.aside
    else:
        assert sorted(lost) == before.old[: len(lost)]
        assert not after.everything - before.everything
        assert set(after.old) - set(before.old)
    if not expected.ballast_may_go:
        assert after.uuids.get(NAMES.ballast) == before.uuids.get(NAMES.ballast)


def check_closed(runner: Runner, made: Disk, before: Before, done: process.Done, expected: Closed) -> None:
    assert done.status in ((1, 75) if runner.kind == COMMAND else (1,)), done.err
    program = b"persist" if runner.kind == COMMAND else b"nuketown"
    assert program + b": error: " in done.err
    assert expected.says.encode() in done.err
    assert program + b": hint: " in done.err
    reason = runner.initrd.reason() or ""
    if not expected.mute:
        assert "rollback" not in runner.left
        assert reason.startswith("error: ")
        assert expected.says in reason
        assert "\nhint: " in reason
    if expected.blind:
        expected.cure(made)
    after = look(made)
    lost = set(before.old) - set(after.old)
    assert sorted(lost) == (before.old[: len(lost)] if expected.oldest_may_go else [])
    assert all(name in reason for name in lost)
    assert after.everything == before.everything or (lost and not after.everything - before.everything)
    if not expected.changes:
        assert after == before
    if not expected.blind:
        expected.cure(made)
    cured = look(made)
    check_works(runner, made, cured, runner(made), Works(expected.aside, ballast_may_go=True))


def check(scenario: Scenario, kind: str, at: Path, *, with_ballast: bool = True) -> None:
    """Make the disk, run, look, run again."""
    with ExitStack() as ends:
        made = scenarios.make(at, ends, mkfs=scenario.mkfs, with_ballast=with_ballast)
        scenario.make(made)
        runner = Runner(kind, at)
        if not (isinstance(scenario.expected, Closed) and scenario.expected.mute):
            runner.stale_proof()
        before = look(made)
        if made.ready is not None:
            made.ready()
        began = time.monotonic()
        done = runner(made)
        assert made.at_least <= time.monotonic() - began < made.at_most
        made.meanwhile = None
        match scenario.expected:
            case Works() as works:
                check_works(runner, made, before, done, works)
            case Closed() as closed:
                check_closed(runner, made, before, done, closed)
            case Either(works, closed):
                if done.status == 0:
                    check_works(runner, made, before, done, works)
                else:
                    check_closed(runner, made, before, done, closed)
        settled = look(made)
        check_works(runner, made, settled, runner(made), Works(0))


def _drawn(table: list[Scenario], count: int) -> list[Any]:
    """`count` scenarios, every third with the command and else with one shell; with NUKETOWN_SCALE all with all."""
    draw = random.Random(SEED)
    if SCALE > 1:
        kinds = {scenario.name: [draw.choice(RUNNERS)] if scenario.dear else RUNNERS for scenario in table}
        return [_line(scenario, kind) for scenario in table for kind in kinds[scenario.name]]
    always = [scenario for scenario in table if scenario.always]
    others = [scenario for scenario in table if not scenario.always and not scenario.dear]
    drawn = always + draw.sample(others, min(count - len(always), len(others)))
    return [_line(each, COMMAND if number % 3 == 2 else draw.choice(disk.SHELLS)) for number, each in enumerate(drawn)]


def _line(scenario: Scenario, kind: str) -> Any:
    return pytest.param(scenario, kind, id=f"{scenario.name}-{kind}")


@pytest.mark.parametrize(("scenario", "kind"), _drawn(STATES, 22))
def test_whatever_the_disk_holds_agents_is_blank_or_it_fails_closed(
    scenario: Scenario, kind: str, tmp_path: Path
) -> None:
    with_ballast = random.Random(f"{SEED} {scenario.name} {kind}").random() < (1 if SCALE > 1 else 1 / 4)
    check(scenario, kind, tmp_path, with_ballast=with_ballast or "ballast" in scenario.name)


@pytest.mark.parametrize(("scenario", "kind"), _drawn(FULL, 6))
def test_with_no_room_left_no_home_is_lost_and_it_works_or_fails_closed(
    scenario: Scenario, kind: str, tmp_path: Path
) -> None:
    check(scenario, kind, tmp_path)


@pytest.mark.parametrize(("scenario", "kind"), _drawn(DEVICES, 13))
def test_whatever_the_device_and_the_machine_do_agents_is_blank_or_it_fails_closed(
    scenario: Scenario, kind: str, tmp_path: Path
) -> None:
    check(scenario, kind, tmp_path, with_ballast=False)


# ---------------------------------------------------------------- the same disk at several boots


def test_metadata_full_at_several_boots_without_a_tidy_works_or_fails_closed_and_loses_no_home_but_the_oldest(
    tmp_path: Path,
) -> None:
    with ExitStack() as ends:
        made = scenarios.make(tmp_path, ends, mkfs=scenarios.DUP)
        runner = Runner("dash", tmp_path)
        for number in range(min(times(2), 4)):
            with made.top() as top:
                names = files.names(os.open(f"/proc/self/fd/{top}/@agents", os.O_RDONLY))
                if b"ada" not in names and not _attempt(lambda top=top, n=number: scenarios.home(top, data=b"%d" % n)):
                    break
            scenarios.fill(made, "data")
            before = look(made)
            done = runner(made)
            if done.status == 0:
                works = Works(1, ballast_may_go=True, oldest_may_go=number > 0)
                check_works(runner, made, before, done, works)
            else:
                assert number > 0, "with the ballast it works"
                check_closed(runner, made, before, done, NO_ROOM)


def test_a_hook_killed_at_any_step_on_a_full_disk_loses_nothing_and_the_next_run_finishes(tmp_path: Path) -> None:
    """Destroying the ballast, waiting for the cleaner and committing are among the steps."""
    with ExitStack() as ends:
        made = scenarios.make(tmp_path, ends, mkfs=scenarios.DUP)
        with made.top() as top:
            scenarios.home(top)
        scenarios.fill(made, "data")
        runner = Runner("dash", tmp_path)
        cut = Runner("dash", tmp_path / "cut")
        cut.initrd = crash._wrapped(runner.initrd, tmp_path)
        before, full = look(made), tmp_path / "full.img"
        made.detach()
        process.run(["cp", "--sparse=always", made.image, full])
        ends.callback(full.unlink)
        moments = [f"{step}.{when}" for step in range(1, 60) for when in ("before", "after")]
        draw = random.Random(SEED)
        for moment in moments if SCALE > 1 else draw.sample(moments[8:36], 3):
            process.run(["cp", "--sparse=always", full, made.image])
            made.attach()
            made.told = made.device
            (tmp_path / "calls").write_bytes(b"")
            (tmp_path / "wanted").write_text(f"{moment}\n")
            status = crash._run_in_a_group(cut.initrd.argv(made.device, NUKETOWN_WAIT="0"), 60)
            between = look(made)
            assert between.everything == before.everything, moment
            proof = runner.initrd.proof()
            done = runner(made)
            works = Works(1 - len(between.old) if proof is None else 0, ballast_may_go=True)
            check_works(runner, made, between, done, works)
            process.run(["btrfs", "device", "scan", "--forget", made.device])
            made.detach()
            if status == 0:
                break  # there were no more steps


def _attempt(change: Callable[[], None]) -> bool:
    try:
        change()
    except (OSError, btrfs.BtrfsFailed):  # full: nobody can make a home either
        return False
    return True


# ---------------------------------------------------------------- what it costs


def _cost(change: Callable[[int], None], at: Path) -> tuple[list[str], int]:
    """Every program that the hook starts with its words, and how many requests reach the disk."""
    at.mkdir()
    with ExitStack() as ends:
        made = scenarios.make(at, ends, with_ballast=False)
        with made.top() as top:
            change(top)
        runner, log = Runner("dash", at), at / "log"
        for name in disk.PROGRAMS:
            made.programs[name] = f'#!/bin/sh\necho "{name} $*" >>"{log}"\nexec THE_REAL_ONE "$@"\n'
        before = _requests(made.device)
        done = runner(made)
        assert done.status == 0, done.err
        words = re.sub(r"[0-9]{8}T[0-9]{6}Z-\S+|/dev/loop[0-9]+", "NAME", log.read_text()).splitlines()
        return sorted(words), _requests(made.device) - before


def _requests(device: str) -> int:
    """Reads and writes that a device completed so far (Documentation/block/stat.rst)."""
    found = Path(f"/sys/block/{Path(device).name}/stat").read_text().split()
    return int(found[0]) + int(found[4])


LEFT = [
    states.nested_read_only_and_writable_to_depth_50,
    states.subvolumes_below_a_path_longer_than_path_max,
    states.hostile_names_at_every_level,
    states.a_home_set_read_only_by_its_agent,
    states.two_thousand_subvolumes,
]


def test_the_cost_does_not_depend_on_what_the_agents_left(tmp_path: Path) -> None:
    words, requests = _cost(states.dirty, tmp_path / "plain")
    assert len(words) < 16, words
    for change in LEFT if SCALE > 1 else random.Random(SEED).sample(LEFT[:-1], 2) + LEFT[-1:]:
        found, more = _cost(change, tmp_path / change.__name__)
        print(change.__name__, len(found), requests, more)
        assert found == words, change.__name__
        assert more < 2 * requests + 50, change.__name__
