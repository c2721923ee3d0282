"""A command of this program in a process of its own that is killed, or refused, at a chosen request to the store.

Requests are counted at the store's own methods, whatever kind of store it is, from all threads.
"""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from persist import cli
from persist.store import Store, StoreUnreachable

How = Literal["killed before", "killed after", "refused", "answer lost"]
HOWS: tuple[How, ...] = ("killed before", "killed after", "refused", "answer lost")
_METHODS = ("get", "put", "put_if_absent", "replace_if_unchanged", "list", "delete", "size")


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process ended: its exit status, negative for a signal, and how many requests it made."""

    status: int
    requests: int

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def run(kind: type[Store], words: list[str], number: int = -1, how: How = "killed before") -> Ended:
    """Run `persist WORDS` in a fork; request `number` (from 0) of a store of that kind ends as `how` says."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        status = 99
        try:
            os.close(reading)
            _quiet()
            _count(kind, number, how, writing)
            status = cli.main(words)
        finally:
            os._exit(status)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as file:
        return Ended(os.waitstatus_to_exitcode(status), len(file.read()))


def _quiet() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):
        os.dup2(nothing, fd)


def _count(kind: type[Store], number: int, how: How, told: int) -> None:
    """Wrap the methods of the store: each outermost call is one request."""
    lock, inside, calls = threading.Lock(), threading.local(), [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            if getattr(inside, "now", False):  # put goes by put_if_absent: one request
                return real(*words, **more)
            with lock:
                mine = calls[0] == number
                calls[0] += 1
                os.write(told, b".")
            inside.now = True
            try:
                return _ending(lambda: real(*words, **more), how) if mine else real(*words, **more)
            finally:
                inside.now = False

        return call

    for name in _METHODS:
        setattr(kind, name, wrapped(getattr(kind, name)))


def _ending(request: Callable[[], Any], how: How) -> Any:
    if how == "killed before":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "refused":
        raise StoreUnreachable("the store did not answer")
    answer = request()
    if not hasattr(answer, "__len__") and hasattr(answer, "__iter__"):
        list(answer)  # a listing is asked for when it is read
    if how == "killed after":
        os.kill(os.getpid(), signal.SIGKILL)
    raise StoreUnreachable("the store's answer was lost")
