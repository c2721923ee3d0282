"""The plan, done: one action at a time, each durable when it is said to be done, each by descriptors.

Agents may be running while their directories are taken over. Root goes down from persist_dir, and enters a directory
only by way of ones that are root's by then: below those nobody else can swap a name.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import assert_never

from persist import ballast, device, ground
from persist.entering import in_the_way
from persist.layout import directories
from persist.layout.actions import (
    CLOSED,
    PASSED_THROUGH,
    ROOT,
    Action,
    Close,
    CloseAtTop,
    LetPass,
    MakeAtTop,
    MakeBallast,
    MakeBlank,
    MakeDirectory,
    OnDisk,
    SetBlankMode,
    SetReadOnly,
    Snapshot,
    Take,
)
from town import btrfs, files
from town.failure import Failure, Unsafe
from town.spec import Spec
from town.terminal import shown

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")  # acl(5), as xattr(7) names them


class LayoutFailed(Failure):
    """The filesystem refused one step: full, read-only or damaged. What was done before stands; again goes on there."""


def apply(spec: Spec, actions: Iterable[Action]) -> Iterator[Action]:
    """Do what the plan said, durably; gives each action when it is done. Raises Failure, never OSError."""
    actions = tuple(actions)
    with ExitStack() as stack:
        top = -1
        if any(isinstance(action, OnDisk) for action in actions):
            top = stack.enter_context(device.top(spec))
        for action in actions:
            try:
                _do(spec, action, top)
            except (OSError, btrfs.BtrfsFailed) as error:
                raise _refused(action, error) from error
            yield action


def _refused(action: Action, error: OSError | btrfs.BtrfsFailed) -> LayoutFailed:
    if isinstance(error, ballast.NoRoom):
        what = f"{error.what}; without it a rollback on a full disk may have to give up kept homes"
        return LayoutFailed(what, hint=f"everything else is in its place; {error.hint}, or persist init again")
    cause = error.__cause__ if isinstance(error, btrfs.BtrfsFailed) else error
    number = cause.errno if isinstance(cause, OSError) else None
    why = error.what if isinstance(error, btrfs.BtrfsFailed) else error.strerror
    return LayoutFailed(
        f"{' '.join(str(action).split())}: {why}", hint=_HINTS.get(number or 0, _AGAIN.format("look at dmesg"))
    )


_AGAIN = "{}, then run it again: it goes on from here"
_HINTS = {
    errno.ENOSPC: _AGAIN.format("make room on that filesystem"),
    errno.EDQUOT: _AGAIN.format("make room on that filesystem"),
    errno.EROFS: _AGAIN.format("mount it writable; if it became read-only by itself, look at dmesg for a failing disk"),
}


def _do(spec: Spec, action: Action, top: int) -> None:
    match action:
        case MakeDirectory(path, mode):
            _make_directory(path, mode)
        case Take(path, owner):
            with _reached(spec, path, owner) as fd:
                _take(fd)
        case Close(path, owner):
            with _reached(spec, path, owner) as fd:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & CLOSED)
                os.fsync(fd)
        case LetPass(path):
            with _reached(spec, path, 0) as fd:
                os.fchmod(fd, PASSED_THROUGH)
                os.fsync(fd)
        case _:
            _do_on_disk(action, top)
            btrfs.commit(top)


def _do_on_disk(action: OnDisk, top: int) -> None:
    match action:
        case MakeBlank(name):
            _make_blank(top, name)
        case SetBlankMode(name):
            with files.opened(files.open_beneath(top, name)) as fd:
                _set_blank_mode(fd)
        case SetReadOnly(name):
            with files.opened(files.open_beneath(top, name)) as fd:
                btrfs.set_read_only(fd, True)
        case Snapshot(blank, name):
            with files.opened(files.open_beneath(top, blank)) as fd:
                os.close(btrfs.snapshot(fd, top, name, read_only=False))
        case MakeAtTop(name):
            os.close(files.make_dirs(top, PurePosixPath(name), mode=CLOSED, owner=ROOT))
        case CloseAtTop(name):
            with files.opened(files.enter(top, name)) as fd:
                _own(fd, CLOSED)
        case MakeBallast(names):
            ballast.make(top, names)
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


def _set_blank_mode(fd: int) -> None:
    if btrfs.info(fd).read_only:  # cut off after this, the next run makes it read-only again
        btrfs.set_read_only(fd, False)
    _own(fd, 0o755)
    btrfs.set_read_only(fd, True)


def _make_directory(path: Path, mode: int) -> None:
    with directories.root() as root:
        relative = PurePosixPath(path.relative_to("/"))
        with files.opened(files.make_dirs(root, relative, mode=mode, owner=ROOT, parents=(0o755, ROOT))) as fd:
            os.fsync(fd)


# ---- below persist_dir, where agents may be at work


def _take(fd: int) -> None:
    """Root's and closed. Whoever has it open can make or rename nothing in it from here on."""
    os.fchmod(fd, CLOSED)  # first: cut off after the chown, it would be root's and as open as the agent had it
    os.fchown(fd, *ROOT)
    for name in _ACLS:  # an entry for the agent would outlive its ownership
        with suppress(OSError):  # none there, or none possible here
            os.removexattr(fd, name)
    os.fchmod(fd, CLOSED)  # again: until the chown the agent could change it back
    os.fsync(fd)


def _own(fd: int, mode: int) -> None:
    os.fchown(fd, *ROOT)
    os.fchmod(fd, mode)


@contextmanager
def _reached(spec: Spec, path: Path, owner: int) -> Iterator[int]:
    """The directory `path` below persist_dir, open, when it is `owner`'s still or root's by now.

    Everything above it is root's alone, so its name cannot be given to another while this looks. Raises Unsafe.
    """
    assert spec.town.persist_dir is not None
    where = spec.town.persist_dir
    with directories.root() as slash:
        fd = files.open_beneath(slash, str(where.relative_to("/")))
    try:
        for name in path.relative_to(where).parts:
            ground.refuse_others(fd, where)
            where = where / name
            below = _entered(fd, where)
            os.close(fd)
            fd = below
        if os.fstat(fd).st_uid not in (owner, 0):
            raise Unsafe(
                f"{shown(str(path))} belongs to uid {os.fstat(fd).st_uid} now, and did to {owner} a moment ago",
                hint="stop the agent's processes, then run it again: it goes on from here",
            )
        yield fd
    finally:
        os.close(fd)


def _entered(parent: int, path: Path) -> int:
    try:
        return files.enter(parent, path.name)
    except (OSError, Unsafe) as error:
        raise in_the_way(path, error) from error
