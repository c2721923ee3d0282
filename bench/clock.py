"""Time and memory of whole processes, as the operating system counts them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A process inherits the peak memory of the one that it was forked from (the kernel keeps it through exec), so each is
# started by a small one: 10 MB are the least that is ever shown. The clock runs there too, from fork to wait.
_LAUNCHER = """
import os, sys, time
report = int(sys.argv.pop(1))
os.set_inheritable(report, False)
start = time.monotonic()
child = os.fork()
if child == 0:
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    finally:
        os._exit(127)
_, status, usage = os.wait4(child, 0)
wall = time.monotonic() - start
took = (wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))
os.write(report, " ".join(map(str, took)).encode())
"""


@dataclass(frozen=True, slots=True)
class Took:
    """One run: wall and CPU seconds (its children's included), the largest resident set of any one process in MB."""

    wall: float
    cpu: float
    peak: float

    def __str__(self) -> str:
        return f"{self.wall:8.2f} s  {self.cpu:8.2f} s CPU  {self.peak:7.0f} MB"


class Failed(Exception):
    """A command that was measured ended with an error; what it said is in the message."""


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "/", allowed: Sequence[int] = (0,)
) -> Took:
    """Run a command to its end, its output thrown away. Raises Failed when it ends with another status."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as said, os.fdopen(reading) as report:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writing), *argv]
        subprocess.run(
            launcher, env=env, cwd=cwd, stdout=subprocess.DEVNULL, stderr=said, pass_fds=(writing,), check=True
        )
        os.close(writing)
        wall, cpu, peak, status = report.read().split()
        if int(status) not in allowed:
            said.seek(0)
            raise Failed(f"{' '.join(argv)}: status {status}: {said.read()[-2000:].decode(errors='replace')}")
    return Took(float(wall), float(cpu), float(peak))
