"""Two machines with one store: neither loses data, each is told of the other, older data never goes on top unasked."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.bucket import agents
from persist.bucket.agents import Listing
from persist.bucket.opening import Bucket, open_bucket
from persist.sync import history
from tests.machine import stores
from tests.machine.hostile import objects, plain
from tests.machine.stores import into_new, source
from tests.machine.towns import Town, town, undo

__all__ = ["town"]
pytestmark = pytest.mark.root
Pair = tuple[Town, Town]


@pytest.fixture
def pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Pair]:
    """One town on two machines; the second is empty, and the first has given its leases back."""
    one = plain(tmp_path / "one", capsys)
    yield one, another(one, tmp_path / "two")
    undo(tmp_path)


def another(one: Town, base: Path) -> Town:
    """Another machine of the same town, with nothing on it."""
    two = Town(base, "", one.capsys)
    two.base.mkdir()
    shutil.copytree(one.base / "identities", two.base / "identities")
    text = one.file.read_text()
    for name in ("agents", "persist"):
        text = text.replace(f'{name}_dir = "{one.base}/{name}"', f'{name}_dir = "{two.base}/{name}"')
    two.file.write_text(text)
    two.agents.mkdir()
    (two.persisted / "agents").mkdir(parents=True)
    return two


def bring(town: Town) -> None:
    """What a restore on another machine does with ada's projects, said to take over."""
    said = town.persist("restore", "--take-over", "ada")
    assert said.status == 0, said.err


def bucket(town: Town) -> Bucket:
    return open_bucket(town.spec)


def listing(town: Town) -> Listing:
    there = bucket(town)
    return agents.listed(there.store, there.keys("ada"))


def fetched(town: Town, at: str | None, name: str) -> Path:
    """A state of ada's projects, in a directory of its own."""
    from persist import fetch

    held = fetch.chosen(town.spec, town.spec.agent("ada"), fetch.Options(at=at))
    assert held is not None
    into_new(held, town.base / name)
    return town.base / name


def test_an_empty_machine_gets_everything_from_the_store_alone(pair: Pair) -> None:
    one, two = pair
    bring(two)
    assert stores.facts(source(two)) == stores.facts(source(one))


def test_another_machine_gets_nothing_and_syncs_nothing_while_the_first_holds_the_lease(pair: Pair) -> None:
    one, two = pair
    before = objects(one, "")
    said = two.persist("restore", "ada")
    assert said.status == 75
    assert "syncs ada, until" in said.err
    assert "--take-over" in said.err
    assert not source(two).exists()
    said = two.persist("sync", "ada")
    assert said.status in (1, 75)
    assert objects(one, "") == before


def test_a_machine_that_took_over_goes_on_and_the_first_one_is_told_and_keeps_a_branch(pair: Pair) -> None:
    one, two = pair
    bring(two)
    (source(two) / "g").write_text("changed on two")
    assert two.persist("sync", "ada").status == 0
    (source(one) / "g").write_text("changed on one")
    said = one.persist("sync", "ada")
    assert said.status == 1
    assert "has taken over ada" in said.err
    (branch,) = listing(one).branches
    assert f"{branch.short}" in one.persist("log", "ada").out
    assert "branch" in two.persist("log", "ada").out
    for here in pair:
        assert (fetched(here, branch.short, "branch") / "g").read_text() == "changed on one"
        assert (fetched(here, None, "newest") / "g").read_text() == "changed on two"
    assert one.persist("sync", "vox").status == 0


def test_who_lost_the_lease_sends_what_it_has_once(pair: Pair) -> None:
    one, two = pair
    bring(two)
    (source(one) / "g").write_text("changed on one")
    for _ in range(3):
        assert one.persist("sync", "ada").status == 1
    before = objects(one, "")
    assert one.persist("sync", "ada").status == 1
    assert objects(one, "") == before
    assert len(listing(one).branches) == 1
    (source(one) / "g").write_text("changed again")
    assert one.persist("sync", "ada").status == 1
    assert len(listing(one).branches) == 2


def test_a_branch_is_brought_back_by_a_restore(pair: Pair) -> None:
    one, two = pair
    bring(two)
    (source(one) / "g").write_text("changed on one")
    one.persist("sync", "ada")
    (branch,) = listing(one).branches
    undo(two.base)
    shutil.rmtree(source(two).parent)
    said = two.persist("restore", "--at", branch.short[:6], "ada")
    assert said.status == 0, said.err
    assert (source(two) / "g").read_text() == "changed on one"
    assert two.persist("sync", "ada").status == 0  # it was chosen with the newest in the store: it goes on top
    assert (fetched(one, None, "newest") / "g").read_text() == "changed on one"
    (source(two) / "g").write_text("and on")
    assert two.persist("sync", "ada").status == 0


