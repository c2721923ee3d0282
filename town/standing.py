"""What was done for an agent at this boot: small notes of root's below /run/nuketown, which a reboot takes away.

/run/nuketown/KIND/AGENT, 0644, holds the boot id (/proc/sys/kernel/random/boot_id) of the boot that it is of.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path, PurePosixPath

from town import bootid, files
from town.failure import Failure

RUN = Path("/run/nuketown")
INSTALLED, HOMES = "installed", "homes"
_LIMIT = 4096
_ROOT = (0, 0)


def note(kind: str, agent: str) -> None:
    """Say that it was done. Raises OSError, Unsafe, files.Unreadable."""
    with files.opened(files.open_dir(RUN.parent)) as above:
        fd = files.make_dirs(above, PurePosixPath(RUN.name, kind), mode=0o755, owner=_ROOT)
    with files.opened(fd):
        files.write_beneath(fd, agent, f"{bootid.text()}\n".encode(), owner=_ROOT)


def forget(kind: str, agent: str) -> None:
    """Say nothing of it any more. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(RUN / kind / agent)


def noted(kind: str, agent: str) -> bool:
    """Whether root says that it was done at this boot. Raises nothing."""
    path = RUN / kind / agent
    with suppress(OSError, Failure):
        for above in (RUN, path.parent, path):
            found = os.lstat(above)
            if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return False
        return files.read_bounded(path, _LIMIT) == f"{bootid.text()}\n".encode()
    return False
