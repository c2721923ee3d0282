"""What a town needs on its disks before the first boot: subvolumes and root's directories, planned, then made.

Nothing that is there is changed: it is as it should be, or the plan is refused with the cure. The one exception is a
blank subvolume that is empty but writable, which is made read-only. docs/formats/disk.md says what each part is for.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import assert_never

from persist import device
from town import btrfs, files
from town.failure import Failure, Unsafe
from town.spec import Btrfs, Spec
from town.terminal import shell_word, shown

ROOT = (0, 0)
OTHERS_WRITE, OTHERS_ENTER, OTHERS_ALL = 0o022, 0o011, 0o077


class NotAsItShouldBe(Failure):
    """Something stands where the layout belongs, and is something else. A person decides what becomes of it."""


@dataclass(frozen=True, slots=True)
class MakeBlank:
    """Make the empty subvolume that every boot starts from."""

    name: str

    def __str__(self) -> str:
        return f"make      {shown(self.name)}, a subvolume, empty, root:root 0755, read-only"


@dataclass(frozen=True, slots=True)
class SetReadOnly:
    """Make the blank subvolume read-only: it is empty, and should stay so."""

    name: str

    def __str__(self) -> str:
        return f"set       {shown(self.name)} read-only"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Make the subvolume that holds the homes, as a snapshot of blank."""

    blank: str
    name: str

    def __str__(self) -> str:
        return f"snapshot  {shown(self.blank)} as {shown(self.name)}"


@dataclass(frozen=True, slots=True)
class MakeAtTop:
    """Make a directory of root's alone at the top level of the town's filesystem."""

    name: str

    def __str__(self) -> str:
        return f"make      {shown(self.name)}, a directory at the top level, root:root 0700"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a directory of root's on this machine; parents that are missing get root and 0755."""

    path: Path
    mode: int

    def __str__(self) -> str:
        return f"make      {shown(str(self.path))}, a directory, root:root {self.mode:04o}"


OnDisk = MakeBlank | SetReadOnly | Snapshot | MakeAtTop
Action = OnDisk | MakeDirectory


@dataclass(slots=True)
class _Findings:
    """What is missing, and what stands in the way: (what, cure)."""

    actions: list[Action] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)


def plan(spec: Spec) -> tuple[Action, ...]:
    """What is missing, in the order of making. Changes nothing.

    Raises NotAsItShouldBe with everything that stands in the way, or what `device.top` raises.
    """
    found = _Findings()
    if spec.town.btrfs is not None:
        with device.top(spec) as top:
            _plan_top(top, spec.town.btrfs, found)
    _plan_directories(spec, found)
    if found.wrong:
        raise NotAsItShouldBe(
            "; ".join(what for what, _ in found.wrong), hint="; ".join(cure for _, cure in found.wrong)
        )
    return tuple(found.actions)


def apply(spec: Spec, actions: tuple[Action, ...]) -> Iterator[Action]:
    """Do what `plan` said, durably; gives each action when it is done. Raises Failure or OSError."""
    on_disk = [action for action in actions if not isinstance(action, MakeDirectory)]
    if on_disk:
        with device.top(spec) as top:
            for action in on_disk:
                _do(action, top)
                yield action
            btrfs.commit(top)
    for directory in (action for action in actions if isinstance(action, MakeDirectory)):
        _make_directory(directory.path, directory.mode)
        yield directory


def _do(action: OnDisk, top: int) -> None:
    match action:
        case MakeBlank(name):
            _make_blank(top, name)
        case SetReadOnly(name):
            with files.opened(files.open_beneath(top, name)) as fd:
                btrfs.set_read_only(fd, True)
        case Snapshot(blank, name):
            with files.opened(files.open_beneath(top, blank)) as fd:
                os.close(btrfs.snapshot(fd, top, name, read_only=False))
        case MakeAtTop(name):
            os.close(files.make_dirs(top, PurePosixPath(name), mode=0o700, owner=ROOT))
        case _:
            assert_never(action)


def _make_blank(top: int, name: str) -> None:
    before = os.umask(0o022)  # from its first moment on 0755: cut off here, the next run finds it as it should be
    try:
        fd = btrfs.create(top, name)
    finally:
        os.umask(before)
    with files.opened(fd):
        btrfs.set_read_only(fd, True)


def _make_directory(path: Path, mode: int) -> None:
    with _root() as root:
        relative = PurePosixPath(path.relative_to("/"))
        with files.opened(files.make_dirs(root, relative, mode=mode, owner=ROOT, parents=(0o755, ROOT))) as fd:
            os.fsync(fd)


# ---- what the filesystem of the town has