def test_an_older_state_that_was_restored_does_not_go_on_top_of_what_came_meanwhile(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    oldest = listing(one).commits[0]
    (source(one) / "g").write_text("second")
    assert one.persist("sync", "ada").status == 0
    release(one)
    assert two.persist("restore", "--at", oldest.short, "ada").status == 0
    (source(one) / "g").write_text("third")
    assert one.persist("sync", "--take-over", "ada").status == 0
    release(one)
    said = two.persist("sync", "ada")
    assert said.status == 1
    assert (fetched(one, None, "newest") / "g").read_text() == "third"


def test_taking_over_puts_ones_own_on_top_and_keeps_the_others_history(pair: Pair) -> None:
    one, two = pair
    bring(two)
    (source(two) / "g").write_text("changed on two")
    two.persist("sync", "ada")
    theirs = listing(two).commits[-1]
    (source(one) / "g").write_text("changed on one")
    assert one.persist("sync", "--take-over", "ada").status == 0
    assert (fetched(one, None, "now") / "g").read_text() == "changed on one"
    assert (fetched(one, theirs.short, "theirs") / "g").read_text() == "changed on two"
    (source(two) / "g").write_text("changed on two again")
    said = two.persist("sync", "ada")
    assert said.status == 1
    assert "has taken over ada" in said.err


def test_data_that_never_came_from_the_store_is_not_put_on_top_of_it(pair: Pair) -> None:
    one, two = pair
    release(one)
    source(two).mkdir(parents=True)
    for name in ("stale1", "stale2"):
        (source(two) / name).write_text("from long ago")
    said = two.persist("sync", "ada")
    assert said.status == 1
    assert "does not descend from that" in said.err


def release(town: Town) -> None:
    """What a clean shutdown does with ada's lease."""
    from persist.sync import local

    assert history.release(town.spec, town.spec.agent("ada"), bucket(town), local.machine(town.spec))


def commands(said: str) -> str:
    """What the hint says to do to have what the store has."""
    return said.split("stop the agent, then: ")[1].split("; to put", maxsplit=1)[0]


def run(town: Town, line: str) -> None:
    """The command of a hint, as a person types it."""
    said = town.persist(*line.split()[1:])
    assert said.status == 0, said.err


def test_the_way_to_have_what_the_store_has_works_as_it_is_said(town: Town) -> None:
    stores.with_store(town, '["projects", {path = "kept", via = "store"}]')
    town.persist("init", "--store")
    town.persist("restore")
    for top in (source(town), town.agents / "ada/kept"):
        (top / "f").write_text("in the store")
    town.persist("sync", "ada")
    release(town)
    shutil.rmtree(town.spec.state_dir)  # from here on it is another machine, of the same name
    for top in (source(town), town.agents / "ada/kept"):
        (top / "f").write_text("of this machine")
    said = town.persist("sync", "ada")
    assert said.status == 1
    assert f"this machine's own name: if it is this machine, its notes in {town.spec.state_dir} are gone" in said.err
    run(town, commands(said.err))
    for top in (town.agents / "ada/projects", town.agents / "ada/kept"):
        assert (top / "f").read_text() == "in the store"
        assert (top / "f").stat().st_uid == 0
    for beside in (source(town).parent, town.agents / "ada"):
        (aside,) = beside.glob("*.before-*")
        assert [file.read_text() for file in aside.rglob("f")] == ["of this machine"]
    assert town.persist("sync", "ada").status == 0


def test_where_nothing_lies_here_a_restore_is_all_that_is_asked_for(pair: Pair) -> None:
    one, two = pair
    release(one)
    said = two.persist("sync", "ada")
    assert said.status == 1
    assert commands(said.err) == f"persist restore --spec {two.file} ada"
    run(two, commands(said.err))
    assert two.persist("sync", "ada").status == 0


def test_another_host_is_not_taken_for_this_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = pair
    release(one)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    said = two.persist("sync", "ada").err
    assert "does not descend from that" in said
    assert "own name" not in said


def test_two_processes_that_sync_at_once_lose_nothing_and_one_goes_on(tmp_path: Path, pair: Pair) -> None:
    one, two = pair
    release(one)
    bring(two)
    release(two)
    for round_ in range(3):
        kept = []
        for here in pair:
            (source(here) / "g").write_text(f"{here.base.name} {round_}")
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "persist.cli", "--spec", str(here.file), "sync", "--take-over", "ada"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for here in pair
        ]
        for process_ in running:
            _, err = process_.communicate(timeout=60)
            kept.append(process_.returncode)
            assert "Traceback" not in err
        assert 0 in kept
        found = {(fetched(one, name.short, f"{round_}-{name.short}") / "g").read_text() for name in listing(one).states}
        for here, status in zip(pair, kept, strict=True):
            if status == 0:
                assert f"{here.base.name} {round_}" in found
    for here in pair:
        (source(here) / "g").write_text(f"{here.base.name} last")
    assert sorted(here.persist("sync", "ada").status for here in pair) == [0, 1]


