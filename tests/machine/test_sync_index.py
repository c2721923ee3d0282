"""The local index: what a restore writes into it, what a town without btrfs knows by it, who may read it."""

import contextlib
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from persist.bucket.blobs import Placed
from persist.bucket.packs import Pack
from persist.sync import parts, schema
from persist.sync.index import Index
from persist.sync.schema import IndexFailed
from tests.machine import stores
from tests.machine.stores import into_new, source, with_store
from tests.machine.test_sync_hostile import plain
from tests.machine.towns import AS_ADA, Town, as_agent, town

__all__ = ["town"]
pytestmark = pytest.mark.root
ENTRY = '[{path = "work", via = "store"}]'


def synced(town: Town, *words: str) -> dict[str, object]:
    said = town.persist("sync", "--json", "ada", *words)
    assert said.status == 0, said.err
    found: dict[str, object] = json.loads(said.out)[0]
    return found


def index(town: Town) -> Path:
    return schema.place(town.spec, town.spec.agent("ada"))


@pytest.fixture
def homely(town: Town) -> Town:
    """Ada has a directory in her home that only the store keeps, with everything in it."""
    with_store(town, ENTRY)
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    stores.torture(town.agents / "ada/work", small=20, big=1 << 20)
    synced(town)
    return town


def test_after_a_boot_and_a_restore_the_first_sync_costs_nothing(homely: Town) -> None:
    homely.boot("b1")
    assert homely.persist("restore", "ada").status == 0
    found = synced(homely)
    assert (found["read_files"], found["committed"], found["requests"]) == (0, False, 0)


def test_what_changes_after_a_restore_is_all_that_is_read(homely: Town) -> None:
    homely.boot("b1")
    assert homely.persist("restore", "ada").status == 0
    program = (
        "import os; open('work/many/f7','w').write('changed'); os.rename('work/dir', 'work/moved');"
        "os.link('work/three', 'work/four'); os.mkdir('work/new'); open('work/new/f', 'w').write('new')"
    )
    as_agent(AS_ADA, homely.agents / "ada", program)
    found = synced(homely)
    assert found["read_files"] == 3  # the file of several names too
    incremental = stores.held(homely).top(PurePosixPath("work"))
    index(homely).unlink()
    found = synced(homely)
    assert (found["new_bytes"], found["committed"]) == (0, False)
    assert stores.held(homely).top(PurePosixPath("work")) == incremental


def test_an_older_state_that_was_brought_back_is_a_new_state(homely: Town) -> None:
    first = stores.held(homely).snapshot
    before = stores.facts(homely.agents / "ada/work")
    as_agent(AS_ADA, homely.agents / "ada", "open('work/many/f7','w').write('changed')")
    synced(homely)
    homely.boot("b1")
    assert homely.persist("restore", "--at", first, "ada").status == 0
    found = synced(homely)
    assert (found["committed"], found["read_files"]) == (True, 0)
    homely.boot("b2")
    assert homely.persist("restore", "ada").status == 0
    assert stores.facts(homely.agents / "ada/work") == before


def known(town: Town) -> tuple[dict[bytes, tuple[Any, ...]], set[bytes]]:
    """What the index says: path to inode, generation of a directory, sums and line; and the paths of linked files."""
    database = sqlite3.connect(index(town))
    try:
        paths = {number: b"" for (number,) in database.execute("SELECT -id FROM trees")}
        dirs = {row[0]: row[1:] for row in database.execute("SELECT id, inode, generation, name, prunes FROM dirs")}
        rows = database.execute("SELECT dir, name, inode, child, files, bytes, links, line FROM entries").fetchall()
        left, found = rows, dict[bytes, tuple[Any, ...]]()
        while left:
            ready = [row for row in left if row[0] in paths]
            assert ready
            for directory, name, inode, child, *said in ready:
                path = paths[directory] + b"/" + name
                if child is not None:
                    paths[child] = path
                found[path] = (inode, dirs[child] if child is not None else None, *said)
            left = [row for row in left if row not in ready]
        links = {paths[at] + b"/" + name for at, name in database.execute("SELECT dir, name FROM links")}
        return found, links
    finally:
        database.close()


def test_what_a_restore_tells_the_index_is_what_reading_everything_would(homely: Town) -> None:
    homely.boot("b1")
    assert homely.persist("restore", "ada").status == 0
    told = known(homely)
    assert told[1]
    assert all(said[1][1] > 0 for said in told[0].values() if said[1] is not None)
    index(homely).unlink()
    assert synced(homely)["committed"] is False
    assert known(homely) == told


def test_one_of_two_paths_that_is_restored_leaves_the_index_of_the_other(town: Town) -> None:
    with_store(town, '[{path = "work", via = "store"}, {path = "more", via = "store"}]')
    town.persist("init", "--store")
    town.persist("restore")
    for name in ("work", "more"):
        stores.torture(town.agents / "ada" / name, small=20, big=1 << 16)
    synced(town)
    before = known(town)
    shutil.rmtree(town.agents / "ada/more")
    assert town.persist("restore", "ada").status == 0
    found = synced(town)
    assert (found["read_files"], found["committed"]) == (0, False)
    of_work = {path: said for path, said in before[0].items() if path.startswith(b"/work")}
    assert of_work.items() <= known(town)[0].items()