def _plan_top(top: int, town: Btrfs, found: _Findings) -> None:
    _plan_blank(top, town.blank, found)
    _plan_homes(top, town, found)
    for name in (town.old, town.snapshots):
        _plan_at_top(top, name, found)


def _plan_blank(top: int, name: str, found: _Findings) -> None:
    if (entry := _entry(top, name)) is None:
        found.actions.append(MakeBlank(name))
        return
    cure = f"find out who changed it; then delete {shown(name)} and run persist init again"
    if not _is_subvolume(entry):
        found.wrong.append((f"{shown(name)} is not a subvolume", f"move {shown(name)} away"))
    elif _mode(entry) != (*ROOT, 0o755):
        found.wrong.append((f"{shown(name)} is not root:root 0755", cure))
    else:
        with files.opened(files.open_beneath(top, name)) as fd:
            if files.names(fd):
                found.wrong.append((f"{shown(name)} is not empty", cure))
            elif not btrfs.info(fd).read_only:
                found.actions.append(SetReadOnly(name))


def _plan_homes(top: int, town: Btrfs, found: _Findings) -> None:
    name = town.subvolume
    if (entry := _entry(top, name)) is None:
        found.actions.append(Snapshot(town.blank, name))
    elif not _is_subvolume(entry):
        cure = "run persist rollback once blank is there: it sets aside what stands there and loses nothing"
        found.wrong.append((f"{shown(name)} is not a subvolume", cure))
    elif _mode(entry) != (*ROOT, 0o755):
        found.wrong.append((f"{shown(name)} is not root:root 0755", "chown 0:0 and chmod 0755 it, after a look"))


def _plan_at_top(top: int, name: str, found: _Findings) -> None:
    if (entry := _entry(top, name)) is None:
        found.actions.append(MakeAtTop(name))
    elif not stat.S_ISDIR(entry.st_mode) or entry.st_ino == btrfs.FIRST_INODE:
        found.wrong.append((f"{shown(name)} is not a plain directory", f"move {shown(name)} away"))
    elif _mode(entry) != (*ROOT, 0o700):
        found.wrong.append(
            (f"{shown(name)} is not root:root 0700", f"chown 0:0 and chmod 0700 {shown(name)}, after a look")
        )


def _entry(top: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_subvolume(entry: os.stat_result) -> bool:
    return stat.S_ISDIR(entry.st_mode) and entry.st_ino == btrfs.FIRST_INODE


def _mode(entry: os.stat_result) -> tuple[int, int, int]:
    return entry.st_uid, entry.st_gid, stat.S_IMODE(entry.st_mode)


# ---- what this machine has


def _plan_directories(spec: Spec, found: _Findings) -> None:
    for path, mode in _directories(spec):
        _plan_directory(path, mode, found)


def _directories(spec: Spec) -> Iterator[tuple[Path, int]]:
    yield spec.town.agents_dir, 0o755
    if spec.town.persist_dir is not None:
        yield spec.town.persist_dir, 0o711
        yield spec.town.persist_dir / "agents", 0o711
    yield spec.state_dir, 0o700


def _plan_directory(path: Path, mode: int, found: _Findings) -> None:
    """A directory that is there may be stricter or more open than what init makes, as long as it keeps its promise."""
    try:
        with _root() as root, files.opened(files.open_beneath(root, str(path.relative_to("/")))) as fd:
            wrong, cure = _wrong_directory(path, mode, os.fstat(fd))
    except FileNotFoundError:
        found.actions.append(MakeDirectory(path, mode))
        return
    except NotADirectoryError:
        wrong, cure = "goes through something that is not a directory", "move it away"
    except Unsafe as error:
        wrong, cure = "goes through a symlink", error.hint
    if wrong:
        found.wrong.append((f"{shown(str(path))} {wrong}", cure))


def _wrong_directory(path: Path, mode: int, entry: os.stat_result) -> tuple[str, str]:
    word = shell_word(str(path))
    private = mode & OTHERS_ALL == 0
    if entry.st_uid != 0:
        return f"belongs to uid {entry.st_uid}, not to root", f"look whose it is; then chown 0:0 {word}"
    if entry.st_mode & (OTHERS_ALL if private else OTHERS_WRITE):
        does = "open to others" if private else "writable for others"
        return f"is {does} than root", f"chmod {mode:04o} {word}, after a look at what is in it"
    if not private and entry.st_mode & OTHERS_ENTER != OTHERS_ENTER:
        return "cannot be entered by the agents", f"chmod {mode:04o} {word}"
    return "", ""


@contextmanager
def _root() -> Iterator[int]:
    with files.opened(os.open("/", files.DIRECTORY)) as fd:
        yield fd
