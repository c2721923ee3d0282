"""Pruning a store: what goes, what stays, when; and that every state that stays is whole, byte for byte."""

from dataclasses import replace
from random import Random

import pytest

from persist.bucket import agents, commits, leases, packs
from persist.bucket.commits import Name
from persist.bucket.keys import TownKey
from persist.bucket.opening import Bucket
from persist.store import StoreDamaged
from persist.upkeep import plan
from persist.upkeep.policy import BRANCH_DAYS
from tests.machine import histories
from tests.machine.histories import DAY, HOUR, A, B, ClockStore, Machine, last, machine, prune, restored, states


def files(seed: int, number: int = 6) -> dict[str, bytes]:
    """Some files in two directories, none like those of another seed."""
    random = Random(seed)
    return {f"d{at % 2}/f{at}": random.randbytes(3000 + 500 * at) for at in range(number)}


def store_of(ours: Machine) -> ClockStore:
    store = ours.bucket.store
    assert isinstance(store, ClockStore)
    return store


def grown(ours: Machine, number: int, step: float = HOUR) -> dict[Name, dict[str, bytes]]:
    """So many states, each with one file changed and one more."""
    held, made = files(0), {}
    for at in range(number):
        held = held | {f"d0/f{at % 3 * 2}": Random(at).randbytes(2000), f"d1/new{at}": Random(-at).randbytes(700)}
        made[ours.sync(held)] = held
        store_of(ours).time += step
    return made


def whole(ours: Machine, made: dict[Name, dict[str, bytes]]) -> None:
    """Every state that is there is exactly what was written."""
    for name in states(ours.bucket):
        assert restored(ours.bucket, name) == made[name]


def test_states_that_are_not_kept_go_at_once_and_the_others_stay_whole() -> None:
    ours = machine()
    made = grown(ours, 10)
    done = prune(ours.bucket, last(3))
    assert states(ours.bucket) == tuple(made)[-3:]
    assert (done.dropped, len(done.kept)) == (7, 3)
    whole(ours, made)


def test_no_pack_goes_before_a_day_has_gone_by_on_the_stores_clock() -> None:
    ours = machine()
    made = grown(ours, 10)
    before = histories.packs(ours.bucket).keys()
    assert prune(ours.bucket, last(3)).done.deleted == 0
    store_of(ours).time += DAY - 1
    assert prune(ours.bucket, last(3)).done.deleted == 0
    assert before <= histories.packs(ours.bucket).keys()
    store_of(ours).time += 1
    assert prune(ours.bucket, last(3)).done.deleted > 0
    assert before.isdisjoint(histories.packs(ours.bucket))
    whole(ours, made)


def test_small_packs_become_few_and_pruning_again_writes_nothing() -> None:
    ours = machine()
    made = grown(ours, 30)
    assert len(histories.packs(ours.bucket)) == 30
    for _ in range(3):
        prune(ours.bucket)
        store_of(ours).time += DAY
    assert len(histories.packs(ours.bucket)) == 1
    assert len(states(ours.bucket)) == 30
    whole(ours, made)
    before = store_of(ours).objects()
    assert prune(ours.bucket).actions == []
    assert store_of(ours).objects() == before


def test_only_what_is_needed_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SMALL", 0)
    ours = machine()
    first = ours.sync(files(1, 20))
    made = {first: files(1, 20)}
    kept = dict(list(files(1, 20).items())[:6]) | {"d0/more": b"more"}
    made[ours.sync(kept)] = kept
    done = prune(ours.bucket, last(1))
    assert [type(action).__name__ for action in done.actions] == ["Drop", "Bury"]
    assert "less than half" in str(done.actions[1])
    assert 0 < done.done.sent < 40_000
    whole(ours, made)


def test_a_pack_of_which_half_is_needed_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SMALL", 0)
    ours = machine()
    ours.sync(files(1, 20))
    ours.sync(dict(list(files(1, 20).items())[:18]))
    assert [type(action).__name__ for action in prune(ours.bucket, last(1)).actions] == ["Drop"]


