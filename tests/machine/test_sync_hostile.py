"""A hostile store: whoever runs it changes, cuts, swaps, drops and replays objects. Each is named."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from persist import fetch
from persist.bucket import commits, packing, records
from persist.bucket.blobs import Writer
from persist.bucket.commits import Commit, Name, Top
from persist.bucket.content import Content
from persist.bucket.opening import Bucket, open_bucket
from persist.bucket.packs import Pack, PackWriter
from persist.bucket.trees import Entry
from persist.store import KeyMismatch, ObjectMissing, StoreDamaged, StoreForeign, StoreMissing, StoreOlder
from persist.sync import history, local
from tests.machine import stores
from tests.machine.stores import into_new, source, with_store
from tests.machine.towns import ADA, VOX, Town
from town.failure import Failure
from town.sops import NoKey

pytestmark = pytest.mark.root


def plain(base: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    """A town without btrfs whose agents have a project each, synced once."""
    base.mkdir(mode=0o755)
    there = Town(base, "", capsys)
    there.agents.mkdir()
    with_store(there, '["projects"]', '["projects"]')
    for agent, uid in (("ada", ADA), ("vox", VOX)):
        path = source(there, agent=agent)
        path.mkdir(parents=True)
        os.chown(path, uid, uid)
        (path / "dir").mkdir()
        (path / "dir/f").write_bytes(os.urandom(2000))
        (path / "g").write_text(agent * 1000)
    for above in (there.persisted, there.persisted / "agents"):
        above.chmod(0o755)
    assert there.persist("init", "--store").status == 0
    assert there.persist("sync").status == 0
    return there


@pytest.fixture
def town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    return plain(tmp_path / "town", capsys)


def objects(town: Town, prefix: str) -> list[Path]:
    return sorted(path for path in (town.base / "store" / prefix).rglob("*") if path.is_file())


def adas(town: Town, kind: str) -> Path:
    """The only object of that kind that belongs to ada."""
    place = open_bucket(town.spec).keys("ada").place
    (path,) = objects(town, f"{kind}/{place}")
    return path


def restore(town: Town) -> None:
    """Bring ada's projects back, into a directory beside which nothing may appear."""
    beside = town.base / "beside"
    beside.mkdir()
    try:
        into_new(stores.held(town), beside / "into")
    finally:
        assert set(os.listdir(beside)) <= {"into"}


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    path.write_bytes(changed := change(data))
    assert changed != data


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[: at % len(data)] + bytes([data[at % len(data)] ^ 1]) + data[at % len(data) + 1 :]


def test_untouched_it_restores(town: Town) -> None:
    restore(town)
    assert stores.facts(town.base / "beside/into") == stores.facts(source(town))


@pytest.mark.parametrize("at", [20, 60, 1000, -5, -30, -200])
def test_a_flipped_bit_in_a_pack_is_found(town: Town, at: int) -> None:
    edit(adas(town, "packs"), flip(at))
    with pytest.raises(StoreDamaged):
        restore(town)


@pytest.mark.parametrize("at", [0, 17, 40, 100, -1])
def test_a_flipped_bit_in_a_commit_is_found(town: Town, at: int) -> None:
    edit(adas(town, "commits"), flip(at))
    with pytest.raises((StoreDamaged, StoreForeign)):
        restore(town)


@pytest.mark.parametrize("kind", ["packs", "commits"])
@pytest.mark.parametrize("left", [0, 10, 100, -1])
def test_an_object_cut_short_is_found(town: Town, kind: str, left: int) -> None:
    edit(adas(town, kind), lambda data: data[:left])
    with pytest.raises(StoreDamaged):
        restore(town)


def test_an_object_that_grew_is_found(town: Town) -> None:
    edit(adas(town, "commits"), lambda data: data + b"x")
    with pytest.raises(StoreDamaged):
        restore(town)


def test_a_missing_pack_is_named(town: Town) -> None:
    adas(town, "packs").unlink()
    with pytest.raises(ObjectMissing, match="packs/") as caught:
        restore(town)
    assert "put the object back from a copy of the store" in caught.value.hint


