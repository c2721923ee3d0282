"""What a sync asks of the store, and when: nothing where nothing changed, once more where something was in its way."""

import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from persist.sync import history, parts, run
from tests.machine import stores
from tests.machine.stores import into_new, source
from tests.machine.test_sync_changes import is_exact, made, synced
from tests.machine.towns import ADA, Town, town
from tests.reach import CHECKOUT
from town import btrfs, process

__all__ = ["made", "town"]
pytestmark = pytest.mark.root


def test_a_failed_sync_is_gone_on_with_and_sends_nothing_twice(made: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from persist.bucket import commits
    from persist.store import StoreUnreachable

    stores.torture(source(made), big=3 << 20)

    def broken(*_: object) -> bytes:
        raise StoreUnreachable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(commits, "sealed", broken)
        assert made.persist("sync", "ada").status == 75
    sent = synced(made)
    assert sent["committed"] is True
    assert sent["new_bytes"] == 0
    is_exact(made)


@pytest.mark.parametrize("how", ["missing", "short"])
def test_packs_that_are_missing_or_short_are_sent_again_within_a_day(
    made: Town, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stores.torture(source(made))
    synced(made)
    (pack,) = (path for path in (made.base / "store/packs").rglob("*") if path.is_file())
    if how == "missing":
        pack.unlink()
    else:
        pack.write_bytes(pack.read_bytes()[:-1])
    assert synced(made)["committed"] is False
    later = time.time() + 25 * 3600
    monkeypatch.setattr(run.time, "time", lambda: later)
    said = made.persist("sync", "ada")
    assert said.status == 0
    assert "what is still here is sent again" in said.err
    monkeypatch.undo()
    is_exact(made)
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert stores.facts(back) == stores.facts(source(made))


def test_owners_that_come_back_as_roots_are_said_at_each_sync_until_they_do_not(made: Town) -> None:
    (source(made) / "f").write_text("x")
    os.chown(source(made) / "f", ADA, 4242)
    for _ in range(2):
        assert "projects/f: its owner or group" in made.persist("sync", "ada").err
    os.chown(source(made) / "f", ADA, ADA)
    assert made.persist("sync", "ada").err == ""


HEAVY = ("boto3", "botocore", "cryptography", "blake3", "zstandard", "ruamel", "pyfastcdc", "rich")


def test_where_nothing_changed_nothing_is_asked_and_nothing_heavy_is_loaded(made: Town) -> None:
    stores.torture(source(made))
    synced(made)
    program = (
        "import sys; from persist import cli, store; from persist.store import directory\n"
        "asked = []\n"
        "for name in ('get', 'put', 'put_if_absent', 'list', 'size', 'delete'):\n"
        "    setattr(directory.DirectoryStore, name, lambda *words: asked.append(words))\n"
        f"status = cli.main(['--spec', {str(made.file)!r}, 'sync', 'ada'])\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(status, asked, loaded)"
    )
    done = process.run([sys.executable, "-c", program], cwd=CHECKOUT)
    lines = done.out.decode().splitlines()
    assert "nothing new" in lines[0]
    assert lines[1] == "0 [] []"


def test_a_lease_that_is_due_costs_one_request(made: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    (source(made) / "f").write_text("x")
    synced(made)
    assert synced(made)["requests"] == 0
    later = time.time() + 13 * 3600
    monkeypatch.setattr(run.time, "time", lambda: later)
    found = synced(made)
    assert (found["requests"], found["committed"]) == (1, False)


def test_a_small_change_takes_few_requests(made: Town) -> None:
    stores.torture(source(made))
    synced(made)
    (source(made) / "many/f7").write_text("changed")
    (source(made) / "dir/new").write_text("new")
    found = synced(made)
    assert found["read_files"] == 2
    assert int(str(found["requests"])) <= 6
    assert int(str(found["new_bytes"])) < 20_000


def test_what_changed_beside_a_path_costs_that_path_nothing(made: Town) -> None:
    (source(made) / "f").write_text("x")
    synced(made)
    for number in range(1500):
        (source(made).parent / f"beside{number}").touch()
    for _ in range(2):
        found = synced(made)
        assert (found["read_files"], found["committed"], found["requests"]) == (0, False, 0)


def test_one_new_name_among_many_sends_a_part_of_the_listing(made: Town) -> None:
    (source(made) / "many").mkdir()
    for number in range(12_000):
        (source(made) / f"many/a rather long name of a file {number:06}").touch()
    synced(made)
    (source(made) / "many/a rather long name of a file 004711 and a half").touch()
    found = synced(made)
    assert int(str(found["new_bytes"])) < 60_000
    is_exact(made)


def test_what_is_synced_is_the_snapshot_whatever_happens_to_the_living_files_meanwhile(
    made: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_YOUNG", 0)  # files may be taken from memory
    for number in range(20):
        (source(made) / f"f{number}").write_text(f"before {number}")
    os.sync()
    before = stores.facts(source(made))
    real = btrfs.snapshot

    def taken(*words: object, **more: object) -> int:
        time.sleep(0.05)
        fd = real(*words, **more)  # type: ignore[arg-type]
        for path in source(made).glob("f1*"):
            found = path.stat()
            path.write_text("AFTER! " + path.name[1:])
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        (source(made) / "f2").rename(source(made) / "f3")
        (source(made) / "f4").unlink()
        os.mkfifo(source(made) / "f4")
        return fd

    monkeypatch.setattr(btrfs, "snapshot", taken)
    synced(made)
    monkeypatch.undo()
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert stores.facts(back) == before
    synced(made)
    shutil.rmtree(back)
    into_new(stores.held(made), back)
    assert stores.facts(back) == stores.facts(source(made))


def packs(town: Town) -> dict[str, Path]:
    return {path.name: path for path in (town.base / "store/packs").rglob("*") if path.is_file()}


def bury(town: Town) -> str:
    """What a prune does with the only pack: its pieces in a new one, and a tomb that leads there. Its id."""
    from persist.bucket import agents, content, tombs, trees
    from persist.bucket.blobs import Reader, Writer
    from persist.bucket.opening import open_bucket

    bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    head = history.ask(town.spec, town.spec.agent("ada"), bucket).head
    assert head is not None
    reader = Reader(bucket.store, keys)
    for pack in head.packs:
        reader.load(pack)
    with Writer(bucket.store, keys) as writer:
        waiting = [top.entry for top in head.commit.root]
        while waiting:
            entry = waiting.pop()
            assert entry.content is not None
            content.write(writer, "tree", content.read(reader, "tree", entry.content))
            for below in trees.read(reader, entry.content):
                if below.kind == "dir":
                    waiting.append(below)
                elif below.content is not None:
                    content.write(writer, "data", content.read(reader, "data", below.content))
        to = tuple(placed.pack for placed in writer.finish())
    names = frozenset(str(name) for name in agents.listed(bucket.store, keys).commits)
    tombs.write(bucket.store, keys, tombs.Tomb(frozenset(pack.id for pack in head.packs), to, names))
    return head.packs[0].id


def test_packs_under_a_tomb_are_not_built_on(made: Town) -> None:
    (source(made) / "f").write_text("stays")
    (source(made) / "g").write_text("goes, and comes again")
    synced(made)
    (source(made) / "g").unlink()
    synced(made)
    buried = bury(made)
    (source(made) / "g").write_text("goes, and comes again")
    assert synced(made)["committed"] is True
    packs(made)[buried].unlink()
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert (back / "g").read_text() == "goes, and comes again"
    is_exact(made)


def test_a_prune_that_buries_packs_while_a_sync_runs_makes_it_go_round_once_more(
    made: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source(made) / "f").write_text("stays")
    synced(made)
    buried: list[str] = []
    real = history.commit

    def meanwhile(*words: Any) -> Any:
        if not buried:
            buried.append(bury(made))
        return real(*words)

    monkeypatch.setattr(history, "commit", meanwhile)
    (source(made) / "g").write_text("new")
    found = synced(made)
    assert found["committed"] is True
    packs(made)[buried[0]].unlink()
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert stores.facts(back) == stores.facts(source(made))
    is_exact(made)


def test_cut_off_between_the_commit_and_the_index_a_sync_knows_its_own(
    made: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    from persist.sync.index import Index

    stores.torture(source(made))
    synced(made)
    (source(made) / "many/f7").write_text("changed")

    def cut(_: Index) -> None:
        raise OSError(5, "cut off")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "keep", cut)
        assert made.persist("sync", "ada").status == 1
    found = synced(made)
    assert (found["committed"], found["new_bytes"]) == (False, 0)
    is_exact(made)


def test_an_index_without_room_is_said_and_the_state_is_that_of_before(
    made: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    from persist.sync.rows import Rows

    (source(made) / "f").write_text("x")
    synced(made)
    (source(made) / "g").write_text("y")

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "put", full)
        said = made.persist("sync", "ada")
        assert said.status == 1
        assert "database or disk is full" in said.err
    assert synced(made)["committed"] is True
    is_exact(made)


def test_what_was_moved_out_is_not_read_any_more(made: Town) -> None:
    (source(made) / "d/deep").mkdir(parents=True)
    (source(made) / "d/deep/f").write_text("f")
    (source(made) / "stays").write_text("stays")
    synced(made)
    (source(made) / "d").rename(source(made).parent / "outside")
    (source(made).parent / "outside/deep/secret").write_text("nobody declared this")
    (source(made).parent / "outside/deep/f").write_text("nor this any more")
    found = synced(made)
    assert (found["files"], found["read_files"]) == (1, 0)
    is_exact(made)
