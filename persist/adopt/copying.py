"""A copy of a declared directory, made where nobody but root can reach: everything in it, as it is, or none of it.

Owner, mode and time of a directory are given when all that lies in it is there: until then it is root's alone, and
what is made in it inherits nothing.
"""

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from persist.adopt import content, facts
from persist.adopt.comparing import Differs
from persist.adopt.facts import CannotMove, Facts, Owner
from persist.descent import Entered, Few, Left, Met, descend, short
from persist.walk import Directory, KeepsChanging
from town import files, terminal
from town.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST = 100  # reasons that are kept
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Totals:
    """What lies in a directory, and what of it a person should hear of; `wrong`: why it cannot be moved."""

    files: int = 0
    size: int = 0  # bytes
    subvolumes: int = 0
    lends: Few = field(default_factory=Few)  # lose set-uid or set-gid bits, or capabilities
    links: dict[tuple[int, int], int] = field(default_factory=dict)  # names that are missing, of files with several
    wrong: list[str] = field(default_factory=list)

    def add(self, found: os.stat_result, here: Facts, event: Met) -> None:
        """Count something that is no directory."""
        self.files += 1
        key = (found.st_dev, found.st_ino)
        if found.st_nlink == 1 or key not in self.links:
            self.size += here.size
        if found.st_nlink > 1:
            self.links[key] = self.links.get(key, found.st_nlink) - 1
        if here.lends:
            self.lends.add(event.directory, event.name)

    @property
    def said(self) -> str:
        """How much it is."""
        return f"{counted(self.files, 'file')}, {terminal.size(self.size)}"

    def notes(self) -> "Iterator[str]":
        """What will be another way where it is kept."""
        if self.lends:
            yield f"without set-uid, set-gid or capabilities that lend more than the agent's rights: {self.lends}"
        if self.subvolumes:
            yield f"{counted(self.subvolumes, 'nested subvolume')}, entered: plain directories where it is kept"
        if outside := sum(missing > 0 for missing in self.links.values()):
            yield f"{counted(outside, 'file')} with further names outside of it: from now on a file apart from those"


def survey(top: int, agent: Owner) -> Totals:
    """Look at everything in an open directory and read no file: how much it is, and all that cannot be moved.

    Raises KeepsChanging, OSError.
    """
    totals = Totals()

    def wrong(path: bytes, why: str) -> None:
        if len(totals.wrong) < _MOST:
            totals.wrong.append(f"{short(path)} {why}")

    for event in descend(top, gone=lambda _path: None, mounted=lambda path: wrong(path, "has something mounted on it")):
        match event:
            case Met(directory, name, fd):
                found = os.fstat(fd)
                if why := facts.refusal(found, agent):
                    wrong(directory.path(name), why)
                totals.add(found, facts.of(fd, agent), event)
            case Entered(directory, _) if directory.subvolume and directory.above is not None:
                totals.subvolumes += 1
            case Entered() | Left():
                pass
    return totals


def copy(home: int, into: int, links: int, agent: Owner, told: "Callable[[int, int], None]") -> Totals:
    """Copy what the open directory `home` holds into the empty one `into`, and give that what `home` has besides.

    `links` is an empty directory beside it, emptied by the caller afterwards: by it files get their further names.
    `told` hears of files and bytes. Raises Differs when it changes meanwhile, CannotMove, OSError.
    """
    copier = _Copier(agent, links, told)
    try:
        return copier.run(home, into)
    except KeepsChanging as error:
        raise Differs(error.what, hint=error.hint) from error


