"""`persist restore --at`: an older state, or a branch, takes the place of what is there, and that is never lost.

And whose lease it is: a restore that fetches takes it, or is refused while another machine holds it.
"""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persist.bucket import leases
from persist.bucket.commits import Name
from persist.bucket.opening import open_bucket
from persist.sync import history, local
from tests.machine import stores, towns
from tests.machine.states import committed
from tests.machine.stores import with_store
from tests.machine.towns import ADA, AS_ADA, Said, Town, as_agent, town
from town import files, kernel, mounts

__all__ = ["town"]
pytestmark = pytest.mark.root
PATHS = '["projects", { path = "scratch/results", via = "store" }]'
OLD, NEW = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)


def tree(base: Path, name: str) -> Path:
    top = base / name
    (top / "deep").mkdir(parents=True)
    (top / "deep/file").write_text(name)
    for path in (top, top / "deep", top / "deep/file"):
        os.chown(path, ADA, ADA)
        os.utime(path, ns=(0, 10**18))
    return top


@pytest.fixture
def states(town: Town) -> dict[str, Name]:
    """Three states in the store: `old`, `new` above it, and a branch. Nothing of ada is on this machine."""
    with_store(town, PATHS)
    assert town.persist("init", "--store").status == 0
    made: dict[str, Name] = {}
    for number, (name, time) in enumerate((("old", OLD), ("new", NEW), ("branch", NEW)), 1):
        top = tree(town.persisted / "trees", name)
        made[name] = committed(
            town, {"projects": top, "scratch/results": top}, generation=min(number, 2), time=time,
            parent=made.get("old"), kind="branch" if name == "branch" else "commit",
        )  # fmt: skip
    return made


def held(town: Town) -> tuple[str, str]:
    home = town.agents / "ada"
    return (home / "projects/deep/file").read_text(), (home / "scratch/results/deep/file").read_text()


def aside(said: Said) -> list[Path]:
    return [Path(path) for path in re.findall(r"what was there is now (\S+)", said.out)]


@pytest.mark.parametrize("way", ["the short id", "its beginning", "the whole name", "a time", "a day"])
def test_an_older_state_comes_back_onto_an_empty_machine(town: Town, states: dict[str, Name], way: str) -> None:
    name = states["old"]
    at = {
        "the short id": name.short, "its beginning": name.salt[:7], "the whole name": str(name),
        "a time": "2026-11-10T00:00:00Z", "a day": "2026-11-10",
    }[way]  # fmt: skip
    said = town.persist("restore", "ada", "--at", at)
    assert said.status == 0, said.err
    assert held(town) == ("old", "old")
    assert aside(said) == []


def test_without_at_the_newest_state_comes_and_no_branch(town: Town, states: dict[str, Name]) -> None:
    assert town.persist("restore", "ada").status == 0
    assert held(town) == ("new", "new")


