"""What a machine makes of its own commits, of older states and of forks; and what it remembers of them."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from persist.bucket import commits
from persist.bucket.commits import Name
from persist.store import StoreOlder
from persist.store.memory import MemoryStore
from persist.sync import history, local
from tests.machine.machines import NOON, Pair, Wish, head, machine, pair, place, written

__all__ = ["pair"]


class Killed(BaseException):
    """The process ends here."""


class Dying(MemoryStore):
    """A store whose client dies before or after a certain put."""

    before = after = ""

    def put(self, key: str, data: bytes) -> None:
        if self.before and self.before in key:
            raise Killed
        super().put(key, data)
        if self.after and self.after in key:
            raise Killed


# A crash at the commit


def test_a_commit_that_arrived_before_the_crash_is_known_for_ones_own(tmp_path: Path) -> None:
    store = Dying()
    one = machine(tmp_path / "one", store)
    one.sync(1)
    store.after = "/commit-"
    with pytest.raises(Killed):
        one.sync(2)
    store.after = ""
    arrived = one.listing.commits[-1]
    assert one.record.head != str(arrived)
    assert one.sync(3).generation == 3
    assert head(one).generation == 3
    assert one.ask().beside == ()


def test_a_commit_that_did_not_arrive_before_the_crash_is_no_older_store(tmp_path: Path) -> None:
    store = Dying()
    one = machine(tmp_path / "one", store)
    one.sync(1)
    store.before = "/commit-"
    with pytest.raises(Killed):
        one.sync(2)
    store.before = ""
    assert head(one).generation == 1
    intended = Name.parsed(one.record.intended)
    assert one.sync(3).generation == 3  # above what may still arrive
    store.put(place(one) + str(intended), b"late")
    assert head(one).generation == 3


def test_ones_own_commit_that_arrived_before_the_crash_stays_the_head_beside_a_rival(
    tmp_path: Path,
) -> None:
    store = Dying()
    one, two = machine(tmp_path / "one", store), machine(tmp_path / "two", store)
    first = one.sync(1)
    two.restore(take_over=True)
    store.after = "/commit-"
    with pytest.raises(Killed):
        two.sync(2)
    store.after = ""
    (arrived,) = (name for name in two.listing.commits if name.generation == 2)
    rival = written(one, 3, 2, first, by=one.id)
    assert head(machine(tmp_path / "three", store)) == rival
    assert head(two) == arrived


def test_after_a_crash_a_dry_run_takes_what_arrived_for_its_own_and_a_branch_follows_it(tmp_path: Path) -> None:
    store = Dying()
    one, two = machine(tmp_path / "one", store), machine(tmp_path / "two", store)
    one.sync(1)
    store.after = "/commit-"
    with pytest.raises(Killed):
        one.sync(2)
    store.after = ""
    arrived = one.listing.commits[-1]
    dry = history.ask(one.spec, one.agent, one.bucket, remember=False)
    history.may_write(one.spec, one.agent, dry, one.id, Wish())
    two.restore(take_over=True)
    two.sync(3)
    with pytest.raises(history.LeaseLost):
        one.sync(4)
    (branch,) = one.listing.branches
    assert commits.read(store, one.bucket.keys("ada"), branch).parent == str(arrived)


def test_a_twin_of_this_machine_is_told_from_it(tmp_path: Path, pair: Pair) -> None:
    one, _ = pair
    one.sync(1)
    own = f'machine = "{one.id}"'
    twin = machine(tmp_path / "twin", one.bucket.store, more=own)
    with pytest.raises(history.WrittenElsewhere):
        twin.sync(2)
    twin.restore()
    twin.sync(3)
    with pytest.raises(history.WrittenElsewhere):
        one.sync(4)


# Older states


def test_a_store_that_was_put_back_is_refused_whatever_was_dropped(pair: Pair) -> None:
    one, two = pair
    first, second = one.sync(1), one.sync(2)
    two.restore(take_over=True)
    third = two.sync(3)
    head(one)  # it has seen it
    store, keys = one.bucket.store, place(one)
    for gone in ([third], [third, second], [third, second, first]):
        kept = {str(name): store.get(keys + str(name)) for name in gone}
        for name in gone:
            store.delete(keys + str(name))
        for each in (one, two):
            with pytest.raises(StoreOlder, match="generation"):
                each.ask()
        for text, data in kept.items():
            store.put(keys + text, data)
    assert head(one) == third


def test_a_head_that_was_dropped_in_favour_of_its_rival_is_missed(pair: Pair) -> None:
    one, two = pair
    first = one.sync(1)
    two.ask()
    mine = one.sync(2)
    written(one, 3, 2, first, by="f" * 32)
    assert head(two) == mine
    one.bucket.store.delete(place(one) + str(mine))
    for each in pair:
        with pytest.raises(StoreOlder):
            each.ask()


def test_a_lease_that_was_dropped_is_missed(pair: Pair) -> None:
    one, two = pair
    one.sync(1)
    two.restore(take_over=True)
    two.ask()
    (taken,) = (lease for lease in two.listing.leases if lease.sequence == 2)
    two.bucket.store.delete(place(two) + str(taken))
    with pytest.raises(StoreOlder, match="the lease 1 of ada, but this machine has seen 2"):
        two.ask()


def test_an_emptied_store_is_never_nothing_to_restore(pair: Pair) -> None:
    one, _ = pair
    one.sync(1)
    for found in list(one.bucket.store.list("")):
        one.bucket.store.delete(found.key)
    with pytest.raises(StoreOlder):
        one.ask()


def test_the_record_is_no_part_of_the_index(pair: Pair) -> None:
    one, _ = pair
    name = one.sync(1)
    assert (one.spec.state_dir / "sync/ada.json").exists()
    assert one.record.head == str(name)
    assert not (one.spec.state_dir / "index").exists()


def test_a_fresh_machine_says_what_it_found_and_can_ask_for_more(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = pair
    one.sync(1)
    name = one.sync(2)
    capsys.readouterr()
    with pytest.raises(StoreOlder, match="generation 2, at least 3 is wanted"):
        history.pick(two.spec, two.agent, two.bucket, None, at_least=3)
    assert capsys.readouterr().err == ""
    found = history.pick(two.spec, two.agent, two.bucket, None, at_least=2)
    assert found is not None
    said = capsys.readouterr().err
    assert f"generation 2, 2026-11-21T12:00:00Z, host host-{one.id[:4]}, snapshot {name.short}" in said
    assert "--at-least" in said
    two.ask()
    assert capsys.readouterr().err == ""


def test_where_nothing_was_synced_yet_there_is_no_state_and_at_least_says_so(pair: Pair) -> None:
    one, _ = pair
    assert history.pick(one.spec, one.agent, one.bucket, None) is None
    with pytest.raises(StoreOlder):
        history.pick(one.spec, one.agent, one.bucket, None, at_least=1)


# Forks


def test_a_fork_is_told_once_by_each_machine_that_sees_it(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = pair
    first = one.sync(1)
    two.ask()
    mine = one.sync(2)
    theirs = written(one, 3, 2, first)
    capsys.readouterr()
    for each in pair:
        each.ask()
        said = capsys.readouterr().err
        assert "two machines synced at once" in said
        assert (theirs.short if head(each) == mine else mine.short) in said
        each.ask()
        assert capsys.readouterr().err == ""


def test_the_child_of_the_parents_machine_is_the_head_on_a_fresh_machine_and_stays_where_it_was_seen(
    pair: Pair, tmp_path: Path
) -> None:
    one, two = pair
    first = one.sync(1)
    mine = written(one, 2, 2, first, by=one.id)
    assert head(two) == mine
    seen_first = machine(tmp_path / "three", one.bucket.store)
    one.bucket.store.delete(place(one) + str(mine))
    theirs = written(one, 3, 2, first, by="f" * 32)
    assert head(seen_first) == theirs
    made = replace(one.commit(2), generation=2, parent=str(first))
    one.bucket.store.put(place(one) + str(mine), commits.sealed(one.bucket.keys("ada"), mine, made))
    assert (head(two), head(seen_first), head(machine(tmp_path / "four", one.bucket.store))) == (mine, theirs, mine)


def test_after_the_next_commit_of_the_holder_all_see_the_same_head(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    first = one.sync(1)
    two.ask()
    one.sync(2)
    last = first
    for generation in (2, 3, 4):
        last = written(one, generation, generation, last)
    assert head(two) == last  # the longer side
    name = one.sync(5, take_over=True)
    assert name.generation == 5
    for each in (one, two, machine(tmp_path / "three", one.bucket.store)):
        assert head(each) == name


def test_a_head_whose_parents_were_forgotten_is_the_head(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    old = [one.sync(1), one.sync(2)]
    last = one.sync(3)
    for name in old:
        one.bucket.store.delete(place(one) + str(name))
    for each in (one, two):
        assert head(each) == last
    assert one.sync(4).generation == 4


# Copies on this machine


def test_a_head_that_was_read_once_is_not_read_again_and_a_damaged_copy_is(pair: Pair) -> None:
    one, two = pair
    name = one.sync(1)
    store = two.bucket.store
    for each, first in ((one, 1), (two, 2)):
        before = store.requests
        each.ask()
        assert store.requests - before == first
        before = store.requests
        each.ask()
        assert store.requests - before == 1
    copy = two.spec.state_dir / "sync/ada.copies" / str(name)
    assert copy.stat().st_mode & 0o777 == 0o600
    for data in (b"", b"x" * 100, copy.read_bytes()[:-1]):
        copy.write_bytes(data)
        assert head(two) == name


def test_copies_of_heads_do_not_pile_up(pair: Pair) -> None:
    one, _ = pair
    for value in range(5):
        name = one.sync(value)
    left = [path.name for path in (one.spec.state_dir / "sync/ada.copies").iterdir()]
    assert sorted(left) == sorted([str(name), "read"])


def test_what_is_remembered_of_states_that_are_gone_is_left_out_in_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    monkeypatch.setattr("persist.sync.known._MUCH", 3000)
    for value in range(30):
        name = one.sync(value)
        for old in one.listing.commits[:-2]:
            one.bucket.store.delete(place(one) + str(old))
    copy = one.spec.state_dir / "sync/ada.copies/read"
    assert copy.stat().st_size < 4000
    assert str(name) in copy.read_text()


def test_a_look_that_remembers_nothing_writes_nothing(pair: Pair) -> None:
    one, two = pair
    one.sync(1)
    two.ask()
    before = {path: path.read_bytes() for path in two.spec.state_dir.rglob("*") if path.is_file()}
    one.sync(2)
    history.ask(two.spec, two.agent, two.bucket, remember=False)
    assert {path: path.read_bytes() for path in two.spec.state_dir.rglob("*") if path.is_file()} == before


# Records


def test_a_machine_has_a_random_id_of_its_own_or_the_specs(tmp_path: Path) -> None:
    store = MemoryStore()
    one, two = machine(tmp_path / "one", store), machine(tmp_path / "two", store)
    assert local.machine(one.spec, make=False) == ""
    assert len({one.id, two.id}) == 2
    assert one.id == local.machine(one.spec, make=False)
    assert (one.spec.state_dir / "machine").stat().st_mode & 0o777 == 0o600
    named = machine(tmp_path / "named", store, more=f'machine = "{"0f" * 16}"')
    assert named.id == "0f" * 16
    assert not named.spec.state_dir.exists()


def test_a_record_is_read_back_as_it_was_written(pair: Pair) -> None:
    one, _ = pair
    record = local.Record(
        7, "head", {"a/b": "name"}, ("x", "y"), local.LastSync(NOON, "abc", 3, 4), "w", "i", "b",
        local.Held(3, 1.5, 2.5), 9,
    )  # fmt: skip
    local.change(one.spec, one.agent, lambda _: record)
    assert one.record == record
    assert one.record.known == {str(PurePosixPath("a/b")): "name"}


@pytest.mark.parametrize("text", ["", "{}", "[]", "\xff", '{"generation": "x"}', "null", "[" * 100_000])
def test_a_broken_record_is_named_and_nothing_is_assumed(pair: Pair, text: str) -> None:
    one, _ = pair
    one.sync(1)
    (one.spec.state_dir / "sync/ada.json").write_text(text)
    with pytest.raises(local.BadRecord, match=r"ada\.json is damaged"):
        one.sync(2)
