"""The texts that git would track below a directory: what lies there, and what is staged. Without git: what others read.

Where git should be asked and cannot be, every file is a text: what it would leave out is not known then. No symlink is
followed.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from identity.check import repository
from identity.check.repository import Repository, Staged
from town import files, kernel
from town.failure import ToolFailed, ToolMissing

ATTRIBUTE = "identity-clear"  # in .gitattributes: what stands in clear there is meant to
_EACH, _ALL, _STAGED = 64 << 20, 1 << 30, 128 << 20  # bytes; what is staged is held in memory
_SECONDS = 20.0
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Text:
    """One text: `name` relative to the directory, `staged` when it is in git's index and not what lies there."""

    name: bytes
    data: bytes
    staged: bool = False


@dataclass
class Tree:
    """A directory to go through once. After that, what was not looked at is known."""

    folder: Path
    skip: Sequence[Path] = ()  # directories of agents: no part of the tree
    beside: Sequence[Path] | None = ()  # that are gone through too; None: what is staged elsewhere was looked at
    no_git: str = ""  # why git could not be asked, where it should have been
    git_cure: str = ""
    large: set[bytes] = field(default_factory=set)  # files that were not looked at to their end
    left: int = 0  # at least so many files were not looked at
    late: int = 0  # at least so many, because there is more than the bounds allow
    index: bool = True  # whether what is staged is known
    _spent: int = 0
    _until: float = field(default_factory=lambda: monotonic() + _SECONDS)

    def texts(self) -> Iterator[Text]:
        """Every text, files before what is staged, the small ones first, as far as the bounds go.

        Much that is large hides nothing so: keys and tokens are small.
        """
        with files.opened(os.open(self.folder, files.DIRECTORY & ~os.O_NOFOLLOW)) as folder:
            staged = self._staged()
            if staged is None:
                for name in _by_size(folder, self._walk()):
                    yield from self._file(folder, name, public_only=not self.no_git)
                return
            different = list[Staged]()
            for name in _by_size(folder, [*staged, *self._others(staged)]):
                lies = next(self._file(folder, name), None)
                for one in staged.get(name, ()):
                    if lies is None or one != _blob_id(lies.data, one):
                        different.append((name, one))
                if lies is not None:
                    yield lies
            yield from self._blobs([*different, *self._elsewhere()])

    def meant(self, names: Sequence[bytes]) -> set[bytes]:
        """Those of the names that .gitattributes marks: what is in clear there is meant to be."""
        if not names or self.no_git or repository.top(self.folder) is None:
            return set()
        try:
            return self._git.marked(names, ATTRIBUTE)
        except ToolFailed as failure:
            self.no_git, self.git_cure = failure.what, repository.cure(self.folder, failure)
            return set()

    @property
    def _git(self) -> Repository:
        return Repository(self.folder)

    def _staged(self) -> dict[bytes, list[bytes]] | None:
        """Names in git's index with the ids of their blobs; None where git is not asked or does not answer."""
        if repository.top(self.folder) is None:
            return None
        found: dict[bytes, list[bytes]] = {}
        try:
            for name, blob in self._git.index():
                if self._wanted(name):
                    found.setdefault(name, []).append(blob)
        except (ToolFailed, ToolMissing) as failure:
            self.no_git, self.git_cure = failure.what, repository.cure(self.folder, failure)
            self.index = False
            return None
        return found

    def _others(self, staged: Collection[bytes]) -> list[bytes]:
        """What git would add; where it does not tell, all that it does not track."""
        try:
            return [name for name in self._git.others() if self._wanted(name)]
        except ToolFailed as failure:
            self.no_git, self.git_cure = failure.what, repository.cure(self.folder, failure)
            return [name for name in self._walk() if name not in staged]

    def _elsewhere(self) -> Iterator[Staged]:
        if self.beside is None:
            return
        for name, blob in self._git.elsewhere():
            path = self.path(name)
            if self._wanted(name) and not any(path.is_relative_to(one) for one in self.beside):
                yield name, blob

    def _wanted(self, name: bytes) -> bool:
        path = self.path(name)
        return not any(path.is_relative_to(one) for one in self.skip)

    def path(self, name: bytes) -> Path:
        """Where a text lies, or would lie."""
        return Path(os.path.normpath(self.folder / os.fsdecode(name)))

    def _blobs(self, wanted: list[Staged]) -> Iterator[Text]:
        """What is staged, from git's store: in one run, of at most as much as may still be looked at."""
        if not wanted:
            return
        chosen, names, held = list[tuple[bytes, int]](), list[bytes](), 0
        sized = zip(self._git.sizes([one for _, one in wanted]), wanted, strict=True)
        for size, (name, one) in sorted(sized, key=lambda each: (each[0] or 0, each[1])):
            held += size or 0
            if size is None:
                self.left += 1
            elif size > _EACH:
                self.large.add(name)
            elif held <= _STAGED and self._take(size):
                chosen.append((one, size))
                names.append(name)
            else:
                self.late += 1
        for name, data in zip(names, self._git.blobs(chosen), strict=True):
            yield Text(name, data, staged=True)

    def _file(self, folder: int, name: bytes, *, public_only: bool = False) -> Iterator[Text]:
        """The text of a regular file; nothing for anything else, nor (with `public_only`) for its owner's alone."""
        try:
            with files.opened(kernel.openat2(folder, name, _FLAGS, 0, files.BENEATH)) as fd:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or (public_only and not found.st_mode & 0o044):
                    return
                if not self._take(min(found.st_size, _EACH)):
                    self.late += 1
                    return
                if found.st_size > _EACH:
                    self.large.add(name)
                yield Text(name, _read(fd))
        except OSError as error:
            self.left += error.errno in (errno.EACCES, errno.EPERM, errno.EIO)

    def _take(self, size: int) -> bool:
        self._spent += size
        return self._spent <= _ALL and monotonic() < self._until

    def _walk(self) -> Iterator[bytes]:
        """Names below the directory, on its filesystem, without git's own directories."""
        top = os.fsencode(self.folder)
        device = os.stat(top).st_dev
        for place, directories, names in os.walk(top):
            directories[:] = [
                name for name in sorted(directories)
                if name != b".git" and self._wanted(os.path.relpath(os.path.join(place, name), top))
                and os.lstat(os.path.join(place, name)).st_dev == device
            ]  # fmt: skip
            for name in sorted(names):
                yield os.path.relpath(os.path.join(place, name), top)
            if monotonic() >= self._until:
                self.late += 1
                return


def _by_size(folder: int, names: Iterable[bytes]) -> list[bytes]:
    def size(name: bytes) -> tuple[int, bytes]:
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size, name
        except OSError:
            return 0, name

    return sorted(names, key=size)


def _blob_id(data: bytes, like: bytes) -> bytes:
    """The id that git gives a blob, in the hash that `like` is in."""
    kind = hashlib.sha1 if len(like) == 40 else hashlib.sha256  # as git does
    return kind(b"blob %d\0" % len(data) + data).hexdigest().encode()


def _read(fd: int) -> bytes:
    pieces, left = [], _EACH
    while left > 0 and (piece := os.read(fd, min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
