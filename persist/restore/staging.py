"""A place where something is made whole before anybody sees it under its name.

A staging is a directory of root's, 0700, with a hidden name; what is made lies inside it. An agent that owns the
directory above may rename or move the staging away, but never reach into it: the work goes on by descriptor.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from town import files, kernel
from town.failure import Unsafe

INSIDE = "whole"


def hidden(agent: str = "") -> str:
    """A fresh hidden name, `.nuketown-TOKEN` or `.nuketown-TOKEN-AGENT` (`persist.restore.found.HIDDEN`)."""
    return f".nuketown-{secrets.token_hex(6)}" + (f"-{agent}" if agent else "")


@contextmanager
def opened(directory: int) -> Iterator[tuple[int, int]]:
    """A staging in `directory`: its descriptor, and one of the empty directory `INSIDE` in it. Removed at the end.

    Raises Unsafe when somebody swapped it while it was being made.
    """
    name = hidden()
    os.mkdir(name, 0o700, dir_fd=directory)
    with files.opened(files.enter(directory, name)) as stage:
        if os.fstat(stage).st_uid != os.geteuid():
            raise Unsafe("a staging directory was swapped while it was being made", hint="stop the agent's processes")
        try:
            os.mkdir(INSIDE, 0o700, dir_fd=stage)
            with files.opened(files.enter(stage, INSIDE)) as inside:
                yield stage, inside
        finally:
            # What cannot be removed now (or was moved away by the agent) is removed by the next restore, or the boot.
            with suppress(OSError):
                files.remove_tree(stage, INSIDE)
            with suppress(OSError):
                os.rmdir(name, dir_fd=directory)


def publish(stage: int, inside: int, parent: int, name: str) -> None:
    """Give what was made its name in `parent`, if that is free, once all its data is on the disk.

    The source cannot be swapped: nobody but root may change what lies in the staging. The caller looks where the
    name ended up, for the owner of `parent` may move it. Raises FileExistsError, OSError.
    """
    # Without this a power cut could keep the rename and lose the contents: the name stands for a whole directory.
    kernel.syncfs(inside)
    kernel.renameat2(stage, INSIDE, parent, name)


def made(base: int, parent: int, name: str, *, mode: int, owner: tuple[int, int]) -> int:
    """Open the directory `name` in `parent`, made where it is missing: it has its owner and mode before its name.

    The staging lies in `base`, where the next restore looks for leftovers. Raises Unsafe on a symlink, OSError.
    """
    with suppress(FileNotFoundError):
        return files.enter(parent, name)
    with opened(base) as (stage, inside):
        os.fchown(inside, *owner)
        os.fchmod(inside, mode)
        try:
            kernel.renameat2(stage, INSIDE, parent, name)
        except FileExistsError:  # somebody else made it meanwhile
            return files.enter(parent, name)
        return os.dup(inside)
