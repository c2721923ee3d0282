"""Forgetting states by name: those go, what only they held follows a day later, and no other state notices."""

import json

import pytest

from persist.bucket.commits import Name
from persist.store import StoreDamaged
from persist.upkeep import choosing, epochs, forget
from persist.upkeep.apply import Doing
from tests.machine import histories
from tests.machine.histories import DAY, A, Machine, last, machine, prune, restored, states
from tests.machine.stores import source, with_store
from tests.machine.test_prune import files, grown, store_of, whole
from tests.machine.towns import Town, town
from town.failure import WrongUsage

__all__ = ["town"]


def forgotten(ours: Machine, *names: Name) -> None:
    for epoch in epochs.opened(ours.bucket, "ada"):
        Doing(epoch).run(forget.planned(epoch, names))


def test_a_forgotten_state_goes_and_what_only_it_held_a_day_later() -> None:
    ours = machine()
    alone = ours.sync(files(5))
    made = {alone: files(5)} | grown(ours, 4)
    theirs = {pack.id for pack in histories.commits.read(ours.bucket.store, ours.keys, alone).packs}
    forgotten(ours, alone)
    assert alone not in states(ours.bucket)
    assert theirs <= histories.packs(ours.bucket).keys()
    store_of(ours).time += DAY
    prune(ours.bucket)
    assert theirs.isdisjoint(histories.packs(ours.bucket))
    whole(ours, made)


def test_what_others_share_stays() -> None:
    ours = machine()
    made = grown(ours, 6)
    forgotten(ours, *tuple(made)[1:3])
    for _ in range(3):
        whole(ours, made)
        store_of(ours).time += DAY
        prune(ours.bucket)
    assert len(states(ours.bucket)) == 4


def test_a_sync_that_builds_on_what_is_forgotten_is_whole() -> None:
    for step in range(4):
        ours = machine()
        alone = ours.sync(files(5))
        made = grown(ours, 3)
        sync = ours.steps(files(5) | {"d0/x": b"on top"})
        for _ in range(step):
            next(sync)
        forgotten(ours, alone)
        *_, name = sync
        assert isinstance(name, Name)
        for _ in range(3):
            store_of(ours).time += DAY
            prune(ours.bucket)
            assert restored(ours.bucket, name) == files(5) | {"d0/x": b"on top"}
        whole(ours, made | {name: files(5) | {"d0/x": b"on top"}})


def test_a_state_that_cannot_be_read_can_be_forgotten_and_then_the_store_prunes_again() -> None:
    ours = machine()
    made = grown(ours, 4)
    name = tuple(made)[1]
    key = histories.commits.key(ours.keys, name)
    store_of(ours).delete(key)
    store_of(ours).put(key, b"nuketown commit 2\n" + bytes(100))
    with pytest.raises(StoreDamaged):
        prune(ours.bucket, last(2))
    forgotten(ours, name)
    prune(ours.bucket, last(2))
    whole(ours, made)


def test_a_beginning_that_several_have_is_refused_with_the_candidates() -> None:
    ours = machine()
    made = grown(ours, 40)
    there = epochs.opened(ours.bucket, "ada")
    common = next(name.salt[0] for name in made if sum(other.salt[0] == name.salt[0] for other in made) > 1)
    with pytest.raises(WrongUsage, match=" or "):
        choosing.chosen("ada", there, common)
    assert choosing.chosen("ada", there, next(iter(made)).short) == next(iter(made))
    with pytest.raises(choosing.NoSuchState):
        choosing.chosen("ada", there, "zz")


@pytest.mark.root
def test_the_command_forgets_by_name_and_refuses_the_newest(town: Town) -> None:
    with_store(town)
    town.persist("init", "--store")
    town.persist("restore")
    for number in range(3):
        (source(town) / "file").write_bytes(bytes([number]) * 50_000)
        assert town.persist("sync").status == 0
    from persist.bucket.opening import open_bucket

    bucket = open_bucket(town.spec)
    old, middle, newest = states(bucket)
    said = town.persist("forget", f"ada@{newest.short}")
    assert (said.status, states(bucket)) == (1, (old, middle, newest))
    assert "is the newest state" in said.err
    said = town.persist("forget", "--dry-run", f"ada@{old.short}", f"ada@{middle.salt}")
    assert (said.status, states(bucket)) == (0, (old, middle, newest))
    assert "a dry run" in said.out
    said = town.persist("forget", "--dry-run", "--json", f"ada@{old.short}")
    (found,) = json.loads(said.out)
    assert (found["agent"], found["dry_run"], found["forgotten"]) == ("ada", True, [old.short])
    assert [action.split()[:2] for action in found["actions"]] == [["drop", old.short]]
    assert found["freed_later"] == 0  # the states after it name its packs
    assert states(bucket) == (old, middle, newest)
    said = town.persist("forget", f"ada@{old.short}", f"ada@{middle.salt}")
    assert (said.status, states(bucket)) == (0, (newest,))
    assert old.short in said.out
    assert town.persist("forget", "ada").status == 2
    assert town.persist("forget", f"nobody@{old.short}").status == 2
    assert town.persist("forget", f"ada@{old.short}").status == 1
    assert newest.machine != A
    (source(town) / "file").write_bytes(b"again")
    assert town.persist("sync").status == 0
