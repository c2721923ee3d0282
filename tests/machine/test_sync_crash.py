"""Sync, restore and prune, killed at any request and any call into the kernel or the index, or refused an answer.

After each: every state that was committed is there and restores byte for byte, nothing else is ever there, and the
next sync, restore and prune end well.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from persist import cli
from persist.store.directory import DirectoryStore
from tests.machine import days, killing, stopping, stores
from tests.machine.homes import Home
from tests.machine.stopping import HOWS
from tests.machine.stores import Fact, with_store
from tests.machine.towns import ADA, Town, town
from tests.scale import SCALE, SEED, times
from town import btrfs, files

__all__ = ["town"]
pytestmark = pytest.mark.root
KEEP = "[town.sync]\nkeep = { last = 3, daily = 0, weekly = 0, monthly = 0 }\n"
Facts = dict[bytes, Fact]
POINTS = 4 if SCALE == 1 else times(16)  # at most, for each verb and test: more than 500 in a full run


@dataclass
class Crashing:
    """Ada's home on btrfs, and what each committed state holds."""

    home: Home
    random: Random
    states: dict[str, Facts] = field(default_factory=dict)  # by snapshot

    @property
    def projects(self) -> Path:
        return self.home.projects

    def words(self, *words: str) -> list[str]:
        return ["--spec", str(self.home.town.file), *words]

    def edit(self) -> None:
        """Some files changed, one new, one gone, one directory moved."""
        dice = self.random
        for number in dice.sample(range(3, 20), 4):
            (self.projects / f"many/f{number}").write_bytes(dice.randbytes(dice.randrange(1, 20_000)))
        made = self.projects / f"new{dice.randrange(10**9)}"
        made.write_bytes(dice.randbytes(60_000))
        os.chown(made, ADA, ADA)
        if gone := sorted(path for path in self.projects.glob("new*") if path != made):
            dice.choice(gone).unlink()
        (moved,) = self.projects.glob("moved*")
        moved.rename(self.projects / f"moved{dice.randrange(10**9)}")

    def sync(self) -> None:
        """A sync that ends well; its state is what lies here now."""
        self.home.ok("sync", "ada")
        self.states[self.home.head] = stores.facts(self.projects)

    def check(self, now: Facts | None, *, all_of_them: bool = False) -> None:
        """No state came from nowhere but one that was being committed (`now`); the newest restore byte for byte."""
        held = [state["snapshot"] for state in self.home.log()]
        for snapshot in held:
            if snapshot not in self.states:
                assert now is not None, f"{snapshot} came from nowhere"
                self.states[snapshot] = now
        for snapshot in held if all_of_them else [held[0], self.random.choice(held)]:
            assert self.home.got(snapshot) == self.states[snapshot], snapshot


@pytest.fixture
def crashing(town: Town) -> Iterator[Crashing]:
    with_store(town, '[{ path = "projects", via = "store" }]', more=KEEP)
    made = Crashing(Home(town), Random(SEED))
    made.home.ok("init", "--store")
    made.home.ok("restore")
    stores.torture(made.projects, small=25, deep=3, big=200_000)
    (made.projects / "moved0").mkdir()
    (made.projects / "moved0/f").write_text("moved")
    for path in (made.projects / "moved0", made.projects / "moved0/f"):
        os.chown(path, ADA, ADA)
    made.sync()
    with pytest.MonkeyPatch.context() as ours:
        for module in ("packs", "sending"):  # many packs: many moments between them
            ours.setattr(f"persist.bucket.{module}.FULL", 40_000)
        ours.setattr("persist.bucket.blobs.GROUP", 20_000)
        yield made


def _sync(made: Crashing) -> tuple[list[str], Facts | None]:
    made.edit()
    return made.words("sync", "ada"), stores.facts(made.projects)


def _restore(made: Crashing) -> tuple[list[str], Facts | None]:
    made.home.reboot()
    return made.words("restore", "ada"), None


