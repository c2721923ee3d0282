"""What whoever runs the store can do to it, and what somebody can write who has the key; the tables are beside it.

A `Scene` is a store in a directory with two agents, several commits, leases, tombs and two key files; a `Tampering`
changes a copy of it. What must come of it stands with it: which command says so, and with which words.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from persist.bucket import commits, packing, records, tombs
from persist.bucket.blobs import Writer
from persist.bucket.commits import Commit, Name, Top
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys
from persist.bucket.opening import Bucket
from persist.bucket.packs import Pack, Packed, PackWriter
from persist.bucket.sealing import Seal
from persist.bucket.tombs import Tomb
from persist.bucket.trees import Entry, record
from tests.machine.towns import ADA

Who = Literal["fresh", "seen"]
HUGE = 1 << 40  # bytes of a sparse object


@dataclass(frozen=True, slots=True)
class Scene:
    """The store that is tampered with, open with the real key, and what else a thief of objects has at hand."""

    store: Path
    bucket: Bucket
    older: Path  # the same store, two commits of ada's ago
    other: Path  # the store of another town

    @property
    def ada(self) -> AgentKeys:
        return self.bucket.keys("ada")

    @property
    def vox(self) -> AgentKeys:
        return self.bucket.keys("vox")

    def packs(self, keys: AgentKeys) -> list[Path]:
        """In the order in which they were written."""
        return self._of(f"packs/{keys.place}", "*", by_time=True)

    def commits(self, keys: AgentKeys) -> list[Path]:
        """Oldest first."""
        return self._of(f"agents/{keys.place}", "commit-*")

    def leases(self, keys: AgentKeys) -> list[Path]:
        return self._of(f"agents/{keys.place}", "lease-*")

    def tombs(self, keys: AgentKeys) -> list[Path]:
        return self._of(f"agents/{keys.place}", "tomb-*")

    def keyfiles(self) -> list[Path]:
        return self._of("keys", "*")

    def _of(self, directory: str, pattern: str, *, by_time: bool = False) -> list[Path]:
        found = sorted((self.store / directory).glob(pattern))
        return sorted(found, key=lambda path: path.stat().st_mtime_ns) if by_time else found


@dataclass(frozen=True, slots=True)
class Tampering:
    """One change. `says`: a pattern of what is said; `who`: a machine that never saw the store, or one that did."""

    name: str
    change: Callable[[Scene], None]
    says: str
    who: Who = "fresh"
    verb: tuple[str, ...] = ("restore",)
    more: tuple[str, ...] = ()  # words of that command
    status: int = 1
    take_over: bool = True  # a fresh machine asks for the lease


# What is done to bytes and names.


def flip(at: int) -> Callable[[bytes], bytes]:
    """One bit of one byte, from the start or, below zero, from the end."""
    return lambda data: data[: at % len(data)] + bytes([data[at % len(data)] ^ 1]) + data[at % len(data) + 1 :]


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change an object."""
    data = path.read_bytes()
    path.write_bytes(changed := change(data))
    assert changed != data


def swap(one: Path, two: Path) -> None:
    """Give two objects each other's bytes."""
    first, second = one.read_bytes(), two.read_bytes()
    assert first != second
    one.write_bytes(second)
    two.write_bytes(first)


def huge(path: Path) -> None:
    """An object as long as no memory is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(HUGE)


def put_back(scene: Scene, what: Path) -> None:
    """Another store in the place of this one."""
    shutil.rmtree(scene.store)
    shutil.copytree(what, scene.store)


def emptied(scene: Scene) -> None:
    """The bucket is there, and nothing in it."""
    shutil.rmtree(scene.store)
    scene.store.mkdir(0o700)


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def renamed(path: Path, change: Callable[[str], str]) -> None:
    to = path.with_name(change(path.name))
    assert to != path
    path.rename(to)


def swap_places(scene: Scene) -> None:
    for kind in ("packs", "agents"):
        one, two = scene.store / kind / scene.ada.place, scene.store / kind / scene.vox.place
        one.rename(beside := one.with_name("0" * 32))
        two.rename(one)
        beside.rename(two)


def forge_key(scene: Scene) -> None:
    """A key file that opens here, sealed by somebody who knows our recipient alone, which is no secret."""
    from town import sops

    recipient = (scene.store.parent / "recipient").read_text()
    number = f"{9:016x}"
    tree = {"store-key": secrets.token_hex(32), "number": number, "recipients": recipient}
    (scene.store / f"keys/{number}").write_bytes(sops.create(tree, [recipient], now=datetime.now(UTC)))


def config(version: object, name: str = "nuketown-store") -> Callable[[Scene], None]:
    text = records.written({"format": name, "version": version}) + b"\n"
    return lambda scene: (scene.store / "config").write_bytes(text).__class__ and None


def newest(scene: Scene) -> Path:
    return scene.commits(scene.ada)[-1]


def named(scene: Scene, name: str) -> Path:
    return scene.store / "agents" / scene.ada.place / name


def in_place_of_the_newest(make: Callable[[Path], object]) -> Callable[[Scene], None]:
    """Something that is no file where the newest commit was."""

    def change(scene: Scene) -> None:
        path = newest(scene)
        path.unlink()
        make(path)

    return change


# What somebody writes who has the key: a bug, or a thief.


@dataclass(slots=True)
class Forged:
    """A state of ada's that no sync would write: it becomes the newest commit."""

    entries: list[Entry] = field(default_factory=list)
    lines: bytes = b""
    packs: tuple[Pack, ...] = ()
    files: int = 1
    size: int = 0
    sort: bool = True
    change: Callable[[dict[str, Any]], None] = lambda _: None  # of the commit's record
    content: Content | None = None  # of the declared directory, in place of `entries`


