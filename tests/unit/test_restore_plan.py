"""The plan of a restore: values in, values out, one line each. No disk, no store, no root."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest

from persist.restore import plan
from persist.restore.actions import (
    Begun,
    Bind,
    Blocked,
    Fetch,
    Found,
    FoundDirectory,
    HidesData,
    Leftover,
    MakeDirectory,
    MakeHome,
    MakePersisted,
    MakeSource,
    Remote,
    RemoveLeftover,
    Target,
)
from town import spec
from town.failure import TryLater
from town.spec import Persist, Spec

TOWN = b"""
[town]
agents_dir = "/agents"
persist_dir = "/persist"
store = "file:///var/lib/store"
[town.recipients]
humans = ["age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"]
[agents.ada]
uid = 1100
persist = %s
"""


@dataclass(frozen=True)
class Held:
    """What `persist.fetch.newest` gives, as far as a plan reads it."""

    paths: tuple[PurePosixPath, ...]
    snapshot: str = "4f2a"
    time: datetime = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
    host: str = "signi"
    key: str = "of this state"


def _spec(persist: bytes) -> Spec:
    return spec.parse(TOWN % persist, Path("town.toml"))


def _remote(*paths: str) -> Remote:
    return Remote(held=cast(Any, Held(tuple(map(PurePosixPath, paths)))))


def _found(town: Spec, *there: tuple[bool, Target], home: bool = True, persisted: bool = True) -> Found:
    directories = zip(town.agents[0].persist, there, strict=True)
    found = tuple(FoundDirectory(entry, source, target) for entry, (source, target) in directories)
    return Found(home, True, persisted, found)


def _plan(town: Spec, found: Found, remote: Remote | None = None) -> tuple[plan.Action, ...]:
    return plan.restore(town, town.agents[0], found, remote or Remote())


def _entry(town: Spec, number: int = 0) -> Persist:
    return town.agents[0].persist[number]


def test_nothing_is_planned_when_everything_is_there() -> None:
    town = _spec(b'["a", { path = "b", via = "store" }]')
    found = _found(town, (True, "bound"), (False, "filled"))
    assert _plan(town, found) == ()
    assert not plan.needs_store(town, found)


def test_a_directory_is_whole_before_it_is_bound_and_leftovers_go_first() -> None:
    town = _spec(b'["a"]')
    left = Leftover("agents", Path("/agents"), ".nuketown-0123456789ab-ada")
    found = _found(town, (False, "missing"), home=False, persisted=False)
    found = Found(found.home, found.subvolumes, found.persisted, found.directories, (left,))
    remote = _remote("a")
    assert _plan(town, found, remote) == (
        RemoveLeftover(left),
        MakeHome(Path("/agents/ada"), True),
        MakePersisted(Path("/persist/agents/ada")),
        Fetch(_entry(town), Path("/persist/agents/ada/a"), cast(Any, remote.held)),
        Bind(_entry(town), Path("/persist/agents/ada/a"), Path("/agents/ada/a")),
    )


def test_every_action_is_one_line() -> None:
    town = _spec(b'["a", { path = "b", via = "store" }]')
    found = _found(town, (False, "missing"), (False, "missing"), home=False, persisted=False)
    assert list(map(str, _plan(town, found, _remote("a")))) == [
        "make    /agents/ada (the home, a subvolume)",
        "make    /persist/agents/ada (root's, holds what is bound)",
        "fetch   /persist/agents/ada/a from 4f2a from signi 2026-11-21T10:15:00Z",
        "bind    /persist/agents/ada/a -> /agents/ada/a",
        "make    /agents/ada/b (empty: first use: not in 4f2a from signi 2026-11-21T10:15:00Z)",
    ]


def test_what_lies_on_this_machine_is_used_as_it_is_without_asking_the_store() -> None:
    town = _spec(b'["a"]')
    found = _found(town, (True, "missing"))
    assert not plan.needs_store(town, found)
    assert [type(action) for action in _plan(town, found)] == [Bind]


@pytest.mark.parametrize("entry", [b'{ path = "a", via = "bind" }', b'{ path = "a", class = "cache" }'])
def test_what_never_goes_to_the_store_is_never_asked_of_it(entry: bytes) -> None:
    town = _spec(b"[" + entry + b"]")
    found = _found(town, (False, "missing"))
    assert not plan.needs_store(town, found)
    assert [type(action) for action in _plan(town, found, _remote("a"))] == [MakeSource, Bind]


def test_a_store_that_holds_nothing_means_first_use() -> None:
    town = _spec(b'["a", { path = "b", via = "store" }]')
    found = _found(town, (False, "missing"), (False, "missing"))
    assert plan.needs_store(town, found)
    assert [type(action) for action in _plan(town, found, Remote())] == [MakeSource, Bind, MakeDirectory]


def test_without_an_answer_of_the_store_nothing_is_made_in_its_place() -> None:
    town = _spec(b'["a", { path = "b", via = "store" }, { path = "c", class = "cache" }]')
    failure = TryLater("the store does not answer")
    found = _found(town, (False, "missing"), (False, "missing"), (False, "missing"))
    actions = _plan(town, found, Remote(failure=failure))
    assert [type(action) for action in actions] == [Blocked, Blocked, MakeSource, Bind]


def test_data_in_the_home_is_never_hidden() -> None:
    town = _spec(b'["a"]')
    with pytest.raises(HidesData, match="already holds data"):
        _plan(town, _found(town, (True, "filled")))
    town = _spec(b'[{ path = "a", required = false }]')
    assert [type(action) for action in _plan(town, _found(town, (True, "filled")))] == [Blocked]


def test_an_empty_directory_in_the_home_is_bound_over() -> None:
    town = _spec(b'["a"]')
    assert [type(action) for action in _plan(town, _found(town, (True, "empty")))] == [Bind]


STAGE = ".nuketown-0123456789ab"


def _cut_off(town: Spec, key: str) -> Found:
    """A restore of `a` that left its staging."""
    left = Leftover("persisted", Path("/persist/agents/ada"), STAGE)
    begun = Begun(PurePosixPath("a"), key, STAGE)
    return replace(_found(town, (False, "missing")), leftovers=(left,), begun=(begun,))


def test_what_was_begun_of_the_same_state_is_gone_on_with_and_not_removed() -> None:
    town = _spec(b'["a"]')
    actions = _plan(town, _cut_off(town, "of this state"), _remote("a"))
    assert [type(action) for action in actions] == [Fetch, Bind]


def test_what_was_begun_stays_while_the_store_does_not_answer() -> None:
    town = _spec(b'["a"]')
    actions = _plan(town, _cut_off(town, "of this state"), Remote(failure=TryLater("away")))
    assert [type(action) for action in actions] == [Blocked]


def test_what_was_begun_of_another_state_is_removed() -> None:
    town = _spec(b'["a"]')
    actions = _plan(town, _cut_off(town, "of another"), _remote("a"))
    assert [type(action) for action in actions] == [RemoveLeftover, Fetch, Bind]


def test_a_state_that_was_named_takes_the_place_of_what_is_there() -> None:
    town = _spec(b'["a", { path = "b", via = "store" }, "c"]')
    found = _found(town, (True, "bound"), (False, "filled"), (True, "bound"))
    actions = _plan(town, found, replace(_remote("a", "b"), over=True))
    assert [(type(action), str(getattr(action, "entry").path)) for action in actions] == [  # noqa: B009
        (Fetch, "a"), (Bind, "a"), (Fetch, "b"),
    ]  # fmt: skip
    assert all(action.over for action in actions if isinstance(action, Fetch))
    assert plan.needs_store(town, found, over=True)
    assert _plan(town, found, _remote("a", "b")) == ()
