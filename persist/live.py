"""What of a declared directory is a live copy of this machine's, and outlives a state that comes from the store.

Credentials (a preset's, and the keys that nuketown installs) are copied into what was fetched before it is shown;
caches and what is written from the spec are moved there after it. A state's own credentials are dropped, unless asked
for: tokens that rotate are good for one use, and an old copy of one ends the login everywhere.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from persist import copies, entering
from persist.copies import NotCopied
from persist.sync import declared
from town import files, kernel
from town.failure import Failure, Unsafe
from town.spec import Agent, Persist
from town.terminal import shown

_DEEPEST, _MOST = 8, 1000  # levels and names of a directory that is a credential


def drop(entry: Persist, inside: int, *, credentials: bool) -> None:
    """Take out of a directory that was fetched what is not to come from the store. Only root reaches it.

    `credentials`: those of the state stay. Raises OSError.
    """
    found = declared.parts(entry)
    for path in (*found.keys, *(() if credentials else found.credential), *found.remade):
        with suppress(FileNotFoundError, NotADirectoryError, Unsafe), _above(inside, path) as parent, _times(parent):
            files.remove_tree(parent, path.name)


def carry(agent: Agent, entry: Persist, live: int, inside: int) -> None:
    """Copy the live credentials of the directory `live` into `inside`, where that has none.

    Raises NotCopied, Changing, Unsafe, InTheWay, OSError: then what is live is as it was.
    """
    found = declared.parts(entry)
    for path in (*found.keys, *found.credential):
        if not _has(inside, path):
            _carry(agent, path, live, inside, over=False)
    if os.fstat(live).st_dev != os.fstat(inside).st_dev:  # a subvolume each: nothing can be moved from one to the other
        for path in found.remade:
            _clone(agent, path, live, inside)


def settle(agent: Agent, entry: Persist, aside: int, shown_: int, carried: Iterable[PurePosixPath]) -> None:
    """After what was fetched got its name: credentials that were rotated meanwhile, and caches, which are moved."""
    for path in carried:
        with suppress(Failure, OSError):  # it is there as it was a moment ago
            _carry(agent, path, aside, shown_, over=True)
    for path in declared.parts(entry).remade:
        with suppress(Failure, OSError):  # a program makes it anew
            _move(agent, path, aside, shown_)


def lacking(entry: Persist, inside: int) -> tuple[PurePosixPath, ...]:
    """The credentials that a fetched directory does not have: the live ones are carried there."""
    found = declared.parts(entry)
    return tuple(path for path in (*found.keys, *found.credential) if not _has(inside, path))


def _move(agent: Agent, path: PurePosixPath, aside: int, shown_: int) -> None:
    with entering.down(aside, path.parent, Path("aside")) as source:
        if source is None or not _is_there(source, path.name):
            return
        with _made(agent, path.parent, shown_) as target, _times(target):
            kernel.renameat2(source, path.name, target, path.name)


def _clone(agent: Agent, path: PurePosixPath, live: int, inside: int) -> None:
    """Copy a cache, sharing its data, into a directory that only root reaches; one that cannot be copied is left."""
    with entering.down(live, path.parent, Path("live")) as source:
        if source is None or not _is_there(source, path.name):
            return
        with _made(agent, path.parent, inside) as target, _times(target):
            try:
                _cloned(agent, source, target, path.name)
            except (Failure, OSError):  # a program makes it anew
                with suppress(FileNotFoundError):
                    files.remove_tree(target, path.name)


def _cloned(agent: Agent, source: int, target: int, name: str) -> None:
    from persist.adopt import copying

    if not stat.S_ISDIR(files.look(source, name).st_mode):
        _Copy(agent, over=False).name(source, target, name, name)
        return
    os.mkdir(name, 0o700, dir_fd=target)
    links = f"{name}.links"
    os.mkdir(links, 0o700, dir_fd=target)
    try:
        with (
            files.opened(files.enter(source, name)) as there,
            files.opened(files.enter(target, name)) as into,
            files.opened(files.enter(target, links)) as further,
        ):
            copying.copy(there, into, further, agent, lambda _files, _bytes: None)
    finally:
        files.remove_tree(target, links)


def _carry(agent: Agent, path: PurePosixPath, live: int, inside: int, *, over: bool) -> None:
    with entering.down(live, path.parent, Path("live")) as source:
        if source is None or not _is_there(source, path.name):
            return
        with _made(agent, path.parent, inside) as target, _times(target):
            _Copy(agent, over=over).name(source, target, path.name, str(path))


class _Copy:
    """Copies a file, a symlink as such, or a small directory of those."""

    def __init__(self, agent: Agent, *, over: bool) -> None:
        self._owner, self._over, self._left = (agent.uid, agent.gid), over, _MOST

    def name(self, source: int, target: int, name: str, what: str, depth: int = 0) -> None:
        """One name of an open directory into another."""
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise NotCopied(f"{shown(what)} holds more than a login or a key does", hint="look at what lies in it")
        found = files.look(source, name)
        if stat.S_ISDIR(found.st_mode):
            self._directory(source, target, name, what, depth)
        elif stat.S_ISLNK(found.st_mode):
            with suppress(FileExistsError):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                os.chown(name, *self._owner, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISREG(found.st_mode):  # a socket of gpg-agent's is no credential
            self._file(source, target, name, what)

    def _file(self, source: int, target: int, name: str, what: str) -> None:
        held = copies.read(source, name, {self._owner[0]}, shown(what))
        if held is None:
            return
        if self._over and held.same(copies.read(target, name, {self._owner[0]}, shown(what))):
            return
        files.write_beneath(target, name, held.data, mode=held.mode, owner=self._owner)
        os.utime(name, ns=(held.mtime, held.mtime), dir_fd=target, follow_symlinks=False)

    def _directory(self, source: int, target: int, name: str, what: str, depth: int) -> None:
        with files.opened(files.enter(source, name)) as fd:
            mode = stat.S_IMODE(os.fstat(fd).st_mode) & 0o777
            made = files.make_dirs(target, PurePosixPath(name), mode=mode, owner=self._owner)
            with files.opened(made):
                for below in map(os.fsdecode, files.names(fd)):
                    self.name(fd, made, below, f"{what}/{below}", depth + 1)


@contextmanager
def _above(top: int, path: PurePosixPath) -> Iterator[int]:
    with files.opened(files.open_beneath(top, path.parent)) as fd:
        yield fd


@contextmanager
def _made(agent: Agent, path: PurePosixPath, top: int) -> Iterator[int]:
    try:
        fd = files.make_dirs(top, path, mode=0o700, owner=(agent.uid, agent.gid))
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise NotCopied(f"{shown(str(path))} is no directory in what was fetched") from error
        raise
    with files.opened(fd):
        yield fd


@contextmanager
def _times(directory: int) -> Iterator[None]:
    """The directory's own time is what it was: the state of the store says it."""
    before = os.fstat(directory)
    yield
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def _has(top: int, path: PurePosixPath) -> bool:
    with suppress(FileNotFoundError, NotADirectoryError, Unsafe), _above(top, path) as parent:
        return _is_there(parent, path.name)
    return False


def _is_there(directory: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        files.look(directory, name)
        return True
    return False
