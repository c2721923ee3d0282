"""A commit names one whole state of one agent. It is an object of its own, written once, after everything it names.

`agents/<place>/commit-<generation>-<machine>-<salt>`: the head is found by a listing, and no object is ever
overwritten, so two machines that write at once leave two commits, a fork, and neither loses data. A `branch-…` is the
same, and never the head: what a machine had that lost the lease.
"""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal, cast

from persist.bucket import packing, records, trees
from persist.bucket.keys import SIZE, AgentKeys
from persist.bucket.packs import Pack
from persist.bucket.sealing import Seal, after_header
from persist.store import Store, StoreDamaged, whole
from town.terminal import shown

Kind = Literal["commit", "branch"]
MAGIC = b"nuketown commit 2\n"
LARGEST = 64 << 20  # bytes of a commit, expanded or not
LAST = (1 << 64) - 1  # no generation is higher
_NAME = re.compile(r"(commit|branch)-([0-9a-f]{16})-([0-9a-f]{32})-([0-9a-f]{64})")
_TOP: dict[str, type | tuple[type, ...]] = {"path": str, "files": int, "bytes": int, "entry": dict}
_KEYS: dict[str, type | tuple[type, ...]] = {
    "agent": str, "time": str, "host": str, "machine": str, "generation": int, "parent": (str, type(None)),
    "root": list, "packs": list, "uid": int, "gid": int, "lease": (int, type(None)),
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """The name of a commit or a branch; ordered by generation, then machine, then salt."""

    generation: int
    machine: str
    salt: str
    kind: Kind = "commit"

    def __str__(self) -> str:
        return f"{self.kind}-{self.generation:016x}-{self.machine}-{self.salt}"

    @property
    def short(self) -> str:
        """What people call it: the first 12 digits of its salt."""
        return self.salt[:12]

    @classmethod
    def fresh(cls, generation: int, machine: str, kind: Kind = "commit") -> "Name":
        """A name that nothing has yet. Raises StoreDamaged when the generations are used up."""
        if generation > LAST:
            raise StoreDamaged("the store shows a commit of the last generation that there can be")
        return cls(generation, machine, os.urandom(SIZE).hex(), kind)

    @classmethod
    def parsed(cls, text: str) -> "Name":
        """The name that `text` is. Raises ValueError."""
        if not (match := _NAME.fullmatch(text)):
            raise ValueError(f"{shown(text[:200])} is no name of a commit")
        return cls(int(match[2], 16), match[3], match[4], cast(Kind, match[1]))


@dataclass(frozen=True, slots=True)
class Top:
    """One declared path in a commit; `files` counts all below it that is no directory, `bytes` their apparent sizes."""

    path: PurePosixPath
    entry: trees.Entry
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Commit:
    """One whole state. `uid` and `gid` are those that the role `agent` stood for; `packs` hold every piece of it.

    `parent` is the name of a commit or a branch; `lease` the sequence of the lease that `machine` held.
    """

    agent: str
    time: datetime
    host: str
    machine: str
    generation: int
    parent: str | None
    root: tuple[Top, ...]
    packs: tuple[Pack, ...]
    uid: int
    gid: int
    lease: int | None = None

    @property
    def files(self) -> int:
        """Files of the whole state."""
        return sum(top.files for top in self.root)

    @property
    def bytes(self) -> int:
        """Bytes of the whole state."""
        return sum(top.bytes for top in self.root)

    def top(self, path: PurePosixPath) -> Top | None:
        """What it says of a declared path."""
        return next((top for top in self.root if top.path == path), None)


def write(store: Store, keys: AgentKeys, commit: Commit, *, kind: Kind = "commit") -> Name:
    """Store a commit; from the moment it appears it is the state. Every pack must be durable already."""
    name = Name.fresh(commit.generation, commit.machine, kind)
    store.put(key(keys, name), sealed(keys, name, commit))
    return name


def read(store: Store, keys: AgentKeys, name: Name) -> Commit:
    """The commit of that name. Raises ObjectMissing, StoreDamaged, StoreForeign."""
    return opened(keys, name, fetched(store, keys, name))


def fetched(store: Store, keys: AgentKeys, name: Name) -> bytes:
    """The object of that commit, sealed. Raises ObjectMissing, StoreDamaged."""
    return whole(store, key(keys, name), LARGEST)


def key(keys: AgentKeys, name: Name) -> str:
    """Its key in the store."""
    return f"agents/{keys.place}/{name}"


def sealed(keys: AgentKeys, name: Name, commit: Commit) -> bytes:
    """The object of a commit that is to have that name."""
    assert (commit.agent, commit.generation, commit.machine) == (keys.agent, name.generation, name.machine)
    record = packing.packed_record(records.written(_record(commit)))
    return MAGIC + Seal.of(keys.agent, keys.commit, key(keys, name)).close("commit", 0, record, last=True)


def opened(keys: AgentKeys, name: Name, data: bytes) -> Commit:
    """What `sealed` sealed under that very name. Raises StoreDamaged, StoreForeign."""
    where = key(keys, name)
    sealed_ = after_header(data, MAGIC, where)
    record = Seal.of(keys.agent, keys.commit, where).open("commit", 0, sealed_, last=True)
    commit = _parsed(records.read(packing.unpacked_record(record, LARGEST), where), where)
    if (commit.agent, commit.generation, commit.machine) != (keys.agent, name.generation, name.machine):
        raise StoreDamaged(f"{where} says that it is another commit than its name does")
    return commit


def _record(commit: Commit) -> dict[str, Any]:
    return {
        "agent": commit.agent,
        "time": commit.time.astimezone(UTC).isoformat(),
        "host": commit.host,
        "machine": commit.machine,
        "generation": commit.generation,
        "parent": commit.parent,
        "root": [
            {"path": str(top.path), "files": top.files, "bytes": top.bytes, "entry": trees.record(top.entry)}
            for top in commit.root
        ],
        "packs": [pack.record for pack in commit.packs],
        "uid": commit.uid,
        "gid": commit.gid,
        "lease": commit.lease,
    }


def _parsed(record: Any, what: str) -> Commit:
    return records.checked(what, lambda fields: _commit(fields, what), record, _KEYS)


def _commit(fields: dict[str, Any], what: str) -> Commit:
    if fields["parent"] is not None:
        Name.parsed(fields["parent"])
    time = datetime.fromisoformat(fields["time"])
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    root = tuple(records.checked(what, lambda top: _top(top, what), each, _TOP) for each in fields["root"])
    _check_paths([top.path for top in root])
    return Commit(
        agent=fields["agent"],
        time=time,
        host=fields["host"],
        machine=fields["machine"],
        generation=fields["generation"],
        parent=fields["parent"],
        root=root,
        packs=tuple(Pack.parsed(pack) for pack in fields["packs"]),
        uid=fields["uid"],
        gid=fields["gid"],
        lease=fields["lease"],
    )


def _top(fields: dict[str, Any], what: str) -> Top:
    text = fields["path"]
    path = PurePosixPath(text)
    parts = path.parts
    for part in parts:
        trees.checked_name(os.fsencode(part))
    if not parts or path.is_absolute() or str(path) != text:
        raise ValueError(f"the path {shown(text)} that is not declared like this")
    entry = trees.parsed(fields["entry"], what)
    if entry.kind != "dir":
        raise ValueError("a declared path that is no directory")
    return Top(path, entry, fields["files"], fields["bytes"])


def _check_paths(paths: list[PurePosixPath]) -> None:
    for at, path in enumerate(paths):
        if any(path == other or path in other.parents or other in path.parents for other in paths[:at]):
            raise ValueError("declared paths that overlap")
