"""What a machine makes of a listing that a hostile, stale or racing store shows."""

from dataclasses import replace
from pathlib import Path

import pytest

from persist.bucket import commits
from persist.bucket.commits import Name
from persist.store import ObjectMissing, Store, StoreDamaged, StoreForeign, StoreOlder
from persist.store.memory import MemoryStore
from persist.sync import history
from tests.machine.machines import Pair, Wish, head, machine, pair, place

__all__ = ["pair"]


# What a hostile store lists


@pytest.mark.parametrize(
    "name",
    ["x", "commit-1", "commit", f"commit-{1:016x}-{'0' * 32}-{'0' * 63}", f"{1:016x}-{'0' * 32}-{'0' * 64}", "tomb-1",
     f"lease-{1:016x}-{'0' * 32}-take-{'0' * 64}", f"lease-{1:016x}-{'0' * 32}-give-{'0' * 64}", f"x/tomb-{'0' * 64}"],
)  # fmt: skip
def test_a_name_that_is_none_is_named_and_nothing_is_done(pair: Pair, name: str) -> None:
    one, _ = pair
    one.sync(1)
    one.bucket.store.put(place(one) + name, b"")
    with pytest.raises(StoreDamaged) as caught:
        one.sync(2)
    assert name.split("/", maxsplit=1)[0] in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize("generation", [2, (1 << 64) - 1])
@pytest.mark.parametrize("data", [b"", b"nuketown commit 2\n", b"nuketown commit 2\n" + b"x" * 100, b"\0" * 100])
def test_a_newer_head_that_is_none_is_an_error_and_never_a_step_back(pair: Pair, generation: int, data: bytes) -> None:
    one, _ = pair
    one.sync(1)
    fake = Name(generation, "a" * 32, "b" * 64)
    one.bucket.store.put(place(one) + str(fake), data)
    with pytest.raises(StoreDamaged, match=str(fake)):
        one.ask()
    with pytest.raises(StoreDamaged):
        one.sync(2)


def test_a_commit_from_the_future_is_refused_as_one(pair: Pair) -> None:
    one, _ = pair
    fake = Name(1, "a" * 32, "b" * 64)
    one.bucket.store.put(place(one) + str(fake), b"nuketown commit 3\nwhatever")
    with pytest.raises(StoreForeign, match="another version"):
        one.ask()


def test_a_commit_under_another_name_another_agents_or_another_place_is_refused(pair: Pair) -> None:
    one, two = pair
    name = one.sync(1)
    store, data = one.bucket.store, one.bucket.store.get(place(one) + str(name))
    fake = replace(name, generation=9)
    store.put(place(one) + str(fake), data)
    for each in pair:
        with pytest.raises(StoreDamaged, match="was changed, cut short or moved"):
            each.ask()
    store.delete(place(one) + str(fake))
    branch = replace(name, generation=9, kind="branch")
    store.put(place(one) + str(branch), data)
    assert head(two) == name
    with pytest.raises(StoreDamaged):
        history.pick(two.spec, two.agent, two.bucket, str(branch))


def test_a_commit_that_says_that_it_is_another_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = pair
    keys = one.bucket.keys("ada")
    for changed in ({"agent": "vox"}, {"generation": 2}, {"machine": "f" * 32}):
        name = Name.fresh(3, one.id)
        made = replace(one.commit(1), generation=3)
        with monkeypatch.context() as ours:
            record = commits._record(made) | changed
            ours.setattr(commits, "_record", lambda _, record=record: record)
            sealed = commits.sealed(keys, name, made)
        with pytest.raises(StoreDamaged, match="another commit than its name"):
            commits.opened(keys, name, sealed)


def test_fakes_beside_what_was_seen_or_below_it_change_nothing_and_are_not_read(pair: Pair) -> None:
    one, _ = pair
    one.sync(1)
    name = one.sync(2)
    store = one.bucket.store
    for number in range(3000):
        store.put(place(one) + str(Name(1 + number % 2, "a" * 32, f"{number:064x}")), b"")
    one.ask()
    before = store.requests
    assert head(one) == name
    assert store.requests - before == 1
    assert one.sync(3).generation == 3
    assert len(one.record.told) <= 1000


def test_many_fakes_of_the_newest_generation_stop_a_fresh_machine_at_the_first(pair: Pair) -> None:
    one, two = pair
    one.sync(1)
    for number in range(500):
        one.bucket.store.put(place(one) + str(Name(2, "a" * 32, f"{number:064x}")), b"")
    before = two.bucket.store.requests
    with pytest.raises(StoreDamaged):
        two.ask()
    assert two.bucket.store.requests - before < 5


def test_a_listing_that_names_what_is_gone_is_asked_for_once_more(pair: Pair) -> None:
    one, two = pair
    one.sync(1)

    class Racing(MemoryStore):
        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            yield from list(one.bucket.store.list(prefix))

        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            self.requests += 1
            if self.requests == 1:
                raise ObjectMissing(key)
            return one.bucket.store.get(key, offset, length)

    store: Store = Racing()
    assert head(two.on(store)).generation == 1


class Stale(MemoryStore):
    """A store that lists what was there some time ago."""

    stale: set[str] | None = None

    def list(self, prefix: str):  # type: ignore[no-untyped-def]
        yield from [found for found in super().list(prefix) if self.stale is None or found.key in self.stale]


def test_a_listing_from_before_neither_loses_a_lease_nor_makes_a_generation_twice(tmp_path: Path) -> None:
    store = Stale()
    one = machine(tmp_path / "one", store)
    one.sync(1)
    before = {found.key for found in store.list("")}
    history.release(one.spec, one.agent, one.bucket, one.id)
    two = machine(tmp_path / "two", store)
    two.restore()
    two.sync(2)
    state = two.ask()
    store.stale = before
    assert two.finish(history.hold(two.spec, two.agent, two.bucket, state, two.id, Wish()), 3).generation == 3
    with pytest.raises(StoreOlder):
        two.ask()
    state = one.ask()
    history.hold(one.spec, one.agent, one.bucket, state, one.id, Wish(take_over=True))
    store.stale = None
    assert [name.generation for name in two.listing.commits] == [1, 2, 3]