def test_two_packs_that_changed_places_are_found(town: Town) -> None:
    (source(town) / "new").write_text("new" * 1000)
    town.persist("sync")
    place = open_bucket(town.spec).keys("ada").place
    one, two = objects(town, f"packs/{place}")
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(StoreDamaged):
        restore(town)


def test_frames_of_one_pack_that_changed_places_are_found(town: Town) -> None:
    bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    pack = PackWriter(keys, os.urandom)
    pieces = [b"a" * 100, b"b" * 100]
    for piece in pieces:
        pack.add("data", [(keys.id("data", piece), piece)])
    listed, data = pack.closed()
    half = (len(data) - listed.directory - 8 - 16) // 2
    swapped = data[:16] + data[16 + half : 16 + 2 * half] + data[16 : 16 + half] + data[16 + 2 * half :]
    assert sorted(swapped) == sorted(data)
    bucket.store.put(pack.key, swapped)
    entry = Entry(b"f", "file", 0o600, 0, size=200, content=Content(tuple(keys.id("data", p) for p in pieces)))
    forge(town, [entry], packs=(listed,), files=1, size=200)
    with pytest.raises(StoreDamaged, match="moved"):
        restore(town)


def test_a_commit_under_a_newer_name_is_found(town: Town) -> None:
    path = adas(town, "commits")
    path.rename(path.with_name("f" * 16 + path.name[16:]))
    with pytest.raises(StoreDamaged):
        restore(town)


def test_another_agents_commit_is_not_taken(town: Town) -> None:
    bucket = open_bucket(town.spec)
    (voxs,) = objects(town, f"commits/{bucket.keys('vox').place}")
    mine = adas(town, "commits")
    mine.with_name(voxs.name).write_bytes(voxs.read_bytes())
    mine.unlink()
    local.change(town.spec, town.spec.agent("ada"), lambda _: local.Record())  # as on a machine that saw nothing yet
    with pytest.raises(StoreDamaged):
        restore(town)


def test_another_agents_pack_is_not_taken(town: Town) -> None:
    bucket = open_bucket(town.spec)
    (voxs,) = objects(town, f"packs/{bucket.keys('vox').place}")
    adas(town, "packs").write_bytes(voxs.read_bytes())
    with pytest.raises(StoreDamaged):
        restore(town)


def test_a_dropped_commit_is_told_by_a_machine_that_saw_it(town: Town) -> None:
    first = {path.name for path in objects(town, "commits")}
    (source(town) / "new").write_text("new")
    town.persist("sync")
    (newest,) = (path for path in objects(town, "commits") if path.name not in first)
    newest.unlink()
    with pytest.raises(StoreOlder, match="generation 1 of ada, but this machine has seen 2"):
        restore(town)
    said = town.persist("sync", "ada")
    assert said.status == 1
    assert "an older copy was put in place" in said.err


def test_an_older_copy_of_the_whole_store_is_refused(town: Town) -> None:
    shutil.copytree(town.base / "store", town.base / "copy")
    (source(town) / "new").write_text("new")
    town.persist("sync")
    shutil.rmtree(town.base / "store")
    (town.base / "copy").rename(town.base / "store")
    with pytest.raises(StoreOlder):
        restore(town)


def test_a_newest_commit_swapped_for_another_of_its_generation_is_told(town: Town) -> None:
    path = adas(town, "commits")
    kept = path.read_bytes()
    forge(town, [], packs=(), files=0, size=0, generation=1)
    path.unlink()
    with pytest.raises(StoreOlder):
        restore(town)
    assert kept


def test_all_commits_gone_is_not_nothing_to_restore(town: Town) -> None:
    adas(town, "commits").unlink()
    with pytest.raises(StoreOlder):
        fetch.newest(town.spec, town.spec.agent("ada"))


