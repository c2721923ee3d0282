"""The texts that git would track below a directory: what lies there, and what is staged. Without git: what others read.

git is asked with the person's own configuration, for its list of ignored files is part of the answer. It runs no
program that a repository names, fetches nothing and writes nothing. No symlink is followed.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from town import files, kernel, process
from town.failure import ToolFailed, ToolMissing

ATTRIBUTE = "identity-clear"  # in .gitattributes: what stands in clear there is meant to
_EACH, _ALL = 4 << 20, 128 << 20  # bytes
_SECONDS = 20.0
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_LINK, _MODULE = b"120000", b"160000"  # git's modes of what is no file
_KEPT = ("HOME", "XDG_CONFIG_HOME", "SUDO_UID")  # whose configuration, and whom git takes root for


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
    no_git: str = ""  # why git could not be asked, where it should have been
    large: set[bytes] = field(default_factory=set)  # files that were not looked at to their end
    left: int = 0  # at least so many files were not looked at
    _spent: int = 0
    _until: float = field(default_factory=lambda: monotonic() + _SECONDS)

    def texts(self) -> Iterator[Text]:
        """Every text, files before what is staged, as far as the bounds go."""
        with files.opened(os.open(self.folder, files.DIRECTORY & ~os.O_NOFOLLOW)) as folder:
            staged = self._staged()
            if staged is None:
                for name in self._walk():
                    yield from self._file(folder, name, public_only=True)
                return
            different = []
            for name, ids in staged.items():
                lies = next(self._file(folder, name), None)
                different += [(name, one) for one in ids if lies is None or one != _blob_id(lies.data, one)]
                if lies is not None:
                    yield lies
            for name in self._others():
                yield from self._file(folder, name)
            yield from self._blobs(different)

    def meant(self, names: Sequence[bytes]) -> set[bytes]:
        """Those of the names that .gitattributes marks: what is in clear there is meant to be."""
        if not names or self.no_git or not _in_a_work_tree(self.folder):
            return set()
        said = self._git("check-attr", "-z", "--stdin", ATTRIBUTE, feed=b"".join(name + b"\0" for name in names))
        words = said.split(b"\0")
        return {words[at] for at in range(0, len(words) - 2, 3) if words[at + 2] == b"set"}

    def _staged(self) -> dict[bytes, list[bytes]] | None:
        """Names in git's index with the ids of their blobs; None where git is not asked or does not answer."""
        if not _in_a_work_tree(self.folder):
            return None
        try:
            said = self._git("ls-files", "-z", "--stage")
        except (ToolFailed, ToolMissing) as failure:
            self.no_git = failure.what
            return None
        found: dict[bytes, list[bytes]] = {}
        for entry in said.split(b"\0")[:-1]:
            (mode, blob, _), name = entry.split(b"\t", 1)[0].split(b" "), entry.split(b"\t", 1)[1]
            if mode not in (_LINK, _MODULE) and self._wanted(name):
                found.setdefault(name, []).append(blob)
        return found

    def _others(self) -> list[bytes]:
        said = self._git("ls-files", "-z", "--others", "--exclude-standard")
        return [name for name in said.split(b"\0")[:-1] if self._wanted(name)]  # other repositories: directories

    def _wanted(self, name: bytes) -> bool:
        path = self.folder / os.fsdecode(name)
        return not any(path.is_relative_to(one) for one in self.skip)

    def _git(self, *words: str, feed: bytes = b"") -> bytes:
        env = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none", "GIT_TERMINAL_PROMPT": "0",
        }  # fmt: skip
        if (index := _index_of_hook(self.folder)) is not None:
            env["GIT_INDEX_FILE"] = index
        return process.run(["git", "-c", "core.fsmonitor=", *words], feed=feed, env=env, cwd=self.folder).out

    def _blobs(self, wanted: list[tuple[bytes, bytes]]) -> Iterator[Text]:
        """What is staged, from git's store: in one run, of at most as much as may still be looked at."""
        if not wanted:
            return
        asked = b"".join(one + b"\n" for _, one in wanted)
        sizes = [line.split(b" ") for line in self._git("cat-file", "--batch-check", feed=asked).splitlines()]
        chosen = []
        for (name, one), said in zip(wanted, sizes, strict=True):
            size = int(said[2]) if len(said) == 3 and said[1] == b"blob" else None
            if size is not None and size > _EACH:
                self.large.add(name)
            elif size is not None and self._take(size):
                chosen.append((name, one, size))
            else:
                self.left += 1
        held, at = self._git("cat-file", "--batch", feed=b"".join(one + b"\n" for _, one, _ in chosen)), 0
        for name, _, size in chosen:
            at = held.index(b"\n", at) + 1
            yield Text(name, held[at : at + size], staged=True)
            at += size + 1

    def _file(self, folder: int, name: bytes, *, public_only: bool = False) -> Iterator[Text]:
        """The text of a regular file; nothing for anything else, nor (with `public_only`) for its owner's alone."""
        try:
            with files.opened(kernel.openat2(folder, name, _FLAGS, 0, files.BENEATH)) as fd:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or (public_only and not found.st_mode & 0o044):
                    return
                if not self._take(min(found.st_size, _EACH)):
                    self.left += 1
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
                self.left += 1
                return


def _in_a_work_tree(folder: Path) -> bool:
    here = Path(os.path.abspath(folder))
    return any((above / ".git").exists() for above in (here, *here.parents))


def _index_of_hook(folder: Path) -> str | None:
    """The index that a commit under way is made from, when this runs as its hook: `commit -a` has one of its own."""
    if not (named := os.environ.get("GIT_INDEX_FILE")):
        return None
    index = Path(os.path.realpath(named))  # git gives it relative to the top of the work tree, where hooks run
    here = Path(os.path.realpath(folder))
    return str(index) if any(index.is_relative_to(above / ".git") for above in (here, *here.parents)) else None


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
