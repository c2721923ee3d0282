"""Directories of a tree that is being made, opened by their numbers: a fixed number of descriptors at any depth."""

import os
from collections.abc import Callable

from persist.fill.plan import TOP
from town import files

_OPEN = 96  # descriptors
_PATH = 3500  # bytes of one path, below PATH_MAX with room for a name


class Levels:
    """`levels.open(number)` is a descriptor that stays open until others were asked for; not the caller's to close.

    The tree lies where only root can reach, so a name stays what it was made as; no symlink is followed all the same.
    """

    def __init__(self, top: int, above: Callable[[int], tuple[int, bytes]]) -> None:
        """`top`: the directory that is filled, which stays the caller's; `above`: who holds one, and as what."""
        self._top, self._above = top, above
        self.known: dict[int, int] = {TOP: top}

    def close(self) -> None:
        """Close all but the top."""
        for number, fd in self.known.items():
            if number != TOP:
                os.close(fd)
        self.known = {TOP: self._top}

    def open(self, number: int) -> int:
        """The directory of that number. Raises OSError, Unsafe."""
        if (fd := self.known.get(number)) is not None:
            return fd
        names, at = list[bytes](), number
        while at not in self.known:
            at, name = self._above(at)
            names.append(name)
        fd = self._down(self.known[at], names)
        if len(self.known) > _OPEN:
            self._forget()
        self.known[number] = fd
        return fd

    def _down(self, start: int, names: list[bytes]) -> int:
        """Through names, the last of them first."""
        fd = start
        while names:
            path = [names.pop()]
            length = len(path[0])
            while names and length + len(names[-1]) < _PATH:
                path.append(names.pop())
                length += len(path[-1]) + 1
            try:  # one name needs no more than O_NOFOLLOW
                one = len(path) == 1
                below = os.open(path[0], files.DIRECTORY, dir_fd=fd) if one else files.open_beneath(fd, b"/".join(path))
            finally:
                if fd != start:
                    os.close(fd)
            fd = below
        return fd

    def _forget(self) -> None:
        """The half that was opened first."""
        for number in [number for number in self.known if number != TOP][: _OPEN // 2]:
            os.close(self.known.pop(number))
