"""A function of this program run in a process that dies by SIGKILL at a chosen call into the kernel.

Calls are counted where Python leaves for the kernel, libbtrfsutil or SQLite: builtins of posix, fcntl and btrfsutil,
the functions of town.kernel, the methods of a database that write; once before each and once after.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_MODULES = {"posix", "fcntl", "btrfsutil"}
_SQLITE = {"commit", "execute", "executemany", "executescript"}


def count(run: Callable[[], object]) -> int:
    """How many moments `run` has to be killed at. It runs in a child, to its end."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        _forked(run, lambda calls: os.write(writing, calls.to_bytes(8, "big")))
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as file:
        said = file.read()
    assert status == 0, "the child failed"
    return int.from_bytes(said, "big")


def killed(run: Callable[[], object], moment: int) -> None:
    """Run `run` in a child that is killed at that moment."""
    if (child := os.fork()) == 0:
        _forked(run, lambda _calls: None, moment)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself, {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL


def tried(run: Callable[[], object], moment: int) -> bool:
    """Like `killed`, of what does not do the same each time: whether it came to that moment at all."""
    if (child := os.fork()) == 0:
        _forked(run, lambda _calls: None, moment)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed, {status}"
    return os.WIFSIGNALED(status)


def _forked(run: Callable[[], object], tell: Callable[[int], object], moment: int = -1) -> None:
    calls = 0

    def step(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        if not _leaves(frame, event, argument):
            return
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1

    code = 1
    try:
        sys.setprofile(step)
        run()
        sys.setprofile(None)
        tell(calls)
        code = 0
    finally:
        os._exit(code)


def _leaves(frame: FrameType, event: str, argument: Any) -> bool:
    if event.startswith("c_"):
        if getattr(argument, "__module__", None) in _MODULES:
            return True
        return getattr(argument, "__name__", "") in _SQLITE and type(argument.__self__).__module__ == "sqlite3"
    return frame.f_code.co_filename.endswith("town/kernel.py")
