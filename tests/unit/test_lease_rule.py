"""Which lease counts: a pure rule over a listing."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist.bucket import agents, leases
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.leases import HALF, LASTS, Lease, Verb
from persist.store import StoreDamaged
from persist.store.memory import MemoryStore
from persist.upkeep.plan import old_leases

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32
KEYS = AgentKeys.of(TownKey(bytes(32)), "ada")


def take(sequence: int, machine: str) -> Lease:
    return Lease(sequence, machine, "take", 0)


def keep(sequence: int, machine: str) -> Lease:
    return Lease(sequence, machine, "keep", 0)


def free(sequence: int, machine: str) -> Lease:
    return Lease(sequence, machine, "free", 0)


@pytest.mark.parametrize(
    ("listed", "counts"),
    [
        ([take(1, ONE)], take(1, ONE)),
        ([take(1, ONE), keep(2, ONE), keep(3, ONE)], keep(3, ONE)),
        ([take(1, ONE), free(2, ONE)], free(2, ONE)),
        ([take(1, ONE), free(2, ONE), take(3, TWO)], take(3, TWO)),
        ([take(1, TWO), take(1, ONE)], take(1, ONE)),
        # A renewal that was sent without a look at the store takes nothing back, however often.
        ([take(1, ONE), take(2, TWO), keep(2, ONE), keep(3, ONE), keep(4, ONE)], take(2, TWO)),
        ([take(1, TWO), take(2, ONE), keep(2, TWO), keep(3, ONE), keep(3, TWO), keep(4, TWO)], keep(3, ONE)),
        ([take(1, ONE), take(2, TWO), free(2, ONE), free(3, ONE)], take(2, TWO)),
        # What a prune left of them.
        ([keep(9, ONE)], keep(9, ONE)),
        ([take(2, TWO), keep(9, ONE), keep(9, TWO)], keep(9, TWO)),
    ],
)  # fmt: skip
def test_the_lease_that_counts(listed: list[Lease], counts: Lease) -> None:
    for order in itertools.islice(itertools.permutations(listed), 120):
        assert leases.winner(order) == counts


def test_it_ends_by_the_stores_clock_or_when_it_is_given_back() -> None:
    lease = Lease(1, ONE, "take", 1_000_000.0)
    assert not leases.ended(lease, 1_000_000.0 + LASTS - 1)
    assert leases.ended(lease, 1_000_000.0 + LASTS)
    assert leases.ended(Lease(2, ONE, "free", 1_000_000.0), 1_000_000.0)
    assert leases.ended(None, 0)
    assert (LASTS, HALF) == (24 * 3600, 12 * 3600)


def test_a_listing_alone_proves_who_held_what() -> None:
    store = MemoryStore()
    written = leases.write(store, KEYS, 7, ONE, "take", "signi")
    (lease,) = agents.listed(store, KEYS).leases
    assert (lease.sequence, lease.machine, lease.verb, lease.salt) == (7, ONE, "take", written.salt)
    assert abs(lease.modified - written.modified) < 5
    assert leases.host(store, KEYS, lease) == "signi"


@pytest.mark.parametrize(
    ("old", "new"),
    [("0000000000000007", "0000000000000008"), (ONE, TWO), ("take", "free"), ("take", "keep"), ("-f", "-0")],
)
def test_a_lease_whose_name_was_changed_is_refused(old: str, new: str) -> None:
    store = MemoryStore()
    while True:  # until the last half of the salt begins as the table wants it
        store = MemoryStore()
        leases.write(store, KEYS, 7, ONE, "take", "signi")
        ((key, data),) = [(found.key, store.get(found.key)) for found in store.list("")]
        if old in key:
            break
    store.delete(key)
    store.put(key.replace(old, new, 1), data)
    with pytest.raises(StoreDamaged, match="was not written with this town's key"):
        agents.listed(store, KEYS)


def test_another_agents_lease_is_refused() -> None:
    store, vox = MemoryStore(), AgentKeys.of(TownKey(bytes(32)), "vox")
    lease = leases.write(store, vox, 7, ONE, "take", "signi")
    store.put(f"agents/{KEYS.place}/{lease}", store.get(f"agents/{vox.place}/{lease}"))
    with pytest.raises(StoreDamaged, match="was not written with this town's key"):
        agents.listed(store, KEYS)


steps = st.lists(
    st.tuples(st.sampled_from([ONE, TWO, THREE]), st.sampled_from(["take", "blind", "keep", "free", "prune"])),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_whatever_machines_do_a_prune_changes_nothing_and_who_lost_it_gets_nothing_back(
    steps: list[tuple[str, str]],
) -> None:
    listed: list[Lease] = []
    blind: dict[str, int] = {}  # the sequence of the last lease that a machine wrote
    holder = ""
    for machine, step in steps:
        last = max((lease.sequence for lease in listed), default=0)
        if step == "take":
            listed.append(take(last + 1, machine))
            holder = machine
        elif step == "prune":
            gone = old_leases(listed)
            before = leases.winner(listed)
            listed = [lease for lease in listed if lease not in gone]
            assert leases.winner(listed) == before
            continue
        elif machine in blind:
            verb: Verb = "free" if step == "free" else "keep"
            sequence = last + 1 if step == "keep" and machine == holder else blind[machine] + 1
            listed.append(Lease(sequence, machine, verb, 0))
        else:
            continue
        blind[machine] = listed[-1].sequence
        counts = leases.winner(listed)
        assert counts is not None
        assert counts.machine == holder
