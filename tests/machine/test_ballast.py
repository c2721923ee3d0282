"""The ballast: made fast, as large as it says, whole or not at all, and gone in one step on a full disk."""

import os
import time
from pathlib import Path

import pytest

from persist import ballast
from persist.room import settled
from tests.machine import olds
from town import btrfs, files, kernel, process, space
from town.btrfs import BtrfsFailed
from town.spec import Btrfs

pytestmark = pytest.mark.root
NAMES = Btrfs(device="/dev/null")
NAME = "@agents-ballast"


def metadata(top: int) -> int:
    btrfs.commit(top)
    return space.of(top).metadata.used


def facts(top: int) -> tuple[int, int, int, int]:
    found = os.stat(NAME, dir_fd=top, follow_symlinks=False)
    return found.st_ino, found.st_uid, found.st_gid, found.st_mode & 0o7777


def test_it_is_a_subvolume_of_roots_with_some_16_mib_of_metadata(btrfs_top: int) -> None:
    before = metadata(btrfs_top)
    assert ballast.missing(btrfs_top, NAMES)
    umask = os.umask(0)
    try:
        ballast.make(btrfs_top, NAMES)
    finally:
        assert os.umask(umask) == 0
    assert not ballast.missing(btrfs_top, NAMES)
    assert facts(btrfs_top) == (256, 0, 0, 0o700)
    assert 16 << 20 <= metadata(btrfs_top) - before <= 17 << 20
    assert files.names(btrfs_top) == [NAME.encode()]


def test_compression_does_not_shrink_it(btrfs_device: str, tmp_path: Path) -> None:
    kernel.mount(btrfs_device, str(tmp_path), "btrfs", 0, "compress-force=zstd,max_inline=0")
    try:
        with files.opened(files.open_dir(tmp_path)) as top:
            before = metadata(top)
            ballast.make(top, NAMES)
            assert metadata(top) - before >= 16 << 20
    finally:
        kernel.umount(str(tmp_path))


def test_one_that_was_cut_off_is_cleared_and_made_anew(btrfs_top: int) -> None:
    os.close(btrfs.create(btrfs_top, f"{NAME}.new"))
    assert ballast.missing(btrfs_top, NAMES)
    ballast.make(btrfs_top, NAMES)
    assert files.names(btrfs_top) == [NAME.encode()]
    assert metadata(btrfs_top) > 16 << 20


def test_what_has_its_name_is_not_replaced(btrfs_top: int) -> None:
    os.mkdir(NAME, dir_fd=btrfs_top)
    assert not ballast.missing(btrfs_top, NAMES)
    with pytest.raises(BtrfsFailed, match="File exists"):
        ballast.make(btrfs_top, NAMES)
    assert files.names(btrfs_top) == [NAME.encode()]
    assert facts(btrfs_top)[0] != 256


@pytest.mark.parametrize("believed", [False, True])
def test_without_room_nothing_of_it_is_left(btrfs_top: int, believed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with files.opened(btrfs.create(btrfs_top, "full")) as full:
        olds.fill_data(full)
        olds.fill_metadata(full)
    if believed:  # the filesystem's numbers said that there is room
        monkeypatch.setattr(ballast, "fits", lambda _: True)
    with pytest.raises(ballast.NoRoom) as caught:
        ballast.make(btrfs_top, NAMES)
    assert "no room for @agents-ballast" in caught.value.what
    assert "persist tidy" in caught.value.hint
    assert files.names(btrfs_top) == [b"full"]


def test_it_does_not_try_to_take_the_last_room(btrfs_top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with files.opened(btrfs.create(btrfs_top, "full")) as full:
        olds.fill_data(full)
        while space.of(btrfs_top).metadata.room > 23 << 20:
            olds.fill_metadata(full, 1 << 20)
    monkeypatch.setattr(ballast, "_filled", None)
    with pytest.raises(ballast.NoRoom):
        ballast.make(btrfs_top, NAMES)


def test_the_hooks_own_program_destroys_it_when_metadata_is_full_and_then_a_rename_works(
    btrfs_top: int, btrfs_dir: Path
) -> None:
    ballast.make(btrfs_top, NAMES)
    os.mkdir("old", dir_fd=btrfs_top)
    with files.opened(btrfs.create(btrfs_top, "home")) as home:
        olds.fill_data(home)
        olds.fill_metadata(home)
    with pytest.raises(OSError, match="No space left"):
        os.rename("home", "old/home", src_dir_fd=btrfs_top, dst_dir_fd=btrfs_top)
    process.run(["btrfs", "subvolume", "delete", btrfs_dir / NAME])
    olds.wait_freed(btrfs_top)
    os.rename("home", "old/home", src_dir_fd=btrfs_top, dst_dir_fd=btrfs_top)


def _left(top: int, room: int) -> None:
    """Fill the metadata until about `room` bytes of it are left."""
    other = NAMES._replace(subvolume="@other")
    for names in (NAMES, other):  # they take the chunks before data does
        ballast.make(top, names)
    with files.opened(btrfs.create(top, "full")) as full:
        olds.fill_data(full)
        btrfs.delete(top, NAME)
        btrfs.delete(top, other.ballast)
        assert settled(top)
        for number in range(10_000):
            if number % 32 == 0:
                btrfs.commit(top)
                if space.of(top).metadata.room <= room:
                    return
            with files.opened(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=full)) as fd:
                os.setxattr(fd, "user.x", os.urandom(15000))


def test_in_a_pinch_it_is_as_large_as_there_is_room_for_and_later_replaced(btrfs_top: int) -> None:
    _left(btrfs_top, 14 << 20)
    with pytest.raises(ballast.NoRoom):
        ballast.make(btrfs_top, NAMES)
    before = metadata(btrfs_top)
    ballast.make(btrfs_top, NAMES, tight=True)
    assert 4 << 20 <= metadata(btrfs_top) - before <= 12 << 20
    assert not ballast.missing(btrfs_top, NAMES)
    assert not ballast.whole(btrfs_top, NAMES)
    with pytest.raises(ballast.NoRoom):
        ballast.make(btrfs_top, NAMES)
    assert not ballast.missing(btrfs_top, NAMES)  # the small one is still there
    btrfs.delete(btrfs_top, "full")
    until = time.monotonic() + 90  # the kernel gives an empty block group of data back in its own time
    while not ballast.fits(btrfs_top) and time.monotonic() < until:
        btrfs.commit(btrfs_top)
        time.sleep(0.05)
    ballast.make(btrfs_top, NAMES)
    assert ballast.whole(btrfs_top, NAMES)
    assert files.names(btrfs_top) == [NAME.encode()]


@pytest.mark.parametrize("what", ["directory", "subvolume", "link", "file"])
def test_what_is_no_ballast_of_ours_is_nothing_to_make(btrfs_top: int, what: str) -> None:
    match what:
        case "directory":
            os.mkdir(NAME, dir_fd=btrfs_top)
        case "subvolume":
            os.close(btrfs.create(btrfs_top, NAME))
        case "link":
            os.symlink("nowhere", NAME, dir_fd=btrfs_top)
        case "file":
            files.write_beneath(btrfs_top, NAME, b"x")
    assert ballast.whole(btrfs_top, NAMES)
    before = os.stat(NAME, dir_fd=btrfs_top, follow_symlinks=False).st_ino
    with pytest.raises(BtrfsFailed, match="File exists"):
        ballast.make(btrfs_top, NAMES)
    assert os.stat(NAME, dir_fd=btrfs_top, follow_symlinks=False).st_ino == before
    assert files.names(btrfs_top) == [NAME.encode()]
