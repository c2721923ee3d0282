"""Filling a directory from a store: what a tree may hold comes back; what listings may lie about is found first."""

import os
import resource
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from random import Random

import pytest

from persist import fill
from persist.bucket import trees
from persist.bucket.commits import Top
from persist.bucket.content import Content
from persist.bucket.frames import Kind
from persist.bucket.packs import Pack, PackWriter
from persist.bucket.packs import Packed as Packed_
from persist.bucket.trees import Entry
from persist.fill import CannotMake, Facts, levels, listings
from persist.store import ObjectMissing, Store, StoreDamaged, StoreUnreachable
from persist.store.memory import MemoryStore
from tests.machine import states, stores
from tests.machine.states import KEYS, PERSON, Packed, forged, lined, packed
from tests.machine.stores import acl, torture
from tests.machine.towns import ADA, VOX
from tests.store.servers import Server
from town import files, kernel
from town.failure import Unsafe
from town.process import Person

pytestmark = pytest.mark.root


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
def source(btrfs_dir: Path) -> Path:
    top = btrfs_dir / "source"
    top.mkdir()
    os.chown(top, ADA, ADA)
    return top


def piece(data: bytes) -> Content:
    return Content((KEYS.id("data", data),))


def file(name: bytes, held: bytes = b"x", **changed: object) -> Entry:
    return replace(Entry(name, "file", 0o644, 10**18, size=len(held), content=piece(held)), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [512 << 10, 70 << 10])
def test_a_tree_with_everything_comes_back_as_it_was(store: Store, source: Path, size: int) -> None:
    torture(source, deep=40, big=6 << 20)  # at 70 KiB a piece the large file needs lists of ids
    held = packed(store, source, piece=size)
    totals = held.into(source.parent / "into")
    assert stores.facts(source.parent / "into") == stores.facts(source)
    assert (totals.files, totals.bytes) == (held.top.files, held.top.bytes)
    assert totals.directories == sum(path.is_dir() and not path.is_symlink() for path in source.rglob("*"))
    assert sorted(os.listdir(source.parent)) == ["into", "source"], "no plan is left"


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_from_a_bucket_it_comes_back_in_a_few_ranged_reads(
    source: Path, server: str, request: pytest.FixtureRequest
) -> None:
    there: Server = request.getfixturevalue(server)
    store = there.store(there.bucket())
    torture(source, small=300, big=5 << 20)
    held = packed(store, source)
    totals = held.into(source.parent / "into")
    assert stores.facts(source.parent / "into") == stores.facts(source)
    assert totals.requests <= 3 + sum(pack.size for pack in held.packs) // (4 << 20)


def test_holes_stay_holes(store: Store, source: Path) -> None:
    torture(source, small=10, big=1)
    packed(store, source).into(source.parent / "into")
    for name in ("sparse", "all hole"):
        assert (source.parent / "into" / name).stat().st_blocks == (source / name).stat().st_blocks


def test_the_agents_numbers_in_owners_and_acls_become_those_of_here(store: Store, source: Path) -> None:
    torture(source, small=10, big=1)
    packed(store, source).into(source.parent / "into", Person(VOX, VOX))
    made = source.parent / "into"
    assert made.stat().st_uid == VOX
    assert (made / "empty").stat().st_uid == VOX
    assert (made / "many/f1").stat().st_uid == 0
    expected = os.getxattr(source / "empty", "system.posix_acl_access").replace(
        ADA.to_bytes(4, "little"), VOX.to_bytes(4, "little")
    )
    assert os.getxattr(made / "empty", "system.posix_acl_access") == expected


def test_what_the_directory_above_hands_down_reaches_nothing_that_is_restored(store: Store, source: Path) -> None:
    torture(source, small=10, big=1)
    held = packed(store, source)
    above = source.parent / "above"
    above.mkdir()
    handed = acl((1, 7, 0xFFFFFFFF), (2, 7, VOX), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 7, 0xFFFFFFFF))
    os.setxattr(above, "system.posix_acl_default", handed)
    os.chown(above, VOX, VOX)
    above.chmod(0o2777)
    held.into(above / "into")
    assert stores.facts(above / "into") == stores.facts(source)


def test_the_umask_changes_no_mode(store: Store, source: Path) -> None:
    torture(source, small=10, big=1)
    held = packed(store, source)
    before = os.umask(0o077)
    try:
        held.into(source.parent / "into")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stores.facts(source.parent / "into") == stores.facts(source)


