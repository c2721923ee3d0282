"""What the top level of the town's filesystem has, and what it lacks."""

import os
import stat

from persist import ballast
from persist.layout.actions import (
    ADOPTING,
    ROOT,
    CloseAtTop,
    Findings,
    MakeAtTop,
    MakeBallast,
    MakeBlank,
    SetBlankMode,
    SetReadOnly,
    Snapshot,
)
from town import btrfs, files
from town.spec import Btrfs
from town.terminal import shell_word, shown


def look(top: int, names: Btrfs, found: Findings, *, adopt: bool) -> None:
    """Plan what is missing at the open top level; with `adopt`, correct modes of root's things and leave @agents be."""
    _blank(top, names, found, adopt=adopt)
    _homes(top, names, found, adopt=adopt)
    for name in (names.old, names.snapshots):
        _directory(top, name, found, adopt=adopt)


def ballast_last(top: int, names: Btrfs, found: Findings) -> None:
    """Plan the ballast where it is missing: after all else, for a disk that is nearly full may have no room for it."""
    if ballast.missing(top, names):
        found.actions.append(MakeBallast(names))
    elif reason := _no_ballast(top, names.ballast):
        cure = f"move {shown(names.ballast)} away: a rollback on a full disk would destroy it"
        found.wrong.append((f"{shown(names.ballast)} {reason}", cure))


def _blank(top: int, names: Btrfs, found: Findings, *, adopt: bool) -> None:
    name = names.blank
    entry = entry_of(top, name)
    if entry is None:
        found.actions.append(MakeBlank(name))
    elif not is_subvolume(entry):
        found.wrong.append((f"{shown(name)} is not a subvolume", f"move {shown(name)} away"))
    else:
        _blank_subvolume(top, names, entry, found, adopt=adopt)


def _blank_subvolume(top: int, names: Btrfs, entry: os.stat_result, found: Findings, *, adopt: bool) -> None:
    # What others own, or anything lies in, may have been an agent's: nobody but a person takes that for blank.
    name, right = names.blank, _mode(entry) == (*ROOT, 0o755)
    cure = f"find out who changed it; then: {_deleting(names)} && persist init{' --adopt' if adopt else ''}"
    with files.opened(files.open_beneath(top, name)) as fd:
        empty, read_only = not files.names(fd), btrfs.info(fd).read_only
    adoptable = entry.st_uid == 0 and empty
    if not right and not (adopt and adoptable):
        first = f"{ADOPTING}; else " if adoptable else ""
        found.wrong.append((f"{shown(name)} is not root:root 0755", f"{first}{cure}"))
    elif not empty:
        found.wrong.append((f"{shown(name)} is not empty", cure))
    else:
        _blank_empty(name, entry, found, right=right, read_only=read_only)


def _deleting(names: Btrfs) -> str:
    """The commands that delete the blank subvolume, which no path leads to."""
    path = shell_word(f"/mnt/{names.blank}")
    return f"mount -o subvolid=5 {shell_word(names.device)} /mnt && btrfs subvolume delete {path} && umount /mnt"


def _blank_empty(name: str, entry: os.stat_result, found: Findings, *, right: bool, read_only: bool) -> None:
    if not right:
        found.actions.append(SetBlankMode(name, stat.S_IMODE(entry.st_mode)))
    elif not read_only:
        found.actions.append(SetReadOnly(name))
    if not read_only:
        what = f"{shown(name)} is empty but writable: so far nothing kept things out of it"
        found.warnings.append((what, "nothing to do: init makes it read-only"))


def _homes(top: int, names: Btrfs, found: Findings, *, adopt: bool) -> None:
    name = names.subvolume
    if (entry := entry_of(top, name)) is None:
        found.actions.append(Snapshot(names.blank, name))
    elif adopt:
        return  # whatever it is, the next rollback sets it aside whole: `aside` says so
    elif not is_subvolume(entry):
        cure = f"{ADOPTING}: it leaves that as it is, and the next rollback sets it aside"
        found.wrong.append((f"{shown(name)} is not a subvolume", cure))
    elif _mode(entry) != (*ROOT, 0o755):
        cure = f"{ADOPTING}: the next rollback sets it aside; else chown 0:0 and chmod 0755 it, after a look"
        found.wrong.append((f"{shown(name)} is not root:root 0755", cure))


def _directory(top: int, name: str, found: Findings, *, adopt: bool) -> None:
    if (entry := entry_of(top, name)) is None:
        found.actions.append(MakeAtTop(name))
    elif not stat.S_ISDIR(entry.st_mode) or entry.st_ino == btrfs.FIRST_INODE:
        found.wrong.append((f"{shown(name)} is not a plain directory", f"move {shown(name)} away"))
    elif _mode(entry) != (*ROOT, 0o700):
        if adopt and entry.st_uid == 0:
            found.actions.append(CloseAtTop(name, stat.S_IMODE(entry.st_mode)))
            return
        first = "" if adopt or entry.st_uid != 0 else f"{ADOPTING}; else "
        cure = f"{first}chown 0:0 and chmod 0700 {shown(name)}, after a look"
        found.wrong.append((f"{shown(name)} is not root:root 0700", cure))


def _no_ballast(top: int, name: str) -> str:
    """Why what stands there must not be destroyed; empty for a ballast."""
    entry = entry_of(top, name)
    if entry is None or not is_subvolume(entry):
        return "is not a subvolume"
    if entry.st_uid != 0:
        return f"belongs to uid {entry.st_uid}"
    with files.opened(files.open_beneath(top, name)) as fd:
        return "holds files" if files.names(fd) else ""


def entry_of(top: int, name: str) -> os.stat_result | None:
    """What stands at a name of the top level; None when it is free."""
    try:
        return os.stat(name, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_subvolume(entry: os.stat_result) -> bool:
    """Whether it is the root directory of a subvolume."""
    return stat.S_ISDIR(entry.st_mode) and entry.st_ino == btrfs.FIRST_INODE


def _mode(entry: os.stat_result) -> tuple[int, int, int]:
    return entry.st_uid, entry.st_gid, stat.S_IMODE(entry.st_mode)
