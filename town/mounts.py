"""Mounts: bind one open directory onto another, see what is mounted. The names of both may change meanwhile.

A bind takes about 23 µs (open_tree, mount_setattr, move_mount) and lands on the directory that was opened.
"""

import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

from town import kernel

HARDENED = kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV
_OCTAL = rb"\\([0-7]{3})"


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5)); `root` is the directory within the filesystem."""

    id: int
    device: str  # major:minor
    root: bytes
    target: bytes
    options: frozenset[str]
    kind: str
    source: bytes
    super_options: frozenset[str]
    parent: int = 0  # id of the mount that it lies on


def bind(source: int, target: int, *, attributes: int = HARDENED, userns: int = 0) -> None:
    """Make the directory that `source` has open appear where `target` has one open. Raises OSError.

    `userns`: a user namespace (`town.idmap`) that says who the owners of what lies in it appear to be.
    """
    os.close(placed(source, target, attributes=attributes, userns=userns))


def placed(source: int, target: int, *, attributes: int = HARDENED, userns: int = 0) -> int:
    """`bind`, and a descriptor of the new mount: what `detach` takes back wherever its directory was moved to."""
    tree = kernel.open_tree(source)
    try:
        kernel.mount_setattr(tree, add=attributes | (kernel.MOUNT_IDMAP if userns else 0), userns=userns)
        kernel.move_mount(tree, target)
    except BaseException:
        os.close(tree)
        raise
    return tree


def detach(mount: int) -> None:
    """Unmount the mount whose root `mount` has open, by the descriptor and not by any name. Raises OSError."""
    kernel.umount(f"/proc/self/fd/{mount}", kernel.MNT_DETACH)


def attach(detached: int, target: int) -> None:
    """Give a mount from `kernel.mount_detached` or `kernel.open_tree` its place. Raises OSError."""
    kernel.move_mount(detached, target)


def mount_id(fd: int) -> int:
    """The id of the mount that a descriptor was opened through (proc_pid_fdinfo(5))."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_bytes().splitlines():
        if line.startswith(b"mnt_id:"):
            return int(line.split()[1])
    raise AssertionError("the kernel gives every descriptor a mnt_id")


def table(process: int | str = "self") -> list[Mount]:
    """Every mount that this process, or another, sees, in the order of mounting."""
    return [_parsed(line) for line in _lines(process)]


def of(fd: int) -> Mount:
    """The mount that a descriptor was opened through."""
    prefix = b"%d " % mount_id(fd)
    for line in _lines():
        if line.startswith(prefix):
            return _parsed(line)
    raise OSError(errno.ENOENT, "its mount is not one of this mount namespace")


def device_of(directory: int) -> str:
    """The number of the filesystem that an open directory lies on, as `Mount.device` has it. Raises OSError.

    For a mount that no path leads to, which has no line in mountinfo, and for btrfs, where st_dev is the subvolume's
    and a source names one of several devices. The kernel tells it of a watch (sdev in proc_pid_fdinfo(5)).
    """
    watching = kernel.watch(directory)
    try:
        told = Path(f"/proc/self/fdinfo/{watching}").read_text()
    finally:
        os.close(watching)
    found = re.search(r"^inotify .*\bsdev:([0-9a-f]+)", told, re.MULTILINE)
    assert found is not None, "there is one watch"
    number = int(found[1], 16)
    return f"{number >> 20}:{number & 0xFFFFF}"  # MAJOR and MINOR, include/linux/kdev_t.h


def kinds() -> dict[int, str]:
    """The filesystem type of every mount by its id: the part of `table` that is cheap where there are thousands."""
    return {
        int(line.split(b" ", 1)[0]): line.partition(b" - ")[2].split(b" ", 1)[0].decode("utf-8", "surrogateescape")
        for line in _lines()
    }


def at(path: Path) -> Mount | None:
    """The topmost mount whose target is exactly `path`, or None."""
    wanted = os.fsencode(path)
    return next((mount for mount in reversed(table()) if mount.target == wanted), None)


def holding(path: Path) -> Mount | None:
    """The mount that a path lies in, by its name alone: nothing is opened."""
    parts = Path(os.path.realpath(path)).parts
    within = [mount for mount in table() if Path(os.fsdecode(mount.target)).parts == parts[: _depth(mount)]]
    return max(enumerate(within), key=lambda found: (_depth(found[1]), found[0]), default=(0, None))[1]


def _depth(mount: Mount) -> int:
    return len(Path(os.fsdecode(mount.target)).parts)


def below(path: Path) -> list[Mount]:
    """Mounts strictly below `path`, deepest and latest first: the order to unmount them in."""
    prefix = os.fsencode(path).rstrip(b"/") + b"/"
    return [mount for mount in reversed(table()) if mount.target.startswith(prefix)]


def _lines(process: int | str = "self") -> list[bytes]:
    # Not splitlines: the kernel escapes newlines in names and leaves carriage returns, which agents may use.
    return Path(f"/proc/{process}/mountinfo").read_bytes().rstrip(b"\n").split(b"\n")


def _parsed(line: bytes) -> Mount:
    left, _, right = line.partition(b" - ")
    number, parent, device, root, target, options, *_ = left.split(b" ")
    kind, source, super_options = right.split(b" ")[:3]
    return Mount(
        int(number), device.decode(), _plain(root), _plain(target), _set(options), os.fsdecode(kind), _plain(source),
        _set(super_options), int(parent),
    )  # fmt: skip


def _set(options: bytes) -> frozenset[str]:
    return frozenset(os.fsdecode(options).split(","))


def _plain(field: bytes) -> bytes:
    return field if b"\\" not in field else re.sub(_OCTAL, lambda match: bytes([int(match[1], 8)]), field)
