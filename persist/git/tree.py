"""One work tree held against its index and its refs."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from persist import worth
from persist.git import Clock, Facts, Unknown, ignore, index, objects, place, refs
from persist.git.ignore import Rule
from persist.git.index import Entry, Index
from persist.git.place import STAY, Place
from persist.walk import Directory, walk
from town import files, kernel
from town.failure import Failure

_PEEK = os.O_PATH | os.O_NOFOLLOW
_READ = 8 << 20  # bytes of a file that is read to be compared
_ALL = 256 << 20  # bytes of all those
_SEEN = 1_000_000  # names of a work tree
_RULES = 20_000  # lines of all its .gitignore
_GITLINK = 0o160000  # a submodule, which has a work tree of its own


def facts(home: int, path: bytes, called: bytes, clock: Clock) -> Facts:
    """What the work tree at `path` below an open home holds alone. Raises Unknown, OSError, Unsafe."""
    with place.opened(home, path, called) as there:
        found = refs.read_all(there, clock)
        missing = refs.unpushed(there, found, clock)
        remote = any(name.startswith(b"refs/remotes/") for name in found)
        unknown: list[str] = []
        changed = untracked = 0
        staged = False
        try:
            known, time = _index(there, clock)
            staged = _staged(there, known, refs.head(there, found), clock)
            changed = _changed(there, known, time, clock)
            untracked = _untracked(there, known, clock)
        except Unknown as reason:
            unknown.append(str(reason))
        said = Facts(path, missing, remote, changed, untracked, staged, b"refs/stash" in found, tuple(unknown))
        if said.empty and not objects.none(there):
            return replace(said, unknown=("it has no remote, and commits that no branch names",))
        return said


def _staged(there: Place, known: Index, commit: bytes, clock: Clock) -> bool:
    """Whether a commit of the index would differ from the last one."""
    if any(entry.conflict for entry in known.entries):
        return True
    committed = [entry for entry in known.entries if not entry.added]
    if not commit:
        return bool(committed)
    last = objects.tree_of(there, commit)
    if last is None:  # in a pack: git itself notes whether anything was staged since
        return known.tree == b""
    return (known.tree or objects.tree(there.hash, committed, clock)) != last


def _index(there: Place, clock: Clock) -> tuple[Index, tuple[int, int]]:
    """The index, and when it was written: what changed in that very moment is compared by content."""
    try:
        with files.opened(kernel.openat2(there.own, b"index", place.FLAGS, 0, STAY)) as fd:
            time = divmod(os.fstat(fd).st_mtime_ns, 10**9)
            data = files.read_fd(fd, index.MOST, "index")
    except FileNotFoundError:
        return Index(tree=b""), (0, 0)
    except Failure as error:
        raise Unknown("its index is too large, or none") from error
    return index.parse(data, size=hashlib.new(there.hash, usedforsecurity=False).digest_size, clock=clock), time


def _changed(there: Place, known: Index, time: tuple[int, int], clock: Clock) -> int:
    """Tracked files that are not what the index says, those that are gone among them."""
    comparing, names = _Comparing(there, time), set[bytes]()
    for number, entry in enumerate(known.entries):
        if number % 256 == 0:
            clock.check()
        if entry.mode != _GITLINK and not entry.outside and (entry.conflict or comparing.differs(entry)):
            names.add(entry.path)
    return len(names)


class _Comparing:
    def __init__(self, there: Place, time: tuple[int, int]) -> None:
        self._there, self._time, self._left = there, time, _ALL

    def differs(self, entry: Entry) -> bool:
        try:
            with files.opened(kernel.openat2(self._there.top, entry.path, _PEEK, 0, STAY)) as fd:
                found = os.fstat(fd)
                target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(found.st_mode) else None
        except (OSError, ValueError):  # it is gone, or what was above it
            return True
        if entry.added or stat.S_IFMT(found.st_mode) != stat.S_IFMT(entry.mode):
            return True
        if (
            stat.S_ISREG(found.st_mode)
            and self._there.modes
            and bool(found.st_mode & 0o100) != bool(entry.mode & 0o100)
        ):
            return True
        if target is not None:
            return self._hash(target) != entry.hash
        mtime = divmod(found.st_mtime_ns, 10**9)
        same = found.st_size & 0xFFFFFFFF == entry.size
        if same and mtime == entry.mtime and mtime < self._time:
            return False
        # Size 0 may mean that git did not trust what it saw (racy-git in git's own documentation).
        return (not same and entry.size != 0) or self._content(entry, found.st_size) != entry.hash

    def _content(self, entry: Entry, size: int) -> bytes:
        """The name of the object that the file would be; empty: too large to be read for that, or changing."""
        self._left -= size
        if size > _READ or self._left < 0:
            return b""
        with suppress(OSError, Failure, Unknown):
            return self._hash(place.read(self._there.top, entry.path, _READ))
        return b""

    def _hash(self, data: bytes) -> bytes:
        return objects.name(self._there.hash, b"blob", data)


def _untracked(there: Place, known: Index, clock: Clock) -> int:
    """Files that are neither tracked nor ignored; what programs make again is not looked at."""
    tracked, count = {entry.path for entry in known.entries}, 0
    ignoring = _Ignoring(there, clock)
    for number, event in enumerate(walk(there.top, ignoring.enter)):
        if number % 64 == 0:
            clock.check()
        if number > _SEEN:
            raise Unknown("it has too many files")
        if isinstance(event, Directory):
            ignoring.begin(event)
        elif event.kind in ("file", "symlink"):
            path = event.directory.path(event.name)
            count += path not in tracked and path != b".git" and not ignoring.ignores(event.directory, event.name)
    return count


class _Ignoring:
    """The rules of a work tree: of .git/info/exclude, and of each directory on the way down."""

    def __init__(self, there: Place, clock: Clock) -> None:
        self._there, self._clock, self._count = there, clock, 0
        self._rules: dict[Directory, list[Rule]] = {}
        self._first = self._read(there.shared, b"info/exclude")

    def begin(self, directory: Directory) -> None:
        """The rules that a directory has itself."""
        if found := self._read(self._there.top, directory.path(b".gitignore")):
            self._rules[directory] = found
            self._count += len(found)
            if self._count > _RULES:
                raise Unknown("it has too many rules of what to ignore")

    def enter(self, directory: Directory, name: bytes) -> bool:
        """Whether something below a directory may count."""
        return name != b".git" and name not in worth.REMADE and not self.ignores(directory, name, is_directory=True)

    def ignores(self, directory: Directory, name: bytes, *, is_directory: bool = False) -> bool:
        """The last rule that fits says it; those nearer go before those further up."""
        path = [name]
        for above in _upwards(directory):
            own = self._rules.get(above, [])
            for rule in reversed(own if above.above is not None else [*self._first, *own]):
                if rule.fits(path, directory=is_directory, check=self._clock.check):
                    return not rule.negated
            path = [above.name, *path]
        return False

    @staticmethod
    def _read(top: int, path: bytes) -> list[Rule]:
        with suppress(OSError, Failure, Unknown, ValueError):
            return ignore.rules(place.read(top, path, ignore.MOST))
        return []


def _upwards(directory: Directory) -> Iterator[Directory]:
    at: Directory | None = directory
    while at is not None:
        yield at
        at = at.above
