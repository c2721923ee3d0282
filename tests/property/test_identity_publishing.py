"""Whatever stands in an account: publishing twice changes nothing the second time, and nobody else's key is touched."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from identity.publish import Mine, Remove, Upload, actions, stale
from identity.publish_account import GPG, SIGNING, SSH, Shelf, Standing
from tests.scale import times

OURS, OLD, GONE = "SHA256:ours", "SHA256:rotated", "SHA256:revoked"
OTHERS = ["SHA256:other", "", "0" * 40]
PRINTS = st.sampled_from([OURS, OLD, GONE, *OTHERS])
bounded = settings(max_examples=times(100), deadline=None, database=None)
MINE = st.builds(
    Mine,
    title=st.just("ada"),
    email=st.just("ada@signi.local"),
    ssh=st.sampled_from([None, (OURS, "ssh-ed25519 AAAA")]),
    signs=st.booleans(),
    gone=st.just(frozenset({OLD, GONE})),
    revoked=st.just(frozenset({GONE})),
    gpg=st.just({}),
    primary=st.none(),
)
ACCOUNT = st.fixed_dictionaries({shelf: st.lists(PRINTS, max_size=5) for shelf in (SSH, SIGNING, GPG)})


def _standing(prints: dict[Shelf, list[str]]) -> dict[Shelf, list[Standing]]:
    return {shelf: [Standing(number, one) for number, one in enumerate(each)] for shelf, each in prints.items()}


def _after(account: dict[Shelf, list[Standing]], mine: Mine, replacing: bool) -> dict[Shelf, list[Standing]]:
    left = {shelf: list(each) for shelf, each in account.items()}
    for action in actions(mine, account, replacing):
        match action:
            case Upload(shelf, fingerprint):
                left[shelf].append(Standing(99, fingerprint))
            case Remove(shelf, _, number):
                left[shelf] = [one for one in left[shelf] if one.number != number]
    return left


@bounded
@given(MINE, ACCOUNT, st.booleans())
def test_a_second_run_has_nothing_to_do(mine: Mine, prints: dict[Shelf, list[str]], replacing: bool) -> None:
    after = _after(_standing(prints), mine, replacing)
    assert list(actions(mine, after, replacing)) == []
    assert not replacing or list(stale(mine, after)) == []


@bounded
@given(MINE, ACCOUNT, st.booleans())
def test_keys_of_others_stay_and_without_replace_all_do(
    mine: Mine, prints: dict[Shelf, list[str]], replacing: bool
) -> None:
    before = _standing(prints)
    after = _after(before, mine, replacing)
    for shelf, each in before.items():
        kept = [one for one in each if not replacing or one.fingerprint in (OURS, *OTHERS)]
        assert [one for one in kept if one not in after[shelf]] == []


@bounded
@given(MINE, ACCOUNT)
def test_a_key_that_is_not_in_use_is_never_uploaded(mine: Mine, prints: dict[Shelf, list[str]]) -> None:
    uploads = [one for one in actions(mine, _standing(prints), True) if isinstance(one, Upload)]
    assert {one.fingerprint for one in uploads} <= ({mine.ssh[0]} if mine.ssh else set())
    assert not [one for one in uploads if one.shelf is SIGNING and not mine.signs]
    assert list(actions(replace(mine, ssh=None), _standing(prints), False)) == []