class _Copier:
    def __init__(self, agent: Owner, links: int, told: "Callable[[int, int], None]") -> None:
        self._agent, self._links, self._told = agent, links, told
        self._fd = -1
        self._trail: list[Facts] = []
        self._totals = Totals()
        self._first: dict[tuple[int, int], str] = {}

    def run(self, home: int, into: int) -> Totals:
        self._fd = files.enter(into, ".")
        try:
            for event in descend(home, gone=_gone, mounted=_mounted):
                match event:
                    case Entered(directory, fd):
                        self._entered(directory, fd)
                    case Met():
                        with _named(event.directory, event.name):
                            self._met(event)
                    case Left(directory, _):
                        with _named(directory):
                            self._left(directory)
        finally:
            os.close(self._fd)
        return self._totals

    def _entered(self, directory: Directory, fd: int) -> None:
        top = directory.above is None
        if not top:
            with _named(directory):
                os.mkdir(directory.name, 0o700, dir_fd=self._fd)
                self._to(files.enter(self._fd, directory.name))
            self._totals.subvolumes += directory.subvolume
        self._trail.append(facts.of(fd, self._agent, top=top))
        content.keep_in_place(fd, self._fd)

    def _left(self, directory: Directory) -> None:
        _give(self._fd, self._trail.pop())
        if directory.above is not None:
            self._to(os.open("..", files.DIRECTORY, dir_fd=self._fd))

    def _to(self, fd: int) -> None:
        os.close(self._fd)
        self._fd = fd

    def _met(self, event: Met) -> None:
        found = os.fstat(event.fd)
        if why := facts.refusal(found, self._agent):
            name = short(event.directory.path(event.name))
            raise CannotMove(f"{name} {why}", hint="move it away, or remove it, then adopt again")
        here = facts.of(event.fd, self._agent)
        self._totals.add(found, here, event)
        if found.st_nlink > 1 and self._linked((found.st_dev, found.st_ino), event.name):
            return
        self._make(event, here)
        if found.st_nlink > 1:
            first = self._first[(found.st_dev, found.st_ino)] = str(len(self._first))
            os.link(event.name, first, src_dir_fd=self._fd, dst_dir_fd=self._links, follow_symlinks=False)
        self._told(1, here.size)

    def _linked(self, inode: tuple[int, int], name: bytes) -> bool:
        """Give a file that was copied one more name; False for one that was not."""
        if (first := self._first.get(inode)) is None:
            return False
        os.link(first, name, src_dir_fd=self._links, dst_dir_fd=self._fd, follow_symlinks=False)
        return True

    def _make(self, event: Met, here: Facts) -> None:
        name = event.name
        if here.kind == stat.S_IFREG:
            with (
                files.opened(facts.opened(event.fd, event.directory, name)) as source,
                files.opened(os.open(name, _NEW, 0o600, dir_fd=self._fd)) as target,
            ):
                content.copy(source, target, here.size)
                _give(target, here)
        elif here.kind == stat.S_IFLNK:
            os.symlink(os.fsencode(here.link), name, dir_fd=self._fd)
            os.chown(name, here.uid, here.gid, dir_fd=self._fd, follow_symlinks=False)
            os.utime(name, ns=(here.mtime, here.mtime), dir_fd=self._fd, follow_symlinks=False)
        else:  # a FIFO, a socket, a whiteout: nothing of it can be opened
            os.mknod(name, here.kind | 0o600, here.rdev, dir_fd=self._fd)
            with files.opened(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)) as made:
                _give(f"/proc/self/fd/{made}", here)


def _give(place: int | str, here: Facts) -> None:
    """Owner, attributes, mode, time, in the order in which none undoes another; `place` is root's alone until then."""
    os.chown(place, here.uid, here.gid)
    for name, value in here.attributes:
        os.setxattr(place, name, value)
    os.chmod(place, stat.S_IMODE(here.mode))
    os.utime(place, ns=(here.mtime, here.mtime))


@contextmanager
def _named(directory: Directory, name: bytes = b"") -> "Iterator[None]":
    """An OSError inside says of what it is."""
    try:
        yield
    except OSError as error:
        path = short(directory.path(name)) or "the directory itself"
        raise OSError(error.errno, f"{path}: {error.strerror}") from error


def _gone(path: bytes) -> None:
    raise Differs(f"{short(path)} vanished while it was copied", hint="stop the agent's processes, then try again")


def _mounted(path: bytes) -> None:
    raise CannotMove(f"something is mounted at {short(path)}", hint="unmount it, then adopt again")
