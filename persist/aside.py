"""What was set aside: the entries of @agents-old as values, in an order and with ages that no clock can upset.

The order is that in which they came to lie there: btrfs gives each name in a directory an index that only ever rises,
and lists by it. When something was *made* says nothing: an @agents is made when its boot begins and set aside when the
next one does, after all that resets set aside in between. Their times come from clocks that may have been wrong: a time
in the future is not believed, and none is earlier than that of something older.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from persist import places
from persist.kept import parsed_key
from town import btrfs, files
from town.failure import Failure, Unsafe
from town.spec import Btrfs
from town.terminal import shown

Kind = Literal["subvolume", "directory", "other"]
_OTHERS_WRITE = 0o022


@dataclass(frozen=True, slots=True)
class Aside:
    """One entry of @agents-old. `number` is the id of a subvolume, the inode of anything else."""

    name: bytes
    kind: Kind
    number: int
    turn: int  # its place in the order in which they were set aside
    time: datetime  # when it was set aside, as far as that is known

    @property
    def deleting(self) -> bool:
        """Whether a tidy began to delete it: what is left of it is no home."""
        return self.name.startswith(places.DELETING)

    @property
    def home(self) -> bool:
        """Whether it can hold homes: a file or a link that stood at @agents cannot."""
        return self.kind != "other"

    def __str__(self) -> str:
        return shown(self.name)


@contextmanager
def directory(top: int, names: Btrfs) -> Iterator[int | None]:
    """@agents-old, open; None when nothing was ever set aside. Raises Unsafe when it is not a directory of root's."""
    try:
        fd = files.enter(top, names.old)
    except FileNotFoundError:
        yield None
        return
    except NotADirectoryError:
        raise _wrong(names, "is not a directory") from None
    with files.opened(fd):
        found = os.fstat(fd)
        if found.st_ino == btrfs.FIRST_INODE:
            raise _wrong(names, "is a subvolume, not a plain directory")
        if found.st_uid != 0 or found.st_mode & _OTHERS_WRITE:
            raise _wrong(names, "may be changed by others than root")
        yield fd


Broken = Callable[[bytes, Failure], None]


def read(old: int, now: datetime, broken: Broken) -> list[Aside]:
    """The entries of @agents-old, open as `old`: what a tidy began to delete, then the rest, oldest first.

    `now` is aware. `broken` is told of each that the filesystem says nothing of: it is in nobody's way, and is none of
    the result.
    """
    found = []
    for turn, name in enumerate([os.fsencode(entry.name) for entry in files.scan(old)]):
        try:
            found.append(_entry(old, name, turn))
        except FileNotFoundError:
            continue  # a rollback or a person took it meanwhile
        except OSError as error:
            broken(name, Failure(f"cannot be read: {error.strerror}", hint="dmesg may say why"))
        except Failure as failure:
            broken(name, failure)
    begun = [entry for entry in found if entry.deleting]  # its turn says when a tidy gave it that name
    return [*begun, *credible([entry for entry in found if not entry.deleting], now)]


def credible(oldest_first: Sequence[Aside], now: datetime) -> list[Aside]:
    """The same entries, each with a time that lies between those of its neighbours and not in the future.

    A clock that ran ahead once must not keep a home for ever, and one that ran behind must not delete what is new.
    """
    latest, bounded = datetime.min.replace(tzinfo=UTC), []
    for entry in oldest_first:
        latest = max(latest, entry.time) if entry.time <= now else latest
        bounded.append((entry, max(entry.time, latest)))
    earliest, found = now, []
    for entry, time in reversed(bounded):
        earliest = min(earliest, time)
        found.append(replace(entry, time=earliest))
    return found[::-1]


def _entry(old: int, name: bytes, turn: int) -> Aside:
    seen = os.stat(name, dir_fd=old, follow_symlinks=False)
    named, _ = parsed_key(name.removeprefix(places.DELETING))
    # A rename sets the ctime of what is renamed: that is when it was set aside, where the name does not say so.
    time = named or datetime.fromtimestamp(seen.st_ctime, UTC)
    if not stat.S_ISDIR(seen.st_mode):
        return Aside(name, "other", seen.st_ino, turn, time)
    with files.opened(files.enter(old, name)) as fd:
        if btrfs.is_subvolume(fd):
            return Aside(name, "subvolume", btrfs.info(fd).id, turn, time)
        return Aside(name, "directory", os.fstat(fd).st_ino, turn, time)


def _wrong(names: Btrfs, what: str) -> Unsafe:
    return Unsafe(
        f"{shown(names.old)} {what}: nothing in it is deleted",
        hint="look at it as root; then move it away and run persist init, which makes a directory, root:root 0700",
    )
