"""Two machines that do everything in any order, and one that is killed right after its commit: what a sync says it
stored is there, byte for byte, and everything that the store names is whole after each step.

Each step is drawn from a seed, which is the test's parameter: a failure is repeated by it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from persist.sync import committing
from persist.sync.index import Index
from tests.machine import stores
from tests.machine.homes import Home
from tests.machine.stores import with_store
from tests.machine.test_sync_states import Pair, pair
from tests.machine.towns import ADA, Town, town
from tests.scale import SEED, times

__all__ = ["pair", "town"]
pytestmark = pytest.mark.root
STEPS, KILLED_STEPS = 12, 8
SEEDS, KILLED_SEEDS = (range(SEED, SEED + times(count)) for count in (2, 1))
KEEP = "[town.sync]\nkeep = { last = 1 }\n"


def edit(home: Home, random: Random) -> None:
    """Some files written, linked, removed, a directory renamed: few contents, so that they come again."""
    top = home.projects
    for _ in range(random.randrange(1, 6)):
        path, other = _any(top, random), _any(top, random)
        what = random.choice(["write", "write", "write", "remove", "link", "rename"])
        if what == "write":
            path.write_bytes(random.choice([b"a", b"b", b"c", b"d"]) * random.choice([3000, 700_000]))
        elif what == "remove":
            path.unlink(missing_ok=True)
        elif what == "link" and path.exists() and not other.exists():
            os.link(path, other)
        elif what == "rename" and not (renamed := top / f"r{random.randrange(3)}").exists():
            path.parent.rename(renamed)
    for path in top.rglob("*"):
        os.chown(path, ADA, ADA)


def _any(top: Path, random: Random) -> Path:
    path = top / f"d{random.randrange(3)}" / f"f{random.randrange(4)}"
    path.parent.mkdir(exist_ok=True)
    return path


def forget_the_index(home: Home) -> None:
    for path in (home.town.spec.state_dir / "index").glob("*"):
        path.unlink()


def bring_back(home: Home, random: Random) -> None:
    """Some state that the store shows, whichever machine's, a branch too."""
    home.ok("restore", "ada", "--at", random.choice(home.log())["snapshot"], "--take-over")


def stored(home: Home, *words: str) -> None:
    """A sync ends well, and what it stored is what lies here."""
    home.ok("sync", "ada", "--accept-loss", *words)
    assert home.got(home.head) == stores.facts(home.projects)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_two_machines_do_in_turn_the_newest_state_is_what_was_synced_last(pair: Pair, seed: int) -> None:
    random = Random(seed)
    one, two = pair
    if random.random() < 0.5:
        for home in pair:
            home.town.file.write_text(f"{home.town.file.read_text()}\n{KEEP}")
    one.ok("sync", "ada")
    two.ok("restore", "ada", "--take-over")
    for _ in range(STEPS):
        home, what = random.choice([one, one, two]), random.randrange(8)
        edit(home, random)
        if what == 0:
            forget_the_index(home)
        elif what in (1, 2):
            bring_back(home, random)
        elif what == 3:
            home.run("prune", "ada")  # refused where the other one has the lease
        if what == 4:
            home.run("sync", "ada", "--accept-loss")  # a branch, where the other one has the lease
        else:
            stored(home, "--take-over")
        home.ok("verify", "ada")


class Killed(BaseException):
    """Nothing catches it."""


def _killed(*_: object) -> None:
    raise Killed


KILLS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    lambda ours: ours.setattr(committing, "_sent", _killed),  # before the commit is sent
    lambda ours: ours.setattr(committing, "_recorded", _killed),  # it is sent, and the record knows of an intention
    lambda ours: ours.setattr(Index, "keep", _killed),  # it is recorded, and the index knows nothing of it
    lambda _: None,
)


@pytest.mark.parametrize("seed", KILLED_SEEDS)
def test_wherever_a_sync_is_killed_around_its_commit_the_next_one_stores_what_lies_there(
    town: Town, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    with_store(town, '[{ path = "projects", via = "store" }]', more=KEEP)
    home = Home(town)
    home.ok("init", "--store")
    home.ok("restore")
    for step in range(KILLED_STEPS):
        edit(home, random)
        (home.projects / "step").write_text(str(step))  # so that there is something to commit
        with monkeypatch.context() as ours:
            KILLS[step % len(KILLS)](ours)
            if step % len(KILLS) == len(KILLS) - 1:
                stored(home)
            else:
                with pytest.raises(Killed):
                    home.run("sync", "ada", "--accept-loss")
        if random.random() < 0.3:
            home.ok("prune", "ada")
        if random.random() < 0.15:
            forget_the_index(home)
        edit(home, random)
        stored(home)
        home.ok("verify", "ada")
