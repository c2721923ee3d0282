"""What a sync finds by asking the filesystem what changed: exactly what reading everything finds."""

import json
import os
import shutil
import sqlite3
from pathlib import Path, PurePosixPath

import pytest

from persist.sync import declared, schema
from tests.machine import stores
from tests.machine.stores import into_new, source, with_store
from tests.machine.towns import Town, town, undo
from town import btrfs, files, kernel

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def made(town: Town) -> Town:
    with_store(town)
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    return town


def index(town: Town) -> Path:
    return schema.place(town.spec, town.spec.agent("ada"))


def synced(town: Town, *words: str) -> dict[str, object]:
    """Sync ada; what it said."""
    said = town.persist("sync", "--json", "ada", *words)
    assert said.status == 0, said.err
    found: dict[str, object] = json.loads(said.out)[0]
    return found


def content(town: Town, path: str = "projects") -> object:
    """What names everything of a declared path in the newest state: equal exactly where the state is."""
    top = stores.held(town).top(PurePosixPath(path))
    return top.entry, top.files, top.bytes


def is_exact(town: Town) -> None:
    """Nothing is left to be found by a sync that reads everything, and the store needs nothing for it."""
    before = content(town)
    index(town).unlink()
    said = synced(town)
    assert (said["new_bytes"], said["committed"]) == (0, False), said
    assert content(town) == before


def test_a_sync_reads_what_changed_and_nothing_else(made: Town) -> None:
    for number in range(50):
        (source(made) / f"d{number % 5}").mkdir(exist_ok=True)
        (source(made) / f"d{number % 5}/f{number}").write_text(f"{number}")
    assert synced(made)["read_files"] == 50
    (source(made) / "d1/f1").write_text("changed")
    (source(made) / "d2/new").write_text("new")
    (source(made) / "d3/f3").unlink()
    (source(made) / "d4").rename(source(made) / "d0/moved")
    assert synced(made)["read_files"] == 2
    is_exact(made)


def test_a_directory_that_was_moved_in_is_read_in_full(made: Town) -> None:
    outside = source(made).parent / "outside"
    (outside / "a/b").mkdir(parents=True)
    (outside / "a/b/f").write_text("from outside")
    synced(made)
    (source(made) / "x").write_text("x")
    synced(made)  # what lies in `outside` is older than this
    (outside / "a").rename(source(made) / "a")
    assert synced(made)["read_files"] == 1
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert (back / "a/b/f").read_text() == "from outside"
    is_exact(made)


def test_what_leaves_a_path_is_forgotten_and_read_again_when_it_comes_back(made: Town) -> None:
    (source(made) / "d").mkdir()
    (source(made) / "d/f").write_text("before")
    (source(made) / "stays").write_text("stays")
    synced(made)
    (source(made) / "d").rename(source(made).parent / "aside")
    synced(made)
    with sqlite3.connect(index(made)) as db:
        assert db.execute("SELECT count(*) FROM dirs").fetchone()[0] == 1
    db.close()
    (source(made).parent / "aside/f").write_text("AFTER!")
    synced(made)
    (source(made).parent / "aside").rename(source(made) / "d")
    synced(made)
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert (back / "d/f").read_text() == "AFTER!"
    is_exact(made)


@pytest.mark.parametrize("name", ["d", "e"])
def test_a_directory_with_the_number_of_another_is_another(made: Town, name: str) -> None:
    (source(made) / "old").write_text("old")
    (source(made) / "d").mkdir()
    os.link(source(made) / "old", source(made) / "d/old")
    number = (source(made) / "d").stat().st_ino
    synced(made)
    shutil.rmtree(source(made) / "d")
    undo(made.base)  # btrfs begins again behind the highest number when it is mounted
    for path, subvolume in ((made.agents, "@agents"), (made.persisted, "@persist")):
        kernel.mount(made.device, str(path), "btrfs", 0, f"subvol={subvolume}")
    (source(made) / name).mkdir()
    assert (source(made) / name).stat().st_ino == number, "else this proves nothing"
    (source(made) / name / "f").write_text("new")
    (source(made) / "more").write_text("more")
    synced(made)
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert stores.facts(back) == stores.facts(source(made))
    is_exact(made)


def test_a_changed_file_of_several_names_is_rewritten_in_every_directory(made: Town) -> None:
    for name in ("a", "b", "c"):
        (source(made) / name).mkdir()
    (source(made) / "a/f").write_text("1")
    os.link(source(made) / "a/f", source(made) / "b/f")
    os.link(source(made) / "a/f", source(made) / "c/f")
    synced(made)
    (source(made) / "b/f").write_text("2")
    assert synced(made)["read_files"] == 1
    (source(made) / "a").rename(source(made) / "z")
    synced(made)
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert {(back / name / "f").read_text() for name in ("z", "b", "c")} == {"2"}
    assert len({(back / name / "f").stat().st_ino for name in ("z", "b", "c")}) == 1
    is_exact(made)
    (source(made) / "c/f").unlink()
    (source(made) / "b/f").unlink()
    synced(made, "--accept-loss")
    is_exact(made)


