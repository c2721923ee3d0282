"""The block device of the town's filesystem: from the words of the spec to a path, and to an open top level.

Two filesystems that answer to one label are refused: the wrong one would be rolled back, or read.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from town import btrfs, mounts, process
from town.failure import BAD_CONFIG, Failure, TryLater
from town.spec import Spec
from town.terminal import shell_word, shown

_PAUSE = 0.25  # seconds between two looks for a device
_NOTHING_FOUND = 2  # blkid(8): no device has the tag


class NoBtrfs(Failure):
    """The town has no [town.btrfs], and what was asked for needs it. Trying again does not help."""

    status = BAD_CONFIG


class DeviceMissing(TryLater):
    """The device that the spec names is not there. Trying again may help: disks appear late."""


class DeviceAmbiguous(Failure):
    """More than one filesystem answers to the name in the spec."""


def resolve(device: str) -> str:
    """The path of the block device that `UUID=…`, `LABEL=…` or an absolute path names.

    A filesystem on several devices gives one of them, which is all that mount(2) needs once the kernel has scanned
    the others. Raises DeviceMissing, DeviceAmbiguous or ToolMissing (blkid).
    """
    return _by_path(device) if device.startswith("/") else _by_tag(device)


def awaited(device: str, seconds: float) -> str:
    """`resolve`, tried again for so many seconds while the device is not there. Raises what `resolve` raises."""
    until = time.monotonic() + seconds
    while True:
        try:
            return resolve(device)
        except DeviceMissing:
            left = until - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(_PAUSE, left))


def of_mount(path: Path) -> str | None:
    """The device of the btrfs that is mounted at exactly `path`; None when there is none or it is no btrfs."""
    found = mounts.at(path)
    return None if found is None or found.kind != "btrfs" else os.fsdecode(found.source)


@contextmanager
def top(spec: Spec) -> Iterator[int]:
    """The top level of the town's filesystem as a descriptor; no path leads to it and it ends with the block.

    Raises NoBtrfs, DeviceMissing, DeviceAmbiguous, or btrfs.BtrfsFailed when the device holds something else.
    """
    if spec.town.btrfs is None:
        raise NoBtrfs(
            f"{shown(str(spec.file))} has no [town.btrfs], so there is no filesystem to look at",
            hint="add [town.btrfs] with device = … where @agents lies on btrfs",
        )
    path = resolve(spec.town.btrfs.device)
    with ExitStack() as stack:
        try:
            fd = stack.enter_context(btrfs.top_level(path))
        except btrfs.BtrfsFailed as failure:
            raise _not_mounted(path, failure) from failure.__cause__
        yield fd


def _not_mounted(path: str, failure: btrfs.BtrfsFailed) -> btrfs.BtrfsFailed:
    """What keeps the device from being mounted, with the cure where the kernel's word is known."""
    number = failure.__cause__.errno if isinstance(failure.__cause__, OSError) else None
    word = shell_word(path)
    what, hint = {
        errno.EINVAL: (
            "it is no btrfs, or a damaged one",
            f"lsblk -f {word} shows what it holds; correct [town.btrfs]",
        ),
        errno.EACCES: ("the device is read-only", f"blockdev --getro {word}; is the disk write-protected, or failing?"),
        errno.ENOENT: ("devices of it are missing", "attach them all, then: btrfs device scan"),
    }.get(number or 0, (failure.what, "look at dmesg"))
    return btrfs.BtrfsFailed(f"{shown(path)} cannot be mounted: {what}", hint=hint)


def _by_path(path: str) -> str:
    try:
        found = os.stat(path)  # follows: /dev/disk/by-* and /dev/mapper are links, and only root makes them
    except OSError as error:
        raise DeviceMissing(f"the device {shown(path)} is not there: {error.strerror}", hint=_LOOK) from error
    if not stat.S_ISBLK(found.st_mode):
        raise DeviceMissing(f"{shown(path)} is not a block device", hint=_LOOK)
    return os.path.realpath(path)


def _by_tag(tag: str) -> str:
    # No cache: blkid's own may remember a disk that is gone. Names only: a label could forge a line of other output.
    found = process.run(["blkid", "-c", "/dev/null", "-o", "device", "-t", tag], check=False)
    devices = [os.fsdecode(line) for line in found.out.splitlines()]
    if found.status == _NOTHING_FOUND or not devices:
        raise DeviceMissing(f"no filesystem on this machine has {shown(tag)}", hint=_LOOK)
    if len(devices) > 1 and len({_uuid(device) for device in devices}) > 1:
        named = ", ".join(map(shown, devices))
        raise DeviceAmbiguous(
            f"{shown(tag)} is the name of more than one filesystem: {named}",
            hint="name it by UUID in [town.btrfs] device; blkid shows the UUIDs",
        )
    return devices[0]


def _uuid(device: str) -> bytes:
    """The filesystem's UUID; the devices of one btrfs share it."""
    return process.run(["blkid", "-p", "-s", "UUID", "-o", "value", device]).out.strip()


_LOOK = "lsblk -f shows what is there; correct device under [town.btrfs], or unlock and attach the disk"
