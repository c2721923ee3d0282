"""The ground on real btrfs and real mounts: snapshots, binds, descriptors that cannot be led astray."""

import os
from pathlib import Path, PurePosixPath

import pytest

from town import btrfs, files, mounts
from town.failure import Unsafe

pytestmark = pytest.mark.root


def test_a_read_only_snapshot_keeps_what_was(btrfs_top: int) -> None:
    with files.opened(btrfs.create(btrfs_top, "a")) as a:
        files.write_beneath(a, "f", b"before")
        with files.opened(btrfs.snapshot(a, btrfs_top, "s", read_only=True)) as s:
            files.write_beneath(a, "f", b"after")
            assert files.read_fd(files.open_beneath(s, "f", os.O_RDONLY), 100, "f") == b"before"
            assert btrfs.info(s).read_only
            assert btrfs.info(s).parent_uuid == btrfs.info(a).uuid
            assert btrfs.is_subvolume(s)
    btrfs.delete(btrfs_top, "s")
    btrfs.commit(btrfs_top)
    assert files.names(btrfs_top) == [b"a"]


def test_a_bind_lands_on_the_directory_that_was_opened_not_on_its_name(btrfs_dir: Path) -> None:
    for name in ("source", "target", "elsewhere"):
        (btrfs_dir / name).mkdir()
    (btrfs_dir / "source/file").write_text("x")
    with (
        files.opened(files.open_dir(btrfs_dir / "source")) as source,
        files.opened(files.open_dir(btrfs_dir / "target")) as target,
    ):
        (btrfs_dir / "target").rename(btrfs_dir / "moved")
        (btrfs_dir / "target").symlink_to("elsewhere")
        mounts.bind(source, target)
    assert os.listdir(btrfs_dir / "moved") == ["file"]
    assert os.listdir(btrfs_dir / "elsewhere") == []
    found = mounts.at(btrfs_dir / "moved")
    assert found is not None
    assert {"nosuid", "nodev"} <= found.options


def test_no_symlink_below_a_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home/link").symlink_to("../secret")
    with files.opened(files.open_dir(tmp_path / "home")) as home:
        for path in ("link", "link/x", "../secret", "/etc"):
            with pytest.raises(Unsafe):
                files.open_beneath(home, path)
        with pytest.raises(Unsafe):
            files.make_dirs(home, PurePosixPath("link/new"), mode=0o700, owner=(0, 0))
    assert os.listdir(tmp_path / "secret") == []


def test_every_made_component_belongs_to_its_owner(tmp_path: Path) -> None:
    with files.opened(files.open_dir(tmp_path)) as top:
        os.close(files.make_dirs(top, PurePosixPath("a/b/c"), mode=0o700, owner=(1100, 1100), parents=(0o711, (0, 0))))
    assert [(p.stat().st_uid, p.stat().st_mode & 0o777) for p in (tmp_path / "a", tmp_path / "a/b/c")] == [
        (0, 0o711),
        (1100, 0o700),
    ]


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    fd = files.open_dir(tmp_path)
    for _ in range(5000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with files.opened(files.open_dir(tmp_path)) as top:
        files.remove_tree(top, "d")
    assert os.listdir(tmp_path) == []
