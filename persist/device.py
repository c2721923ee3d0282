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
_BLOCK = Path("/sys/dev/block")  # MAJOR:MINOR/slaves/NAME/dev: sysfs-block in the kernel's Documentation/ABI
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
    return _only(tag, devices)


def _only(tag: str, devices: list[str]) -> str:
    """One of the devices of one filesystem. Raises DeviceAmbiguous when they are more than that.

    Each device of a btrfs has a UUID of its own (UUID_SUB) besides the filesystem's; a copy of a whole disk has both.
    """
    apart = devices if len(devices) == 1 else _uppermost(devices)
    if len(apart) == 1:
        return apart[0]
    filesystems = {_tagged(device, "UUID") for device in apart}
    named = ", ".join(map(shown, apart))
    if len(filesystems) > 1:
        raise DeviceAmbiguous(
            f"{shown(tag)} is the name of more than one filesystem: {named}",
            hint="name it by UUID in [town.btrfs] device; blkid shows the UUIDs",
        )
    if len({_tagged(device, "UUID_SUB") for device in apart}) < len(apart):
        raise DeviceAmbiguous(
            f"{shown(tag)} is the name of a filesystem and of a copy of it, with one UUID for both: {named}",
            hint="detach the copy; or, while it is not mounted, give it a UUID of its own: btrfstune -u DEVICE",
        )
    return apart[0]


def _uppermost(devices: list[str]) -> list[str]:
    """Without those that another one is made of: the paths below a multipath device, or what a mapping lies on."""
    below = {number for device in devices for number in _made_of(_number(device))}
    return [device for device in devices if _number(device) not in below]


def _made_of(device: str) -> Iterator[str]:
    """The major:minor of every block device below this one, however deep."""
    try:
        slaves = list((_BLOCK / device / "slaves").iterdir())
    except FileNotFoundError:  # a partition has no such directory
        return
    for slave in slaves:
        number = (slave / "dev").read_text().strip()
        yield number
        yield from _made_of(number)


def _number(device: str) -> str:
    found = os.stat(device).st_rdev
    return f"{os.major(found)}:{os.minor(found)}"


def _tagged(device: str, tag: str) -> bytes:
    return process.run(["blkid", "-p", "-s", tag, "-o", "value", device]).out.strip()


_LOOK = "lsblk -f shows what is there; correct device under [town.btrfs], or unlock and attach the disk"
