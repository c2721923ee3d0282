"""`persist sync` and the fetch behind `persist restore`, on real btrfs with a real store in a directory."""

import json
import os
import time
from pathlib import Path, PurePosixPath

import pytest

from persist import leftovers
from persist import sync as syncing
from persist.store.directory import DirectoryStore
from tests.machine import stores, towns
from tests.machine.stores import into_new, source, with_store
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from town import btrfs, files
from town.process import Person

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def made(town: Town) -> Town:
    """The town with its store made and ada's home restored."""
    with_store(town)
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    return town


def objects(town: Town, prefix: str) -> list[str]:
    return [found.key for found in DirectoryStore(town.base / "store").list(prefix)]


def test_a_torture_tree_comes_back_as_it_was(made: Town) -> None:
    stores.torture(source(made), small=3000, deep=3000, big=20 << 20)
    before = stores.facts(source(made))
    said = made.persist("sync")
    assert (said.status, said.err) == (0, "")
    back = source(made).parent / "back"
    totals = into_new(stores.held(made), back)
    assert stores.facts(back) == before
    assert (back / "sparse").stat().st_blocks * 512 < 1 << 20
    assert totals.files == sum(1 for path, fact in before.items() if fact and not str(fact[0]).startswith("0o4")) - 1
    assert f"{totals.files:,} files" in said.out


def test_a_sync_of_what_did_not_change_writes_nothing(made: Town) -> None:
    stores.torture(source(made))
    assert made.persist("sync").status == 0
    before = objects(made, "")
    said = made.persist("sync")
    assert objects(made, "") == before
    assert "nothing new" in said.out


def test_the_first_sync_after_a_restore_from_the_store_writes_nothing(made: Town) -> None:
    stores.torture(source(made))
    assert made.persist("sync").status == 0
    back = source(made).parent / "back"
    into_new(stores.held(made), back)
    source(made).rename(source(made).parent / "old")
    back.rename(source(made))
    before = objects(made, "")
    assert "nothing new" in made.persist("sync").out
    assert objects(made, "") == before


def test_a_change_sends_only_what_changed_and_every_state_before_stays(made: Town) -> None:
    stores.torture(source(made), small=1000)
    made.persist("sync")
    first = stores.held(made)
    before = stores.facts(source(made))
    (source(made) / "many/f77").write_bytes(b"changed")
    said = made.persist("sync", "--json")
    (summary, _) = json.loads(said.out)
    assert summary["committed"]
    assert summary["new_bytes"] < 60_000
    assert stores.held(made).snapshot == summary["snapshot"] != first.snapshot
    old, new = source(made).parent / "old", source(made).parent / "new"
    into_new(first, old)
    into_new(stores.held(made), new)
    assert stores.facts(old) == before
    assert stores.facts(new) == stores.facts(source(made))


def test_what_is_only_in_the_home_is_synced_from_the_home_and_restored_by_the_next_boot(town: Town) -> None:
    with_store(town, '[{path = "scratch/results", via = "store"}]', '["notes"]')
    town.persist("init", "--store")
    town.persist("restore")
    program = "import os; open('scratch/results/r','w').write('r'); os.utime('scratch/results/r', ns=(5, 123456789))"
    as_agent(AS_ADA, town.agents / "ada", program)
    assert town.persist("sync").status == 0
    town.boot("b1")
    said = town.persist("restore", "ada")
    assert said.status == 0, said.err
    assert (town.agents / "ada/scratch/results/r").read_text() == "r"
    assert (town.agents / "ada/scratch/results/r").stat().st_mtime_ns == 123456789
    assert "nothing new" in town.persist("sync", "ada").out


def test_after_a_boot_without_restore_a_sync_takes_nothing_away(town: Town) -> None:
    with_store(town, '[{path = "results", via = "store"}]')
    town.persist("init", "--store")
    town.persist("restore")
    (town.agents / "ada/results/r").write_text("r")
    town.persist("sync", "ada")
    town.boot("b1")
    before = objects(town, "")
    said = town.persist("sync", "ada")
    assert said.status == 1
    assert "error: ada: results: gone since the last sync" in said.err
    assert "--accept-loss" in said.err
    assert objects(town, "") == before


