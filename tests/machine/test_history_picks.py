"""Which state is meant: newest, by a time or an id; and through which packs it is read."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from persist.bucket import tombs
from persist.bucket.commits import Name
from persist.bucket.keys import TownKey
from persist.bucket.packs import Pack
from persist.bucket.tombs import Tomb
from persist.store import StoreDamaged
from persist.sync import history
from persist.sync.history import NoSuchState
from tests.machine.machines import KEY, NOON, Pair, machine, pair, place
from town.failure import WrongUsage

__all__ = ["pair"]


# Tombs


def pack(number: int) -> Pack:
    return Pack(f"{number:064x}", 1000, 100)


def test_a_commit_on_packs_that_are_about_to_go_goes_round_once_more(pair: Pair) -> None:
    one, _ = pair
    one.sync(1)
    state = one.holding()
    keys = one.bucket.keys("ada")
    tombs.write(one.bucket.store, keys, Tomb(frozenset({pack(1).id}), (pack(2),), frozenset()))
    with pytest.raises(history.Tombed) as caught:
        one.finish(state, 2, packs=(pack(1),))
    after = caught.value.state
    assert after.tombed == {pack(1).id}
    assert one.listing.commits == state.listing.commits
    assert one.finish(after, 2, packs=(pack(2),)).generation == 2
    asked: list[frozenset[str]] = []
    made = one.commit(3)
    with pytest.raises(history.Tombed):
        history.commit(
            one.spec, one.agent, one.bucket, one.holding(), made, lambda ids: bool(asked.append(ids)) or True
        )
    assert asked == [{pack(1).id}]


def test_a_head_is_read_by_way_of_its_tombs_which_are_read_once(pair: Pair) -> None:
    one = pair[0]
    state = one.holding()
    name = one.finish(state, 1, packs=(pack(1), pack(5)))
    keys = one.bucket.keys("ada")
    tombs.write(one.bucket.store, keys, Tomb(frozenset({pack(1).id}), (pack(2), pack(3)), frozenset({str(name)})))
    tombs.write(one.bucket.store, keys, Tomb(frozenset({pack(3).id}), (pack(4),), frozenset({str(name)})))
    tombs.write(one.bucket.store, keys, Tomb(frozenset({pack(5).id}), (), frozenset()))  # not for this commit
    for each in pair:
        found = each.ask().head
        assert found is not None
        assert found.packs == (pack(2), pack(4), pack(5))
        assert found.commit.packs == (pack(1), pack(5))
        before = each.bucket.store.requests
        each.ask()
        assert each.bucket.store.requests - before == 1


def test_tombs_that_lead_in_a_circle_end() -> None:
    name = Name(1, "1" * 32, "0" * 64)
    seen = frozenset({str(name)})
    circle = [Tomb(frozenset({pack(1).id}), (pack(2),), seen), Tomb(frozenset({pack(2).id}), (pack(1),), seen)]
    assert tombs.resolved(name, [pack(1), pack(3)], circle) == (pack(3),)
    assert tombs.resolved(name, [pack(1)], circle[:1] * 3) == (pack(2),)
    itself = Tomb(frozenset({pack(1).id}), (pack(1),), seen)
    assert tombs.resolved(name, [pack(1)], [itself]) == ()
    assert tombs.resolved(replace(name, generation=2), [pack(1)], circle) == (pack(1),)


@pytest.mark.parametrize("data", [b"", b"nuketown tomb 2\n", b"nuketown tomb 2\n" + b"x" * 100])
def test_a_tomb_that_is_none_is_an_error(pair: Pair, data: bytes) -> None:
    one, _ = pair
    one.sync(1)
    one.bucket.store.put(f"{place(one)}tomb-{'a' * 64}", data)
    with pytest.raises(StoreDamaged, match="tomb-aaaa"):
        one.ask()


# Which state is meant


def test_a_state_is_named_by_the_beginning_of_its_id_or_by_a_time(pair: Pair) -> None:
    one, _ = pair
    names = []
    for number in range(20):
        state = one.holding()
        made = replace(one.commit(number), time=NOON + timedelta(hours=number))
        names.append(history.commit(one.spec, one.agent, one.bucket, state, made, lambda _: False))

    def picked(at: str) -> int:
        found = history.pick(one.spec, one.agent, one.bucket, at)
        assert found is not None
        return found.commit.bytes

    for number, name in enumerate(names):
        for at in (name.short, name.salt, str(name), name.salt[:30]):
            assert picked(at) == number
    assert picked("2026-11-21T12:00:00Z") == 0
    assert picked("2026-11-21T12:59:59") == 0
    assert picked("2026-11-21T13:00:00+00:00") == 1
    assert picked("20261121T140000Z") == 2
    assert picked("2026-11-21T16:00:00+02:00") == 2
    assert picked("2026-11-21") == 11
    assert picked("2030-01-01T00:00") == 19
    before = one.bucket.store.requests
    picked("2026-11-21T15:30")
    assert one.bucket.store.requests - before < 8
    with pytest.raises(NoSuchState, match="as old as"):
        picked("2026-11-21T11:59:59Z")


@pytest.mark.parametrize("at", ["", "nonsense", "0123456789abcdef", "2026-13-01", "latest", "\x1b[31m", "g" * 5000])
def test_what_names_nothing_is_refused(pair: Pair, at: str) -> None:
    one, _ = pair
    one.sync(1)
    with pytest.raises(NoSuchState) as caught:
        history.pick(one.spec, one.agent, one.bucket, at)
    assert "\x1b" not in caught.value.what
    assert "persist log ada" in caught.value.hint


def test_an_ambiguous_id_is_refused_with_the_candidates(pair: Pair) -> None:
    one, _ = pair
    while True:
        one.sync(1)
        names = one.listing.commits
        starts = [name.salt[0] for name in names]
        if twice := next((start for start in starts if starts.count(start) > 1), ""):
            break
    with pytest.raises(WrongUsage) as caught:
        history.pick(one.spec, one.agent, one.bucket, twice)
    for name in names:
        assert (name.short in caught.value.what) == name.salt.startswith(twice)


def test_states_of_earlier_epochs_can_be_named(pair: Pair, tmp_path: Path) -> None:
    one, _ = pair
    old = one.sync(1)
    keys = TownKey(b"n" * 32, 2)
    new = machine(tmp_path / "new", one.bucket.store, key=keys, earlier=(KEY,), more=f'machine = "{one.id}"')
    new.restore()
    new.sync(2)
    found = history.pick(new.spec, new.agent, new.bucket, old.short)
    assert found is not None
    assert (found.keys.epoch, found.commit.bytes) == (1, 1)
    found = history.pick(new.spec, new.agent, new.bucket, None)
    assert found is not None
    assert (found.keys.epoch, found.commit.bytes) == (2, 2)
