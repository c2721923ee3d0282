"""`persist tidy`: which old homes go, in which order, and what stays."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from persist import ballast, kept, rollback, room
from tests.machine import olds
from town import btrfs, files, spec

pytestmark = pytest.mark.root


@pytest.fixture
def file(btrfs_device: str, btrfs_top: int, tmp_path: Path) -> Path:
    """A spec that keeps one home, on a filesystem as `persist init` lays it out, the ballast made."""
    made = tmp_path / "town.toml"
    olds.write_spec(made, btrfs_device)
    olds.lay_out(btrfs_top)
    town = spec.load(made).town.btrfs
    assert town is not None
    ballast.make(btrfs_top, town)
    return made


def test_the_newest_homes_stay_and_the_others_go(
    btrfs_device: str, btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    olds.write_spec(file, btrfs_device, 'homes = 2, days = 9999, free = "0%"')
    all_ = [olds.key(days) for days in (5, 4, 3, 2)]
    olds.put(btrfs_top, *all_)
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == sorted(all_[2:])
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["deleted", f"{name}:"] for name in all_[:2]
    ]


def test_a_home_older_than_days_goes_but_never_the_newest(btrfs_device: str, btrfs_top: int, file: Path) -> None:
    olds.write_spec(file, btrfs_device, 'homes = 9, days = 14, free = "0%"')
    young = olds.key(13.9)
    olds.put(btrfs_top, olds.key(40), olds.key(14.1), young)
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [young]
    (only,) = olds.names(btrfs_top)
    olds.write_spec(file, btrfs_device, 'homes = 9, days = 1, free = "0%"')
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [only]


def test_the_order_is_that_of_making_and_no_clock_upsets_it(btrfs_top: int, file: Path) -> None:
    oldest, newest = olds.key(-3000), olds.key(20_000)
    olds.put(btrfs_top, oldest, olds.key(1), newest)
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [newest]


def test_a_clock_that_was_wrong_once_neither_keeps_nor_deletes_by_age(
    btrfs_device: str, btrfs_top: int, file: Path
) -> None:
    olds.write_spec(file, btrfs_device, 'homes = 99, days = 14, free = "0%"')
    ahead, behind, newest = olds.key(-3000), olds.key(20_000), olds.key(1)
    olds.put(btrfs_top, ahead, olds.key(30), olds.key(5), behind, newest)
    # What ran ahead is older than something of 30 days ago; what ran behind is younger than something of 5 days ago.
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == sorted([olds.key(5), behind, newest])


def test_a_second_run_does_nothing(btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    olds.put(btrfs_top, olds.key(2), olds.key(1))
    assert olds.tidy(file) == 0
    generation = btrfs.info(btrfs_top).generation
    capsys.readouterr()
    assert olds.tidy(file) == 0
    assert capsys.readouterr().out == "nothing to do: nothing that is kept has to go\n"
    assert btrfs.info(btrfs_top).generation == generation


def test_a_dry_run_prints_the_plan_and_changes_nothing(
    btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    olds.put(btrfs_top, olds.key(2), olds.key(1))
    btrfs.delete(btrfs_top, "@agents-ballast")
    before = olds.subvolume_count(btrfs_top)
    assert olds.tidy(file, "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.splitlines() == [
        f"delete    {olds.key(2)}: not among the newest 1",
        "make      @agents-ballast, room for a rollback on a full disk",
    ]
    assert olds.tidy(file, "--dry-run", "--json") == 0
    assert [action["do"] for action in json.loads(capsys.readouterr().out)["actions"]] == ["delete", "make"]
    assert olds.subvolume_count(btrfs_top) == before


def test_below_free_the_oldest_go_first_and_no_more_than_needed(
    btrfs_device: str, btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    olds.write_spec(file, btrfs_device, 'homes = 99, days = 999, free = "30%"')
    for days in (4, 3, 2, 1):
        with files.opened(olds.add(btrfs_top, olds.key(days))) as home:
            files.write_beneath(home, "data", os.urandom(48 << 20))
    assert olds.tidy(file, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [found["name"]["text"] for found in said["deleted"]] == [olds.key(4)]
    assert "of data was left, less than 30%" in said["deleted"][0]["why"]
    assert said["free"]["enough"]
    assert olds.names(btrfs_top) == sorted([olds.key(3), olds.key(2), olds.key(1)])


def test_a_home_full_of_metadata_makes_room_go_too_and_the_newest_stays(
    btrfs_device: str, btrfs_top: int, file: Path
) -> None:
    olds.write_spec(file, btrfs_device, 'homes = 99, days = 999, free = "20%"')
    with files.opened(files.open_beneath(btrfs_top, "@agents")) as agents:
        olds.fill_data(agents)  # no space is left that is not data's or metadata's already
        os.truncate(f"/proc/self/fd/{agents}/data", 64 << 20)
    with files.opened(olds.add(btrfs_top, olds.key(2))) as home:
        olds.put(btrfs_top, olds.key(1))
        olds.fill_metadata(home)
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [olds.key(1)]


def test_a_file_and_a_link_in_old_go_by_age_and_count_as_no_home(btrfs_device: str, btrfs_top: int, file: Path) -> None:
    olds.write_spec(file, btrfs_device, 'homes = 1, days = 14, free = "0%"')
    with files.opened(files.open_beneath(btrfs_top, "@agents-old")) as old:
        os.symlink("../@agents", olds.key(30), dir_fd=old)
        files.write_beneath(old, olds.key(29), b"x")
        olds.put(btrfs_top, olds.key(3))
        os.mkfifo(olds.key(1), dir_fd=old)
        files.write_beneath(old, olds.key(0.5), b"x")
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == sorted([olds.key(3), olds.key(1), olds.key(0.5)])
    with files.opened(files.open_beneath(btrfs_top, "@agents")):
        pass


def test_a_plain_directory_in_old_goes_with_the_subvolumes_in_it(btrfs_top: int, file: Path) -> None:
    with files.opened(files.open_beneath(btrfs_top, "@agents-old")) as old:
        os.mkdir(olds.key(3), dir_fd=old)
        with files.opened(files.open_beneath(old, olds.key(3))) as home:
            for number in range(40):
                os.mkdir(f"d{number}", dir_fd=home)
            with files.opened(olds.deep(home, 1500)) as inner, files.opened(btrfs.create(inner, "s")) as outer:
                with files.opened(btrfs.create(outer, "t")) as inside:
                    files.write_beneath(inside, "f", b"x")
                btrfs.set_read_only(outer, True)
    olds.put(btrfs_top, olds.key(2))
    before = olds.subvolume_count(btrfs_top)
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [olds.key(2)]
    assert olds.subvolume_count(btrfs_top) == before - 2


@pytest.mark.parametrize("wrong", ["link", "file", "subvolume", "not root's", "anybody's"])
def test_an_old_that_is_not_a_directory_of_roots_is_refused(
    btrfs_top: int, file: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rmdir("@agents-old", dir_fd=btrfs_top)
    os.mkdir("elsewhere", dir_fd=btrfs_top)
    with files.opened(files.open_beneath(btrfs_top, "elsewhere")) as elsewhere:
        os.close(btrfs.create(elsewhere, olds.key(2)))
        os.close(btrfs.create(elsewhere, olds.key(1)))
    match wrong:
        case "link":
            os.symlink("elsewhere", "@agents-old", dir_fd=btrfs_top)
        case "file":
            files.write_beneath(btrfs_top, "@agents-old", b"x")
        case "subvolume":
            os.close(btrfs.create(btrfs_top, "@agents-old"))
        case _:
            os.rename("elsewhere", "@agents-old", src_dir_fd=btrfs_top, dst_dir_fd=btrfs_top)
            with files.opened(files.open_beneath(btrfs_top, "@agents-old")) as old:
                os.fchown(old, 41100 if wrong == "not root's" else 0, 0)
                os.fchmod(old, 0o700 if wrong == "not root's" else 0o777)
    before = olds.subvolume_count(btrfs_top)
    assert olds.tidy(file) == 1
    said = capsys.readouterr().err
    assert "error: " in said
    assert "hint: " in said
    assert olds.subvolume_count(btrfs_top) == before


def test_a_half_deleted_home_is_no_home_and_the_next_run_finishes_it(btrfs_top: int, file: Path) -> None:
    olds.put(btrfs_top, f".deleting-{olds.key(1)}", olds.key(2))
    town = spec.load(file)
    with files.opened(files.open_beneath(btrfs_top, "@agents-old")) as old:
        for name in (f".deleting-{olds.key(1)}", olds.key(2)):
            with files.opened(files.open_beneath(old, name)) as home:
                os.close(btrfs.create(home, "ada"))
    assert [str(home.name) for home in kept.every(town, btrfs_top, None)] == [f"ada@{olds.key(2)}"]
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [olds.key(2)]


def test_two_at_once_are_refused_and_a_rollback_is_not_kept_from_its_lock(
    btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from persist import tidy

    olds.put(btrfs_top, olds.key(2), olds.key(1))
    with rollback.alone(tidy.LOCK):
        assert olds.tidy(file) == 75
        assert "another persist tidy is running" in capsys.readouterr().err
        assert not rollback.is_running()
        with rollback.alone():  # a rollback beside a tidy
            assert rollback.is_running()
        assert not rollback.is_running()
    assert len(olds.names(btrfs_top)) == 2


def test_a_tidy_waits_for_a_rollback_that_runs(
    btrfs_top: int, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    olds.put(btrfs_top, olds.key(2), olds.key(1))
    monkeypatch.setattr(room, "LONG", 0.3)
    with rollback.alone():
        assert olds.tidy(file) == 1
        assert "a rollback is running" in capsys.readouterr().err
        assert [name.removeprefix(".deleting-") for name in olds.names(btrfs_top)] == [olds.key(2), olds.key(1)]
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [olds.key(1)]


def test_one_home_that_cannot_be_deleted_stops_no_other(
    btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    olds.put(btrfs_top, olds.key(3), olds.key(2), olds.key(1))
    with (
        files.opened(files.open_beneath(btrfs_top, "@agents-old")) as old,
        files.opened(files.open_beneath(old, olds.key(3))) as home,
    ):
        flags = 0x40086602  # FS_IOC_SETFLAGS; 0x10 is FS_IMMUTABLE_FL
        fcntl.ioctl(home, flags, (0x10).to_bytes(8, "little"))
        try:
            assert olds.tidy(file) == 1
            assert olds.names(btrfs_top) == sorted([olds.key(3), olds.key(1)])
            assert f"{olds.key(3)}: cannot be deleted: Operation not permitted" in capsys.readouterr().err
        finally:
            fcntl.ioctl(home, flags, bytes(8))
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [olds.key(1)]


def test_without_btrfs_and_old_homes_there_is_nothing_to_tidy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "town.toml"
    (tmp_path / "agents").mkdir(mode=0o755)
    file.write_text(f'[town]\nagents_dir = "{tmp_path}/agents"\n[agents.ada]\nuid = 41100\n')
    assert olds.tidy(file) == 0
    assert "nothing to do" in capsys.readouterr().out
