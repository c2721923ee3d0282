"""Which states a prune keeps: the rule alone, without a store."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from persist.bucket.commits import Kind, Name
from persist.upkeep.policy import BRANCH_DAYS, Past, keep, line
from tests.machine.histories import DAY, A, B
from town.spec import KeepSnapshots

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def name(generation: int, *, machine: str = A, kind: Kind = "commit", salt: int = 0) -> Name:
    return Name(generation, machine, f"{generation:x}{salt:x}".rjust(64, "0"), kind)


def past(
    generation: int, time: datetime, *, machine: str = A, above: Name | None = None, kind: Kind = "commit"
) -> Past:
    parent = above or (name(generation - 1) if generation > 1 else None)
    return Past(name(generation, machine=machine, kind=kind), time, str(parent) if parent else None, time.timestamp())


def every(step: timedelta, number: int, *, end: datetime = NOON) -> list[Past]:
    return [past(at + 1, end - step * (number - 1 - at)) for at in range(number)]


def kept(states: list[Past], policy: KeepSnapshots, head: Name | None = None, now: float | None = None) -> list[int]:
    chosen = head or max(one.name for one in states if one.name.kind == "commit")
    found = keep(states, chosen, policy, NOON.timestamp() if now is None else now)
    return sorted(one.generation for one in found)


def only(**rule: int) -> KeepSnapshots:
    return KeepSnapshots(**({"last": 1, "hourly": 0, "daily": 0, "weekly": 0, "monthly": 0, "yearly": 0} | rule))


def test_last_keeps_the_newest_by_generation() -> None:
    assert kept(every(timedelta(minutes=15), 100), only(last=5)) == [96, 97, 98, 99, 100]


def test_of_each_day_the_newest_state_stays() -> None:
    # NOON of the 21st is state 100, one each hour: 13 of that day, 24 of each before.
    assert kept(every(timedelta(hours=1), 100), only(daily=3)) == [63, 87, 100]


def test_of_each_hour_week_month_and_year_the_newest_state_stays() -> None:
    states = every(timedelta(days=1), 800)
    assert kept(states, only(hourly=3)) == [798, 799, 800]
    assert kept(states, only(weekly=3)) == [787, 794, 800]  # Sundays end ISO weeks; the 21st is a Saturday
    assert kept(states, only(monthly=3)) == [748, 779, 800]
    assert kept(states, only(yearly=3)) == [110, 475, 800]  # the last of December


def test_days_are_those_of_utc_whatever_the_machine_wrote() -> None:
    from datetime import timezone

    late = NOON.replace(hour=23).astimezone(timezone(timedelta(hours=5)))
    assert kept([past(1, late), past(2, NOON.replace(hour=23, minute=30))], only(daily=2)) == [2]


def test_each_state_that_stays_says_why() -> None:
    states = every(timedelta(hours=12), 4)
    found = keep(states, states[-1].name, only(last=2, daily=2), NOON.timestamp())
    assert found[states[-1].name] == ("head", "last", "daily 2026-11-21")
    assert found[states[-2].name] == ("last",)
    assert found[states[-3].name] == ("daily 2026-11-20",)


def test_a_clock_that_was_wrong_never_costs_the_head() -> None:
    states = [
        *every(timedelta(hours=1), 10),
        past(11, NOON + timedelta(days=40_000)),
        past(12, NOON - timedelta(days=9000)),
    ]
    assert 12 in kept(states, only(daily=1))
    assert 12 in kept(states, only(yearly=5))


def test_a_branch_keeps_its_newest_state_for_a_while() -> None:
    first = past(5, NOON, machine=B, above=name(4), kind="branch")
    second = past(6, NOON, machine=B, above=first.name, kind="branch")
    states = [*every(timedelta(minutes=1), 20), first, second]
    assert keep(states, name(20), only(), NOON.timestamp()).keys() == {name(20), second.name}
    assert keep(states, name(20), only(), NOON.timestamp() + BRANCH_DAYS * DAY).keys() == {name(20)}


def test_a_branch_never_counts_as_history() -> None:
    states = [*every(timedelta(minutes=1), 3), past(9, NOON, machine=B, above=name(2), kind="branch")]
    assert [one.name.generation for one in line(states, name(3))] == [3, 2, 1]
    assert kept(states, only(last=3)) == [1, 2, 3, 9]


def test_the_loser_of_a_fork_is_told_from_the_line_also_when_the_line_was_pruned() -> None:
    lost = [past(10, NOON, machine=B, above=name(9)), past(11, NOON, machine=B, above=name(10, machine=B))]
    states = [*every(timedelta(minutes=1), 40), *lost]
    now, policy = NOON.timestamp(), only(last=2)
    found = keep(states, name(40), policy, now)
    assert {one.generation for one in found} == {40, 39, 12, 11}
    assert lost[1].name in found
    assert name(11) not in found  # 12 tells it from the line: it names its parent
    left = [one for one in states if one.name in found]
    for _ in range(3):
        again = keep(left, name(40), policy, now)
        assert again == found
    later = keep(left, name(40), policy, now + (BRANCH_DAYS + 1) * DAY)
    assert later.keys() == {name(40), name(39)}


def test_a_commit_beside_the_head_stays_while_the_head_is_of_its_generation() -> None:
    rival = past(3, NOON, machine=B)
    states = [*every(timedelta(minutes=1), 3), rival]
    for days in (0, 1000):
        assert rival.name in keep(states, name(3), only(), NOON.timestamp() + days * DAY)
    assert rival.name not in keep([*states, past(4, NOON)], name(4), only(), NOON.timestamp() + 1000 * DAY)


histories = st.lists(
    st.tuples(st.integers(-900 * 24, 10), st.booleans(), st.booleans()), min_size=1, max_size=40
)  # hours from noon; of another machine; a branch
policies = st.builds(
    KeepSnapshots, last=st.integers(1, 6), hourly=st.integers(0, 4), daily=st.integers(0, 4),
    weekly=st.integers(0, 4), monthly=st.integers(0, 3), yearly=st.integers(0, 3),
)  # fmt: skip


def built(rows: list[tuple[int, bool, bool]]) -> tuple[list[Past], Name]:
    """A history with branches and forks; the line is the commits of A."""
    states: list[Past] = []
    above: Name | None = None
    for at, (hours, other, branch) in enumerate(rows):
        generation = (above.generation if above else 0) + 1
        kind: Kind = "branch" if branch and at else "commit"
        machine = B if (other or branch) and at else A
        one = Name(generation, machine, f"{at:064x}", kind)
        time = NOON + timedelta(hours=hours)
        states.append(Past(one, time, str(above) if above else None, NOON.timestamp() - (len(rows) - at)))
        if machine == A:
            above = one
    assert above is not None
    return states, above


@settings(max_examples=150, deadline=None, derandomize=True)
@given(histories, policies)
def test_pruning_again_drops_nothing_more(rows: list[tuple[int, bool, bool]], policy: KeepSnapshots) -> None:
    states, head = built(rows)
    now = NOON.timestamp()
    found = keep(states, head, policy, now)
    left = [one for one in states if one.name in found]
    assert keep(left, head, policy, now).keys() == found.keys()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(histories, policies)
def test_the_head_stays_and_no_rule_keeps_more_than_it_says(
    rows: list[tuple[int, bool, bool]], policy: KeepSnapshots
) -> None:
    states, head = built(rows)
    found = keep(states, head, policy, NOON.timestamp())
    assert "head" in found[head]
    for rule in ("last", "hourly", "daily", "weekly", "monthly", "yearly"):
        named = [why for reasons in found.values() for why in reasons if why.split()[0] == rule]
        assert len(named) <= getattr(policy, rule)
    ours = [one.name for one in line(states, head)]
    assert ours == sorted(ours, reverse=True)
    assert set(ours[: policy.last]) <= found.keys()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(histories, policies)
def test_a_looser_policy_keeps_all_that_a_stricter_one_keeps(
    rows: list[tuple[int, bool, bool]], policy: KeepSnapshots
) -> None:
    states, head = built(rows)
    looser = KeepSnapshots(
        policy.last + 1, policy.hourly + 1, policy.daily + 1, policy.weekly + 1, policy.monthly + 1, policy.yearly + 1
    )
    now = NOON.timestamp()
    assert keep(states, head, policy, now).keys() <= keep(states, head, looser, now).keys()
