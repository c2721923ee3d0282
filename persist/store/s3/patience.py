"""How long a request to the store is waited for, and how often it is sent again: one policy for every call."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from town.failure import Failure

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. A call is tried at least `tries` times, and again while `total` lasts since its start.

    Between two tries lies half to all of `pause`, doubled each time, `longest` at most: clients that failed together
    do not come back together. Where nothing ever answered in this process, `tries` is all: no network stays so.
    """

    connect: float = 10.0
    read: float = 60.0
    tries: int = 4
    total: float = 60.0
    pause: float = 0.25
    longest: float = 8.0


PATIENCE = Patience()


class Passing(Exception):
    """What went wrong in one try and may pass; `failure` is what it is when it does not. `most` bounds the tries."""

    def __init__(self, failure: Failure, *, most: int | None = None) -> None:
        super().__init__(failure.what)
        self.failure = failure
        self.most = most


def patiently(patience: Patience, answered: Callable[[], bool], act: Callable[[], T]) -> T:
    """What `act` returns, once it does not raise Passing; at the end of the patience its failure is raised."""
    began, number = time.monotonic(), 0
    while True:
        try:
            return act()
        except Passing as passing:
            number += 1
            pause = _pause(patience, number)
            late = time.monotonic() + pause > began + patience.total or not answered()
            if number >= (passing.most or 1 << 30) or (number >= patience.tries and late):
                raise passing.failure from passing.__cause__
        time.sleep(pause)


def _pause(patience: Patience, number: int) -> float:
    whole = min(patience.longest, patience.pause * 2 ** min(number - 1, 20))
    return random.uniform(whole / 2, whole)  # noqa: S311 - jitter is no secret
