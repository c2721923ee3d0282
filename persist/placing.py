"""Files and links of root's on a machine, or in a tree that will be one: planned, shown, then put there whole.

What is there is looked at first. A file that is not ours is never replaced; what is ours and differs is shown.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import assert_never

from town import files
from town.failure import Failure
from town.terminal import shell_word, shown

_LIMIT = 1 << 20
_ROOT = (0, 0)
_FOLDER = (0o755, _ROOT)


class NotOurs(Failure):
    """Something stands where a file of ours belongs, and somebody else put it there. A person decides."""


@dataclass(frozen=True, slots=True)
class File:
    """What a file should be: its absolute path on the machine, what it holds, its mode, its owner (uid, gid): root."""

    path: str
    data: bytes
    mode: int = 0o644
    owner: tuple[int, int] = _ROOT


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link: its absolute path, and the text of it."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Write:
    """Put a file in place, whole; `old` is what stands there now."""

    file: File
    old: bytes | None

    def line(self, root: str) -> str:
        if self.old is None:
            return f"write   {shown(root + self.file.path)}"
        return "\n".join([f"change  {shown(root + self.file.path)}", *_difference(self.old, self.file.data)])


@dataclass(frozen=True, slots=True)
class MakeLink:
    """Make a link that enables a unit."""

    link: Link

    def line(self, root: str) -> str:
        return f"link    {shown(root + self.link.path)} -> {shown(self.link.target)}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file or a link of ours."""

    path: str

    def line(self, root: str) -> str:
        return f"remove  {shown(root + self.path)}"


@dataclass(frozen=True, slots=True)
class RemoveFolder:
    """Remove a directory that was made for our files, when nothing else is in it."""

    path: str

    def line(self, root: str) -> str:
        return f"remove  {shown(root + self.path)}/ where it is empty"


Action = Write | MakeLink | Remove | RemoveFolder


@dataclass(frozen=True, slots=True)
class Tree:
    """The root directory of a machine, open; every path is looked up below it and through no symlink.

    `root` is its own path, without a / at its end: empty for this machine.
    """

    fd: int
    root: str

    def name(self, path: str) -> str:
        """What a person calls an absolute path of the machine."""
        return self.root + path

    def entry(self, path: str) -> os.stat_result | None:
        """What stands at an absolute path, links not followed; None when nothing does."""
        try:
            with self._above(path) as directory:
                return os.stat(PurePosixPath(path).name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        """What a regular file holds. Raises files.Unreadable."""
        with self._above(path) as directory:
            name = PurePosixPath(path).name
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
            with files.opened(files.open_beneath(directory, name, flags)) as fd:
                return files.read_fd(fd, _LIMIT, shown(self.name(path)))

    def readlink(self, path: str) -> str:
        with self._above(path) as directory:
            return os.readlink(PurePosixPath(path).name, dir_fd=directory)

    @contextmanager
    def _above(self, path: str) -> Iterator[int]:
        with files.opened(files.open_beneath(self.fd, _relative(PurePosixPath(path).parent))) as directory:
            yield directory

    def do(self, action: Action) -> None:
        """Carry out one action, durably. Raises OSError or Unsafe."""
        match action:
            case Write(file, _):
                with self._made(file.path) as (directory, name):
                    files.write_beneath(directory, name, file.data, mode=file.mode, owner=file.owner)
            case MakeLink(link):
                with self._made(link.path) as (directory, name):
                    os.symlink(link.target, name, dir_fd=directory)
            case Remove(path):
                with self._above(path) as directory:
                    os.unlink(PurePosixPath(path).name, dir_fd=directory)
            case RemoveFolder(path):
                self._remove_folder(path)
            case _:
                assert_never(action)

    def _remove_folder(self, path: str) -> None:
        try:
            with self._above(path) as directory:
                os.rmdir(PurePosixPath(path).name, dir_fd=directory)
        except OSError:  # gone, or in use by something else
            return

    @contextmanager
    def _made(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory of a path, made where it is missing, and the name in it."""
        pure = PurePosixPath(path)
        above = PurePosixPath(_relative(pure.parent))
        made = files.make_dirs(self.fd, above, mode=_FOLDER[0], owner=_ROOT, parents=_FOLDER)
        with files.opened(made) as directory:
            yield directory, pure.name


@contextmanager
def tree(root: Path) -> Iterator[Tree]:
    """The tree of a machine at `root`. Raises files.Unreadable when it is no directory."""
    path = os.path.realpath(root)
    with files.opened(files.open_dir(path)) as fd:
        yield Tree(fd, path.rstrip("/"))


def plan(
    there: Tree, wanted: Iterable[File], links: Iterable[Link], ours: Callable[[str, bytes], bool]
) -> Iterator[Action]:
    """What has to be done for all of it to be there. `ours(path, data)` judges a file that differs. Raises NotOurs."""
    for file in wanted:
        if (action := _for_file(there, file, ours)) is not None:
            yield action
    for link in links:
        found = there.entry(link.path)
        if found is None:
            yield MakeLink(link)
        elif not stat.S_ISLNK(found.st_mode) or not _same(there.readlink(link.path), link.target):
            raise _not_ours(there.name(link.path))


def _same(target: str, wanted: str) -> bool:
    """Whether two links enable the same unit: systemd goes by the name that a link leads to."""
    return PurePosixPath(target).name == PurePosixPath(wanted).name


def _for_file(there: Tree, file: File, ours: Callable[[str, bytes], bool]) -> Write | None:
    found = there.entry(file.path)
    if found is None:
        return Write(file, None)
    if not stat.S_ISREG(found.st_mode):
        raise _not_ours(there.name(file.path))
    data = there.read(file.path)
    facts = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
    if data == file.data:
        return None if facts == (*file.owner, file.mode) else Write(file, data)
    if not ours(file.path, data):
        raise _not_ours(there.name(file.path))
    return Write(file, data)


def folders(there: Tree, actions: Iterable[Action]) -> list[str]:
    """The directories that the actions will make, outermost first."""
    paths = [action.file.path if isinstance(action, Write) else action.link.path
             for action in actions if isinstance(action, (Write, MakeLink))]  # fmt: skip
    above = {str(folder) for path in paths for folder in list(PurePosixPath(path).parents)[:-1]}
    return sorted(folder for folder in above if there.entry(folder) is None)


def _not_ours(path: str) -> NotOurs:
    return NotOurs(
        f"{shown(path)} is there already, and is not one that nuketown wrote",
        hint=f"look at it; then move it away: mv {shell_word(path)} {shell_word(path + '.mine')}",
    )


def _relative(path: PurePosixPath) -> str:
    return str(path.relative_to("/")) if path != PurePosixPath("/") else "."


def _difference(old: bytes, new: bytes) -> Iterator[str]:
    from difflib import unified_diff

    before, after = (text.decode("utf-8", "surrogateescape").splitlines() for text in (old, new))
    if before == after:
        yield "  only owner, mode or line ends differ"
    for line in list(unified_diff(before, after, "there", "new", lineterm="", n=1))[2:]:
        yield f"  {shown(line)}"