def test_an_emptied_store_is_not_nothing_to_restore(town: Town) -> None:
    shutil.rmtree(town.base / "store")
    with pytest.raises(StoreMissing, match="not there"):
        fetch.newest(town.spec, town.spec.agent("ada"))
    (town.base / "store").mkdir(mode=0o700)
    with pytest.raises(StoreMissing, match="is empty"):
        fetch.newest(town.spec, town.spec.agent("ada"))


def test_an_agent_that_never_synced_has_nothing(town: Town) -> None:
    place = open_bucket(town.spec).keys("vox").place
    shutil.rmtree(town.base / "store/commits" / place)
    local.change(town.spec, town.spec.agent("vox"), lambda _: local.Record())
    assert fetch.newest(town.spec, town.spec.agent("vox")) is None


def test_another_towns_store_is_not_taken(town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = plain(tmp_path / "other", capsys)
    shutil.rmtree(town.base / "store")
    shutil.copytree(other.base / "store", town.base / "store")
    with pytest.raises(NoKey):  # its recipients are others
        fetch.newest(town.spec, town.spec.agent("ada"))


def test_a_key_that_somebody_else_sealed_for_us_is_not_taken(town: Town) -> None:
    from town import sops

    recipient = (town.base / "recipient").read_text()
    forged = sops.create({"store-key": "00" * 32}, [recipient], now=datetime.now(UTC))
    (town.base / "store/key").write_bytes(forged)
    for call in (lambda: fetch.newest(town.spec, town.spec.agent("ada")), lambda: open_bucket(town.spec)):
        with pytest.raises(KeyMismatch, match="lock beside the spec"):
            call()
    assert town.persist("sync").status == 1


@pytest.mark.parametrize("at", [-3, 400, 100])
def test_a_changed_key_file_is_never_another_key(town: Town, at: int) -> None:
    edit(town.base / "store/key", flip(at))
    with pytest.raises(Failure):
        open_bucket(town.spec)


def test_a_missing_key_is_damage_and_no_reason_for_a_new_one(town: Town) -> None:
    (town.base / "store/key").unlink()
    with pytest.raises(StoreDamaged, match="no key"):
        open_bucket(town.spec)
    assert town.persist("init", "--store").status == 1


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"format": "nuketown-store", "version": 2}, "version 2"),
        ({"format": "nuketown-store", "version": "1"}, "version 1"),
        ({"format": "restic", "version": 1}, "not made by nuketown"),
        ([], "not made by nuketown"),
    ],
)
def test_a_format_that_is_not_known_is_refused(town: Town, config: object, says: str) -> None:
    (town.base / "store/config").write_text(json.dumps(config))
    with pytest.raises(StoreForeign, match=says):
        open_bucket(town.spec)


def test_a_commit_of_a_newer_version_is_refused(town: Town) -> None:
    edit(adas(town, "commits"), lambda data: data.replace(b"commit 1", b"commit 2"))
    with pytest.raises(StoreForeign, match="newer version"):
        restore(town)


def test_a_name_that_is_no_commit_is_named(town: Town) -> None:
    (adas(town, "commits").parent / "junk").write_bytes(b"")
    with pytest.raises(StoreDamaged, match="junk is no name of a commit"):
        restore(town)


def test_without_the_lock_a_store_is_foreign(town: Town) -> None:
    (town.base / "identities/store.lock.toml").unlink()
    with pytest.raises(StoreForeign, match="missing"):
        open_bucket(town.spec)
    assert town.persist("init", "--store").status == 1


# From here on the store's content was made by somebody who has the key: a bug, or a stolen one. Still nothing is
# written outside, and no more memory is used than the format allows.


def forge(
    town: Town, entries: list[Entry], *, packs: tuple[Pack, ...], files: int, size: int, generation: int = 2,
    path: str = "projects", lines: bytes = b"", sort: bool = True,
) -> Name:  # fmt: skip
    """A commit of ada's with a listing that no sync would write."""
    from persist.bucket.trees import record

    bucket: Bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    writer = Writer(bucket.store, keys)
    written = [records.written(record(entry)) + b"\n" for entry in entries]
    id_ = writer.add("tree", b"".join(sorted(written) if sort else written) + lines)
    top = Entry(b"projects", "dir", 0o755, 0, content=Content((id_,)))
    return commits.write(
        bucket.store,
        keys,
        Commit(
            "ada", datetime.now(UTC), "evil", "0" * 32, generation, None,
            (Top(PurePosixPath(path), top, files, size),), (*packs, *writer.finish()), ADA, ADA,
        ),
    )  # fmt: skip