def test_a_lost_index_costs_a_read_and_no_upload(made: Town) -> None:
    stores.torture(source(made))
    synced(made)
    for name in ("dir", "many"):
        (source(made) / name).rename(source(made) / f"{name} elsewhere")
    os.link(source(made) / "dir elsewhere/one", source(made) / "a first name")
    synced(made)
    is_exact(made)


def test_a_damaged_index_is_thrown_away_with_a_word(made: Town) -> None:
    (source(made) / "f").write_text("x")
    synced(made)
    index(made).write_bytes(b"not a database, not at all, and long enough to be looked at" * 100)
    (source(made) / "g").write_text("y")
    said = made.persist("sync", "ada")
    assert said.status == 0
    assert "the local index is damaged" in said.err
    assert made.persist("sync", "ada").err == ""
    is_exact(made)


def test_an_index_of_another_version_is_thrown_away_with_a_word(made: Town) -> None:
    (source(made) / "f").write_text("x")
    synced(made)
    db = sqlite3.connect(index(made))
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert "the local index is of another version" in made.persist("sync", "ada").err
    assert index(made).stat().st_mode & 0o777 == 0o600


def test_a_nested_subvolume_has_a_base_of_its_own(made: Town) -> None:
    (source(made) / "a").mkdir()
    with files.opened(files.open_dir(source(made) / "a")) as above:
        os.close(btrfs.create(above, "sub"))
    for number in range(20):
        (source(made) / f"a/sub/f{number}").write_text(f"{number}")
    assert "projects/a/sub: a nested subvolume" in made.persist("sync", "ada").err
    (source(made) / "a/sub/f3").write_text("changed")
    assert synced(made)["read_files"] == 1
    (source(made) / "a").rename(source(made) / "b")
    assert synced(made)["read_files"] == 0
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert (back / "b/sub/f3").read_text() == "changed"
    is_exact(made)
    with files.opened(files.open_dir(source(made) / "b")) as above:
        btrfs.delete(above, "sub")
        os.close(btrfs.create(above, "sub"))
    (source(made) / "b/sub/another").write_text("another")
    synced(made, "--accept-loss")
    is_exact(made)
    shutil.rmtree(back)
    into_new(stores.held(made), back)
    assert sorted(os.listdir(back / "b/sub")) == ["another"]
    with files.opened(files.open_dir(source(made) / "b")) as above:
        btrfs.delete(above, "sub")


def test_another_subvolume_in_the_place_of_the_agents_is_read_in_full(made: Town) -> None:
    (source(made) / "f").write_text("x")
    with (
        files.opened(files.open_dir(made.persisted / "agents")) as above,
        files.opened(files.open_dir(made.persisted / "agents/ada")) as fd,
    ):
        os.close(btrfs.snapshot(fd, above, "copy", read_only=False))
    synced(made)
    undo(made.agents)
    os.rename(made.persisted / "agents/ada", made.persisted / "agents/before")
    os.rename(made.persisted / "agents/copy", made.persisted / "agents/ada")
    made.mount()
    assert synced(made)["read_files"] == 1
    is_exact(made)


def test_paths_of_one_subvolume_share_a_snapshot(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    with_store(town, '["projects", "notes", {path = "work", via = "store"}]')
    town.persist("init", "--store")
    town.persist("restore")
    taken = []
    real = btrfs.snapshot
    monkeypatch.setattr(btrfs, "snapshot", lambda *words, **more: taken.append(words) or real(*words, **more))
    synced(town)
    assert len(taken) == 2  # of the home, and of what is bound


def test_what_is_left_out_now_leaves_and_what_is_not_any_more_is_scanned(town: Town) -> None:
    plain, preset = '[{path = ".claude"}]', '[{path = ".claude", preset = "claude-code"}]'
    with_store(town, plain)
    town.persist("init", "--store")
    town.persist("restore")
    home = source(town, ".claude")
    for name in ("cache/x", "history.jsonl"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    assert synced(town)["files"] == 2
    with_store(town, preset)
    assert synced(town, "--accept-loss")["files"] == 1
    (home / "cache/x").write_text("changed, and nobody looks")
    assert synced(town)["committed"] is False
    (home / "cache").rename(home / "kept")
    found = synced(town)
    assert (found["files"], found["read_files"]) == (2, 1)
    (home / "kept").rename(home / "cache")
    assert synced(town)["files"] == 1
    with_store(town, plain)
    found = synced(town)
    assert (found["files"], found["read_files"]) == (2, 1)


def test_a_directory_that_goes_above_something_left_out_is_read_by_the_new_rule(
    made: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared, "left_out", lambda _: frozenset({PurePosixPath("above/mid/out")}))
    for path in ("above/mid/out", "above/mid/in", "beside/mid/out"):
        (source(made) / path).parent.mkdir(parents=True, exist_ok=True)
        (source(made) / path).write_text(path)
    assert synced(made)["files"] == 2
    (source(made) / "above").rename(source(made) / "aside")
    (source(made) / "beside").rename(source(made) / "above")
    assert synced(made)["files"] == 2
    is_exact(made)
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert sorted(str(path.relative_to(back)) for path in back.rglob("*")) == [
        "above", "above/mid", "aside", "aside/mid", "aside/mid/in", "aside/mid/out",
    ]  # fmt: skip