def test_directories_of_any_depth_need_a_fixed_number_of_descriptors(store: Store, source: Path) -> None:
    deep, wide = 1500, levels._OPEN * 2
    with states.Writer(store, KEYS) as writer:
        f = [file(b"f", content=Content((writer.add("data", b"x"),)))]
        many = [Entry(b"d%03d" % at, "dir", 0o755, at, content=trees.write(writer, f)) for at in range(wide)]
        below = trees.write(writer, [Entry(b"many", "dir", 0o755, 0, content=trees.write(writer, many))])
        for _ in range(deep):
            below = trees.write(writer, [Entry(b"d" * 200, "dir", 0o755, 0, content=below)])
        packs = tuple(placed.pack for placed in writer.finish())
    held = Packed(store, Top(PurePosixPath("projects"), Entry(b"p", "dir", 0o755, 0, content=below), wide, wide), packs)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + levels._OPEN + 40, hard))
    try:
        assert held.into(source.parent / "into").directories == deep + 1 + wide
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == used


def test_a_directory_that_holds_something_is_not_filled(store: Store, source: Path) -> None:
    held = packed(store, source)
    (source / "mine").touch()
    with files.opened(files.open_dir(source)) as fd, pytest.raises(Unsafe, match="not empty"):
        fill.fill(held.source(), held.top, fd, Facts(PERSON, PERSON), source.parent)
    assert os.listdir(source) == ["mine"]


def test_a_piece_that_many_files_hold_is_written_to_all_and_fetched_once(store: Store, source: Path) -> None:
    data = os.urandom(300_000)
    for number in range(30):
        (source / f"f{number}").write_bytes(data)
    held = packed(store, source)
    totals = held.into(source.parent / "into")
    assert totals.fetched < 400_000
    assert {path.read_bytes() for path in (source.parent / "into").iterdir()} == {data}


def test_times_that_no_integer_of_a_database_holds_come_back(store: Store, source: Path) -> None:
    far = 1 << 62
    held = forged(store, [file(b"f", mtime=far), file(b"g", mtime=-far)], 2, 2, [b"x"])
    held.into(source.parent / "into")
    seconds = (source.parent / "into/f").stat().st_mtime_ns // 10**9
    assert seconds == far // 10**9


LIES: dict[str, Callable[[Store], Packed]] = {
    "more files than the commit says": lambda s: forged(s, [file(b"a"), file(b"b")], 1, 2, [b"x"]),
    "fewer files than the commit says": lambda s: forged(s, [file(b"a")], 2, 1, [b"x"]),
    "more bytes than the commit says": lambda s: forged(s, [file(b"a")], 1, 0, [b"x"]),
    "a file shorter than its size": lambda s: forged(s, [file(b"a", size=2)], 1, 2, [b"x"]),
    "a file longer than its size": lambda s: forged(s, [file(b"a", b"xy", size=1)], 1, 1, [b"xy"]),
    "a size without contents": lambda s: forged(s, [file(b"a", content=Content(()), size=9)], 1, 9),
    "contents without a size": lambda s: forged(s, [file(b"a", size=0)], 1, 0, [b"x"]),
    "a piece that nobody has": lambda s: forged(s, [file(b"a")], 1, 1),
    "a huge size": lambda s: forged(s, [file(b"a", size=1 << 61)], 1, 1 << 61, [b"x"]),
    "extents that leave contents over": lambda s: forged(s, [file(b"a", b"xy", size=9, data=((0, 1),))], 1, 9, [b"xy"]),
    "a link to something else": lambda s: forged(
        s, [file(b"a", link="l"), file(b"b", b"xy", link="l")], 2, 3, [b"x", b"xy"]
    ),
    "a link of a file to a symlink": lambda s: forged(
        s, [file(b"a", link="l"), Entry(b"b", "symlink", 0o777, 0, target=b"/etc", link="l")], 2, 1, [b"x"]
    ),
    "a listing where a file's piece belongs": lambda s: forged(
        s, [Entry(b"d", "dir", 0o755, 0, content=Content((KEYS.id("data", b"x"),)))], 0, 0, [b"x"]
    ),
    "a name twice": lambda s: lined(s, [trees.line_of(file(b"a", b"")) + b"\n" + trees.line_of(file(b"a", b""))], 2, 0),
    "names out of order": lambda s: lined(
        s, [trees.line_of(_empty(b"b")) + b"\n" + trees.line_of(_empty(b"a")) + b"\n"], 2, 0
    ),
    "names out of order across pieces": lambda s: lined(
        s, [trees.line_of(_empty(b"b")) + b"\n", trees.line_of(_empty(b"a")) + b"\n"], 2, 0
    ),
    "a list that is no list": lambda s: lined(s, [b"x" * 31], 0, 0, depth=1),
    "a line that is no record": lambda s: lined(s, [b"{\n"], 0, 0),
    "two records on a line": lambda s: lined(s, [trees.line_of(_empty(b"a")) * 2], 2, 0),
    "a record that is no object": lambda s: lined(s, [b"[]\n"], 0, 0),
    "a key that is not known": lambda s: lined(s, [b'{"name":"a","kind":"fifo","mode":0,"mtime":0,"owned":1}'], 1, 0),
    "a name of two components": lambda s: lined(s, [_named("a/b")], 1, 0),
    "a name that leads up": lambda s: lined(s, [_named("..")], 1, 0),
    "a name that is absolute": lambda s: lined(s, [_named("/etc/cron.d/x")], 1, 0),
    "a name with a NUL": lambda s: lined(s, [_named("a\\u0000")], 1, 0),
    "no name": lambda s: lined(s, [_named("")], 1, 0),
    "a name that is too long": lambda s: lined(s, [_named("x" * 256)], 1, 0),
    "a mode that is true": lambda s: lined(s, [_changed(b'"mode":420', b'"mode":true')], 1, 0),
    "a negative size": lambda s: lined(s, [_changed(b'"size":0', b'"size":-1')], 1, 0),
    "an id that is too short": lambda s: lined(
        s, [trees.line_of(file(b"a")).replace(KEYS.id("data", b"x").hex().encode(), b"00")], 1, 1
    ),
}  # fmt: skip