def an_entry(name: bytes, kind: str = "file", **more: object) -> Entry:
    content = Content(()) if kind in ("file", "dir") else None
    return Entry(name, kind, 0o644, 0, **{"content": content, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["file", "symlink", "dir", "fifo"])
@pytest.mark.parametrize(
    "name", [b"..", b".", b"", b"../out", b"/tmp/out", b"a/b", b"a\0b", b"x" * 256, b"dir/../../out"]
)  # fmt: skip
def test_a_name_that_leaves_its_directory_is_refused(town: Town, name: bytes, kind: str) -> None:
    more = {"target": b"/etc"} if kind == "symlink" else {}
    forge(town, [an_entry(name, kind, **more)], packs=(), files=1, size=0)
    with pytest.raises(StoreDamaged, match="no directory can hold"):
        restore(town)


def test_a_link_and_a_directory_of_one_name_are_refused(town: Town) -> None:
    link = an_entry(b"d", "symlink", target=b"/etc")
    forge(town, [link, an_entry(b"d", "dir")], packs=(), files=1, size=0, sort=False)
    with pytest.raises(StoreDamaged, match="twice"):
        restore(town)


def test_names_out_of_order_are_refused(town: Town) -> None:
    forge(town, [an_entry(b"b"), an_entry(b"a")], packs=(), files=2, size=0, sort=False)
    with pytest.raises(StoreDamaged, match="out of order"):
        restore(town)


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../b", "", ".", "a//b"])
def test_a_declared_path_that_leaves_the_home_is_refused(town: Town, path: str) -> None:
    forge_record(town, lambda record: record["root"][0].update(path=path))
    with pytest.raises(StoreDamaged):
        fetch.newest(town.spec, town.spec.agent("ada"))


WRONG: dict[str, dict[str, object]] = {
    "another agent": {"agent": "vox"},
    "another generation": {"generation": 3},
    "another machine": {"machine": "f" * 32},
    "a time without a zone": {"time": "2026-11-21T10:00:00"},
    "a parent that is no name": {"parent": "../../x"},
    "packs that are none": {"packs": [["x", 1, 1]]},
    "a key that is not known": {"run": "rm"},
    "a root that is no list": {"root": {}},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_commit_that_says_what_cannot_be_is_refused(town: Town, what: str) -> None:
    forge_record(town, lambda record: record.update(WRONG[what]))
    with pytest.raises(StoreDamaged):
        fetch.newest(town.spec, town.spec.agent("ada"))


def test_declared_paths_that_overlap_are_refused(town: Town) -> None:
    forge_record(town, lambda record: record["root"].append({**record["root"][0], "path": "projects/in"}))
    with pytest.raises(StoreDamaged, match="overlap"):
        fetch.newest(town.spec, town.spec.agent("ada"))


def forge_record(town: Town, change: Callable[[dict[str, Any]], None]) -> None:
    """A commit that follows the head, sealed with the right key, whose record says what no sync writes."""
    from persist.bucket.sealing import Seal

    bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    head = history.head(town.spec, town.spec.agent("ada"), bucket)
    assert head is not None
    record = commits._record(head.commit) | {"generation": 2}
    change(record)
    key = f"commits/{keys.place}/{Name(2, head.commit.machine, '9' * 64)}"
    sealed = Seal.of("ada", keys.commit, key).close(
        "commit", 0, packing.packed_record(records.written(record)), last=True
    )
    bucket.store.put(key, commits.MAGIC + sealed)


LINES = {
    "an unknown kind": {"kind": "device"},
    "an unknown key": {"shell": "rm"},
    "a mode beyond bits": {"mode": 0o100644},
    "a size below zero": {"size": -1},
    "a size beyond files": {"size": 1 << 63},
    "a size that is a word": {"size": "1"},
    "a time beyond time": {"mtime": 1 << 200},
    "an owner by number": {"owner": 0},
    "an unknown owner": {"owner": "vox"},
    "root's attributes": {"xattrs": {"security.capability": "x"}},
    "an attribute that is no string": {"xattrs": {"user.x": 1}},
    "a name beyond bytes": {"name": "\u20ac"},
    "extents that overlap": {"size": 10, "data": [[0, 5], [4, 2]]},
    "extents that leave the file": {"size": 10, "data": [[8, 5]]},
    "extents that are no numbers": {"size": 10, "data": [[0.5, 1]]},
    "ids that are no ids": {"content": ["abc"]},
    "too many ids": {"content": ["00" * 32] * 65},
    "a depth without end": {"depth": 5},
    "content that is nowhere": {"content": ["00" * 32], "size": 1},
    "a size without content": {"size": 5},
}


@pytest.mark.parametrize("what", LINES)
def test_an_entry_that_the_format_cannot_say_is_refused(town: Town, what: str) -> None:
    good = {"name": "f", "kind": "file", "mode": 0o644, "mtime": 0, "size": 0, "content": []}
    forge(town, [], packs=(), files=1, size=5, lines=records.written(good | LINES[what]) + b"\n")
    with pytest.raises(StoreDamaged):
        restore(town)


@pytest.mark.parametrize("line", [b"[]\n", b"{\n", b"\xff\n", b"null\n", b"[" * 100_000 + b"\n", b"\n"])
def test_a_line_that_is_no_entry_is_refused(town: Town, line: bytes) -> None:
    forge(town, [], packs=(), files=1, size=0, lines=line)
    with pytest.raises(StoreDamaged):
        restore(town)


def test_more_than_the_commit_says_is_refused(town: Town) -> None:
    forge(town, [an_entry(b"a"), an_entry(b"b")], packs=(), files=1, size=0)
    with pytest.raises(StoreDamaged, match="more than their commit says"):
        restore(town)


def test_less_than_the_commit_says_is_refused(town: Town) -> None:
    forge(town, [an_entry(b"a")], packs=(), files=2, size=0)
    with pytest.raises(StoreDamaged, match="another number"):
        restore(town)


def test_a_frame_that_would_expand_without_end_is_refused(town: Town) -> None:
    bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    bomb = PackWriter(keys, os.urandom)
    piece = b"\0" * (1 << 20)
    bomb.add("data", [(keys.id("data", piece), piece)])
    bomb._frames[0] |= {"size": 1000, "blobs": [[keys.id("data", piece).hex(), 1000]]}
    pack, data = bomb.closed()
    bucket.store.put(bomb.key, data)
    entry = an_entry(b"f", size=1000, content=Content((keys.id("data", piece),)))
    forge(town, [entry], packs=(pack,), files=1, size=1000)
    with pytest.raises(StoreDamaged, match="another size"):
        restore(town)


def test_a_piece_that_is_not_what_its_id_says_is_refused(town: Town) -> None:
    bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    writer = PackWriter(keys, os.urandom)
    writer.add("data", [(b"\1" * 32, b"other")])
    pack, data = writer.closed()
    bucket.store.put(writer.key, data)
    forge(town, [an_entry(b"f", size=5, content=Content((b"\1" * 32,)))], packs=(pack,), files=1, size=5)
    with pytest.raises(StoreDamaged, match="not what its id says"):
        restore(town)


def test_a_directory_that_is_not_empty_is_not_filled(town: Town) -> None:
    into = town.base / "full"
    into.mkdir()
    (into / "x").touch()
    from town import files

    with files.opened(files.open_dir(into)) as fd, pytest.raises(Failure, match="not empty"):
        fetch.fetch(stores.held(town), PurePosixPath("projects"), fd, town.spec.agent("ada").person)
    with pytest.raises(fetch.NotHeld):
        into_new(stores.held(town), town.base / "none", "nothing")
