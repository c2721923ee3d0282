"""Whether what is kept is what lies in the home: every name, every fact, every byte.

With `since` only what may have changed at or after that time is read again: the time of an inode's last change is the
kernel's, which no owner sets; what is mapped for writing is told by it too once the filesystem was synced.
"""

import os
import time

from persist.adopt import content, facts
from persist.descent import Entered, Left, Met, descend, peek, short
from persist.walk import Directory, KeepsChanging
from town import files
from town.failure import TryLater, Unsafe
from town.spec import Agent

Where = tuple[Directory, bytes]  # something in a directory, or (with no name) the directory itself
_AGAIN = "stop the agent's processes, then try again"
_COARSE = 5  # CLOCK_REALTIME_COARSE (clock_gettime(2)): the clock that the times of inodes are taken from


class Differs(TryLater):
    """What is kept is not what lies in the home; the message names the first difference. It may have just changed."""


def now() -> int:
    """The time as an inode that changes next would have it at least, in ns."""
    return time.clock_gettime_ns(_COARSE)


def compare(home: int, kept: int, agent: Agent, since: int = 0) -> None:
    """Raises Differs, facts.CannotMove, OSError unless the directories `home` and `kept`, open, are the same."""
    pair = _Pair(agent, since)
    try:
        pair.run(home, kept)
    except KeepsChanging as error:
        raise Differs(error.what, hint=error.hint) from error


class _Pair:
    def __init__(self, agent: Agent, since: int) -> None:
        self._agent, self._since = agent, since
        self._fd = -1  # the directory of what is kept where the way is now
        self._there: dict[tuple[int, int], tuple[int, int]] = {}  # of files with several names: inode here, inode there
        self._here: dict[tuple[int, int], tuple[int, int]] = {}

    def run(self, home: int, kept: int) -> None:
        self._fd = files.enter(kept, ".")
        try:
            for event in descend(home, gone=_gone, mounted=_mounted):
                match event:
                    case Entered():
                        self._entered(event)
                    case Met():
                        self._met(event)
                    case Left(directory, _) if directory.above is not None:
                        self._to(os.open("..", files.DIRECTORY, dir_fd=self._fd))
                    case Left():
                        pass
        finally:
            os.close(self._fd)

    def _to(self, fd: int) -> None:
        os.close(self._fd)
        self._fd = fd

    def _entered(self, event: Entered) -> None:
        where, top = (event.directory, b""), event.directory.above is None
        if not top:
            try:
                self._to(files.enter(self._fd, event.directory.name))
            except (OSError, Unsafe) as error:
                raise _differs(where, "is no directory there") from error
        _same(facts.of(event.fd, self._agent, top=top), facts.of(self._fd, self._agent, top=top), where)
        if files.names(event.fd) != files.names(self._fd):
            raise _differs(where, "does not hold the same names")

    def _met(self, event: Met) -> None:
        where = event.directory, event.name
        try:
            there = peek(self._fd, event.name)
        except OSError as error:
            raise _differs(where, "is missing there") from error
        with files.opened(there):
            here = facts.of(event.fd, self._agent)
            _same(here, facts.of(there, self._agent), where)
            found, other = os.fstat(event.fd), os.fstat(there)
            if found.st_nlink > 1:
                self._linked(found, other, where)
            if here.size and found.st_ctime_ns >= self._since:
                _same_content(event.fd, there, here.size, where)

    def _linked(self, found: os.stat_result, other: os.stat_result, where: Where) -> None:
        """Names of one file here are names of one file there."""
        one, two = (found.st_dev, found.st_ino), (other.st_dev, other.st_ino)
        if self._there.setdefault(one, two) != two or self._here.setdefault(two, one) != one:
            raise _differs(where, "is a link to another file there")


def _same(here: facts.Facts, there: facts.Facts, where: Where) -> None:
    for name, one, other in zip(facts.Facts._fields, here, there, strict=True):
        if one != other and name != "lends":
            raise _differs(where, f"has another {_WORDS.get(name, name)} there")


_WORDS = {"mtime": "time of change", "uid": "owner", "gid": "group", "attributes": "extended attribute or ACL"}


def _same_content(one: int, other: int, size: int, where: Where) -> None:
    with files.opened(facts.opened(one, *where)) as here, files.opened(facts.opened(other, *where)) as there:
        if not content.same(here, there, size):
            raise _differs(where, "holds something else there")


def _gone(path: bytes) -> None:
    raise Differs(f"{short(path)} vanished meanwhile", hint=_AGAIN)


def _mounted(path: bytes) -> None:
    raise facts.CannotMove(f"something is mounted at {short(path)}", hint="unmount it, then adopt again")


def _differs(where: Where, what: str) -> Differs:
    directory, name = where
    return Differs(f"{short(directory.path(name)) or 'the directory itself'} {what}", hint=_AGAIN)
