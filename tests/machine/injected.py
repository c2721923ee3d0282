"""A command of this program in a process of its own whose n-th call into the kernel is refused, with a chosen errno.

Calls are counted where Python leaves for the kernel, as in `killing`: only those that a filesystem may refuse, and
each only with an errno that it may give. Whatever is called after that goes through: the fault is gone again.
"""

import contextlib
import errno
import io
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from persist import cli

_READS = {
    "open", "read", "pread", "readv", "preadv", "scandir", "listdir", "stat", "fstat", "lstat", "getxattr", "listxattr",
    "readlink", "statvfs", "fstatvfs", "openat2",
}  # fmt: skip
_WRITES = {
    "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link", "symlink", "mknod", "mkfifo", "write",
    "pwrite", "writev",
    "ftruncate", "truncate", "fsync", "fdatasync", "chmod", "fchmod", "chown", "fchown", "lchown", "utime",
    "setxattr",
    "removexattr", "posix_fallocate", "copy_file_range", "renameat2", "syncfs", "create_subvolume", "create_snapshot",
    "delete_subvolume", "set_subvolume_read_only", "ioctl",
}  # fmt: skip
_MODULES = {"posix", "fcntl", "btrfsutil"}
ERRNOS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Ended:
    """What the command left: its status and words, how many calls it came to, and which one was refused (or none)."""

    status: int
    out: str
    err: str
    calls: int
    refused: str


def run(words: list[str], number: int, code: int) -> Ended:
    """Run `persist WORDS` in a fork; the call `number` (from 0) of those that may end with `code` does."""

    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    return _forked(words, number, refuse, reads=code == errno.EIO)


def during(words: list[str], number: int, act: Callable[[], None]) -> Ended:
    """Run it in a fork that does `act` before its call `number`: what a disk does to it is real from then on."""
    return _forked(words, number, act, reads=False)


def _forked(words: list[str], number: int, act: Callable[[], None], *, reads: bool) -> Ended:
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as file:
                pickle.dump(_run(words, number, act, reads=reads), file)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    assert said, "the child died"
    ended = pickle.loads(said)
    assert isinstance(ended, Ended)
    return ended


def calls(words: list[str], code: int) -> int:
    """How many calls of the command may end with that errno. It is run to its end."""
    ended = run(words, -1, code)
    assert ended.status == 0, ended
    return ended.calls


def _run(words: list[str], number: int, act: Callable[[], None], *, reads: bool) -> Ended:
    counted, refused = 0, ""

    def step(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal counted, refused
        name = _leaves(frame, event, argument)
        if name in _WRITES or (reads and name in _READS):
            counted += 1
            if counted - 1 == number:
                refused = f"{name} at {frame.f_code.co_filename}:{frame.f_lineno}"
                sys.setprofile(None)
                act()

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.setprofile(step)
        try:
            status = cli.main(words)
        finally:
            sys.setprofile(None)
    return Ended(status, out.getvalue(), err.getvalue(), counted, refused)


def _leaves(frame: FrameType, event: str, argument: Any) -> str:
    """The name of the call where it leaves for the kernel, else nothing."""
    if event == "c_call" and getattr(argument, "__module__", None) in _MODULES:
        return str(argument.__name__)
    if event == "call" and frame.f_code.co_filename.endswith("town/kernel.py"):
        return frame.f_code.co_name
    return ""