def test_a_second_machine_has_its_own_name_and_keeps_it(pair: Pair) -> None:
    from persist.sync import local

    one, two = pair
    assert local.machine(one.spec) != local.machine(two.spec)
    assert local.machine(one.spec) == local.machine(one.spec)
    assert os.stat(one.spec.state_dir / "machine").st_mode & 0o777 == 0o600


def test_a_broken_record_is_named_and_nothing_is_assumed(pair: Pair) -> None:
    one, _ = pair
    record = one.spec.state_dir / "sync/ada.json"
    for text in ("", "{}", "[]", "\xff", '{"generation": "x"}'):
        record.write_text(text)
        said = one.persist("sync", "ada")
        assert said.status == 1
        assert "ada.json is damaged" in said.err


def test_a_fresh_machine_takes_at_least_a_generation_and_says_what_it_found(pair: Pair) -> None:
    one, two = pair
    release(one)
    said = two.persist("restore", "--at-least", "2", "ada")
    assert said.status == 1
    assert "generation 1, at least 2 is wanted" in said.err
    assert not source(two).exists()
    said = two.persist("restore", "--at-least", "1", "ada")
    assert said.status == 0
    newest = listing(one).commits[-1].short
    assert f"generation 1, {fetched_time(one)}, host {os.uname().nodename}, snapshot {newest}" in said.err


def fetched_time(town: Town) -> str:
    return stores.held(town).time.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_an_older_copy_of_the_store_is_refused_by_who_has_seen_a_newer_one(pair: Pair) -> None:
    one, _ = pair
    older = one.base / "older"
    shutil.copytree(one.base / "store", older)
    (source(one) / "g").write_text("newer")
    assert one.persist("sync", "ada").status == 0
    shutil.rmtree(one.base / "store")
    older.rename(one.base / "store")
    (source(one) / "g").write_text("newest")
    said = one.persist("sync", "ada")
    assert said.status == 1
    assert "the store shows generation 1 of ada, but this machine has seen 2" in said.err
    assert one.persist("log", "ada").status == 1


def test_an_agent_that_declares_nothing_any_more_keeps_what_the_store_has(pair: Pair) -> None:
    one, _ = pair
    before = objects(one, "")
    bound = one.file.read_text().replace('["projects"]', '[{path = "projects", via = "bind"}]')
    one.file.write_text(bound)
    said = one.persist("sync")
    assert (said.status, said.out) == (0, "ada: nothing to sync yet\nvox: nothing to sync yet\n")
    assert objects(one, "") == before


def test_machines_without_anything_in_common_but_the_specs_id_are_one(pair: Pair, tmp_path: Path) -> None:
    one, _ = pair
    id_ = "0123456789abcdef" * 2
    one.file.write_text(one.file.read_text().replace("[town]\n", f'[town]\nmachine = "{id_}"\n', 1))
    (source(one) / "g").write_text("by the spec's id")
    assert one.persist("sync", "--take-over", "ada").status == 0
    three = another(one, tmp_path / "three")  # the same machine, put up anew: its disk is gone
    said = three.persist("restore", "ada")
    assert said.status == 0, said.err
    (source(three) / "g").write_text("goes on")
    assert three.persist("sync", "ada").status == 0
    assert {name.machine for name in listing(one).commits[1:]} == {id_}


def test_a_machine_that_lets_go_at_its_end_makes_way_for_another(pair: Pair) -> None:
    one, two = pair
    (source(one) / "last").write_text("words")
    assert one.persist("sync", "--release").status == 0
    said = two.persist("restore", "ada")
    assert said.status == 0, said.err
    assert (source(two) / "last").read_text() == "words"
    assert one.persist("sync", "ada").status == 75  # the other has it now
