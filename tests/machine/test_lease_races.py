"""Machines that sync at once, on every kind of store: no state is lost, each learns of the other, one goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persist.store import Store
from persist.store.directory import DirectoryStore
from persist.store.memory import MemoryStore
from persist.sync import history
from tests.machine.machines import Machine, Turns, machine
from tests.store.servers import Server

MAY_NOT = (history.LeaseHeld, history.LeaseLost, history.WrittenElsewhere)
Make = Callable[[], Store]


@pytest.fixture(params=["memory", "directory", "moto", "rclone"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Empty stores of each kind; `rclone` has no conditional writes."""
    made: list[Store] = []

    def one() -> Store:
        match request.param:
            case "memory":
                made.append(MemoryStore())
            case "directory":
                made.append(DirectoryStore.make(tmp_path / f"store-{len(made)}"))
            case _:
                server: Server = request.getfixturevalue(request.param)
                made.append(server.store(server.bucket()))
        return made[-1]

    yield one
    for store in made:
        if hasattr(store, "close"):
            store.close()


def two(base: Path, store: Store) -> tuple[Machine, Machine]:
    base.mkdir()
    return machine(base / "one", store), machine(base / "two", store)


def race(one: Machine, other: Machine, seed: int, *, take_over: bool = False) -> list[object]:
    """Both sync at once; 100 and 200 are what lies there."""
    turns = Turns(seed)
    first, second = (each.on(turns.store(each.bucket.store)) for each in (one, other))
    return turns.run(lambda: first.sync(100), lambda: second.sync(200, take_over=take_over))


def settled(machines: tuple[Machine, ...], fresh: Machine) -> None:
    """After a race: one of them goes on and all see its head, who is asked for the first time too; the others stop."""
    went_on = []
    for at, each in enumerate(machines):
        try:
            went_on.append((each, each.sync(1000 + at)))
        except MAY_NOT:
            assert each.listing.commits
    assert len(went_on) == 1
    holder, head = went_on[0]
    for each in (*machines, fresh):
        assert each.ask().head is not None
        found = each.ask().head
        assert found is not None
        assert found.name == head
    assert holder.sync(2000).generation > head.generation


ROUNDS = {"memory": 24, "directory": 6, "moto": 4, "rclone": 4}


def test_two_first_syncs_at_once_lose_nothing_and_one_goes_on(
    make: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for seed in range(ROUNDS[request.node.callspec.params["make"]]):
        one, other = two(tmp_path / str(seed), make())
        results = race(one, other, seed)
        assert all(isinstance(result, (history.Name, *MAY_NOT)) for result in results), results
        kept = set(one.values().values())
        for result, value in zip(results, (100, 200), strict=True):
            if isinstance(result, (history.Name, history.LeaseLost)):
                assert value in kept
        assert any(isinstance(result, history.Name) for result in results)
        settled((one, other), machine(tmp_path / str(seed) / "fresh", one.bucket.store))


def test_a_take_over_in_the_middle_of_a_sync_keeps_both_states_and_tells_both(
    make: Make, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(ROUNDS[request.node.callspec.params["make"]]):
        one, other = two(tmp_path / str(seed), make())
        one.sync(10)
        results = race(one, other, seed, take_over=True)
        assert isinstance(results[1], history.Name), results
        assert isinstance(results[0], (history.Name, history.LeaseLost)), results
        assert {10, 100, 200} <= set(one.values().values())
        capsys.readouterr()
        with pytest.raises(history.LeaseLost):
            one.sync(101)
        assert 101 in one.values().values()
        on_top = other.sync(201)
        fresh = machine(tmp_path / str(seed) / "fresh", one.bucket.store)
        for each in (one, other, fresh):
            found = each.ask().head
            assert found is not None
            assert found.name == on_top


def test_many_rounds_of_races_never_lose_a_state_that_was_acknowledged(make: Make, tmp_path: Path) -> None:
    store = make()
    one, other = two(tmp_path / "pair", store)
    acknowledged: set[int] = set()
    for seed in range(6):
        turns = Turns(seed)
        values = (1000 * seed + 1, 1000 * seed + 2)
        taking = seed % 3
        first, second = (each.on(turns.store(store)) for each in (one, other))
        results = turns.run(
            lambda first=first, taking=taking, value=values[0]: first.sync(value, take_over=taking == 1),
            lambda second=second, taking=taking, value=values[1]: second.sync(value, take_over=taking == 2),
        )
        for result, value in zip(results, values, strict=True):
            assert isinstance(result, (history.Name, *MAY_NOT)), result
            if isinstance(result, (history.Name, history.LeaseLost)):
                acknowledged.add(value)
        assert acknowledged <= set(one.values().values())
    settled((one, other), machine(tmp_path / "fresh", store))
