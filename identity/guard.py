"""One run at a time over the files beside a spec, none of whose memory outlives it; and writes that are refused."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from identity import places, tree
from identity.places import Places
from town import files, memory
from town.failure import Failure, TryLater
from town.locks import take
from town.terminal import shown


class NotWritable(Failure):
    """The files cannot be written where they belong."""


class NoRoom(Failure):
    """The disk or a quota is full. Trying again helps once there is room."""


def no_core_dump() -> None:
    """Neither a crash of this process or of a child nor swap leaves memory, and so a key, on a disk."""
    memory.keep()


@contextmanager
def locked(where: Places) -> Iterator[None]:
    """Only one run at a time over the same files. Leaves no file behind: the directories themselves are locked.

    Raises TryLater while another run works there, tree.Linked, NotWritable (also for what is done meanwhile).
    """
    with _writable(where), ExitStack() as stack:
        where.root.mkdir(parents=True, exist_ok=True)
        tree.make_directory(where, places.IDENTITIES)  # which is no link from here on
        wanted = {
            where.path(place).resolve()
            for place in (places.IDENTITIES, where.secrets.parent, where.recovery.parent)
        }  # fmt: skip
        for directory in sorted(wanted):
            directory.mkdir(parents=True, exist_ok=True)
            fd = stack.enter_context(files.opened(files.open_dir(directory)))
            busy = f"another run of identity works on {shown(str(directory))}"
            take(fd, TryLater(busy, hint="wait until it has ended"))
        yield


@contextmanager
def _writable(where: Places) -> Iterator[None]:
    """A refused write is told with the directory that everything lies in, and what can be done about it."""
    try:
        yield
    except (OSError, files.Unwritable) as error:
        cause = error.__cause__ if isinstance(error, files.Unwritable) else error
        if not isinstance(cause, OSError) or cause.errno not in (*_REFUSED, *_FULL):
            raise
        place = shown(os.path.abspath(where.root))
        if cause.errno in _FULL:
            # What was begun is whole in the journal, or nothing of it is there.
            raise NoRoom(
                f"there is no room left to write in {place}: {cause.strerror}",
                hint="free some and run it again: it goes on where it stopped, and no key is lost or made twice",
            ) from error
        raise NotWritable(
            f"nothing can be written in {place}: {cause.strerror}",
            hint="write elsewhere with --out DIR, or run it as who may write there, for example with sudo",
        ) from error


_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)
