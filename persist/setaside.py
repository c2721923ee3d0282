"""What a sweep sets aside: copies of an agent's files, STATE/swept/BOOT/AGENT/PLACE/NAME, root's, 0600.

A copy, not a rename: the agent may have other names of the file, and a file that it has open stays its own.
"""

import os
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from persist import proof
from persist.restore import origins
from town import files, kernel
from town.failure import Failure
from town.spec import Agent, KeepHomes, Spec
from town.terminal import size

LARGEST = 16 << 20  # bytes of one file
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_DAY = 86400


class TooLarge(Failure):
    """A file is larger than what is set aside."""


class Shelf:
    """Where the copies of one sweep go."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.boot = proof.boot_id()

    @property
    def path(self) -> Path:
        return self._spec.state_dir / "swept" / self.boot

    def put(self, agent: Agent, place: str, directory: int, name: bytes) -> bool:
        """Copy the regular file `name` of an open directory; false when it is too large. Raises OSError, Unsafe."""
        with files.opened(kernel.openat2(directory, name, _READ, 0, files.BENEATH | kernel.RESOLVE_NO_XDEV)) as fd:
            if os.fstat(fd).st_size > LARGEST:
                return False
            data = files.read_fd(fd, LARGEST, size(LARGEST))
        with files.opened(origins.state(self._spec, "swept")) as swept:
            where = PurePosixPath(self.boot, agent.name, place)
            with files.opened(files.make_dirs(swept, where, mode=0o700, owner=(0, 0), parents=(0o700, (0, 0)))) as to:
                files.write_beneath(to, os.fsdecode(_free(to, name)), data, mode=0o600, owner=(0, 0))
        return True

    def tidy(self, keep: KeepHomes) -> None:
        """Delete the copies of all boots but the newest `homes`, and those older than `days`. Raises OSError."""
        oldest = time.time() - keep.days * _DAY
        with suppress(files.Unreadable), files.opened(files.open_dir(self.path.parent)) as swept:
            made = {name: os.stat(name, dir_fd=swept, follow_symlinks=False).st_mtime for name in files.names(swept)}
            newest = sorted(made, key=lambda name: made[name])[-keep.homes :]
            for name, time_ in made.items():
                if os.fsdecode(name) != self.boot and (name not in newest or time_ < oldest):
                    files.remove_tree(swept, name)


def _free(directory: int, name: bytes) -> bytes:
    """The name, or with .1, .2, … where a sweep of this boot took one of that name before."""
    taken = set(files.names(directory))
    name = name[:240]
    numbers = (name + b".%d" % number for number in range(1, len(taken) + 2))
    return name if name not in taken else next(other for other in numbers if other not in taken)
