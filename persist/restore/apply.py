"""The plan, done: one action at a time, each by descriptors from agents_dir and persist_dir.

A restore that is cut off anywhere is finished by the next: a name appears when what it names is whole, and hidden
names that are left over are removed first.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import assert_never

from persist import copies, entering, outgoing, reinstalled
from persist.restore import carry, copying, fetching, staging
from persist.restore import site as site_
from persist.restore.actions import (
    Action,
    Ask,
    Bind,
    Blocked,
    Carry,
    CopyIn,
    CopyOut,
    Fetch,
    HidesData,
    MakeDirectory,
    MakeHome,
    MakePersisted,
    MakeSource,
    OfEntry,
    RemoveLeftover,
    SetAside,
    Waits,
)
from persist.restore.origins import Origin
from persist.restore.site import PARENTS, ROOT, STOP, RestoreFailed, Site
from town import btrfs, files, kernel, mounts, standing, subvolumes
from town.failure import Unsafe
from town.spec import Persist
from town.terminal import shell_word, shown


def apply(site: Site, action: Action) -> str:
    """Do one action; what there is to add to its own line. Raises Failure, never OSError."""
    try:
        _forget_identity(site, action)
        return _apply(site, action)
    except OSError as error:
        raise refused(error, _disk(site, action), str(action)) from error
    except btrfs.BtrfsFailed as failure:
        if not isinstance(failure.__cause__, OSError):
            raise
        raise refused(failure.__cause__, _disk(site, action), str(action)) from failure


def _forget_identity(site: Site, action: Action) -> None:
    """What `identity install` brought at this boot is gone when something takes its place: so it is said before."""
    match action:
        case MakeHome():
            standing.forget(standing.INSTALLED, site.agent.name)
        case Bind(entry) | Fetch(entry) | Carry(entry) | CopyIn(entry):
            if reinstalled.lies_below(site.spec, site.agent, entry.path):
                standing.forget(standing.INSTALLED, site.agent.name)


def refused(error: OSError, place: Path, what: str) -> RestoreFailed:
    """The failure for a step that the filesystem of `place` refused, with the cure where there is a known one."""
    named, word = shown(str(place)), shell_word(str(place))
    if error.errno == errno.EROFS:
        hint = f"findmnt -T {word} shows the mount; then: mount -o remount,rw {word}; if it became so by itself: dmesg"
        return RestoreFailed(f"{what}: {named} is mounted read-only", hint=hint)
    if error.errno == errno.EDQUOT:
        hint = "persist status shows what is used; delete something of the agent's, or give it more; then restore again"
        return RestoreFailed(f"{what}: the agent's quota on {named} is used up", hint=hint)
    if error.errno == errno.ENOSPC:
        hint = (
            f"df {word} shows how full it is (on btrfs: btrfs filesystem usage {word}); make space, then restore again"
        )
        return RestoreFailed(f"{what}: {named} is full", hint=hint)
    return RestoreFailed(f"{what}: {error.strerror or error}")


def _disk(site: Site, action: Action) -> Path:
    """The directory of root's that the action works in."""
    town = site.spec.town
    match action:
        case RemoveLeftover(leftover):
            kept = leftover.place in ("persisted", "above persisted")
        case MakePersisted() | MakeSource() | CopyOut():
            kept = True
        case Fetch(entry):
            kept = entry.apart
        case SetAside() | MakeHome() | MakeDirectory() | Carry() | Ask() | Bind() | CopyIn() | Waits() | Blocked():
            kept = False
        case _:
            assert_never(action)
    return town.persist_dir if kept and town.persist_dir is not None else town.agents_dir


def _apply(site: Site, action: Action) -> str:
    match action:
        case RemoveLeftover():
            return _remove(site, action)
        case SetAside():
            return f"it is now {shown(str(outgoing.set_aside(site.spec, site.agent, site.ground, site.now)))}"
        case MakeHome():
            return _make_home(site, action)
        case MakePersisted():
            return _make_persisted(site)
        case _:
            return _apply_entry(site, action)


def _apply_entry(site: Site, action: OfEntry) -> str:
    """An action of one declared path."""
    match action:
        case MakeSource(entry):
            return _make_source(site, entry)
        case MakeDirectory(entry):
            return _make_directory(site, entry)
        case Fetch(entry):
            return fetching.fetch_source(site, action) if entry.apart else fetching.fetch_home(site, action)
        case Carry():
            return carry.carry(site, action)
        case Ask():
            return _ask(site, action)
        case Bind(entry):
            return _bind(site, entry)
        case CopyIn() | CopyOut():
            return copying.copy(site, action)
        case Waits():
            return ""
        case Blocked(_, failure):
            raise failure
        case _:
            assert_never(action)


def _remove(site: Site, action: RemoveLeftover) -> str:
    left = action.leftover
    match left.place:
        case "agents":
            _discard(site.ground.agents, left.name)
        case "home":
            with site_.home(site) as home:
                carry.forget_staging(site, home, left.name)
                subvolumes.remove(home, left.name)
        case "persisted":
            with site_.persisted(site) as persisted:
                files.remove_tree(persisted, left.name)
        case "above persisted":
            with _above_persisted(site) as above:
                _discard(above, left.name)
        case _:
            assert_never(left.place)
    return ""


