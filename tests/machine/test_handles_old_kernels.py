"""Directories by their numbers where the kernel wants the generation too: Linux before 6.2, as in Debian 12."""

import errno
import os
import struct

import pytest

from town import btrfs, files, kernel, subvolumes

pytestmark = pytest.mark.root
_REAL = kernel.open_by_handle_at


def before_6_2(mount: int, handle: bytes, flags: int) -> int:
    """The check of btrfs_get_dentry as it was: 0 is no generation. Any other this kernel compares itself."""
    if struct.unpack("=IiQQI", handle)[4] == 0:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return _REAL(mount, handle, flags)


@pytest.fixture
def home(btrfs_top: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """A subvolume `home` with a directory `deep` that was made after it, and its snapshot `copy`: its number."""
    with files.opened(btrfs.create(btrfs_top, "home")) as made:
        btrfs.commit(btrfs_top)
        os.mkdir("deep", dir_fd=made)
        os.mkdir("deep/here", dir_fd=made)
        os.close(btrfs.snapshot(made, btrfs_top, "copy", read_only=True))
        number = btrfs.number(made)
    monkeypatch.setattr(kernel, "open_by_handle_at", before_6_2)
    return number


@pytest.mark.parametrize("name", ["home", "copy"])
def test_a_directory_is_found_by_its_numbers(btrfs_top: int, home: int, name: str) -> None:
    with files.opened(files.open_beneath(btrfs_top, name)) as root:
        number, inode = btrfs.number(root), os.stat("deep", dir_fd=root).st_ino
        with files.opened(subvolumes.opened_inode(btrfs_top, number, inode)) as deep:
            assert files.names(deep) == [b"here"]
        with files.opened(subvolumes.opened_root(btrfs_top, number)) as again:
            assert os.fstat(again).st_ino == os.fstat(root).st_ino
            assert os.fstat(again).st_dev == os.fstat(root).st_dev


def test_what_is_gone_is_stale(btrfs_top: int, home: int) -> None:
    with files.opened(files.open_beneath(btrfs_top, "home")) as root:
        inode = os.stat("deep", dir_fd=root).st_ino
        files.remove_tree(root, "deep")
        btrfs.commit(btrfs_top)
    for number in (home, 99_999):
        with pytest.raises(OSError, match="Stale") as refused:
            subvolumes.opened_inode(btrfs_top, number, inode)
        assert refused.value.errno == errno.ESTALE
