"""Which old homes stay, over any clocks and any order: the newest always, and no more goes than the spec says."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from persist.aside import Aside, credible
from persist.keep import Delete, GiveWay, MakeBallast, Relieve, plan
from town.spec import Btrfs, KeepHomes

NOW = datetime(2026, 11, 21, tzinfo=UTC)
KINDS = st.sampled_from(["subvolume", "directory", "other"])
DAYS = st.integers(-40_000, 20_000) | st.integers(-5, 30)


@st.composite
def entries(draw: st.DrawFn) -> list[Aside]:
    drawn = draw(st.lists(st.tuples(KINDS, DAYS, st.booleans()), max_size=12))
    return [
        Aside(b".deleting-" * gone + b"%d" % born, kind, born, born, NOW - timedelta(days=days))
        for born, (kind, days, gone) in enumerate(drawn)
    ]


KEEP = st.builds(KeepHomes, st.integers(1, 6), st.integers(1, 30), st.just("10%"))


@settings(max_examples=60)
@given(entries(), KEEP, st.booleans())
def test_only_what_is_too_many_too_old_or_begun_goes_unconditionally(
    found: list[Aside], keep: KeepHomes, ballast: bool
) -> None:
    oldest_first = credible(found, NOW)
    actions = plan(oldest_first, Btrfs("/dev/x", keep=keep), NOW, ballast=ballast)
    deleted = [action.entry for action in actions if isinstance(action, Delete)]
    whole = [entry for entry in oldest_first if entry.home and not entry.deleting]
    assert deleted == [entry for entry in oldest_first if entry in deleted]  # the oldest first, each once
    for entry in oldest_first:
        young = NOW - entry.time < timedelta(days=keep.days)
        among = entry in whole[-keep.homes :] or not entry.home
        stays = not entry.deleting and (entry in whole[-1:] or (young and among))
        assert (entry not in deleted) == stays


@settings(max_examples=60)
@given(entries(), KEEP, st.booleans())
def test_the_newest_home_is_in_no_action_and_others_give_way_from_the_oldest_on(
    found: list[Aside], keep: KeepHomes, ballast: bool
) -> None:
    oldest_first = credible(found, NOW)
    actions = plan(oldest_first, Btrfs("/dev/x", keep=keep), NOW, ballast=ballast)
    whole = [entry for entry in oldest_first if entry.home and not entry.deleting]
    deleted = [action.entry for action in actions if isinstance(action, Delete)]
    spare = [entry for entry in whole[:-1] if entry not in deleted]
    assert [action.entry for action in actions if isinstance(action, Relieve)] == spare
    assert [action.entry for action in actions if isinstance(action, GiveWay)] == ([] if ballast else spare)
    assert [action.name for action in actions if isinstance(action, MakeBallast)] == [
        "@agents-ballast" for _ in range(not ballast)
    ]


@settings(max_examples=60)
@given(entries())
def test_times_rise_with_the_order_and_are_never_in_the_future(found: list[Aside]) -> None:
    times = [entry.time for entry in credible(found, NOW)]
    assert times == sorted(times)
    assert all(time <= NOW for time in times)
    if [entry.time for entry in found] == sorted(min(entry.time, NOW) for entry in found):
        assert [entry.time for entry in found] == times  # clocks that were right are believed