def test_parts_that_a_preset_calls_no_data_are_left_out(town: Town) -> None:
    with_store(town, '[{path = ".claude", preset = "claude-code"}]')
    town.persist("init", "--store")
    town.persist("restore")
    home = source(town, ".claude")
    for name in (".credentials.json", "CLAUDE.md", "history.jsonl"):
        (home / name).write_text(name)
    for name in ("cache/x", "projects/cache/y", "agents/z"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(name)
    assert town.persist("sync").status == 0
    back = home.parent / "back"
    into_new(stores.held(town), back, ".claude")
    assert sorted(str(path.relative_to(back)) for path in back.rglob("*")) == [
        "history.jsonl", "projects", "projects/cache", "projects/cache/y",
    ]  # fmt: skip


def test_more_than_half_of_the_files_gone_stops_that_path_and_only_that(town: Town) -> None:
    with_store(town, '["projects", "notes"]')
    town.persist("init", "--store")
    town.persist("restore")
    for number in range(10):
        (source(town) / f"f{number}").write_text(f"x{number}")
    town.persist("sync", "ada")
    (source(town, "notes") / "n").write_text("before")
    town.persist("sync", "ada")
    for number in range(9):
        (source(town) / f"f{number}").unlink()
    (source(town) / "f9").write_text("changed, so that nothing of what was sent before is met again")
    (source(town, "notes") / "n").write_text("after")
    said = town.persist("sync", "ada")
    assert said.status == 1
    assert "error: ada: projects: lost 9 of its 10 files" in said.err
    state = stores.held(town)
    into_new(state, source(town).parent / "p")
    into_new(state, source(town).parent / "n", "notes")
    assert len(os.listdir(source(town).parent / "p")) == 10
    assert (source(town).parent / "n/n").read_text() == "after"
    assert town.persist("sync", "--accept-loss", "ada").status == 0
    into_new(stores.held(town), source(town).parent / "q")
    assert len(os.listdir(source(town).parent / "q")) == 1


def test_the_only_file_gone_is_said_in_the_singular(made: Town) -> None:
    (source(made) / "f").write_text("x")
    made.persist("sync")
    (source(made) / "f").unlink()
    assert "error: ada: projects: lost 1 of its 1 file since" in made.persist("sync", "ada").err


def test_half_of_the_files_may_go(made: Town) -> None:
    for number in range(10):
        (source(made) / f"f{number}").write_text("x")
    made.persist("sync")
    for number in range(5):
        (source(made) / f"f{number}").unlink()
    assert made.persist("sync").status == 0


def test_a_nested_subvolume_is_entered_wherever_it_is(town: Town) -> None:
    with_store(town, '["projects", {path = "work", via = "store"}, {path = "sub/in", via = "store"}]')
    town.persist("init", "--store")
    town.persist("restore")
    home = town.agents / "ada"
    os.rmdir(home / "work")
    os.rmdir(home / "sub/in")
    os.rmdir(home / "sub")
    for path in (source(town) / "a/b", home / "work", home / "sub"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.opened(files.open_dir(path.parent)) as above:
            os.close(btrfs.create(above, path.name))
    with files.opened(files.open_dir(source(town) / "a/b")) as above:
        os.close(btrfs.create(above, "deeper"))
    wanted = {"projects": "a/b/deeper/x/y", "work": "f", "sub/in": "g"}
    for path, name in wanted.items():
        base = source(town) if path == "projects" else home / path
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(path)
    (source(town) / "a/c").write_text("beside")
    (source(town) / "a/b/deeper/z").mkdir()
    for path in (home / "work", home / "sub", home / "sub/in"):
        os.chown(path, ADA, ADA)
    said = town.persist("sync", "ada")
    assert said.status == 0, said.err
    assert "projects/a/b: a nested subvolume" in said.err
    state = stores.held(town)
    for path, name in wanted.items():
        back = town.persisted / f"back-{path.replace('/', '-')}"
        into_new(state, back, path)
        assert (back / name).read_text() == path
    assert (town.persisted / "back-projects/a/c").read_text() == "beside"
    assert (town.persisted / "back-projects/a/b/deeper/z").is_dir()
    for path in (home / "work", source(town) / "a/b/deeper", source(town) / "a/b"):
        with files.opened(files.open_dir(path.parent)) as above:
            btrfs.delete(above, path.name)


def test_what_is_mounted_in_a_path_is_not_asked_anything_and_is_said(made: Town) -> None:
    from town import mounts

    (source(made) / "over").mkdir()
    (source(made) / "secret").mkdir()
    (source(made) / "secret/s").write_text("s")
    with (
        files.opened(files.open_dir(source(made) / "secret")) as there,
        files.opened(files.open_dir(source(made) / "over")) as over,
    ):
        mounts.bind(there, over)
    said = made.persist("sync", "--dry-run", "ada")  # no snapshot, where mounts do not show
    assert "over: something is mounted there" in said.err
    assert "1 file," in said.out


def test_sockets_are_said_devices_refused_and_rights_of_others_not_kept(made: Town) -> None:
    stores.a_socket(source(made) / "s1")
    stores.a_socket(source(made) / "s2")
    os.mknod(source(made) / "null", 0o666 | 0o020000, os.makedev(1, 3))
    (source(made) / "su").write_text("x")
    (source(made) / "su").chmod(0o6755)
    (source(made) / "own").write_text("x")
    os.chown(source(made) / "own", ADA, ADA)
    (source(made) / "own").chmod(0o4755)
    (source(made) / "other").write_text("x")
    os.chown(source(made) / "other", 1, 4242)
    said = made.persist("sync", "ada")
    assert said.status == 0
    assert "s1: a socket is not kept (and 1 more like it)" in said.err
    assert "null: a device node is refused" in said.err
    assert "su: set-uid or set-gid of another owner is not kept" in said.err
    back = source(made).parent / "back"
    into_new(stores.held(made), back)
    assert sorted(os.listdir(back)) == ["other", "own", "su"]
    assert (back / "su").stat().st_mode & 0o7777 == 0o755
    assert (back / "own").stat().st_mode & 0o7777 == 0o4755
    # An owner that is neither the agent nor root comes back as root: nobody gains by it.
    assert ((back / "other").stat().st_uid, (back / "other").stat().st_gid) == (0, 0)


def test_a_restore_for_other_numbers_gives_everything_to_them(made: Town) -> None:
    access = stores.acl((1, 6, stores.NOBODY), (2, 4, ADA), (2, 6, 4242), (4, 4, stores.NOBODY), (8, 4, ADA),
                        (16, 6, stores.NOBODY), (32, 0, stores.NOBODY))  # fmt: skip
    (source(made) / "f").write_text("x")
    os.chown(source(made) / "f", ADA, ADA)
    os.setxattr(source(made) / "f", "system.posix_acl_access", access)
    made.persist("sync")
    back = source(made).parent / "back"
    into_new(stores.held(made), back, owner=Person(50001, 50002))
    assert ((back / "f").stat().st_uid, (back / "f").stat().st_gid) == (50001, 50002)
    moved = os.getxattr(back / "f", "system.posix_acl_access")
    assert moved == stores.acl((1, 6, stores.NOBODY), (2, 4, 50001), (2, 6, 4242), (4, 4, stores.NOBODY),
                               (8, 4, 50002), (16, 6, stores.NOBODY), (32, 0, stores.NOBODY))  # fmt: skip


def test_nothing_readable_and_no_agents_name_reaches_the_store(town: Town) -> None:
    with_store(town, "[]", '["projects"]')
    town.persist("init", "--store")
    town.persist("restore")
    (source(town, agent="vox") / "plan-for-the-world").write_text("a very secret sentence that is long enough " * 50)
    assert town.persist("sync").status == 0
    assert len(objects(town, "packs/")) == 1
    assert not any("vox" in key for key in objects(town, ""))
    held = b"".join(path.read_bytes() for path in (town.base / "store").rglob("*") if path.is_file())
    for word in (b"plan-for", b"secret", b"projects", b"research"):
        assert word not in held


def test_two_syncs_of_one_agent_do_not_run_at_once(made: Town) -> None:
    from persist.sync import local

    with local.alone(made.spec, made.spec.agent("ada")):
        said = made.persist("sync")
        assert said.status == 75
        assert "ada: another sync of this agent is running" in said.err
        assert "vox: nothing to sync yet" in said.out
    assert made.persist("sync").status == 0


def snapshots(town: Town) -> list[bytes]:
    with btrfs.top_level(town.device) as top, files.opened(files.enter(top, ".nuketown-sync")) as fd:
        return files.names(fd)


def test_a_sync_reads_a_snapshot_and_leaves_none_not_even_of_a_killed_one(made: Town) -> None:
    from persist.sync import local

    (source(made) / "f").write_text("x")
    made.persist("sync")
    assert snapshots(made) == []
    name = f"ada@{local.machine(made.spec)[:8]}-0123"
    others = "ada@ffffffff-0123"
    with (
        btrfs.top_level(made.device) as top,
        files.opened(files.enter(top, ".nuketown-sync")) as fd,
        files.opened(files.open_dir(made.persisted / "agents/ada")) as living,
    ):
        for left in (name, others, "gone@ffffffff-0123"):
            os.close(btrfs.snapshot(living, fd, left, read_only=True))
        used = "ada@eeeeeeee-4567"
        with files.opened(btrfs.snapshot(living, fd, used, read_only=True)) as using:
            leftovers.use(using)
            assert made.persist("sync").status == 0
            assert snapshots(made) == [used.encode(), b"gone@ffffffff-0123"]  # in use; too young for another agent's
    assert made.persist("sync").status == 0
    assert snapshots(made) == [b"gone@ffffffff-0123"]


def test_what_a_killed_sync_of_an_agent_left_that_is_gone_goes_after_a_day(
    made: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.persist("sync")
    with (
        btrfs.top_level(made.device) as top,
        files.opened(files.enter(top, ".nuketown-sync")) as fd,
        files.opened(files.open_dir(made.persisted / "agents/ada")) as living,
    ):
        os.mkdir("directory@x-1", dir_fd=fd)  # nothing of a sync's
        os.close(btrfs.snapshot(living, fd, "gone@ffffffff-0123", read_only=True))
        with files.opened(btrfs.snapshot(living, fd, "long@ffffffff-0123", read_only=True)) as using:
            leftovers.use(using)
            assert list(leftovers.swept(top, time.time())) == []
            assert list(leftovers.swept(top, time.time() + 25 * 3600)) == [(b"gone@ffffffff-0123", None)]
        os.close(btrfs.snapshot(living, fd, "gone@ffffffff-4567", read_only=True))
    monkeypatch.setattr(leftovers, "OLD", -2)
    said = made.persist("tidy")
    assert "deleted   gone@ffffffff-4567: a sync that was killed left it" in said.out
    assert snapshots(made) == [b"directory@x-1"]


def test_a_dry_run_changes_nothing(made: Town) -> None:
    (source(made) / "f").write_text("x" * 1000)
    before = towns.facts(made.persisted), objects(made, "")
    said = made.persist("sync", "--dry-run", "ada")
    assert (said.status, said.err) == (0, "")
    assert "1 file, 1.0 kB" in said.out
    assert "dry run" in said.out
    assert (towns.facts(made.persisted), objects(made, "")) == before


def test_a_dry_run_says_that_it_would_commit_and_that_it_did_not(made: Town) -> None:
    (source(made) / "f").write_text("x")

    def said(*words: str) -> tuple[bool, bool]:
        summary = json.loads(made.persist("sync", "--json", "ada", *words).out)[0]
        return summary["committed"], summary["would_commit"]

    assert said("--dry-run") == (False, True)
    assert said() == (True, False)
    assert said("--dry-run") == (False, False)
    assert said() == (False, False)


def test_an_owner_or_group_that_comes_back_as_roots_is_said(made: Town) -> None:
    for name, owner, group in (("a", ADA, 4242), ("b", 4242, ADA), ("c", ADA, 0), ("d/e", ADA, ADA)):
        (source(made) / name).parent.mkdir(exist_ok=True)
        (source(made) / name).write_text(name)
        os.chown(source(made) / name, owner, group)
    os.chown(source(made) / "d", ADA, 4242)
    said = made.persist("sync", "ada")
    assert said.err == (
        "persist: ada: projects/a: its owner or group is neither the agent's nor root's: it comes back as root's "
        "(and 2 more like it)\n"
    )
    (source(made) / "a").unlink()
    (source(made) / "b").unlink()
    assert "persist: ada: projects/d: its owner" in made.persist("sync", "ada").err


def test_status_can_ask_for_the_last_sync(made: Town) -> None:
    ada = made.spec.agent("ada")
    assert syncing.last(made.spec, ada) is None
    (source(made) / "f").write_text("12345")
    made.persist("sync")
    found = syncing.last(made.spec, ada)
    assert found is not None
    assert (found.files, found.bytes, found.snapshot) == (1, 5, stores.held(made).snapshot)
    assert found.time.tzinfo is not None
    for path in (made.persisted / ".nuketown").rglob("*"):
        assert path.stat().st_uid == 0
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_huge_hole_is_neither_read_nor_written(made: Town) -> None:
    with (source(made) / "hole").open("wb") as file:
        file.truncate(1 << 60)
        file.seek(1 << 50)
        file.write(b"needle")
    assert made.persist("sync", "ada").status == 0
    back = source(made).parent / "back"
    into_new(stores.held(made), back)
    assert (back / "hole").stat().st_size == 1 << 60
    with (back / "hole").open("rb") as file:
        file.seek(1 << 50)
        assert file.read(8) == b"needle\0\0"


def test_a_declared_directory_that_became_a_link_is_not_followed(town: Town) -> None:
    with_store(town, '[{path = "results", via = "store"}, {path = "notes", via = "store"}]')
    town.persist("init", "--store")
    town.persist("restore")
    (town.agents / "ada/notes/n").write_text("n")
    os.rmdir(town.agents / "ada/results")
    (town.agents / "ada/results").symlink_to("/etc")
    said = town.persist("sync", "ada")
    assert said.status == 1
    assert "symbolic link" in said.err
    state = stores.held(town)
    assert state.paths == (PurePosixPath("notes"),)


def test_agents_hold_each_their_own(town: Town) -> None:
    with_store(town, '["projects"]', '["projects"]')
    town.persist("init", "--store")
    town.persist("restore")
    for agent in ("ada", "vox"):
        (source(town, agent=agent) / "who").write_text(agent * 1000)
    (source(town, agent="vox") / "same").write_text("ada" * 1000)
    assert town.persist("sync").status == 0
    assert len(objects(town, "packs/")) == 2
    assert len({key.split("/")[1] for key in objects(town, "") if key.startswith(("packs", "commits"))}) == 2
    for agent in ("ada", "vox"):
        back: Path = town.persisted / f"back-{agent}"
        into_new(stores.held(town, agent), back)
        assert (back / "who").read_text() == agent * 1000


def test_nested_subvolumes_far_down_are_opened_where_they_lie_and_found_where_they_went(
    made: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = source(made) / "/".join("d" * 500)
    deep.mkdir(parents=True)
    with files.opened(files.open_dir(deep)) as fd:
        for number in range(12):
            os.close(btrfs.create(fd, f"s{number}"))
    (deep / "s3/f").write_text("x")
    assert made.persist("sync").status == 0
    (deep / "s3/f").write_text("xyz")
    entered, real = [0], files.enter

    def enter(*words: object) -> int:
        entered[0] += 1
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "enter", enter)
    assert made.persist("sync").status == 0
    assert entered[0] < 500
    (source(made) / "d/d").rename(source(made) / "e")
    (source(made) / "e" / deep.relative_to(source(made) / "d/d") / "s3/g").write_text("moved")
    assert made.persist("sync").status == 0
    back = source(made).parent / "back"
    into_new(stores.held(made), back)
    there = back / "e" / deep.relative_to(source(made) / "d/d") / "s3"
    assert ((there / "f").read_text(), (there / "g").read_text()) == ("xyz", "moved")
