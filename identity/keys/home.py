"""A GnuPG home for one errand: 0700, in memory, off the swap where the kernel can, gone whatever happens."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from town import files, kernel, process
from town.failure import Failure

# Where a home may lie: in memory, and with a path that leaves room for a socket (108 bytes, unix(7)).
_MEMORY = ("/dev/shm", "/run")  # noqa: S108 - looked at for being tmpfs, and mkdtemp makes the name
_TMPFS, _RAMFS = 0x01021994, 0x858458F6  # linux/magic.h
_OPTIONS = {"mode": "0700", "size": "64m", "noswap": ""}  # tmpfs(5); noswap since Linux 6.4, for root alone
_FLAGS = kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV | kernel.MOUNT_NOEXEC
# Both wait until their standard input closes, which the kernel does when this process dies in whatever way.
_SWEEPER = 'cat >/dev/null; gpgconf --homedir "$1" --kill all 2>/dev/null; rm -rf -- "$1"'
_HOLDER = 'cat >/dev/null; gpgconf --homedir "/proc/$$/fd/$1" --kill all 2>/dev/null'


class NoMemory(Failure):
    """There is no place in memory for a key on its way: it would have to touch a disk."""


def in_memory(path: str | os.PathLike[str]) -> bool:
    """Whether a directory lies on tmpfs or ramfs; False when it cannot be opened."""
    try:
        with files.opened(os.open(path, files.DIRECTORY & ~os.O_NOFOLLOW)) as fd:
            return kernel.filesystem_type(fd) in (_TMPFS, _RAMFS)
    except OSError:
        return False


@contextmanager
def throw_away_home() -> Iterator[Path]:
    """A GnuPG home that ends with this block, or with this process, even by SIGKILL. Raises NoMemory."""
    home, guard = _unswapped() or _shared()
    try:
        yield home
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _unswapped() -> tuple[Path, "subprocess.Popen[bytes]"] | None:
    """A mount without a path, held open by the guard and by nobody else; None where that cannot be had."""
    try:
        fd = kernel.mount_detached("tmpfs", _OPTIONS, _FLAGS)
    except OSError:
        return None
    with files.opened(fd):
        guard = _guard(_HOLDER, str(fd), fds=(fd,))
        # By the guard's descriptor, not by our own: /proc shows that of a process that cannot be dumped to few.
        home = Path(f"/proc/{guard.pid}/fd/{fd}")
        if in_memory(home):
            return home, guard
    guard.communicate()  # /proc is closed here
    return None


def _shared() -> tuple[Path, "subprocess.Popen[bytes]"]:
    """A directory on a tmpfs that is there. It can be swapped out: what encrypts the swap protects it then."""
    place = next((place for place in _MEMORY if in_memory(place) and os.access(place, os.W_OK)), None)
    if place is None:
        raise NoMemory(
            f"no tmpfs at {' or '.join(_MEMORY)} that can be written to: private keys would touch a disk",
            hint="mount one: mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
        )
    home = Path(tempfile.mkdtemp(prefix="nuketown-gpg-", dir=place))
    try:
        return home, _guard(_SWEEPER, str(home))
    except BaseException:
        shutil.rmtree(home)
        raise


def _guard(script: str, word: str, fds: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["sh", "-c", script, "sh", word],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=process.environment(),
        cwd="/",
        pass_fds=fds,
        start_new_session=True,  # Ctrl-C is for this process; the guard tidies up after it
    )
