"""A tree of directories on a disk, gone through by descriptors: one of them, however deep it is.

No symlink is followed and no mount is entered; nested subvolumes are. `frozen`: nobody changes it meanwhile.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from persist.descent import peek
from persist.difference import things
from persist.difference.nodes import Boundary, Child, Node
from persist.difference.things import Thing
from persist.walk import KeepsChanging
from town import btrfs, files, moment
from town.btrfs import EMPTY_INODE, FIRST_INODE
from town.failure import Unsafe

_READ = os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
As = Callable[[Thing], Thing | None]
Noted = Callable[[str, bytes], None]


class Disk:
    """A directory that is open, with all below it; `prefix` is its path in the home."""

    def __init__(self, fd: int, prefix: bytes = b"", *, frozen: bool, noted: Noted = lambda _what, _path: None) -> None:
        self._top, self._frozen, self._noted = fd, frozen, noted
        self._btrfs = btrfs.is_btrfs(fd)
        # Where its data lies says something only of what is all on the disk.
        self.filesystem = moment.filesystem(fd) if frozen and self._btrfs else None
        self.root = Node(prefix, None, os.fstat(fd).st_ino, length=len(prefix))
        self.leave: frozenset[bytes] = frozenset()
        self.only: frozenset[bytes] | None = None  # names in the root; None: all
        self.as_: As = lambda thing: thing
        self._node, self._fd = self.root, files.enter(fd, ".")

    def close(self) -> None:
        """Let go of the directory that it stands in."""
        os.close(self._fd)

    @property
    def thing(self) -> Thing:
        """What the root itself is."""
        return self.as_(things.of(self._top)) or things.of(self._top)

    def at(self, node: Node) -> int:
        """A directory of the tree, open until the next one is asked for. Raises KeepsChanging, OSError."""
        ups, down = _way(self._node, node)
        try:
            if ups is None or not self._up(ups):
                down = self._again(node)
            for below in down:
                self._stand(files.enter(self._fd, below.name), below)
        except (OSError, Unsafe) as error:
            if isinstance(error, OSError) and error.errno not in _GONE:
                raise
            raise KeepsChanging("a directory was moved while it was compared", hint=_AGAIN) from error
        return self._fd

    def _up(self, levels: list[Node]) -> bool:
        """Go up to each of some directories; False when somebody moved one."""
        for node in levels:
            self._stand(os.open("..", files.DIRECTORY, dir_fd=self._fd), node)
            if not self._frozen and os.fstat(self._fd).st_ino != node.inode:
                return False
        return True

    def _again(self, node: Node) -> list[Node]:
        """Back to the root; the way down from there."""
        self._stand(files.enter(self._top, "."), self.root)
        down = []
        while node.above is not None:
            down.append(node)
            node = node.above
        return down[::-1]

    def _stand(self, fd: int, node: Node) -> None:
        os.close(self._fd)
        self._fd, self._node = fd, node

    def listing(self, node: Node) -> Mapping[bytes, Any]:
        """Names, each with its inode number as the directory has it (of a nested subvolume: another number)."""
        found = {os.fsencode(entry.name): entry.inode() for entry in files.scan(self.at(node))}
        if self.only is not None and node is self.root:
            return {name: found[name] for name in self.only if name in found}
        return found

    def child(self, node: Node, name: bytes, item: Any = None) -> Child | None:
        """What has that name; None when nothing has, or nothing that counts."""
        del item
        try:
            with files.opened(peek(self.at(node), name)) as fd:
                return self._child(name, fd)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._noted("something is mounted there: not compared", node.path(name))
            elif error.errno not in _GONE:
                raise
            return None

    def _child(self, name: bytes, fd: int) -> Child | None:
        thing = self.as_(things.of(fd))
        if thing is None:
            return None
        inode = os.fstat(fd).st_ino
        if not self._btrfs or not thing.is_directory or inode not in (EMPTY_INODE, FIRST_INODE):
            return Child(name, thing, inode)
        boundary: Boundary = "subvolume" if inode == FIRST_INODE else "stub"
        return Child(name, thing, inode, boundary)

    @contextmanager
    def opened(self, node: Node, name: bytes) -> Iterator[int]:
        """A regular file, for reading. Raises OSError."""
        with (
            files.opened(peek(self.at(node), name)) as there,
            files.opened(os.open(f"/proc/self/fd/{there}", _READ)) as fd,
        ):
            yield fd


def _way(here: Node, there: Node) -> tuple[list[Node] | None, list[Node]]:
    """From one directory to another: those to go up to (None: it cannot be said), and those to enter."""
    ups: list[Node] = []
    down: list[Node] = []
    while here is not there:
        if there.depth >= here.depth and there.above is not None:
            down.append(there)
            there = there.above
        elif here.above is not None:
            here = here.above
            ups.append(here)
        else:  # the same directory, said twice
            return None, []
    return ups, down[::-1]


_AGAIN = "stop the agent's processes, then try again"