def test_new_packs_hold_the_newest_state_first_and_in_the_order_of_its_trees() -> None:
    from persist.bucket.packs import PackReader

    ours = machine()
    made = grown(ours, 12)
    prune(ours.bucket, last(12))
    (tomb,) = histories.buried(ours.bucket, ours.keys)
    (pack,) = tomb.to
    frames = PackReader(ours.bucket.store, ours.keys, pack).frames()
    data = [id_ for frame in frames if frame.kind == "data" for id_, _, _ in frame.pieces()]
    head = made[tuple(made)[-1]]
    wanted = [
        ours.keys.id("data", held[at : at + 1000])
        for name in sorted(head)
        for held in [head[name]]
        for at in range(0, len(held), 1000)
    ]
    assert data[: len(wanted)] == wanted


def test_a_pack_that_nothing_names_is_a_half_written_syncs_for_seven_days() -> None:
    ours = machine()
    made = grown(ours, 1)
    sync = ours.steps(files(77))
    assert [next(sync), next(sync)] == ["listed", "sent"]
    orphans = histories.packs(ours.bucket).keys() - {pack.id for pack in _named(ours, tuple(made)[-1])}
    store_of(ours).time += 7 * DAY - HOUR
    assert prune(ours.bucket).actions == []
    store_of(ours).time += HOUR
    prune(ours.bucket)
    assert orphans <= histories.packs(ours.bucket).keys()
    store_of(ours).time += DAY
    prune(ours.bucket)
    assert orphans.isdisjoint(histories.packs(ours.bucket))
    whole(ours, made)


def _named(ours: Machine, name: Name) -> tuple[packs.Pack, ...]:
    return commits.read(ours.bucket.store, ours.keys, name).packs


def test_old_leases_go_but_the_newest_few_and_the_lease_that_counts_stays_the_same() -> None:
    ours = machine()
    grown(ours, 1)
    store = ours.bucket.store
    leases.write(store, ours.keys, 1, B, "take", "other")
    leases.write(store, ours.keys, 2, A, "take", "host")
    for sequence in range(3, 20):
        leases.write(store, ours.keys, sequence, A, "keep", "host")
    leases.write(store, ours.keys, 7, B, "keep", "other")  # counts for nothing: B holds nothing
    before = leases.current(agents.listed(store, ours.keys))
    prune(ours.bucket)
    left = agents.listed(store, ours.keys)
    assert leases.current(left) == before
    assert {lease.sequence for lease in left.leases} == {2, 16, 17, 18, 19}


def test_a_tomb_goes_when_no_state_leads_through_it_and_not_before() -> None:
    ours = machine()
    made = grown(ours, 5)
    prune(ours.bucket, last(5))
    for _ in range(12):  # the states of before need the tomb, however old it is
        store_of(ours).time += DAY
        prune(ours.bucket, last(5))
        whole(ours, made)
    assert len(histories.buried(ours.bucket, ours.keys)) == 1
    later = grown(ours, 5)  # the same contents: built on the merged pack, without a word of the tomb
    for _ in range(12):
        store_of(ours).time += DAY
        prune(ours.bucket, last(5))
        whole(ours, made | later)
    assert histories.buried(ours.bucket, ours.keys) == []
    assert len(histories.packs(ours.bucket)) == 1


def test_the_newest_state_of_a_branch_stays_for_a_while() -> None:
    ours = machine()
    made = grown(ours, 3)
    other = Machine(ours.bucket, B, head=next(iter(made)))
    branch = other.sync(files(9), kind="branch")
    made[branch] = files(9)
    prune(ours.bucket, last(1))
    assert set(states(ours.bucket)) == {tuple(made)[2], branch}
    whole(ours, made)
    store_of(ours).time += BRANCH_DAYS * DAY
    prune(ours.bucket, last(1))
    assert states(ours.bucket) == (tuple(made)[2],)


def test_a_dry_run_says_it_all_and_changes_nothing() -> None:
    ours = machine()
    grown(ours, 10)
    before = store_of(ours).objects()
    said = prune(ours.bucket, last(2), dry_run=True)
    assert store_of(ours).objects() == before
    assert prune(ours.bucket, last(2)).actions == said.actions
    assert "a dry run" in str(said)