def forge(scene: Scene, forged: Forged) -> None:
    """Write it, sealed as a sync seals, one generation after the newest."""
    keys, store = scene.ada, scene.bucket.store
    head = Name.parsed(newest(scene).name)
    content, packs = forged.content, forged.packs
    if content is None:
        writer = Writer(store, keys)
        entries = sorted(forged.entries, key=lambda entry: entry.name) if forged.sort else forged.entries
        listing = b"".join(records.written(record(entry)) + b"\n" for entry in entries) + forged.lines
        content = Content((writer.add("tree", listing),) if listing else ())
        packs = (*packs, *(placed.pack for placed in writer.finish()))
    top = Top(
        PurePosixPath("projects"), Entry(b"projects", "dir", 0o755, 0, content=content), forged.files, forged.size
    )
    commit = Commit(
        "ada", datetime.now(UTC), "evil", head.machine, head.generation + 1, str(head), (top,), packs, ADA, ADA, None
    )
    fields = commits._record(commit)
    forged.change(fields)
    name = Name.fresh(head.generation + 1, head.machine)
    put_record(scene, name, packing.packed_record(records.written(fields)))


def put_record(scene: Scene, name: Name, record_: bytes, magic: bytes = commits.MAGIC) -> None:
    """A commit of ada's with that (packed) record."""
    key = commits.key(scene.ada, name)
    sealed = Seal.of("ada", scene.ada.commit, key).close("commit", 0, record_, last=True)
    scene.bucket.store.put(key, magic + sealed)


def entry(name: bytes, kind: str = "file", **more: object) -> Entry:
    """An entry of a listing, empty where nothing else is said."""
    content = Content(()) if kind in ("file", "dir") else None
    return Entry(name, kind, 0o644, 0, **{"content": content, **more})  # type: ignore[arg-type]


def one_pack(scene: Scene, frames: list[tuple[str, list[tuple[bytes, bytes]]]]) -> Pack:
    """A pack of (kind, [(id, piece)]) frames, whatever the ids say."""
    writer = PackWriter(scene.ada, os.urandom)
    for kind, pieces in frames:
        writer.add(Packed.of(kind, tuple(id_ for id_, _ in pieces), [piece for _, piece in pieces]))  # type: ignore[arg-type]
    pack, data = writer.closed()
    scene.bucket.store.put(writer.key, data)
    return pack


def lying_frame(scene: Scene) -> None:
    """A zip bomb: a frame of 7 MiB of nothing whose directory says 1000 bytes."""
    keys, piece = scene.ada, bytes(7 << 20)
    packed = Packed.of("data", (keys.id("data", piece),), [piece])
    lying = Packed("data", packed.codec, packed.data, 1000, packed.ids, [1000])
    writer = PackWriter(keys, os.urandom)
    writer.add(lying)
    pack, data = writer.closed()
    scene.bucket.store.put(writer.key, data)
    forge(scene, Forged([entry(b"f", size=1000, content=Content(packed.ids))], packs=(pack,), size=1000))


def bomb_record(scene: Scene) -> None:
    """A commit of some KB that expands to 8 GiB."""
    from zstandard import ZstdCompressor

    head = Name.parsed(newest(scene).name)
    compressor = ZstdCompressor(level=1).compressobj(size=8 << 30)
    zeros = bytes(8 << 20)
    parts = [compressor.compress(zeros) for _ in range(64)]  # the header says 8 GiB; the rest is not there
    put_record(scene, Name.fresh(head.generation + 1, head.machine), b"".join(parts))


