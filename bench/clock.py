"""Time and memory of whole processes, as the operating system counts them."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Took:
    """One run: wall and CPU seconds (its children's included), the largest resident set of the process itself in MB."""

    wall: float
    cpu: float
    peak: float

    def __str__(self) -> str:
        return f"{self.wall:8.2f} s  {self.cpu:8.2f} s CPU  {self.peak:7.0f} MB"


def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "/") -> Took:
    """Run a command to its end, its output thrown away. Raises CalledProcessError when it fails."""
    start = time.monotonic()
    process = subprocess.Popen(
        argv, env=dict(env or os.environ), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return Took(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