def test_damage_stops_a_prune_before_anything_goes() -> None:
    ours = machine()
    made = grown(ours, 6)
    pack = _named(ours, tuple(made)[-1])[0]
    store_of(ours).delete(pack.key(ours.keys))
    before = store_of(ours).objects()
    with pytest.raises(StoreDamaged) as caught:
        prune(ours.bucket, last(2))
    assert pack.id in caught.value.what
    assert "persist repair ada" in caught.value.hint
    assert store_of(ours).objects() == before


def test_a_state_that_names_too_few_packs_stops_a_prune_although_others_name_them() -> None:
    ours = machine()
    made = grown(ours, 4)
    commit = commits.read(ours.bucket.store, ours.keys, tuple(made)[-1])
    commits.write(ours.bucket.store, ours.keys, replace(commit, generation=9, packs=commit.packs[:-1]))
    before = store_of(ours).objects()
    with pytest.raises(StoreDamaged, match="none of its packs"):
        prune(ours.bucket, last(3))
    assert store_of(ours).objects() == before


def test_a_state_that_cannot_be_read_stops_a_prune_and_is_named() -> None:
    ours = machine()
    made = grown(ours, 6)
    name = tuple(made)[1]
    key = commits.key(ours.keys, name)
    store_of(ours).delete(key)
    store_of(ours).put(key, b"nuketown commit 2\n" + bytes(200))
    before = store_of(ours).objects()
    with pytest.raises(StoreDamaged) as caught:
        prune(ours.bucket, last(2))
    assert f"persist forget ada@{name.short}" in caught.value.hint
    assert store_of(ours).objects() == before


def test_states_of_an_earlier_key_are_kept_and_pruned_by_the_same_policy() -> None:
    ours = machine()
    made = grown(ours, 4)
    older = ours.bucket
    key = TownKey.random(2)
    bucket = Bucket(older.store, key, (older.key,))
    now, parent = Machine(bucket), tuple(made)[-1]
    newest: dict[Name, dict[str, bytes]] = {}
    for at in range(2):
        name = _after(now, files(50 + at), 5 + at, parent)
        parent = name
        newest[name] = files(50 + at)
    prune(bucket, last(3))
    assert states(older) == tuple(made)[-1:]
    assert states(bucket) == tuple(newest)
    assert restored(older, tuple(made)[-1]) == made[tuple(made)[-1]]
    for name, held in newest.items():
        assert restored(bucket, name) == held
    for _ in range(3):
        prune(bucket, last(1))
        store_of(ours).time += 7 * DAY
        store_of(ours).time += DAY
    assert states(older) == ()
    assert histories.packs(older) == {}
    assert restored(bucket, tuple(newest)[-1]) == files(51)


def _after(now: Machine, held: dict[str, bytes], generation: int, parent: Name) -> Name:
    """A state of a generation of its own, as the first of a new epoch has."""
    name = now.sync(held)
    commit = commits.read(now.bucket.store, now.keys, name)
    now.bucket.store.delete(commits.key(now.keys, name))
    made = replace(commit, generation=generation, parent=str(parent))
    now.head = commits.write(now.bucket.store, now.keys, made)
    return now.head


def test_a_foreign_object_among_the_packs_is_left_alone() -> None:
    ours = machine()
    grown(ours, 2)
    key = f"packs/{ours.keys.place}/readme.txt"
    store_of(ours).put(key, b"hello")
    store_of(ours).time += 30 * DAY
    prune(ours.bucket)
    assert store_of(ours).get(key) == b"hello"


def test_an_object_without_a_time_is_never_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = machine()
    made = grown(ours, 3)
    *_, sent = zip(range(2), ours.steps(files(77)), strict=False)
    assert sent[1] == "sent"
    store = store_of(ours)
    store.put_back({key: (data, 0.0) for key, (data, _) in store.objects().items()})
    for _ in range(3):
        prune(ours.bucket, last(2))
    assert not any(isinstance(action, plan.Delete) for action in prune(ours.bucket, last(2)).actions)
    whole(ours, made)
