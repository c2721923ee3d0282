"""A tomb names packs that are about to be deleted, and those that hold what was still needed of them.

`agents/<place>/tomb-<salt>`. A sync that sees one builds on none of its packs; a reader takes the new ones instead.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from persist.bucket import packing, records
from persist.bucket.commits import Name
from persist.bucket.keys import SIZE, AgentKeys
from persist.bucket.packs import Pack
from persist.bucket.sealing import Seal, after_header
from persist.store import Store, whole
from town.terminal import shown

MAGIC = b"nuketown tomb 2\n"
LARGEST = 64 << 20  # bytes of a tomb, expanded or not
_NAME = re.compile(r"tomb-[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{64}")
_KEYS: dict[str, type | tuple[type, ...]] = {"packs": list, "to": list, "seen": list}


@dataclass(frozen=True, slots=True)
class Tomb:
    """`packs`: ids that go; `to`: packs with what was needed of them; `seen`: names of commits this is true for."""

    packs: frozenset[str]
    to: tuple[Pack, ...] = ()
    seen: frozenset[str] = frozenset()


def is_name(text: str) -> bool:
    """Whether a tomb may have that name."""
    return _NAME.fullmatch(text) is not None


def key(keys: AgentKeys, name: str) -> str:
    """Its key in the store."""
    return f"agents/{keys.place}/{name}"


def write(store: Store, keys: AgentKeys, tomb: Tomb) -> str:
    """Store a tomb; its name."""
    name = f"tomb-{os.urandom(SIZE).hex()}"
    store.put(key(keys, name), sealed(keys, name, tomb))
    return name


def read(store: Store, keys: AgentKeys, name: str) -> Tomb:
    """The tomb of that name. Raises ObjectMissing, StoreDamaged, StoreForeign."""
    return opened(keys, name, fetched(store, keys, name))


def fetched(store: Store, keys: AgentKeys, name: str) -> bytes:
    """The object of that tomb, sealed. Raises ObjectMissing, StoreDamaged."""
    return whole(store, key(keys, name), LARGEST)


def sealed(keys: AgentKeys, name: str, tomb: Tomb) -> bytes:
    """The object of a tomb that is to have that name."""
    record = {
        "packs": sorted(tomb.packs),
        "to": [pack.record for pack in tomb.to],
        "seen": sorted(tomb.seen),
    }
    seal = Seal.of(keys.agent, keys.tomb, key(keys, name))
    return MAGIC + seal.close("tomb", 0, packing.packed_record(records.written(record)), last=True)


def opened(keys: AgentKeys, name: str, data: bytes) -> Tomb:
    """What `sealed` sealed under that very name. Raises StoreDamaged, StoreForeign."""
    where = key(keys, name)
    sealed_ = after_header(data, MAGIC, where)
    record = Seal.of(keys.agent, keys.tomb, where).open("tomb", 0, sealed_, last=True)
    return records.checked(where, _tomb, records.read(packing.unpacked_record(record, LARGEST), where), _KEYS)


def _tomb(fields: dict[str, Any]) -> Tomb:
    for id_ in fields["packs"]:
        if not isinstance(id_, str) or not _ID.fullmatch(id_):
            raise ValueError(f"{shown(str(id_)[:200])} is no id of a pack")
    seen = frozenset(str(Name.parsed(name)) for name in fields["seen"])
    return Tomb(frozenset(fields["packs"]), tuple(Pack.parsed(pack) for pack in fields["to"]), seen)


def resolved(name: Name, packs: Iterable[Pack], tombs: Iterable[Tomb]) -> tuple[Pack, ...]:
    """The packs of a commit as they are to be read: what a tomb names for it, replaced by what that tomb leads to.

    The order of the tombs is nothing: of a pack that two name, what both lead to is read.
    """
    ours = [tomb for tomb in tombs if str(name) in tomb.seen]
    gone = frozenset().union(*(tomb.packs for tomb in ours))
    return tuple(sorted(pack for id_, pack in led(packs, ours).items() if id_ not in gone))


def led(packs: Iterable[Pack], tombs: Iterable[Tomb]) -> dict[str, Pack]:
    """Packs and all that tombs lead to from there, by id; also those on the way, which are replaced."""
    found = {pack.id: pack for pack in packs}
    waiting = list(tombs)
    while following := next((tomb for tomb in waiting if not tomb.packs.isdisjoint(found)), None):
        waiting.remove(following)
        found |= {pack.id: pack for pack in following.to if pack.id not in found}
    return found