def test_the_index_is_roots_alone_and_waits_for_no_one_for_ever(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = town.spec.agent("ada")
    with Index.opened(town.spec, ada) as one:
        for path in (index(town), index(town).parent):
            assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (0, 0)
        one.begin()
        monkeypatch.setattr(schema, "_PATIENCE", 0.1)
        with Index.opened(town.spec, ada) as other, pytest.raises(IndexFailed, match="locked"):
            other.begin()


def test_what_lies_in_packs_is_learned_found_and_forgotten(town: Town) -> None:
    with Index.opened(town.spec, town.spec.agent("ada")) as there, there.writing():
        one, other = Pack("a" * 64, 1000, 100), Pack("b" * 64, 2000, 100)
        assert not there.has(b"1" * 32)
        there.place([Placed(one, (b"1" * 32, b"2" * 32)), Placed(other, (b"3" * 32,))])
        assert there.has(b"1" * 32)
        assert there.builds_on({one.id})
        assert not there.builds_on({other.id})
        assert there.used_packs() == [one.id]
        there.forget_packs([one.id])
        assert not there.has(b"2" * 32)
        assert there.has(b"3" * 32)
        assert list(there.packs()) == [other.id]


def test_what_fails_leaves_no_trace(town: Town) -> None:
    ada = town.spec.agent("ada")
    with Index.opened(town.spec, ada) as there:
        with contextlib.suppress(ZeroDivisionError), there.writing():
            there.place([Placed(Pack("a" * 64, 1000, 100), (b"1" * 32,))])
            raise ZeroDivisionError
        assert not there.has(b"1" * 32)


# Without btrfs: a look at every name.


@pytest.fixture
def walked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    return plain(tmp_path / "town", capsys)


def test_without_btrfs_a_file_is_known_by_inode_ctime_and_size(walked: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_YOUNG", -(10**10))  # every ctime is trusted
    assert synced(walked)["read_files"] == 2  # they were too young when they were read first
    (source(walked) / "new").write_text("new")
    assert synced(walked)["read_files"] == 1
    found = synced(walked)
    assert (found["read_files"], found["requests"], found["committed"]) == (0, 0, False)
    before = (source(walked) / "g").stat()
    (source(walked) / "g").write_text("VOX" * 1000)
    os.utime(source(walked) / "g", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert synced(walked)["read_files"] == 1
    os.link(source(walked) / "g", source(walked) / "dir/h")
    (source(walked) / "dir").rename(source(walked) / "moved")
    assert synced(walked)["read_files"] == 1
    into_new(stores.held(walked), walked.base / "back")
    assert stores.facts(walked.base / "back") == stores.facts(source(walked))
    index(walked).unlink()
    assert synced(walked)["new_bytes"] == 0


def test_a_ctime_less_than_two_seconds_old_is_not_trusted_next_time(walked: Town) -> None:
    time.sleep(2.1)
    (source(walked) / "young").write_text("y")
    synced(walked)
    assert synced(walked)["read_files"] == 1
    time.sleep(2.1)
    assert synced(walked)["read_files"] == 1  # read when it was young, so it is read once more
    found = synced(walked)
    assert (found["read_files"], found["requests"]) == (0, 0)


def test_a_dry_run_knows_what_the_index_knows_and_writes_nothing(walked: Town) -> None:
    time.sleep(2.1)
    synced(walked)
    synced(walked)
    before = index(walked).read_bytes()
    (source(walked) / "g").write_text("changed")
    found = synced(walked, "--dry-run")
    assert (found["read_files"], found["would_commit"], found["committed"]) == (1, True, False)
    assert index(walked).read_bytes() == before
    assert sorted(os.listdir(index(walked).parent)) == ["ada.sqlite", "vox.sqlite"]


def test_a_very_full_directory_is_not_held_whole(walked: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from persist.sync import scan

    monkeypatch.setattr(scan, "_AT_ONCE", 10)
    for number in range(200):
        (source(walked) / f"dir/{number}").write_text(f"{number}")
    os.link(source(walked) / "dir/7", source(walked) / "dir/seven")
    synced(walked)
    (source(walked) / "dir/9").unlink()
    (source(walked) / "dir/8").write_text("changed")
    synced(walked)
    into_new(stores.held(walked), walked.base / "back")
    assert stores.facts(walked.base / "back") == stores.facts(source(walked))
    index(walked).unlink()
    assert synced(walked)["new_bytes"] == 0


def test_a_path_that_is_declared_anew_is_read_and_one_that_is_not_leaves_the_index(homely: Town) -> None:
    with_store(homely, "[]", ENTRY)
    with_store(homely, '["projects"]')
    assert homely.persist("restore", "ada").status == 0
    synced(homely)
    with sqlite3.connect(index(homely)) as db:
        assert db.execute("SELECT path FROM trees").fetchall() == [("projects",)]
        assert db.execute("SELECT count(*) FROM dirs").fetchone() == (1,)
    db.close()
    with_store(homely, ENTRY)
    shutil.rmtree(homely.agents / "ada/work/many")
    found = synced(homely, "--accept-loss")
    assert found["committed"] is True
    assert int(str(found["read_files"])) > 5
