"""Killed at every step, and cut off from power there: what was written is there after the next restore."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from persist import cli
from tests.machine.lineages import boot, kept, ok, record, second, synced, town, uuid, work, write
from tests.machine.racer import racing
from tests.machine.test_lineage import nest
from tests.machine.test_restore_store import counting
from tests.machine.towns import AS_ADA, Town
from tests.scale import SCALE
from town import btrfs, kernel, subvolumes

__all__ = ["kept", "town"]
pytestmark = pytest.mark.root
# Every door to an effect that bringing a directory over, making or fetching one goes through.
EFFECTS = ((os, "mkdir"), (os, "fchown"), (os, "rmdir"), (os, "rename"), (os, "unlink"), (os, "fsync"),
           (kernel, "renameat2"), (kernel, "syncfs"), (btrfs, "create"), (btrfs, "snapshot"), (btrfs, "commit"),
           (subvolumes, "destroy"))  # fmt: skip
# A part of the steps in every run, all of them in a full one. Odd, so that after every second one the power goes too.
STRIDE = 3 if SCALE == 1 else 1


def killed_at(town: Town, step: int, *words: str) -> bool:
    """A command that is killed before its effect number `step`, or a process of its own is; False when it ends well."""
    child = os.fork()
    if child == 0:
        left = [step]
        for module, name in EFFECTS:
            setattr(module, name, counting(getattr(module, name), left))
        os._exit(cli.main(["--spec", str(town.file), *words]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 75, -signal.SIGKILL)
    return status != 0


def at_every_step(kept: Town, check: Callable[[], None], *words: str, power: bool) -> int:
    """Kill the command at every step; then the power goes too, or not; then a restore, and `check`."""
    step = 1 + power
    while True:
        boot(kept)
        if not killed_at(kept, step, *words):
            return step
        if power:
            boot(kept)
        ok(kept, "restore", "ada")
        check()
        hidden = [name for name in os.listdir(kept.agents / "ada") if name.startswith(".")]
        assert hidden == [], step
        assert ok(kept, "restore", "ada").out == "ada: nothing to do\n"
        step += STRIDE


@pytest.mark.parametrize("power", [False, True])
def test_a_restore_that_is_killed_at_any_step_loses_nothing_that_was_written(kept: Town, *, power: bool) -> None:
    write(kept, "synced")
    synced(kept)
    write(kept, "after the last sync")
    nest(kept, "n")

    def whole() -> None:
        assert sorted(os.listdir(work(kept))) == ["after the last sync", "n", "synced"]
        assert (work(kept) / "n/in").read_text() == "n"
        assert record(kept)["work"][0]["uuid"] == uuid(work(kept))

    assert at_every_step(kept, whole, "restore", "--local", "ada", power=power) > 15


def test_a_directory_whose_making_is_killed_at_any_step_is_there_and_on_record(kept: Town) -> None:
    step = 1
    while True:
        boot(kept)
        (kept.persisted / ".nuketown/lineage/ada.json").unlink(missing_ok=True)
        if not killed_at(kept, step, "restore", "ada"):
            break
        ok(kept, "restore", "ada")
        write(kept, f"at{step}")
        boot(kept)
        ok(kept, "restore", "--local", "ada")
        assert os.listdir(work(kept)) == [f"at{step}"]
        step += STRIDE
    assert step > 15


def test_a_fetch_over_it_that_is_killed_at_any_step_leaves_what_was_there_or_all_of_the_newer(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    two = second(kept)
    ok(two, "restore", "--take-over", "ada")
    step, there = 1, 1
    while True:
        write(two, f"b{step}")
        ok(two, "sync", "--release", "ada")
        boot(kept)
        ok(kept, "restore", "--local", "ada")
        if not killed_at(kept, step, "restore", "--fetch", "ada"):
            break
        assert len(os.listdir(work(kept))) in (there, there + 1)
        if step % 2:
            boot(kept)
        ok(kept, "restore", "ada")
        there += 1
        assert len(os.listdir(work(kept))) == there
        ok(kept, "restore", "ada")
        ok(kept, "sync", "--release", "ada")
        ok(two, "restore", "--take-over", "--at", head(two), "ada")
        step += 3 * STRIDE
    assert step > 40


def test_what_a_killed_fetch_recorded_does_not_stand_in_the_way_of_what_is_in_use(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    two = second(kept)
    ok(two, "restore", "--take-over", "ada")
    write(two, "b")
    ok(two, "sync", "--release", "ada")
    boot(kept)
    ok(kept, "restore", "--local", "ada")
    killed_at_exchange(kept, "restore", "--fetch", "ada")
    assert record(kept)["work"][0]["uuid"] != uuid(work(kept))
    ok(kept, "restore", "--local", "ada")
    write(kept, "mine")
    boot(kept)
    ok(kept, "restore", "--local", "ada")
    assert sorted(os.listdir(work(kept))) == ["a", "mine"]


def killed_at_exchange(town: Town, *words: str) -> None:
    """A command that is killed right before it puts one directory in the place of another."""
    child = os.fork()
    if child == 0:
        real = kernel.renameat2

        def renamed(*told: int) -> None:
            if told[-1] == kernel.RENAME_EXCHANGE:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*told)  # type: ignore[arg-type]

        kernel.renameat2 = renamed
        os._exit(cli.main(["--spec", str(town.file), *words]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def head(town: Town) -> str:
    states = json.loads(ok(town, "log", "ada", "--json").out)["agents"][0]["states"]
    return str(next(state["snapshot"] for state in states if state["kind"] == "head"))


def test_a_sync_that_is_killed_at_any_step_leaves_the_lineage_right(kept: Town) -> None:
    step, there = 1, 1
    while True:
        write(kept, f"f{step}")
        if not killed_at(kept, step, "sync", "ada"):
            break
        boot(kept)
        ok(kept, "restore", "ada")
        assert len(os.listdir(work(kept))) == there
        step, there = step + STRIDE, there + 1
    assert step > 10
    synced(kept)
    boot(kept)
    ok(kept, "restore", "ada")
    assert len(os.listdir(work(kept))) == there


@pytest.mark.parametrize("kind", ["away", "link", "filled"])
def test_an_agent_that_swaps_the_place_while_it_is_brought_over_reaches_nothing_outside(
    kept: Town, tmp_path: Path, kind: str
) -> None:
    write(kept, "a")
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    boot(kept)
    ok(kept, "restore", "ada")
    moves = [("work", "away"), *([("work", f"link:{outside}" if kind == "link" else kind)] if kind != "away" else ())]
    statuses, shown = set[int](), set[str]()
    with racing(AS_ADA, kept.agents / "ada", moves, catch=["."]) as racer:
        until, before = time.monotonic() + 2, racer.swaps
        while time.monotonic() < until:
            said = kept.persist("restore", "--local", "ada")
            statuses.add(said.status)
            shown.add(record(kept)["work"][0]["uuid"])
        assert racer.swaps > before + 1000, "a race that did not happen proves nothing"
    assert statuses <= {0, 1, 75}
    assert len(shown) > 1 or kind != "away", "the place was free at times, and something was brought over to it"
    assert list(outside.iterdir()) == []
    boot(kept)
    ok(kept, "restore", "--local", "ada")
    assert os.listdir(work(kept)) == ["a"], "what was swapped about is what is found by its number"