def _prune(made: Crashing) -> tuple[list[str], Facts | None]:
    made.edit()
    made.sync()
    days.pass_by(1.1 * days.DAY, made.home.town.base / "store", made.home.town.spec.state_dir)
    return made.words("prune", "ada"), None


VERBS: dict[str, Callable[[Crashing], tuple[list[str], Facts | None]]] = {
    "sync": _sync,
    "restore": _restore,
    "prune": _prune,
}


@dataclass(frozen=True)
class Kept:
    """What the store held before: all states, and those that the policy keeps."""

    all: frozenset[str]
    kept: frozenset[str]

    @classmethod
    def now(cls, made: Crashing) -> "Kept":
        log = made.home.log()
        return cls(frozenset(state["snapshot"] for state in log), frozenset(s["snapshot"] for s in log if s["kept"]))


def afterwards(made: Crashing, verb: str, now: Facts | None, before: Kept) -> None:
    """What must hold after a command was cut off, and what the next of each kind does."""
    log = made.home.log()
    there = {state["snapshot"] for state in log}
    assert (before.kept if verb == "prune" else before.all) <= there, "a state is gone that was to stay"
    if verb == "restore" and made.projects.exists() and os.listdir(made.projects):
        assert stores.facts(made.projects) == made.states[made.home.head], "a reader would see a part"
    made.check(now)
    if verb == "sync":
        made.sync()
    else:
        made.home.ok(verb, "ada")
    if verb == "restore":
        assert stores.facts(made.projects) == made.states[made.home.head]
    made.edit()
    made.sync()
    assert made.home.got(made.home.head) == stores.facts(made.projects)
    with btrfs.top_level(made.home.town.device) as top, files.opened(files.enter(top, ".nuketown-sync")) as fd:
        assert len([name for name in files.names(fd) if b"@" in name]) <= 1, "snapshots of syncs that were killed"


@pytest.mark.parametrize("verb", VERBS)
def test_stopped_at_any_request_nothing_committed_is_lost(
    crashing: Crashing, verb: str, record_property: Callable[[str, object], None]
) -> None:
    words, now = VERBS[verb](crashing)
    before = Kept.now(crashing)
    whole = stopping.run(DirectoryStore, words)
    assert whole.status == 0
    afterwards(crashing, verb, now, before)
    points = [(number, how) for number in range(max(1, whole.requests)) for how in HOWS]
    chosen = crashing.random.sample(points, min(len(points), POINTS))
    stopped = 0
    for number, how in chosen:
        words, now = VERBS[verb](crashing)
        before = Kept.now(crashing)
        ended = stopping.run(DirectoryStore, words, number, how)
        assert ended.killed or not how.startswith("killed") or number >= ended.requests, (number, how, ended)
        stopped += ended.killed or ended.status != 0
        afterwards(crashing, verb, now, before)
    assert stopped or not whole.requests
    crashing.check(None, all_of_them=True)
    record_property("kill points", len(chosen))


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_any_call_into_the_kernel_or_the_index_nothing_committed_is_lost(
    crashing: Crashing, verb: str, record_property: Callable[[str, object], None]
) -> None:
    words, now = VERBS[verb](crashing)
    before = Kept.now(crashing)
    moments = killing.count(lambda: _quietly(words))
    afterwards(crashing, verb, now, before)
    killed = 0
    for _ in range(POINTS):
        words, now = VERBS[verb](crashing)
        before = Kept.now(crashing)
        killed += killing.tried(lambda words=words: _quietly(words), crashing.random.randrange(moments))  # type: ignore[misc]
        afterwards(crashing, verb, now, before)
    assert killed * 2 >= POINTS  # else this proved little
    crashing.check(None, all_of_them=True)
    record_property("kill points", killed)


def _quietly(words: list[str]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):
        os.dup2(nothing, fd)
    assert cli.main(words) == 0
