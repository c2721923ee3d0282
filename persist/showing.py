"""A recalled copy is made and mounted: where a person said, or where copies lie; as root's, or as a user's files."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from persist import about as about_
from persist import ground, kept, parts, place, recopied, secrets, shelves, shelving
from persist.about import About
from persist.descent import Left, Met, descend
from persist.kept import HOME, Kept
from persist.parts import Parts
from persist.recopied import Copy
from persist.secrets import Found
from persist.shelves import RECALLED
from town import bootid, files, idmap, kernel, mounts, subvolumes
from town.accounts import Account
from town.spec import Spec
from town.terminal import shown

RUN = Path("/run/nuketown/recalled")  # where copies for other users than root appear when nothing else is said
_LOOK = 2.0  # seconds in which keys and logins are looked for, to point them out
_ROOT = (0, 0)
# mount_setattr(2): the filesystem has no such mounts, the kernel has none, or a container may not make one.
_UNMAPPED = {errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP}

Mapped = Literal["", "mount", "owners"]  # who maps a user's files: nobody, the mount, the copy itself by chown


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants of a copy. `to` None: where copies lie. `user`: whose its files appear to be."""

    to: Path | None = None
    user: Account | None = None
    run: bool = False
    secrets: bool = True

    @property
    def options(self) -> str:
        """What the mount has, in mount(8)'s words."""
        return "nosuid,nodev" + ("" if self.run else ",noexec")

    @property
    def attributes(self) -> int:
        """The same, for the kernel."""
        return mounts.HARDENED | (0 if self.run else kernel.MOUNT_NOEXEC)


@dataclass(frozen=True, slots=True)
class Recalled:
    """A copy that was made: its name, of what, where it is mounted; `left`: see nested.fill; `parts`: see Parts."""

    name: str
    of: Kept
    path: Path
    mapped: Mapped
    found: Found
    left: int
    parts: Parts


def recall(town: Spec, wanted: str, wish: Wish) -> Recalled:
    """Copy the kept home that `wanted` (AGENT@NAME or its beginning) names and mount the copy.

    The copy is a snapshot; in a town without [town.btrfs] one of every file. Raises NoSuchHome, Unsafe, NotEmpty,
    adopt.facts.CannotMove, btrfs.BtrfsFailed, OSError.
    """
    make = recopied.copy if town.town.btrfs is None else recopied.snapshot
    with ExitStack() as stack:
        top = stack.enter_context(shelves.opened(town)).top
        agents = stack.enter_context(ground.agents_dir(town))
        chosen = kept.chosen(kept.every(town, top, agents), wanted)
        target = None if wish.to is None else stack.enter_context(place.opened(town, wish.to))
        above = stack.enter_context(files.opened(recopied.directory(town, agents)))
        home = stack.enter_context(kept.opened(town, top, chosen, agents))
        owner, name = os.fstat(home.fd), recopied.name(chosen)
        with shelving.entry(above, name) as entry, make(entry, chosen, home) as copy:
            beside = parts.made(entry, chosen, home, copy.home, stack, whole=wish.secrets)
            found = _secrets(town, chosen, (entry, copy.home), beside, wish)
            _close(copy.home, owner, wish)
            about_.write(entry, _note(chosen, copy, beside, wish))
        try:
            source = stack.enter_context(_opened(above, name, copy.inside))
            own = _own(town, name, copy, source, wish) if wish.to is None else nullcontext((target, wish.to))
            fd, path = stack.enter_context(own)
            assert fd is not None, "it was made"
            mapped = _mount(town, source, fd, owner, beside, wish)
        except BaseException:
            subvolumes.remove(above, name)
            raise
        return Recalled(shown(name), chosen, path, mapped, found, copy.left + beside.left, beside)


@contextmanager
def _opened(above: int, name: str, inside: str) -> Iterator[int]:
    with files.opened(files.open_beneath(above, PurePosixPath(name, HOME, inside))) as fd:
        yield fd