def _make_home(site: Site, action: MakeHome) -> str:
    # A new home: what was fetched into the one before went with it.
    site.forgotten |= {entry.path for entry in site.agent.persist if not entry.bound}
    _make_whole(site, site.ground.agents, subvolume=action.subvolume, mode=0o700, owner=site.owner)
    outgoing.note(site.spec, site.agent)
    return ""


def _make_persisted(site: Site) -> str:
    with _above_persisted(site) as above:
        _make_whole(site, above, subvolume=btrfs.is_btrfs(above), mode=PARENTS, owner=ROOT)
    return ""


@contextmanager
def _above_persisted(site: Site) -> Iterator[int]:
    """persist_dir/agents, open, made where it is missing."""
    assert site.ground.persist is not None
    try:
        os.mkdir("agents", 0o700, dir_fd=site.ground.persist)
    except FileExistsError:
        with files.opened(files.enter(site.ground.persist, "agents")) as fd:
            yield fd
        return
    with files.opened(files.enter(site.ground.persist, "agents")) as fd:
        os.fchmod(fd, PARENTS)
        yield fd


def _make_whole(site: Site, directory: int, *, subvolume: bool, mode: int, owner: tuple[int, int]) -> None:
    """The agent's own directory or subvolume in `directory`: it has its owner and mode before it has its name."""
    name, beside = site.agent.name, staging.hidden(site.agent.name)
    if subvolume:
        fd = btrfs.create(directory, beside)
    else:
        os.mkdir(beside, 0o700, dir_fd=directory)
        fd = files.enter(directory, beside)
    try:
        with files.opened(fd):
            os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            kernel.renameat2(directory, beside, directory, name)
    except BaseException:
        _discard(directory, beside)
        raise


def _discard(directory: int, name: str) -> None:
    with files.opened(files.enter(directory, name)) as fd:
        subvolume = btrfs.is_subvolume(fd)
    if subvolume:
        btrfs.delete(directory, name)
    else:
        files.remove_tree(directory, name)


def _make_source(site: Site, entry: Persist) -> str:
    if entry.copied:
        with site_.apart(site, entry) as below:
            os.close(copies.make_kept(entry, below))
        site.origins[entry.path] = Origin("made here")
        return ""
    with (
        site_.persisted(site) as persisted,
        files.opened(site_.made_parents(site, persisted, entry.path.parent)) as parent,
    ):
        os.close(staging.made(persisted, parent, entry.path.name, mode=0o700, owner=site.owner))
    site.origins[entry.path] = Origin("made here")
    return ""


def _make_directory(site: Site, entry: Persist) -> str:
    with site_.home(site) as home:
        os.close(site_.subvolume_in_home(site, home, entry.path, partial(_recorded, site, entry)))
    site.origins[entry.path] = Origin("made here")
    return ""


def _recorded(site: Site, entry: Persist, inside: int) -> staging.Told:
    return carry.recorded(site.spec, site.agent, entry.path, inside, None)


def _ask(site: Site, action: Ask) -> str:
    from persist.restore import asking

    return asking.settle(site, action)


def _bind(site: Site, entry: Persist) -> str:
    with (
        site_.home(site) as home,
        site_.persisted(site) as persisted,
        entering.source(site.spec, site.agent, entry, persisted) as source,
    ):
        if source is None:
            raise RestoreFailed(f"{shown(str(entry.path))} vanished under persist_dir while it was being bound")
        if entry.path in site.aside:
            _unbind(site, entry, home, source)
        with files.opened(site_.made_in_home(site, home, entry.path)) as target:
            _bind_open(site, entry, home, (source, target))
    return ""


def _unbind(site: Site, entry: Persist, home: int, source: int) -> None:
    """Take away the mount that shows what was set aside: by descriptor, when it is that and nothing else."""
    try:
        there = files.open_beneath(home, entry.path, os.O_PATH | os.O_DIRECTORY)
    except (Unsafe, OSError):
        return  # what is there instead is looked at by who binds
    with files.opened(there):
        # The mount table first: whoever mounted something else there may never answer.
        if mounts.mount_id(there) == mounts.mount_id(home) or mounts.of(there).kind != mounts.of(source).kind:
            return
        found = os.fstat(there)
        if (found.st_dev, found.st_ino) == site.aside[entry.path]:
            mounts.detach(there)


def _bind_open(site: Site, entry: Persist, home: int, pair: tuple[int, int]) -> None:
    source, target = pair
    path = shown(str(site.spec.home(site.agent) / entry.path))
    if files.names(target):
        raise HidesData(f"{path} got data while it was being bound", hint=STOP)
    with files.opened(mounts.placed(source, target)) as mount:
        # The mount is on the directory that was opened. Where that lies is up to the agent until this moment.
        if not _appears(home, entry.path, mount):
            mounts.detach(mount)
            raise Unsafe(f"{path} was moved away while it was being bound", hint=STOP)


def _appears(home: int, path: PurePosixPath, mount: int) -> bool:
    try:
        with files.opened(files.open_beneath(home, path, os.O_PATH | os.O_DIRECTORY)) as there:
            return mounts.mount_id(there) == mounts.mount_id(mount)
    except (Unsafe, OSError):
        return False
