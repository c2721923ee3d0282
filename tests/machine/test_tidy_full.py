"""`persist tidy` when the filesystem is full: it deletes what it may without room, and makes the ballast again."""

import os
from pathlib import Path

import pytest

from tests.machine import olds
from town import btrfs, files, space

pytestmark = pytest.mark.root
KEPT = 'homes = 9, days = 999, free = "0%"'


@pytest.fixture
def file(btrfs_device: str, btrfs_top: int, tmp_path: Path) -> Path:
    """A spec that keeps nine homes, and no ballast."""
    made = tmp_path / "town.toml"
    olds.write_spec(made, btrfs_device, KEPT)
    olds.lay_out(btrfs_top)
    return made


def add_and_fill(top: int, full: int) -> list[str]:
    """Four old homes, oldest first; the one at `full` takes all the metadata that there is, and data is full."""
    names = [olds.key(days) for days in (4, 3, 2, 1)]
    for name in names:
        with files.opened(olds.add(top, name)) as home, files.opened(btrfs.create(home, "ada")) as nested:
            os.close(btrfs.create(nested, "inner"))
            btrfs.set_read_only(nested, True)
    with (
        files.opened(files.open_beneath(top, "@agents-old")) as old,
        files.opened(files.open_beneath(old, names[full])) as home,
        files.opened(files.open_beneath(top, "@agents")) as agents,
    ):
        olds.fill_metadata(home, 40 << 20)
        olds.fill_data(agents)
        olds.fill_metadata(home)
    with pytest.raises(OSError, match="No space left"):
        os.mkdir("one more", dir_fd=top)
    return names


def test_for_the_ballast_the_oldest_homes_give_way_and_no_more_than_needed(
    btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = add_and_fill(btrfs_top, 1)
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == sorted(names[2:])
    assert capsys.readouterr().out.splitlines() == [
        f"deleted   {names[0]}: the ballast had no room",
        f"deleted   {names[1]}: the ballast had no room",
        "made      @agents-ballast",
    ]
    btrfs.commit(btrfs_top)
    assert space.of(btrfs_top).metadata.used > 16 << 20
    assert b"@agents-ballast" in files.names(btrfs_top)


def test_the_newest_never_gives_way_and_then_the_cure_is_said(
    btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = add_and_fill(btrfs_top, 3)
    assert olds.tidy(file) == 1
    said = capsys.readouterr().err
    assert "error: there is no room for @agents-ballast: it needs " in said
    assert "hint: " in said
    assert olds.names(btrfs_top) == [names[3]]
    assert b"@agents-ballast.new" not in files.names(btrfs_top)


def test_a_home_that_cannot_be_renamed_for_want_of_room_is_deleted_all_the_same(
    btrfs_device: str, btrfs_top: int, file: Path
) -> None:
    names = add_and_fill(btrfs_top, 0)
    olds.write_spec(file, btrfs_device, 'homes = 1, days = 999, free = "0%"')
    with (
        files.opened(files.open_beneath(btrfs_top, "@agents-old")) as old,
        pytest.raises(OSError, match="No space left"),
    ):
        os.rename(names[0], "another", src_dir_fd=old, dst_dir_fd=old)
    assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [names[3]]
    assert olds.subvolume_count(btrfs_top) == 2 + 1 + 3  # @agents, blank, the ballast; the newest with two in it


def test_a_dry_run_says_who_would_give_way(btrfs_top: int, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = add_and_fill(btrfs_top, 1)
    assert olds.tidy(file, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "make      @agents-ballast, room for a rollback on a full disk",
        *(f"delete    {name}: if the ballast has no room otherwise" for name in names[:3]),
    ]
    assert olds.names(btrfs_top) == sorted(names)
