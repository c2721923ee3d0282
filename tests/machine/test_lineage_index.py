"""The first sync after a reboot costs what changed: the index goes on with a snapshot where the filesystem says so."""

import os
import shutil
from pathlib import Path, PurePosixPath
from random import Random

import pytest

from persist.sync import schema
from tests.machine import stores
from tests.machine.lineages import boot, kept, ok, record, run, synced, town, work, write
from tests.machine.test_lineage import nest
from tests.machine.towns import ADA, Town
from town import btrfs, files, subvolumes

__all__ = ["kept", "town"]
pytestmark = pytest.mark.root


def is_exact(town: Town) -> None:
    """What the store holds is what lies there: a sync that reads everything comes to the same state."""
    before = stores.held(town).top(PurePosixPath("work")).entry
    schema.place(town.spec, town.spec.agent("ada")).unlink()
    said = synced(town)
    assert (said["new_bytes"], said["committed"]) == (0, False), said
    assert stores.held(town).top(PurePosixPath("work")).entry == before


def many(town: Town, count: int = 60) -> None:
    run(town, f"import os\nfor n in range({count}): os.makedirs(f'work/d{{n % 7}}', exist_ok=True); "
              f"open(f'work/d{{n % 7}}/f{{n}}', 'w').write(str(n))")  # fmt: skip


def test_a_sync_after_a_reboot_reads_what_changed_and_opens_nothing_else(kept: Town) -> None:
    many(kept)
    assert synced(kept)["read_files"] == 60
    boot(kept)
    ok(kept, "restore", "ada")
    assert synced(kept)["read_files"] == 0
    run(kept, "open('work/d1/new', 'w').write('new'); import os; os.rename('work/d2', 'work/d1/moved')")
    assert synced(kept)["read_files"] == 1
    is_exact(kept)


def test_boots_without_a_sync_in_between_make_no_difference(kept: Town) -> None:
    many(kept)
    synced(kept)
    for number in range(3):
        write(kept, f"n{number}")
        boot(kept)
        ok(kept, "restore", "--local", "ada")
    assert synced(kept)["read_files"] == 3
    is_exact(kept)


def test_after_a_fetch_too(kept: Town) -> None:
    many(kept)
    synced(kept)
    boot(kept)
    shutil.rmtree(kept.persisted / ".nuketown/lineage")
    assert "fetch   " in ok(kept, "restore", "ada").out
    boot(kept)
    ok(kept, "restore", "ada")
    write(kept, "one")
    assert synced(kept)["read_files"] == 1
    is_exact(kept)


def test_nested_subvolumes_go_on_as_well(kept: Town) -> None:
    many(kept, 10)
    nest(kept, "n", "d1/m", "n/o")
    synced(kept)
    boot(kept)
    ok(kept, "restore", "ada")
    (work(kept) / "n/o/new").write_text("new")
    os.chown(work(kept) / "n/o/new", ADA, ADA)
    assert synced(kept)["read_files"] == 1
    is_exact(kept)


def snapshot(kept: Town, source: str, name: str) -> None:
    home = kept.agents / "ada"
    with files.opened(files.open_dir(home / source)) as fd, files.opened(files.open_dir(home)) as above:
        os.close(btrfs.snapshot(fd, above, name, read_only=False))


def swap(kept: Town, name: str) -> None:
    home = kept.agents / "ada"
    (home / "work").rename(home / f"before-{name}")
    (home / name).rename(home / "work")


def test_a_snapshot_that_was_taken_before_the_last_sync_is_read_in_full(kept: Town) -> None:
    many(kept, 20)
    synced(kept)
    snapshot(kept, "work", "early")
    write(kept, "later")
    (work(kept) / "d1/f1").write_text("changed")
    synced(kept)
    swap(kept, "early")
    assert synced(kept)["read_files"] == 20
    assert not (work(kept) / "later").exists()
    is_exact(kept)


