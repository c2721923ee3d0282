"""What every suite shares. Real filesystems, real uids: `make test` runs as root and says so when it does not."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import loopback
from tests.store.servers import given, moto, rclone
from town import btrfs, kernel, process

__all__ = ["given", "moto", "rclone"]  # fixtures of every suite


def pytest_configure() -> None:
    """Every worker has mounts and a /run of its own: no test sees another's, and none outlives the run."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background: tests send Ctrl-C to their children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.geteuid() == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", "/run", "tmpfs", kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV, "mode=0755")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root, tests that need it fail at their start with the reason; they are never quietly left out."""
    for item in items:
        if "root" in item.keywords and os.geteuid() != 0:
            item.add_marker(pytest.mark.usefixtures("needs_root"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests count (record_property), added up over all of them."""
    sums: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties if report.when == "call" else ():
            sums[name] += int(value)
    for name, value in sums.items():
        terminalreporter.write_line(f"counted: {value} {name}")


@pytest.fixture
def needs_root() -> None:
    """Fail, not skip: a suite that passed without its real mounts would say nothing."""
    if os.geteuid() != 0:
        pytest.fail("this test needs root (real mounts and uids): run `sudo make test`, or deselect with -m 'not root'")


@pytest.fixture
def btrfs_image(tmp_path: Path, needs_root: None) -> Path:
    """A fresh btrfs filesystem of 256 MiB in a sparse file."""
    image = tmp_path / "btrfs.img"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    process.run(["mkfs.btrfs", "--quiet", "--metadata", "single", image])
    return image


@pytest.fixture
def btrfs_device(btrfs_image: Path) -> Iterator[str]:
    """That filesystem on a loop device."""
    with loopback.attached(btrfs_image) as device:
        yield device


@pytest.fixture
def btrfs_top(btrfs_device: str) -> Iterator[int]:
    """The top level of that filesystem: a descriptor, no path."""
    with btrfs.top_level(btrfs_device) as fd:
        yield fd


@pytest.fixture
def btrfs_dir(btrfs_device: str, tmp_path: Path) -> Iterator[Path]:
    """The top level of that filesystem, mounted at a path."""
    target = tmp_path / "top"
    target.mkdir()
    kernel.mount(btrfs_device, str(target), "btrfs", kernel.MOUNT_NOSUID, "subvolid=5")
    try:
        yield target
    finally:
        kernel.umount(str(target), kernel.MNT_DETACH)