def _note(chosen: Kept, copy: Copy, beside: Parts, wish: Wish) -> About:
    return About(
        time=datetime.fromtimestamp(time.time(), UTC),
        message=chosen.message,
        boot=bootid.text(),
        paths=beside.own,
        inside=copy.inside,
        of=chosen.name,
        place=str(wish.to or ""),
        user="" if wish.user is None else wish.user.name,
    )


def _close(home: int, owner: os.stat_result, wish: Wish) -> None:
    """The copy is a person's: its old owner, who may be running, does not get back what a boot took."""
    os.fchown(home, *(_ROOT if wish.user is None else (owner.st_uid, owner.st_gid)))
    os.fchmod(home, 0o700)


def _secrets(town: Spec, chosen: Kept, copy: tuple[int, int], beside: Parts, wish: Wish) -> Found:
    """What of a copy, its entry and its home open, is a secret, or was."""
    (entry, home), until = copy, time.monotonic() + _LOOK
    rules = secrets.rules(next((agent for agent in town.agents if agent.name == chosen.whose), None))
    found = secrets.find(home, rules, seconds=_LOOK) if wish.secrets else secrets.remove(home, rules)
    left = max(0.0, until - time.monotonic())
    found.join(parts.secrets(entry, beside, rules, remove=not wish.secrets, seconds=left), PurePosixPath())
    return found


@contextmanager
def _own(town: Spec, name: str, copy: Copy, source: int, wish: Wish) -> Iterator[tuple[int, Path]]:
    """Where a copy is mounted when nobody said: over itself, or where its user can get."""
    if wish.user is None or wish.user.uid == 0:
        yield source, town.town.agents_dir / RECALLED / name / HOME / copy.inside
        return
    with files.opened(files.open_dir(RUN.parent.parent)) as run:
        path = PurePosixPath(RUN.parent.name, RUN.name, name)
        fd = files.make_dirs(run, path, mode=0o755, owner=_ROOT, parents=(0o755, _ROOT))
    with files.opened(fd):
        ground.refuse_others(fd, RUN / name)
        yield fd, RUN / name


def _mount(town: Spec, home: int, target: int, owner: os.stat_result, beside: Parts, wish: Wish) -> Mapped:
    """Mount the copy; the agent's files appear to be the user's, without a change on the disk where that can be."""
    user = wish.user
    if user is None or (user.uid, user.gid) == (owner.st_uid, owner.st_gid):
        parts.place(town, home, target, beside, attributes=wish.attributes)
        return ""
    try:
        with idmap.namespace(_ids(owner.st_uid, user.uid), _ids(owner.st_gid, user.gid)) as userns:
            parts.place(town, home, target, beside, attributes=wish.attributes, userns=userns)
    except OSError as error:
        if error.errno not in _UNMAPPED:
            raise
        for fd in (home, *(part.fd for part in beside.there if part.own)):
            give(fd, (owner.st_uid, owner.st_gid), (user.uid, user.gid))
        parts.place(town, home, target, beside, attributes=wish.attributes)
        return "owners"
    return "mount"


def _ids(disk: int, seen: int) -> dict[int, int]:
    """The owner as the user; root as itself, where that leaves nobody two names."""
    return {disk: seen} if 0 in (disk, seen) else {disk: seen, 0: 0}


def give(home: int, owner: tuple[int, int], to: tuple[int, int]) -> None:
    """Give a uid and gid what the owner of a copy has in it; nobody but root reaches it. Raises Failure, OSError."""
    # What lies too deep keeps its owner: it is no reason to refuse all the rest.
    for event in descend(home, gone=_unseen, mounted=_unseen, deeper=_unseen):
        if isinstance(event, (Met, Left)):
            there = os.fstat(event.fd)
            uid = to[0] if there.st_uid == owner[0] else -1
            gid = to[1] if there.st_gid == owner[1] else -1
            if (uid, gid) != (-1, -1):
                kernel.chown_open(event.fd, *(number & 0xFFFFFFFF for number in (uid, gid)))
                if stat.S_ISREG(there.st_mode) and there.st_mode & 0o6000:
                    os.chmod(f"/proc/self/fd/{event.fd}", stat.S_IMODE(there.st_mode) & 0o777)


def _unseen(*_where: object) -> None:
    """Nothing is done about it."""