def test_a_snapshot_that_an_agent_took_after_it_goes_on(kept: Town) -> None:
    many(kept, 20)
    synced(kept)
    write(kept, "between")
    snapshot(kept, "work", "late")
    write(kept, "only in the other one")
    swap(kept, "late")
    write(kept, "after")
    assert synced(kept)["read_files"] == 2
    is_exact(kept)


def test_a_snapshot_beside_its_source_is_not_taken_for_it(kept: Town) -> None:
    """Both hold the same inodes; what the index knows is of the one that lies where it lay."""
    many(kept, 10)
    nest(kept, "n")
    synced(kept)
    with files.opened(files.open_dir(work(kept))) as top, files.opened(files.open_dir(work(kept) / "n")) as inner:
        os.close(btrfs.snapshot(top, top, "all", read_only=False))
        os.close(btrfs.snapshot(inner, top, "again", read_only=False))
    for path in ("f", "all/f", "again/f", "n/f"):
        (work(kept) / path).write_text(path)
    synced(kept)
    (work(kept) / "all/d1/f1").write_text("other")
    (work(kept) / "n/in").write_text("other")
    said = synced(kept)
    assert said["read_files"] == 2
    is_exact(kept)
    with files.opened(files.open_dir(work(kept))) as top:
        (work(kept) / "n").rename(work(kept) / "moved")
        with files.opened(files.open_dir(work(kept) / "moved")) as moved:
            os.close(btrfs.snapshot(moved, top, "n", read_only=False))
    (work(kept) / "n/in").write_text("of the new one")
    (work(kept) / "moved/in").write_text("of the old one")
    synced(kept)
    is_exact(kept)


def test_a_snapshot_in_the_place_of_another_subvolume_costs_its_source_nothing(kept: Town) -> None:
    nest(kept, "m", "n")
    (work(kept) / "n/more").write_text("more")
    synced(kept)
    with files.opened(files.open_dir(work(kept))) as top, files.opened(files.open_dir(work(kept) / "n")) as source:
        subvolumes.remove(top, "m")
        os.close(btrfs.snapshot(source, top, "m", read_only=False))
    assert synced(kept)["read_files"] == 2, "those of m, and none of n"
    assert synced(kept)["read_files"] == 0
    is_exact(kept)


def test_the_place_of_a_subvolume_is_found_by_its_uuid(kept: Town) -> None:
    with files.opened(files.open_dir(work(kept))) as fd:
        found = btrfs.info(fd)
        assert subvolumes.by_uuid(fd, found.uuid_bytes) == found.id
        assert subvolumes.by_uuid(fd, bytes(16)) is None
    assert record(kept)["work"][0]["subvolume"] == found.id


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_between_boots_and_syncs_the_store_holds_what_lies_there(kept: Town, seed: int) -> None:
    random = Random(seed)
    many(kept, 12)
    synced(kept)
    for step in range(6):
        for number in range(random.randrange(4)):
            change(work(kept), random, f"{step}-{number}")
        match random.randrange(4):
            case 0:
                boot(kept)
                ok(kept, "restore", "ada")
            case 1:
                snapshot(kept, "work", f"s{step}")
            case 2 if taken := [path.name for path in (kept.agents / "ada").glob("s?")]:
                swap(kept, random.choice(taken))
            case _:
                synced(kept, "--accept-loss")
    synced(kept, "--accept-loss")
    is_exact(kept)


def change(top: Path, random: Random, name: str) -> None:
    there = sorted(top.rglob("*"))
    found = random.choice(there) if there else top
    match random.randrange(4):
        case 0:
            place = found if found.is_dir() else found.parent
            (place / name).write_text(name)
            os.chown(place / name, ADA, ADA)
        case 1 if found.is_file():
            found.write_text(f"changed {name}")
        case 2:
            found.rename(top / name)
        case _:
            shutil.rmtree(found) if found.is_dir() else found.unlink()
