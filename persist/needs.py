"""What the boot hook refuses before it changes anything, seen beforehand: the same questions, in its order and words.

The hook (initrd/rollback.sh) is the one that counts; a test holds the words of both against each other.
"""

import os
import stat

from town import btrfs, files
from town.spec import Btrfs
from town.terminal import shown

_BLANK, _OLD = (0, 0, 0o755), (0, 0, 0o700)
_CURE_OF_BLANK = (
    "find out who changed it; mount the disk with -o subvolid=5, btrfs subvolume delete it there, and run persist init"
)


def refused(top: int, names: Btrfs) -> tuple[str, str] | None:
    """What keeps the hook from beginning, and its cure; None when nothing does. `top` is the open top level."""
    return _blank(top, names.blank) or _old(top, names.old)


def blank_is_writable(top: int, names: Btrfs) -> bool:
    """Whether the hook would set the blank read-only first. There is one, as `refused` asks for it."""
    with files.opened(files.open_beneath(top, names.blank)) as fd:
        return not btrfs.info(fd).read_only


def _blank(top: int, name: str) -> tuple[str, str] | None:
    entry = _entry(top, name)
    if entry is None:
        cure = "make it anew with persist init, then reboot or run persist rollback"
        return f"the blank subvolume {shown(name)} is missing", cure
    if not stat.S_ISDIR(entry.st_mode) or entry.st_ino != btrfs.FIRST_INODE:
        return f"{shown(name)} is not a subvolume", "move it away, then run persist init"
    if _mode(entry) != _BLANK:
        return f"{shown(name)} is not root:root 0755", _CURE_OF_BLANK
    with files.opened(files.open_beneath(top, name)) as fd:
        return (f"{shown(name)} is not empty", _CURE_OF_BLANK) if files.names(fd) else None


def _old(top: int, name: str) -> tuple[str, str] | None:
    entry = _entry(top, name)
    if entry is None:
        return None
    if entry.st_ino == btrfs.FIRST_INODE:
        return f"{shown(name)} is a subvolume", f"rename it and make a plain directory: mkdir -m 0700 {shown(name)}"
    if not stat.S_ISDIR(entry.st_mode) or _mode(entry) != _OLD:
        cure = "look at it as root, then chown 0:0 and chmod 0700, or move it away"
        return f"{shown(name)} is not a directory of root:root with mode 0700", cure
    return None


def _entry(top: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _mode(entry: os.stat_result) -> tuple[int, int, int]:
    return entry.st_uid, entry.st_gid, stat.S_IMODE(entry.st_mode)
