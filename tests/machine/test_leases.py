"""Which machine syncs an agent: taken, renewed, given back, lost; by the store's clock, whatever this machine's is."""

import time
from pathlib import Path

import pytest

from persist.bucket import commits, leases
from persist.bucket.keys import TownKey
from persist.store.memory import MemoryStore
from persist.sync import history, local
from persist.sync.history import LeaseHeld, LeaseLost, WrittenElsewhere
from persist.upkeep.plan import old_leases
from tests.machine.machines import KEY, Machine, machine

HOUR = 3600.0
Pair = tuple[Machine, Machine]


class Clocked(MemoryStore):
    """A store in memory whose clock a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_800_000_000.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def store() -> Clocked:
    return Clocked()


@pytest.fixture
def pair(tmp_path: Path, store: Clocked) -> Pair:
    """Two machines of one town; `one` has synced once."""
    one, two = machine(tmp_path / "one", store), machine(tmp_path / "two", store)
    one.sync(1)
    return one, two


def requests(store: Clocked, work: object) -> int:
    before = store.requests
    assert callable(work)
    work()
    return store.requests - before


def test_a_sync_takes_the_lease_once_and_its_commits_name_it(pair: Pair) -> None:
    one, _ = pair
    name = one.sync(2)
    (lease,) = one.listing.leases
    assert (lease.sequence, lease.machine, lease.verb) == (1, one.id, "take")
    assert commits.read(one.bucket.store, one.bucket.keys("ada"), name).lease == 1


def test_a_sync_with_changes_asks_twice_and_writes_once_beside_its_packs(pair: Pair, store: Clocked) -> None:
    one, _ = pair
    assert requests(store, lambda: one.sync(2)) == 3
    store.time += 13 * HOUR
    assert requests(store, lambda: one.sync(3)) == 4  # the lease rides along


def test_another_machine_neither_syncs_nor_restores_while_it_is_held(pair: Pair, store: Clocked) -> None:
    one, two = pair
    before = sorted(found.key for found in store.list(""))
    for attempt in (lambda: two.sync(5), two.restore):
        with pytest.raises(LeaseHeld) as caught:
            attempt()
        assert caught.value.status == 75
        assert "until 2027-01-16T08:00:00Z" in caught.value.what
    assert sorted(found.key for found in store.list("")) == before
    assert one.sync(2).generation == 2


def test_it_ends_after_a_day_and_then_a_restore_takes_it_over(pair: Pair, store: Clocked) -> None:
    one, two = pair
    store.time += 24 * HOUR - 1
    with pytest.raises(LeaseHeld):
        two.restore()
    store.time += 1
    assert two.restore() == 1
    assert two.sync(5).generation == 2
    with pytest.raises(LeaseLost):
        one.sync(2)


def test_it_is_taken_over_at_once_when_that_is_said(pair: Pair) -> None:
    one, two = pair
    assert two.restore(take_over=True) == 1
    two.sync(5)
    with pytest.raises(LeaseLost):
        one.sync(2)


def test_who_lost_it_stops_says_so_and_what_it_had_is_a_branch_that_can_be_brought_back(pair: Pair) -> None:
    one, two = pair
    two.restore(take_over=True)
    head = two.sync(5)
    with pytest.raises(LeaseLost, match="has taken over ada") as caught:
        one.sync(2)
    assert caught.value.status == 1
    (branch,) = one.listing.branches
    assert one.values()[str(branch)] == 2
    kept = history.pick(two.spec, two.agent, two.bucket, branch.short[:8])
    assert kept is not None
    assert (kept.commit.bytes, kept.commit.parent) == (2, one.record.written)
    found = history.pick(one.spec, one.agent, one.bucket, None)
    assert found is not None
    assert found.name == head
    assert two.sync(6).generation == 3


def test_the_same_state_is_kept_as_one_branch_however_often_a_sync_is_tried(pair: Pair) -> None:
    one, two = pair
    two.restore(take_over=True)
    for value in (2, 2, 2, 3, 3):
        with pytest.raises(LeaseLost):
            one.sync(value)
    first, second = one.listing.branches
    assert (one.values()[str(first)], one.values()[str(second)]) == (2, 3)
    keys = one.bucket.keys("ada")
    assert commits.read(one.bucket.store, keys, second).parent == str(first)


def test_a_machine_that_lost_it_while_it_sent_its_packs_keeps_them_as_a_branch(pair: Pair) -> None:
    one, two = pair
    state = one.holding()
    two.restore(take_over=True)
    with pytest.raises(LeaseLost):
        one.finish(state, 2)
    assert [one.values()[str(name)] for name in one.listing.branches] == [2]
    assert len(one.listing.commits) == 1


def test_a_lease_that_was_taken_and_given_back_during_a_sync_was_lost_too(pair: Pair) -> None:
    one, two = pair
    state = one.holding()
    two.restore(take_over=True)
    two.sync(5)
    history.release(two.spec, two.agent, two.bucket, two.id)
    with pytest.raises(LeaseLost):
        one.finish(state, 2)
    assert two.sync(6).generation == 3


def test_a_lease_that_was_taken_used_and_given_back_before_a_sync_was_lost_too(pair: Pair) -> None:
    one, two = pair
    two.restore(take_over=True)
    two.sync(5)
    history.release(two.spec, two.agent, two.bucket, two.id)
    with pytest.raises(LeaseLost):
        one.sync(2)
    assert [one.values()[str(name)] for name in one.listing.branches] == [2]


def test_a_lease_that_was_taken_and_not_used_is_taken_again_once_it_has_ended(pair: Pair) -> None:
    one, two = pair
    two.restore(take_over=True)
    history.release(two.spec, two.agent, two.bucket, two.id)
    assert one.sync(2).generation == 2


def test_a_machine_that_lost_it_goes_on_after_a_restore_or_when_told_to(pair: Pair, store: Clocked) -> None:
    one, two = pair
    two.restore(take_over=True)
    two.sync(5)
    with pytest.raises(LeaseLost):
        one.sync(2)
    assert one.sync(3, take_over=True).generation == 3
    with pytest.raises(LeaseLost):
        two.sync(6)
    assert two.restore(take_over=True) == 3
    assert two.sync(7).generation == 4
    store.time += 25 * HOUR
    assert one.restore() == 7
    assert one.sync(8).generation == 5


def test_nobody_goes_on_over_a_head_that_his_data_does_not_descend_from(pair: Pair, store: Clocked) -> None:
    one, two = pair
    store.time += 25 * HOUR
    with pytest.raises(WrittenElsewhere, match="does not descend from that"):
        two.sync(5)
    assert one.sync(2).generation == 2


def test_a_clean_shutdown_gives_it_back_by_one_request(pair: Pair, store: Clocked) -> None:
    one, two = pair
    assert requests(store, lambda: history.release(one.spec, one.agent, one.bucket, one.id)) == 1
    assert two.restore() == 1
    two.sync(5)
    assert history.release(one.spec, one.agent, one.bucket, one.id) is False
    with pytest.raises(LeaseHeld):
        one.sync(2)


def test_the_machine_that_gave_it_back_takes_it_again_at_its_next_start(pair: Pair) -> None:
    one, _ = pair
    history.release(one.spec, one.agent, one.bucket, one.id)
    assert local.lease_due(one.record, time.time())
    assert one.restore() == 1
    assert one.sync(2).generation == 2
    assert [lease.verb for lease in one.listing.leases] == ["take", "free", "take"]


def test_it_is_renewed_by_one_request_without_a_look_at_the_store(pair: Pair, store: Clocked) -> None:
    one, two = pair
    store.time += 13 * HOUR
    assert requests(store, lambda: history.renew(one.spec, one.agent, one.bucket, one.id)) == 1
    store.time += 13 * HOUR
    with pytest.raises(LeaseHeld):
        two.restore()
    assert requests(store, lambda: history.renew(two.spec, two.agent, two.bucket, two.id)) == 0


def test_a_renewal_by_who_lost_it_takes_nothing_back_and_the_next_look_tells(pair: Pair) -> None:
    one, two = pair
    two.restore(take_over=True)
    for _ in range(4):
        history.renew(one.spec, one.agent, one.bucket, one.id)
    assert two.sync(5).generation == 2
    history.release(one.spec, one.agent, one.bucket, one.id)
    assert two.sync(6).generation == 3
    with pytest.raises(LeaseHeld):
        one.sync(2)


def test_it_is_due_at_half_time_by_this_machines_clock_without_any_request() -> None:
    record = local.Record(lease=local.Held(1, 1_800_000_000.0, 1000.0))
    assert not local.lease_due(record, 1000.0)
    assert not local.lease_due(record, 1000.0 + 12 * HOUR - 1)
    assert local.lease_due(record, 1000.0 + 12 * HOUR)
    assert local.lease_due(local.Record(), 1000.0)


def test_a_clock_that_went_back_means_that_it_is_due_and_a_small_correction_does_not() -> None:
    record = local.Record(lease=local.Held(1, 1_800_000_000.0, 1_800_000_000.0))
    assert not local.lease_due(record, 1_800_000_000.0 - 60)
    assert local.lease_due(record, 1_800_000_000.0 - HOUR)
    assert local.lease_due(record, 0.0)


@pytest.mark.parametrize("wrong", [-10 * 365 * 24 * HOUR, -30 * HOUR, 30 * HOUR, 10 * 365 * 24 * HOUR])
def test_a_wrong_clock_of_this_machine_ends_no_lease_and_makes_none_last(
    wrong: float, pair: Pair, store: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + wrong)
    with pytest.raises(LeaseHeld):
        two.restore()
    one.sync(2)
    history.renew(one.spec, one.agent, one.bucket, one.id)
    assert not local.lease_due(one.record, time.time())
    store.time += 24 * HOUR
    assert two.restore() == 2


def test_notes_that_were_lost_do_not_lengthen_a_lease(tmp_path: Path, store: Clocked) -> None:
    one = machine(tmp_path / "one", store, more=f'machine = "{"ab" * 16}"')
    one.sync(1)
    store.time += 11 * HOUR
    (one.spec.state_dir / "sync/ada.json").unlink()
    assert one.restore() == 1
    assert not local.lease_due(one.record, time.time())
    assert local.lease_due(one.record, time.time() + HOUR + 1)


def test_two_that_take_it_at_once_do_not_both_have_it(tmp_path: Path, store: Clocked) -> None:
    one, two = machine(tmp_path / "one", store), machine(tmp_path / "two", store)
    first, second = one.ask(), two.ask()
    outcomes = []
    for each, state in ((one, first), (two, second)):
        try:
            history.take(each.spec, each.agent, each.bucket, state, each.id)
            outcomes.append(each)
        except LeaseHeld:
            pass
    # The first looked again before the second wrote; the second sees both, and one rule decides for all.
    counts = leases.current(one.listing)
    assert counts is not None
    assert counts.machine in {each.id for each in outcomes}
    winner, loser = (one, two) if counts.machine == one.id else (two, one)
    assert winner.sync(1).generation == 1
    with pytest.raises(LeaseLost if loser in outcomes else LeaseHeld):
        loser.sync(2)


def test_a_prune_may_delete_what_a_lease_went_by(pair: Pair, store: Clocked) -> None:
    one, two = pair
    for _ in range(5):
        history.renew(one.spec, one.agent, one.bucket, one.id)
    two.restore(take_over=True)
    for machine_ in (two, one, two, one):
        history.renew(machine_.spec, machine_.agent, machine_.bucket, machine_.id)
    gone = old_leases(two.listing.leases)
    assert len(gone) >= 5
    for lease in gone:
        store.delete(f"agents/{two.bucket.keys('ada').place}/{lease}")
    assert two.sync(5).generation == 2
    with pytest.raises(LeaseLost):
        one.sync(2)


def test_a_new_epoch_goes_on_where_the_one_before_ended(pair: Pair, tmp_path: Path) -> None:
    one, _ = pair
    own = f'machine = "{one.id}"'
    rotated = machine(tmp_path / "new", one.bucket.store, key=TownKey(b"n" * 32, 2), earlier=(KEY,), more=own)
    assert rotated.restore() == 1
    name = rotated.sync(7)
    assert name.generation == 2
    assert rotated.listing.commits == (name,)
    before = rotated.ask()
    assert before.head is not None
    assert before.head.commit.parent == str(one.listing.commits[0])
    assert before.lease is not None
    assert before.lease.sequence > 1


def test_another_machine_in_the_old_epoch_is_stopped(pair: Pair, tmp_path: Path) -> None:
    one, _ = pair
    rotated = machine(tmp_path / "new", one.bucket.store, key=TownKey(b"n" * 32, 2), earlier=(KEY,))
    assert rotated.restore(take_over=True) == 1
    rotated.sync(7)
    with pytest.raises(LeaseLost):
        one.sync(2)
    assert rotated.sync(8).generation == 3