def _empty(name: bytes) -> Entry:
    return Entry(name, "file", 0o644, 0, content=Content(()))


def _changed(old: bytes, new: bytes) -> bytes:
    line = trees.line_of(_empty(b"a"))
    assert old in line
    return line.replace(old, new)


def _named(name: str) -> bytes:
    return trees.line_of(_empty(b"NAME")).replace(b"NAME", name.encode())


@pytest.mark.parametrize("lie", LIES)
def test_a_listing_that_lies_is_found_before_anything_is_made(store: Store, tmp_path: Path, lie: str) -> None:
    held = LIES[lie](store)
    with pytest.raises(StoreDamaged):
        held.into(tmp_path / "into")
    assert os.listdir(tmp_path / "into") == []
    assert os.listdir(tmp_path) == ["into"]


def test_directories_that_name_each_other_over_and_over_end(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MOST_DIRECTORIES", 5000)
    ids, packs = Content(()), list[Pack]()
    for level in range(30):  # 10 ** 30 directories, in 30 listings
        with states.Writer(store, KEYS) as writer:
            below = [Entry(b"d%d" % at, "dir", 0o755, level, content=ids) for at in range(10)]
            ids = trees.write(writer, below)
            packs += [each.pack for each in writer.finish()]
    top = replace(forged(store, [], 0, 0).top, entry=Entry(b"projects", "dir", 0o755, 0, content=ids))
    with pytest.raises(StoreDamaged, match="more than 5,000 directories"):
        Packed(store, top, tuple(packs)).into(tmp_path / "into")
    assert os.listdir(tmp_path / "into") == []


def test_lists_that_name_each_other_over_and_over_end(store: Store, tmp_path: Path) -> None:
    with states.Writer(store, KEYS) as writer:
        id_ = writer.add("data", b"x")
        for _ in range(4):  # 4096 ** 4 pieces
            id_ = writer.add("tree", id_ * 4096)
        entry = file(b"a", size=1000, content=Content((id_,), 4))
        listing = trees.write(writer, [entry])
        packs = tuple(each.pack for each in writer.finish())
    top = replace(
        forged(store, [], 0, 0).top, entry=Entry(b"projects", "dir", 0o755, 0, content=listing), files=1, bytes=1000
    )
    with pytest.raises(StoreDamaged, match=r"more pieces than|lists of more pieces"):
        Packed(store, top, packs).into(tmp_path / "into")
    assert os.listdir(tmp_path / "into") == []


def test_directories_deeper_than_the_format_allows_are_refused(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores._deep(source, 30)
    held = packed(store, source)
    monkeypatch.setattr(listings, "DEEPEST", 29)
    with pytest.raises(StoreDamaged, match="deeper than 29 levels"):
        held.into(source.parent / "into")


def test_set_uid_of_root_is_never_made(store: Store, tmp_path: Path) -> None:
    held = forged(store, [file(b"a", owner="root", mode=0o6755), file(b"b", owner="other", mode=0o6755)], 2, 2, [b"x"])
    held.into(tmp_path / "into")
    for name in ("a", "b"):
        assert stat.S_IMODE((tmp_path / "into" / name).stat().st_mode) & 0o4000 == 0
        assert (tmp_path / "into" / name).stat().st_uid == 0


def test_attributes_that_are_roots_power_are_refused(store: Store, tmp_path: Path) -> None:
    line = trees.line_of(_empty(b"a"))[:-1] + b',"xattrs":{"security.capability":"x"}}'
    with pytest.raises(StoreDamaged, match="does not keep"):
        lined(store, [line], 1, 0).into(tmp_path / "into")


def test_a_symlink_leads_nothing_that_is_made_afterwards(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inner = trees.line_of(_empty(b"x"))
    with states.Writer(store, KEYS) as writer:
        below = Content((writer.add("tree", inner + b"\n"),))
        link = Entry(b"d", "symlink", 0o777, 0, target=os.fsencode(outside))
        lines = trees.line_of(link) + b"\n" + trees.line_of(Entry(b"d", "dir", 0o755, 0, content=below)) + b"\n"
        listing = Content((writer.add("tree", lines),))
        packs = tuple(each.pack for each in writer.finish())
    top = replace(forged(store, [], 0, 0).top, entry=Entry(b"p", "dir", 0o755, 0, content=listing), files=2)
    with pytest.raises(StoreDamaged, match="twice"):
        Packed(store, top, packs).into(tmp_path / "into")
    assert os.listdir(outside) == []


def test_a_filesystem_without_acls_is_named_with_the_cure(store: Store, tmp_path: Path) -> None:
    access = acl((1, 6, 0xFFFFFFFF), (2, 4, ADA), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    held = forged(store, [file(b"a", xattrs=((b"system.posix_acl_access", access),))], 1, 1, [b"x"])
    kernel.mount("ramfs", str(tmp_path), "ramfs", 0)
    try:
        with pytest.raises(CannotMake, match="a cannot be made") as caught:
            held.into(tmp_path / "into")
    finally:
        kernel.umount(str(tmp_path), kernel.MNT_DETACH)
    assert "extended attributes" in caught.value.hint


class Counting(MemoryStore):
    """Counts what is read, and after a time is out of reach, or gives other bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.spoil, self.got = 1 << 60, False, list[tuple[str, int, int | None]]()

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self.left -= 1
        if self.left < 0 and not self.spoil:
            raise StoreUnreachable("nobody answers")
        data = super().get(key, offset, length)
        self.got.append((key, offset, length))
        return bytes([data[0] ^ 1]) + data[1:] if self.left < 0 else data


@pytest.mark.parametrize("after", range(4))
def test_a_changed_byte_of_any_read_is_found(source: Path, after: int) -> None:
    random, store = Random(1), Counting()
    for number in range(30):
        (source / f"f{number}").write_bytes(random.randbytes(100_000))
    held = packed(store, source)
    store.left, store.spoil = after, True
    if after < 3:
        with pytest.raises(StoreDamaged):
            held.into(source.parent / "into")
    else:
        held.into(source.parent / "into")  # directory, listing, frames: no read was left to change


@pytest.mark.parametrize("kind", ["data", "tree"])
def test_a_piece_that_is_not_what_its_id_says_is_found(store: Store, tmp_path: Path, kind: Kind) -> None:
    right, wrong = (b"right", b"wrong") if kind == "data" else (trees.line_of(_empty(n)) for n in (b"a", b"b"))
    id_ = KEYS.id(kind, right)
    with states.Writer(store, KEYS) as writer:
        listing = trees.write(writer, [file(b"a", right)])
        packs = [placed.pack for placed in writer.finish()]
    pack = PackWriter(KEYS, os.urandom)
    pack.add(Packed_.of(kind, (id_,), (wrong,)))
    made, data = pack.closed()
    store.put(made.key(KEYS), data)
    content_ = listing if kind == "data" else Content((id_,))
    top = Top(PurePosixPath("p"), Entry(b"p", "dir", 0o755, 0, content=content_), 1, 5 if kind == "data" else 0)
    with pytest.raises(StoreDamaged, match="not what its id says"):
        Packed(store, top, (*packs, made)).into(tmp_path / "into")


def test_a_missing_pack_is_named(source: Path) -> None:
    (source / "f").write_bytes(os.urandom(1000))
    store = MemoryStore()
    held = packed(store, source)
    store.delete(held.packs[0].key(KEYS))
    with pytest.raises(ObjectMissing, match="packs/") as caught:
        held.into(source.parent / "into")
    assert "put the object back" in caught.value.hint


def test_a_failure_in_the_middle_leaves_no_plan_and_no_descriptor(source: Path) -> None:
    store = Counting()
    for number in range(40):
        (source / f"f{number}").write_bytes(os.urandom(100_000))
    held = packed(store, source)
    used = len(os.listdir("/proc/self/fd"))
    store.left = 2
    with pytest.raises(StoreUnreachable):
        held.into(source.parent / "into")
    assert len(os.listdir("/proc/self/fd")) - used <= 4  # of the atlas, which the test holds
    assert sorted(os.listdir(source.parent)) == ["into", "source"]