def wrong_piece(scene: Scene) -> None:
    id_ = b"\1" * 32
    pack = one_pack(scene, [("data", [(id_, b"other")])])
    forge(scene, Forged([entry(b"f", size=5, content=Content((id_,)))], packs=(pack,), size=5))


def listing_in_itself(scene: Scene) -> None:
    """A directory that holds itself: its id is a lie, for no listing can hold its own hash."""
    id_ = b"\2" * 32
    listing = records.written(record(entry(b"again", "dir", content=Content((id_,))))) + b"\n"
    pack = one_pack(scene, [("tree", [(id_, listing)])])
    forge(scene, Forged(packs=(pack,), files=0, content=Content((id_,))))


def listing_as_data(scene: Scene) -> None:
    """A file's bytes that read as a listing, given out for one: ids of files and of listings differ."""
    listing = records.written(record(entry(b"f"))) + b"\n"
    pack = one_pack(scene, [("data", [(scene.ada.id("data", listing), listing)])])
    forge(scene, Forged(packs=(pack,), content=Content((scene.ada.id("data", listing),))))


def swap_frames(scene: Scene) -> None:
    """Two frames of one pack in each other's places."""
    keys, pieces = scene.ada, [secrets.token_bytes(100), secrets.token_bytes(100)]
    pack = one_pack(scene, [("data", [(keys.id("data", piece), piece)]) for piece in pieces])
    path = scene.store / pack.key(keys)
    data = path.read_bytes()
    head, stored = len(b"nuketown pack 2\n"), 116
    path.write_bytes(
        data[:head] + data[head + stored : head + 2 * stored] + data[head : head + stored] + data[head + 2 * stored :]
    )
    content = Content(tuple(keys.id("data", piece) for piece in pieces))
    forge(scene, Forged([entry(b"f", size=200, content=content)], packs=(pack,), size=200))


def own_parent(scene: Scene) -> None:
    """A commit that is its own parent, newest of all: whoever follows parents must come to an end."""
    head = Name.parsed(newest(scene).name)
    name = Name.fresh(head.generation + 1, head.machine)
    from persist.bucket.commits import opened

    commit = opened(scene.ada, head, newest(scene).read_bytes())
    fields = commits._record(commit) | {"generation": name.generation, "parent": str(name), "packs": [["x", 1, 1]]}
    put_record(scene, name, packing.packed_record(records.written(fields)))


def tomb_cycle(scene: Scene) -> None:
    """Two tombs that each lead to what the other buries, for the newest commit: nothing is left to read it from."""
    name = newest(scene).name
    mine = {pack.name for pack in scene.packs(scene.ada)}
    fake = [Pack(secrets.token_hex(32), 4096, 100) for _ in range(2)]
    seen = frozenset({name})
    for packs, to in ((mine, fake[0]), ({fake[0].id}, fake[1]), ({fake[1].id}, fake[0])):
        tombs.write(scene.bucket.store, scene.ada, Tomb(frozenset(packs), (to,), seen))


def forged_state(**more: object) -> Callable[[Scene], None]:
    return lambda scene: forge(scene, Forged(**more))  # type: ignore[arg-type]


def forged_line(**more: object) -> Callable[[Scene], None]:
    good: dict[str, object] = {"name": "f", "kind": "file", "mode": 0o644, "mtime": 0, "size": 0, "content": []}
    return forged_state(lines=records.written(good | more) + b"\n", size=5)


def forged_record(**more: object) -> Callable[[Scene], None]:
    return forged_state(change=lambda fields: fields.update(more))


def forged_top(**more: object) -> Callable[[Scene], None]:
    return forged_state(change=lambda fields: fields["root"][0].update(more))


def of_pack(change: Callable[[Scene, Path], None], which: int = 0) -> Callable[[Scene], None]:
    return lambda scene: change(scene, scene.packs(scene.ada)[which])


def of_head(change: Callable[[Scene, Path], None]) -> Callable[[Scene], None]:
    return lambda scene: change(scene, newest(scene))


def write(data: bytes) -> Callable[[Scene, Path], None]:
    def change(_: Scene, path: Path) -> None:
        path.write_bytes(data)

    return change


def edited(change: Callable[[bytes], bytes]) -> Callable[[Scene, Path], None]:
    return lambda _, path: edit(path, change)
