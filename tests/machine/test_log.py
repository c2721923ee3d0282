"""`persist log`: every state, newest first, what it is and why it is kept; few requests, however many there are."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from persist import log
from persist.bucket import commits
from persist.bucket.commits import Name
from persist.bucket.keys import TownKey
from persist.store.memory import MemoryStore
from persist.sync import history
from persist.sync.history import LeaseLost
from tests.machine import stores
from tests.machine.machines import KEY, NOON, Machine, machine
from tests.machine.stores import source
from tests.machine.towns import Town, town

__all__ = ["town"]
pytestmark = pytest.mark.root
Pair = tuple[Machine, Machine]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Two machines of one town with one store."""
    store = MemoryStore()
    return machine(tmp_path / "one", store), machine(tmp_path / "two", store)


def shown(of: Machine, most: int = log.MOST) -> log.Log:
    return log.log(of.spec, of.agent, of.bucket, most=most)


def many(of: Machine, number: int) -> list[Name]:
    """States of every hour, written by another machine without a look at the store."""
    keys, names = of.bucket.keys("ada"), list[Name]()
    for value in range(number):
        made = replace(
            of.commit(value), machine="e" * 32, generation=value + 1, time=NOON + timedelta(hours=value),
            parent=str(names[-1]) if names else None,
        )  # fmt: skip
        names.append(commits.write(of.bucket.store, keys, made))
    return names


def test_states_are_shown_newest_first_with_what_they_hold(pair: Pair) -> None:
    one, two = pair
    names = [one.sync(value) for value in (10, 20, 30)]
    for each in (one, two):
        entries = shown(each).entries
        assert [entry.name for entry in entries] == names[::-1]
        assert [entry.info.bytes for entry in entries if entry.info] == [30, 20, 10]
        assert [entry.kind for entry in entries] == ["head", "line", "line"]
        assert {entry.host for entry in entries} == {f"host-{one.id[:4]}"}


def test_branches_and_forks_are_shown_as_what_they_are(pair: Pair) -> None:
    one, two = pair
    one.sync(10)
    state = one.holding()
    two.restore(take_over=True)
    head = two.sync(20)
    made = replace(one.commit(15), generation=2, parent=str(one.listing.commits[0]))
    fork = commits.write(one.bucket.store, one.bucket.keys("ada"), made)
    with pytest.raises(LeaseLost):
        one.finish(state, 30)
    for each in (two, one):
        kinds = {entry.name: entry.kind for entry in shown(each).entries}
        (branch,) = one.listing.branches
        assert kinds.pop(branch) == "branch"
        assert sorted(kinds.values()) == ["fork", "head", "line"]
    assert {entry.name: entry.kind for entry in shown(two).entries}[head] == "head"
    assert {entry.name: entry.kind for entry in shown(two).entries}[fork] == "fork"


def test_each_state_says_why_it_is_kept_or_that_a_prune_deletes_it(pair: Pair) -> None:
    one, _ = pair
    many(one, 60)
    kept = {entry.name.generation: entry.kept for entry in shown(one).entries}
    assert kept[60][:2] == ("head", "last")
    assert "last" in kept[13]
    assert kept[12] == ("daily 2026-11-21",)  # of noon to midnight
    assert kept[11] == ()


def test_what_was_read_once_is_not_read_again_and_a_machines_own_states_never(pair: Pair) -> None:
    one, two = pair
    for value in range(5):
        one.sync(value)
    for each, first in ((one, 1), (two, 1 + 1 + 5)):
        before = each.bucket.store.requests
        shown(each)
        assert each.bucket.store.requests - before == first
        before = each.bucket.store.requests
        assert shown(each).unread == 0
        assert each.bucket.store.requests - before == 1


def test_of_thousands_of_states_some_are_read_and_the_rest_shown_by_the_stores_time(pair: Pair) -> None:
    one, _ = pair
    names = many(one, 1200)
    before = one.bucket.store.requests
    first = shown(one, 100)
    assert one.bucket.store.requests - before == 102
    assert [entry.name for entry in first.entries] == names[::-1]
    assert first.unread == 1100
    assert all(entry.info is not None for entry in first.entries[:100])
    assert {entry.kind for entry in first.entries[1:]} == {"line"}
    assert {entry.host for entry in first.entries} == {f"host-{one.id[:4]}"}
    assert shown(one, 100).unread == 1000
    assert shown(one, 2000).unread == 0


