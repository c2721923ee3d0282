"""What an agent persisted outside of its home, in a recalled copy of a snapshot or an import: at the declared paths.

It lies as `persisted` beside the copy's `home`, the copy's own: a writable snapshot, or a copy of every file where what
was kept is no subvolume. Each path is a mount of its own on that of the home, with the same attributes. What was kept
on another filesystem is shown as it lies there, read-only; only to leave something out of it, it is copied.
"""

import os
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath

from persist import nested, recopied
from persist import secrets as secrets_
from persist.kept import PERSISTED, Home, Kept, stamp
from persist.secrets import Found, Rules
from town import btrfs, files, kernel, mounts, subvolumes
from town.failure import Unsafe
from town.spec import Spec
from town.terminal import shown

_WAY, _ROOT = 0o711, (0, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """A declared directory, open. `own`: it belongs to the copy and can be written; else it is what was kept."""

    path: PurePosixPath
    fd: int
    own: bool


@dataclass(slots=True)
class Parts:
    """All of a copy. `gone`: was kept, and is not where it should be; `moved`: stood in the way, and its name now."""

    there: list[Part] = field(default_factory=list)
    gone: list[PurePosixPath] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    left: int = 0  # nested subvolumes that are not in it: see nested.fill

    @property
    def own(self) -> tuple[PurePosixPath, ...]:
        """Paths that can be written."""
        return tuple(part.path for part in self.there if part.own)

    @property
    def read_only(self) -> tuple[PurePosixPath, ...]:
        """The others."""
        return tuple(part.path for part in self.there if not part.own)


def made(entry: int, kept: Kept, home: Home, copy: int, stack: ExitStack, *, whole: bool) -> Parts:
    """What was kept beside an open kept home, in the open directory `entry`; `copy`: the home there, open.

    `whole`: nothing will be left out of it. The parts are open as long as the stack is. Raises CannotMove, Differs,
    BtrfsFailed, OSError.
    """
    done = Parts(gone=[path for path in kept.about.paths if path not in home.persisted])
    if not home.persisted:
        return done
    owner, now = os.fstat(home.fd), datetime.fromtimestamp(time.time(), UTC)
    if kept.about.apart and whole:
        done.there = [Part(path, fd, own=False) for path, fd in home.persisted.items()]
    else:
        _make(entry, kept, home, done, stack)
    for part in done.there:
        done.moved += _ready(copy, part.path, (owner.st_uid, owner.st_gid), now)
    return done


def _make(entry: int, kept: Kept, home: Home, done: Parts, stack: ExitStack) -> None:
    assert home.held is not None, "what is persisted lies in it"
    snapshot = not kept.about.apart and btrfs.is_btrfs(home.held) and btrfs.is_subvolume(home.held)
    if snapshot:
        with files.opened(btrfs.snapshot(home.held, entry, PERSISTED, read_only=False)) as copy:
            done.left = nested.fill(home.held, copy)
    for path, source in home.persisted.items():
        fd = stack.enter_context(files.opened(_place(entry, path)))
        if not snapshot:
            recopied.files_of(entry, kept, source, fd, os.fstat(home.fd))
        done.there.append(Part(path, fd, own=True))


def _place(entry: int, path: PurePosixPath) -> int:
    return files.make_dirs(entry, PERSISTED / path, mode=0o700, owner=_ROOT, parents=(_WAY, _ROOT))


def _ready(copy: int, path: PurePosixPath, owner: tuple[int, int], now: datetime) -> list[str]:
    """Make a directory at a path of the copy, empty; names of what stood in the way. Raises OSError."""
    moved = []
    with ExitStack() as stack:
        fd = copy
        for part in path.parts:
            try:
                below = files.enter(fd, part)
            except FileNotFoundError:
                below = files.make_dirs(fd, PurePosixPath(part), mode=0o700, owner=owner)
            except (NotADirectoryError, Unsafe):
                moved.append(step_aside(fd, part, now))
                below = files.make_dirs(fd, PurePosixPath(part), mode=0o700, owner=owner)
            above, fd = fd, stack.enter_context(files.opened(below))
        if files.names(fd):
            moved.append(step_aside(above, path.name, now))
            os.close(files.make_dirs(above, PurePosixPath(path.name), mode=0o700, owner=owner))
    return moved


def step_aside(directory: int, name: str, now: datetime) -> str:
    """Give what an open directory has under a name another one, which is returned, safe to print. Raises OSError."""
    number = 0
    while True:
        free = f"{name[:200]}.before-{stamp(now.astimezone(UTC))}" + (f".{number}" if number else "")
        with suppress(FileExistsError):
            kernel.renameat2(directory, name, directory, free)
            return shown(free)
        number += 1


def secrets(entry: int, parts: Parts, rules: Rules, *, remove: bool, seconds: float) -> Found:
    """Look for keys and logins in the parts of a copy, for so long, or take them out. Raises Failure, OSError."""
    found, until = Found(), time.monotonic() + seconds
    if remove and parts.there:
        with files.opened(files.enter(entry, PERSISTED)) as held:
            _alone(held, [part.path.parts for part in parts.there])
    for part in list(parts.there):
        inner = rules.below(part.path)
        if inner is None:  # all of it is one: found, or taken out, in the home, where its place is
            if remove:
                _take_out(entry, part, parts)
        elif remove:
            found.join(secrets_.remove(part.fd, inner), part.path)
        else:
            found.join(secrets_.find(part.fd, inner, seconds=max(0.0, until - time.monotonic())), part.path)
    return found


def _alone(directory: int, wanted: list[tuple[str, ...]]) -> None:
    """Take away what nobody is shown: kept declared files, and what nothing declared. Raises Failure, OSError."""
    for name in files.names(directory):
        below = [path[1:] for path in wanted if os.fsencode(path[0]) == name]
        if not below:
            subvolumes.remove(directory, name)
        elif all(below):
            with files.opened(files.enter(directory, name)) as fd:
                _alone(fd, below)


def _take_out(entry: int, part: Part, parts: Parts) -> None:
    with files.opened(files.open_beneath(entry, PERSISTED / part.path.parent)) as above:
        subvolumes.remove(above, part.path.name)
    parts.there.remove(part)


# ---- mounts


def place(town: Spec, home: int, target: int, parts: Parts, *, attributes: int, userns: int = 0) -> None:
    """Mount an open copy where `target` is open, and its parts on it; all of it or nothing. Raises OSError."""
    with files.opened(mounts.placed(home, target, attributes=attributes, userns=userns)) as tree:
        try:
            for part in parts.there:
                with files.opened(files.open_beneath(tree, part.path)) as there:
                    if part.own:
                        mounts.bind(part.fd, there, attributes=attributes, userns=userns)
                    else:
                        _bind_apart(town, part.fd, there, attributes | kernel.MOUNT_RDONLY, userns)
        except BaseException:
            mounts.detach(tree)
            raise


def _bind_apart(town: Spec, fd: int, there: int, attributes: int, userns: int) -> None:
    """Mount what lies on persist_dir's filesystem, in a mount that no path leads to.

    Linux before 6.15 clones nothing out of such a mount, so its subvolume gets a place for a moment: where the part of
    it shall be.
    """
    assert town.town.persist_dir is not None, "something was persisted"
    with files.opened(files.open_dir(town.town.persist_dir)) as persist:
        source = os.fsdecode(mounts.of(persist).source)
    options = {"source": source, "subvolid": str(btrfs.number(fd))}
    with files.opened(kernel.mount_detached("btrfs", options, attributes)) as whole:
        mounts.attach(whole, there)
        try:
            with files.opened(files.open_beneath(whole, btrfs.path_in(fd) or b".")) as part:
                tree = kernel.open_tree(part)
        finally:
            mounts.detach(whole)
    with files.opened(tree):
        kernel.mount_setattr(tree, add=attributes | (kernel.MOUNT_IDMAP if userns else 0), userns=userns)
        mounts.attach(tree, there)
