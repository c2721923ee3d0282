"""`persist prune` on a real town: real syncs, a real store, a day that goes by."""

import json
import os
from pathlib import Path
from random import Random

import pytest

from persist.bucket.opening import open_bucket
from tests.machine import histories, stores
from tests.machine.days import pass_by
from tests.machine.histories import DAY, states
from tests.machine.stores import facts, into_new, source, with_store
from tests.machine.towns import Said, Town, town

__all__ = ["town"]
pytestmark = pytest.mark.root
KEEP = "sync = { keep = { last = 2, daily = 0, weekly = 0 } }\n"


@pytest.fixture
def made(town: Town) -> Town:
    """Six states of ada, of which the policy keeps two."""
    with_store(town, more=KEEP)
    town.persist("init", "--store")
    town.persist("restore")
    stores.torture(source(town), big=1 << 20)
    for number in range(6):
        (source(town) / f"many/f{number + 10}").write_bytes(Random(number).randbytes(30_000))
        (source(town) / "always").write_bytes(Random(-number).randbytes(30_000))
        assert town.persist("sync").status == 0
    return town


def later(town: Town, seconds: float) -> None:
    """So much time goes by, for the store and for the records of this machine."""
    pass_by(seconds, town.base / "store", town.spec.state_dir)


def held(town: Town) -> dict[bytes, stores.Fact]:
    back = town.persisted / "back"
    into_new(stores.held(town), back)
    found = facts(back)
    stores.files.remove_tree(stores.files.open_dir(town.persisted), "back")
    return found


def size(town: Town) -> int:
    return sum(path.stat().st_size for path in (town.base / "store").rglob("*") if path.is_file())


def ok(said: Said) -> Said:
    assert (said.status, said.err) == (0, ""), said
    return said


def test_states_go_at_once_packs_a_day_later_and_the_newest_state_restores_byte_for_byte(made: Town) -> None:
    bucket = open_bucket(made.spec)
    before = states(bucket)
    assert "2 states kept, 4 dropped" in ok(made.persist("prune")).out
    assert states(bucket) == before[-2:]
    assert held(made) == facts(source(made))
    packs = histories.packs(bucket)
    ok(made.persist("prune"))
    assert histories.packs(bucket).keys() == packs.keys()
    full = size(made)
    later(made, DAY + 60)
    assert "freed now" in ok(made.persist("prune")).out
    assert len(histories.packs(bucket)) == 1
    assert size(made) < full * 0.7
    assert held(made) == facts(source(made))
    ok(made.persist("verify", "--read-data", "100%"))


def test_a_sync_after_a_prune_sends_only_what_changed(made: Town) -> None:
    for _ in range(2):
        ok(made.persist("prune"))
        (source(made) / f"new{os.urandom(4).hex()}").write_bytes(b"new")
        before = size(made)
        said = made.persist("sync", "ada")
        assert said.status == 0, said
        assert size(made) - before < 60_000  # the files of many, some of 30,000 bytes, are not sent again
        assert held(made) == facts(source(made))
        later(made, DAY + 60)
    ok(made.persist("prune"))
    assert held(made) == facts(source(made))


def test_a_machine_whose_notes_are_gone_syncs_and_restores_after_prunes(made: Town) -> None:
    ok(made.persist("prune"))
    later(made, DAY + 60)
    ok(made.persist("prune"))
    for path in (made.spec.state_dir / "index").iterdir():
        path.unlink()
    before = size(made)
    assert made.persist("sync", "ada").status == 0
    assert size(made) - before < 10_000
    assert held(made) == facts(source(made))


def test_json_says_what_is_kept_and_why_and_a_dry_run_changes_nothing(made: Town) -> None:
    before = {path: path.read_bytes() for path in (made.base / "store").rglob("*") if path.is_file()}
    (one,) = [one for one in json.loads(ok(made.persist("prune", "--dry-run", "--json")).out) if one["agent"] == "ada"]
    assert [state["reasons"] for state in one["kept"]] == [["head", "last"], ["last"]]
    assert (one["dropped"], one["dry_run"], one["freed_now"]) == (4, True, 0)
    assert one["freed_later"] > 0
    assert [action.split()[0] for action in one["actions"]][:4] == ["drop"] * 4
    assert "bury" in ok(made.persist("prune", "--dry-run")).out
    assert {path: path.read_bytes() for path in (made.base / "store").rglob("*") if path.is_file()} == before
    (again,) = [one for one in json.loads(ok(made.persist("prune", "--json")).out) if one["agent"] == "ada"]
    assert again["dropped"] == 4
    assert again["sent"] > 0


def test_agents_are_pruned_apart_and_one_that_fails_stops_no_other(made: Town) -> None:
    with_store(made, vox='["work"]', more=KEEP)
    made.persist("restore")
    for number in range(4):
        (source(made, "work", "vox") / "file").write_bytes(bytes([number]) * 1000)
        assert made.persist("sync", "vox").status == 0
    bucket = open_bucket(made.spec)
    newest = states(bucket)[-1]
    path = made.base / "store/agents" / bucket.keys("ada").place / str(newest)
    path.write_bytes(path.read_bytes()[:-1])
    for copy in (made.spec.state_dir / "sync/ada.copies").iterdir():
        copy.unlink()
    count = len(states(bucket))
    said = made.persist("prune")
    assert said.status == 1
    assert "ada: " in said.err
    assert len(states(bucket)) == count
    assert "vox: 2 states kept, 2 dropped" in said.out


def test_a_town_without_states_has_nothing_to_prune(town: Town) -> None:
    with_store(town, more=KEEP)
    town.persist("init", "--store")
    assert "nothing in the store yet" in ok(town.persist("prune")).out
    assert Path(town.base / "store").is_dir()