def test_a_damaged_state_is_named_and_hides_no_other(pair: Pair) -> None:
    one, two = pair
    names = [one.sync(value) for value in (10, 20, 30)]
    key = commits.key(one.bucket.keys("ada"), names[1])
    data = one.bucket.store.get(key)
    one.bucket.store.delete(key)
    one.bucket.store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    entries = shown(two).entries
    assert [bool(entry.damaged) for entry in entries] == [False, True, False]
    assert "was changed" in entries[1].damaged
    assert shown(two).unread == 0


def test_states_of_earlier_epochs_are_shown_too(pair: Pair, tmp_path: Path) -> None:
    one, _ = pair
    old = one.sync(10)
    new = machine(tmp_path / "new", one.bucket.store, key=TownKey(b"n" * 32, 2), earlier=(KEY,))
    new.restore(take_over=True)
    name = new.sync(20)
    assert [(entry.name, entry.epoch, entry.kind) for entry in shown(new).entries] == [
        (name, 2, "head"), (old, 1, "line"),
    ]  # fmt: skip


def test_who_holds_the_lease_is_said(pair: Pair) -> None:
    one, two = pair
    assert shown(one).lease is None
    one.sync(1)
    mine, theirs = shown(one).lease, shown(two).lease
    assert mine is not None
    assert theirs is not None
    assert (mine["here"], theirs["here"], mine["held"]) == (True, False, True)
    assert theirs["host"] == f"host-{one.id[:4]}"
    history.release(one.spec, one.agent, one.bucket, one.id)
    after = shown(two).lease
    assert after is not None
    assert (after["held"], after["until"]) == (False, None)


def test_a_torn_or_foreign_line_of_what_was_read_is_left_out(pair: Pair) -> None:
    one, two = pair
    names = [one.sync(value) for value in (10, 20)]
    shown(two)
    copy = two.spec.state_dir / "sync/ada.copies/read"
    for text in (b"", b"[", b"\xff\n", b"[1]\n", copy.read_bytes()[:-20], b'{"a": 1}\n', b"[" * 100_000):
        copy.write_bytes(text)
        found = shown(two)
        assert [entry.name for entry in found.entries] == names[::-1]
        assert found.unread == 0


# The command


def synced(town: Town) -> None:
    stores.with_store(town)
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    for number in (1, 2):
        (source(town) / "f").write_text("x" * 1000 * number)
        assert town.persist("sync", "ada").status == 0


def test_the_command_shows_every_state_of_the_agents_that_are_named(town: Town) -> None:
    synced(town)
    said = town.persist("log", "ada")
    assert said.status == 0
    title, newest, oldest = said.out.splitlines()
    assert title.startswith("ada: 2 states; synced from this machine (host ")
    assert "1 file, 2.0 kB  head  kept: last" in newest
    assert "1 file, 1.0 kB  kept: last" in oldest
    everybody = town.persist("log")
    assert everybody.out == said.out
    assert everybody.err == "vox: the store holds no state yet\n"


def test_the_command_says_the_same_as_json(town: Town) -> None:
    synced(town)
    said = town.persist("log", "--json")
    ada, vox = json.loads(said.out)["agents"]
    assert (ada["agent"], vox["states"]) == ("ada", [])
    assert [state["kind"] for state in ada["states"]] == ["head", "line"]
    assert [(state["files"], state["bytes"]) for state in ada["states"]] == [(1, 2000), (1, 1000)]
    assert ada["states"][0]["parent"] == ada["states"][1]["name"]
    assert ada["states"][0]["snapshot"] in town.persist("log", "ada").out


def test_a_damaged_state_makes_the_command_fail_after_it_has_shown_all(town: Town) -> None:
    synced(town)
    (town.spec.state_dir / "sync/ada.copies/read").unlink()
    oldest = min((town.base / "store/agents").glob("*/commit-*"))
    oldest.write_bytes(oldest.read_bytes()[:-1])
    said = town.persist("log", "ada")
    assert said.status == 1
    assert "DAMAGED: " in said.out
    assert len(said.out.splitlines()) == 3