def test_a_branch_takes_the_place_of_what_is_there_which_is_set_aside(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    as_agent(AS_ADA, town.agents / "ada", "open('projects/mine', 'w').write('not synced yet')")
    said = town.persist("restore", "ada", "--at", states["branch"].short)
    assert said.status == 0, said.err
    assert held(town) == ("branch", "branch")
    before, _ = aside(said)
    assert (before / "mine").read_text() == "not synced yet"
    assert [(path / "deep/file").read_text() for path in aside(said)] == ["new", "new"]
    assert before.is_relative_to(town.persisted / "agents/ada")
    assert before.parent.name.startswith("projects.before-")
    assert (before.parent.stat().st_uid, before.parent.stat().st_mode & 0o777) == (0, 0o711)
    assert len([mount for mount in mounts.table() if mount.target == os.fsencode(town.agents / "ada/projects")]) == 1


def test_what_was_set_aside_is_never_removed_by_a_restore(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    kept = []
    for name in ("old", "branch", "old", "new"):
        said = town.persist("restore", "ada", "--at", states[name].short)
        assert said.status == 0, said.err
        kept += aside(said)
    town.persist("restore", "ada")
    assert sorted((path / "deep/file").read_text() for path in kept) == sorted(["new", "old", "branch", "old"] * 2)
    assert held(town) == ("new", "new")


def test_an_older_state_that_was_brought_back_is_synced_on_top_of_the_head(town: Town, states: dict[str, Name]) -> None:
    for name in ("old", "branch"):
        assert town.persist("restore", "ada", "--at", states[name].short).status == 0
        said = town.persist("sync", "ada")
        assert said.status == 0, said.err
        newest = history.ask(town.spec, town.spec.agent("ada"), open_bucket(town.spec)).head
        assert newest is not None
        assert newest.name.generation > states["new"].generation
        assert newest.name.machine == local.machine(town.spec)
    assert held(town) == ("branch", "branch")


def test_a_dry_run_says_what_would_be_set_aside_and_changes_nothing(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    before = towns.facts(town.agents), towns.facts(town.persisted / "agents")
    said = town.persist("restore", "ada", "--at", states["old"].short, "--dry-run")
    assert said.status == 0
    assert said.out.count("(what is there is set aside)") == 2
    assert (towns.facts(town.agents), towns.facts(town.persisted / "agents")) == before


def test_a_state_that_is_not_there_changes_nothing(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    for at in ("ffffffffffff", "yesterday", "2020-01-01"):
        said = town.persist("restore", "ada", "--at", at)
        assert said.status == 1
        assert "persist log " in said.err
    assert held(town) == ("new", "new")


def test_a_path_that_the_older_state_does_not_hold_stays_as_it_is(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    with_store(town, PATHS.replace("]", ', "later"]'))
    assert town.persist("restore", "ada").status == 0
    as_agent(AS_ADA, town.agents / "ada", "open('later/x', 'w').write('mine')")
    assert town.persist("restore", "ada", "--at", states["old"].short).status == 0
    assert (town.agents / "ada/later/x").read_text() == "mine"
    assert held(town) == ("old", "old")


def test_a_reader_sees_all_of_one_state_or_all_of_the_other(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    with files.opened(files.open_dir(town.agents / "ada/scratch/results")) as before:
        assert town.persist("restore", "ada", "--at", states["old"].short).status == 0
        with files.opened(os.open("deep/file", os.O_RDONLY, dir_fd=before)) as fd:
            assert os.read(fd, 100) == b"new", "who has it open reads on in what was set aside"


def test_something_else_that_is_mounted_there_stays(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    kernel.mount("tmpfs", str(town.agents / "ada/projects"), "tmpfs", 0, "")
    said = town.persist("restore", "ada", "--at", states["old"].short)
    assert said.status == 1
    assert "something else is mounted at" in said.err
    assert mounts.at(town.agents / "ada/projects") is not None


def lease(town: Town, machine: str = "cd" * 16) -> None:
    """Another machine takes ada's lease."""
    bucket = open_bucket(town.spec)
    leases.write(bucket.store, bucket.keys("ada"), 1, machine, "take", "other-host")


def test_a_restore_that_fetches_takes_the_lease(town: Town, states: dict[str, Name]) -> None:
    assert town.persist("restore", "ada").status == 0
    bucket = open_bucket(town.spec)
    (found,) = (item.key for item in bucket.store.list(f"agents/{bucket.keys('ada').place}/lease-"))
    assert local.machine(town.spec) in found
    assert "-take-" in found


def test_a_restore_that_fetches_nothing_asks_for_no_lease(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada")
    lease(town)
    assert town.persist("restore", "ada").out == "ada: nothing to do\n"


def test_while_another_machine_holds_the_lease_nothing_is_fetched(town: Town, states: dict[str, Name]) -> None:
    lease(town)
    said = town.persist("restore", "ada")
    assert said.status == 75
    assert "other-host" in said.err
    assert "--take-over ada" in said.err
    assert not (town.agents / "ada/scratch").exists()
    assert os.listdir(town.persisted / "agents/ada") == []
    assert town.persist("restore", "ada", "--take-over").status == 0
    assert held(town) == ("new", "new")


def test_take_over_takes_the_lease_where_nothing_is_to_be_fetched(town: Town, states: dict[str, Name]) -> None:
    assert town.persist("restore", "ada").status == 0
    assert town.persist("sync", "ada").status == 0
    bucket = open_bucket(town.spec)
    leases.write(bucket.store, bucket.keys("ada"), 7, "cd" * 16, "take", "other-host")
    (town.agents / "ada/projects/new").write_text("x")
    assert town.persist("sync", "ada").status != 0
    said = town.persist("restore", "ada", "--take-over")
    assert (said.status, said.out) == (0, "ada: this machine syncs it from now on\n")
    assert town.persist("sync", "ada").status == 0


def test_a_store_older_than_what_is_known_is_refused(town: Town, states: dict[str, Name]) -> None:
    said = town.persist("restore", "ada", "--at-least", "3")
    assert said.status == 1
    assert "generation 2" in said.err
    assert not (town.agents / "ada/scratch").exists()
    assert town.persist("restore", "ada", "--at-least", "2").status == 0


@pytest.mark.parametrize("rate", ["", "fast", "-1", "0", "1X", "1e9", "nan"])
def test_a_rate_that_is_none_is_refused_before_anything_is_made(town: Town, states: dict[str, Name], rate: str) -> None:
    said = town.persist("restore", "ada", f"--limit-rate={rate}")
    assert said.status == 2
    assert "--limit-rate" in said.err
    assert os.listdir(town.agents) == []


def test_a_rate_slows_a_restore_down(town: Town, states: dict[str, Name]) -> None:
    import time

    top = tree(town.persisted / "trees", "large")
    (top / "noise").write_bytes(os.urandom(300_000))
    committed(town, {"projects": top}, generation=3, parent=states["new"])
    began = time.monotonic()
    assert town.persist("restore", "ada", "--limit-rate", "300K").status == 0
    assert time.monotonic() - began > 0.9


def test_the_summary_says_what_came_and_in_how_many_requests(town: Town, states: dict[str, Name]) -> None:
    said = town.persist("restore", "ada")
    assert re.search(r"projects from .*: 1 file, 3 B; [0-9.]+ k?B in [0-9]+ requests, [0-9.]+ s\n", said.out)


def test_the_facts_are_those_of_the_state(town: Town, states: dict[str, Name]) -> None:
    town.persist("restore", "ada", "--at", states["old"].short)
    right = stores.facts(town.persisted / "trees/old")
    assert stores.facts(town.agents / "ada/projects") == right
    assert replace(states["old"], kind="branch") != states["old"]
