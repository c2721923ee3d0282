"""Which commit is the head: a pure rule, and the same everywhere."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist.bucket.commits import Name
from persist.store import StoreDamaged
from persist.sync import heads

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


def name(generation: int, machine: str, salt: str = "0") -> Name:
    return Name(generation, machine, salt * 64)


def parents(**of: str) -> Callable[[Name], str | None]:
    """What a commit says of its parent, by its salt."""
    return lambda found: of.get(f"s{found.salt[0]}")


def never(_: Name) -> str | None:
    raise AssertionError("read without need")


def test_the_highest_generation_is_the_head_and_nothing_is_read_for_it() -> None:
    names = [name(9, THREE), name(10, ONE), name(2, TWO)]
    for order in itertools.permutations(names):
        assert heads.head(order, (), never) == name(10, ONE)
    assert heads.head([], (), never) is None


def test_of_a_fork_the_child_of_the_machine_that_held_the_parents_lease_is_the_head() -> None:
    parent = name(4, ONE)
    a, b = name(5, ONE, "a"), name(5, TWO, "b")
    assert heads.head([parent, a, b], (), parents(sa=str(parent), sb=str(parent))) == a
    # Whatever the names are: it is not that `a` sorts first or last.
    x, y = name(5, TWO, "a"), name(5, THREE, "b")
    parent = name(4, THREE)
    assert heads.head([y, x, parent], (), parents(sa=str(parent), sb=str(parent))) == y


def test_of_a_fork_without_a_holder_the_last_name_is_the_head() -> None:
    a, b = name(1, ONE, "a"), name(1, TWO, "b")
    assert heads.head([a, b], (), parents()) == b
    parent = name(4, THREE)
    a, b = name(5, ONE, "a"), name(5, TWO, "b")
    assert heads.head([b, a, parent], (), parents(sa=str(parent), sb=str(parent))) == b


def test_of_a_fork_of_others_the_machine_that_holds_the_lease_has_the_head() -> None:
    a, b = name(1, ONE, "a"), name(1, TWO, "b")
    assert heads.head([a, b], (), parents(), ONE) == a
    parent = name(4, TWO)
    a, b = name(5, ONE, "a"), name(5, TWO, "b")
    assert heads.head([b, a, parent], (), parents(sa=str(parent), sb=str(parent)), ONE) == b


def test_a_head_that_was_seen_stays_while_nothing_is_newer() -> None:
    parent = name(4, ONE)
    a, b = name(5, ONE, "a"), name(5, TWO, "b")
    assert heads.head([parent, a, b], [str(b)], never) == b
    assert heads.head([parent, a, b, name(6, ONE, "c")], [str(b)], never) == name(6, ONE, "c")


def test_what_follows_the_head_that_was_seen_comes_before_what_does_not() -> None:
    seen, other = name(5, TWO, "a"), name(5, ONE, "b")
    follows, holds = name(6, THREE, "c"), name(6, ONE, "d")
    of = parents(sc=str(seen), sd=str(other))
    assert heads.head([seen, other, follows, holds], [str(seen)], of) == follows
    assert heads.head([seen, other, follows, holds], [], of) == holds


def test_a_parent_that_was_forgotten_is_no_trouble() -> None:
    gone = name(4, TWO)
    a, b = name(5, ONE, "a"), name(5, TWO, "b")
    assert heads.head([a, b], (), parents(sa=str(gone), sb=str(gone))) == b


def test_a_longer_side_wins_as_whoever_holds_the_lease_goes_past_all_that_is_there() -> None:
    short = [name(5, ONE, "a")]
    long = [name(5, TWO, "b"), name(6, TWO, "c"), name(7, TWO, "d")]
    assert heads.head([*short, *long], (), never) == long[-1]


def test_forks_of_unequal_length_are_told_of() -> None:
    parent, lost, head = name(5, ONE), name(6, ONE, "a"), name(7, TWO, "b")
    assert heads.beside([parent, lost, head], head, str(parent)) == (lost,)
    after = name(8, TWO, "c")
    assert heads.beside([parent, lost, head, after], after, str(head)) == ()
    twin = name(7, ONE, "d")
    assert heads.beside([parent, lost, head, twin, after], after, str(head)) == (twin,)


def test_a_generation_beyond_the_last_cannot_be_written() -> None:
    with pytest.raises(StoreDamaged, match="last generation"):
        Name.fresh(1 << 64, ONE)
    assert str(Name.fresh((1 << 64) - 1, ONE)).startswith("commit-ffffffffffffffff-")


@pytest.mark.parametrize(
    "text",
    ["", "x", f"{9:016x}-{ONE}-{'0' * 64}", f"commit-{9:x}-{ONE}-{'0' * 64}", f"lease-{9:016x}-{ONE}-{'0' * 64}",
     f"commit-{9:016x}-{ONE}-{'G' * 64}", f"branch-{9:016x}-{ONE}-{'0' * 64}\n", f"commit-{9:016x}-{ONE}-{'0' * 65}"],
)  # fmt: skip
def test_a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no name of a commit"):
        Name.parsed(text)


def test_names_are_read_back() -> None:
    for kind in ("commit", "branch"):
        text = f"{kind}-{9:016x}-{ONE}-{'a' * 64}"
        assert str(Name.parsed(text)) == text
        assert Name.parsed(text).short == "a" * 12


names_ = st.lists(
    st.builds(name, st.integers(1, 4), st.sampled_from([ONE, TWO, THREE]), st.sampled_from("0123abc")),
    min_size=1, max_size=10, unique=True,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(names_, st.data())
def test_the_head_does_not_hang_on_the_order_of_a_listing(names: list[Name], data: st.DataObject) -> None:
    of = {one: data.draw(st.sampled_from([None, *map(str, names)])) for one in names}
    seen = data.draw(st.lists(st.sampled_from([*map(str, names)]), max_size=2))
    shuffled = data.draw(st.permutations(names))
    found = heads.head(names, seen, of.__getitem__)
    assert found == heads.head(shuffled, seen, of.__getitem__)
    assert found is not None
    assert found.generation == max(one.generation for one in names)
    top = [one for one in names if one.generation == found.generation]
    if any(str(one) in seen for one in top):
        assert str(found) in seen
