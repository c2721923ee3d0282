"""A lease says which machine syncs an agent: `agents/<place>/lease-<sequence>-<machine>-<verb>-<salt>`.

The last half of its salt is a tag that only who has the agent's lease key can make, so one listing proves who held it
and when; nothing is read for that. The object itself holds the name of the host, for people.

    take    the machine begins to hold it
    keep    it goes on: counts only where this machine held it before, so that a renewal that was sent without a look
            at the store, by a machine that has lost the lease meanwhile, takes nothing back
    free    it ends it, at a clean shutdown; counts as `keep` does
"""

import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from persist.bucket import records
from persist.bucket.keys import SIZE, AgentKeys
from persist.bucket.sealing import Seal, after_header
from persist.store import Store, whole
from town.terminal import shown

if TYPE_CHECKING:
    from persist.bucket.agents import Listing

Verb = Literal["take", "keep", "free"]
MAGIC = b"nuketown lease 2\n"
LASTS = 24 * 3600.0  # seconds, by the store's clock
HALF = LASTS / 2  # it is renewed when that much has gone by
_LARGEST = 64 << 10
_NAME = re.compile(r"lease-([0-9a-f]{16})-([0-9a-f]{32})-(take|keep|free)-([0-9a-f]{64})")
_TAG = SIZE // 2  # bytes of the salt that are random, and as many that are the tag


@dataclass(frozen=True, slots=True, order=True)
class Lease:
    """One lease as a listing shows it; `modified`: seconds since the epoch by the store's clock."""

    sequence: int
    machine: str
    verb: Verb
    modified: float
    salt: str = ""

    def __str__(self) -> str:
        return f"lease-{self.sequence:016x}-{self.machine}-{self.verb}-{self.salt}"


def parsed(keys: AgentKeys, text: str, modified: float) -> Lease:
    """The lease of that name. Raises ValueError when it is no such name, or was not written with the agent's key."""
    if not (match := _NAME.fullmatch(text)):
        raise ValueError(f"{shown(text[:200])} is no name of a lease")
    sequence, machine, verb, salt = int(match[1], 16), match[2], cast(Verb, match[3]), match[4]
    if not hmac.compare_digest(_tag(keys, sequence, machine, verb, salt[: 2 * _TAG]), salt[2 * _TAG :]):
        raise ValueError(f"{shown(text)} was not written with this town's key")
    return Lease(sequence, machine, verb, modified, salt)


def current(listing: "Listing") -> Lease | None:
    """The lease that counts; it may have ended. None where there never was one."""
    return winner(listing.leases)


def winner(leases: Iterable[Lease]) -> Lease | None:
    """Of some leases, the one that counts: see the module's docstring; of several `take` the first by name."""
    held: Lease | None = None
    for lease in sorted(leases, key=_rank):
        if held is not None and lease.sequence == held.sequence and held.verb == "take":
            continue  # the first `take` of a sequence has it
        if held is None or lease.verb == "take" or lease.machine == held.machine:
            held = lease
    return held


def _rank(lease: Lease) -> tuple[int, bool, str]:
    return lease.sequence, lease.verb != "take", str(lease)


def ended(lease: Lease | None, now: float) -> bool:
    """Whether nobody holds it any more at `now`, the store's time: given back, expired, or there never was one."""
    return lease is None or lease.verb == "free" or expired(lease, now)


def expired(lease: Lease, now: float) -> bool:
    """Whether its time is over at `now`, the store's time."""
    return now - lease.modified >= LASTS


def write(store: Store, keys: AgentKeys, sequence: int, machine: str, verb: Verb, host: str) -> Lease:
    """Store a lease: one request. Its time is the store's clock right after."""
    half = os.urandom(_TAG).hex()
    lease = Lease(sequence, machine, verb, 0, half + _tag(keys, sequence, machine, verb, half))
    key = f"agents/{keys.place}/{lease}"
    seal = Seal.of(keys.agent, keys.lease, key)
    store.put(key, MAGIC + seal.close("lease", 0, records.written({"host": host}), last=True))
    return Lease(sequence, machine, verb, store.now(), lease.salt)


def host(store: Store, keys: AgentKeys, lease: Lease) -> str:
    """The name of the host that a lease holds. Raises ObjectMissing, StoreDamaged, StoreForeign."""
    key = f"agents/{keys.place}/{lease}"
    sealed = after_header(whole(store, key, _LARGEST), MAGIC, key)
    record = Seal.of(keys.agent, keys.lease, key).open("lease", 0, sealed, last=True)
    return records.checked(key, lambda fields: str(fields["host"]), records.read(record, key), {"host": str})


def _tag(keys: AgentKeys, sequence: int, machine: str, verb: str, half: str) -> str:
    from blake3 import blake3

    says = "\0".join((keys.agent, f"{sequence:016x}", machine, verb, half)).encode()
    return blake3(says, key=keys.lease).digest(_TAG).hex()
