"""A hostile agent's process under its real uid that swaps names without pause, and counts each swap where all can see.

A race that did not happen proves nothing: `Racer.swaps` is read before and after each command, from memory that the
racer shares. It ends by itself after some seconds, whatever becomes of the test.
"""

import json
import mmap
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.reach import PYTHON
from town.process import Person

# A decoy is made beside, then exchanged with the name (renameat2(2)), so that the name is never free for a moment; one
# that is free is taken. Kinds: `link:TARGET`, `file`, `fifo`, `socket`, `directory`, `filled`, `maze:NAME:TARGET` (a
# directory in which NAME is a link), `hard:PATH` (another name of a file), `away` (nothing: the name comes and goes).
SOURCE = """
import ctypes, json, mmap, os, socket, struct, sys, time
moves, catch, seconds = json.loads(sys.argv[1]), sys.argv[2].split(",") if sys.argv[2] else [], float(sys.argv[3])
told = mmap.mmap(int(sys.argv[4]), 4096)
renameat2 = ctypes.CDLL(None).renameat2
count = caught = turn = 0
def rename(a, b, flags):
    return renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags) == 0
def above(path):
    try: os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    except OSError: pass
def make(kind, path):
    kind, _, more = kind.partition(":")
    try:
        if kind == "link": os.symlink(more, path)
        if kind == "file": os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
        if kind == "fifo": os.mkfifo(path)
        if kind in ("directory", "filled", "maze"): os.mkdir(path)
        if kind == "filled": os.close(os.open(path + "/data", os.O_CREAT | os.O_WRONLY, 0o666))
        if kind == "hard": os.link(more, path)
        if kind == "socket":
            with socket.socket(socket.AF_UNIX) as made: made.bind(path)
        if kind == "maze": os.symlink(more.partition(":")[2], path + "/" + more.partition(":")[0])
    except OSError:
        pass
decoys = [(name, kind, ".decoys/%d" % number) for number, (name, kind) in enumerate(moves)]
until = time.monotonic() + seconds
while turn & 63 or time.monotonic() < until:
    turn += 1
    for name, kind, decoy in decoys:
        if kind == "away":
            done = rename(name, decoy, 1) or rename(decoy, name, 1) or rename(name, decoy, 2)
            if not done:
                above(decoy)
                above(name + "/.")
        else:
            done = rename(name, decoy, 2) or rename(decoy, name, 1)
            if not done:
                above(decoy)
                make(kind, decoy)
                above(name)
        count += done
    if catch and not turn & 7:
        for place in catch:
            try: found = os.listdir(place)
            except OSError: continue
            for name in found:
                if name.startswith(".nuketown-") or name.endswith(".new"):
                    spot = "link%d" % turn
                    make(moves[0][1] if moves[0][1].startswith("link") else "link:/etc", ".decoys/" + spot)
                    caught += rename(os.path.join(place, name), ".decoys/" + spot, 2)
    told[:16] = struct.pack("=QQ", count, caught)
"""


@dataclass(frozen=True)
class Racer:
    """The process, and the memory in which it counts."""

    process: subprocess.Popen[bytes]
    shared: mmap.mmap

    @property
    def swaps(self) -> int:
        """How many names it has swapped so far."""
        return int(struct.unpack_from("=Q", self.shared)[0])

    @property
    def caught(self) -> int:
        """How many hidden names of root's it has swapped for a link so far."""
        return int(struct.unpack_from("=Q", self.shared, 8)[0])

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """A moment to look in which nothing moves."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def racing(
    person: Person, place: Path, moves: Sequence[tuple[str, str]], *, catch: Sequence[str] = (), seconds: float = 30
) -> Iterator[Racer]:
    """A racer at work in the directory `place`: every (name, decoy) in turn; hidden names in `catch` become links."""
    memory = os.memfd_create("swaps")
    os.ftruncate(memory, mmap.PAGESIZE)
    with mmap.mmap(memory, mmap.PAGESIZE) as shared:
        words = [PYTHON, "-c", SOURCE, json.dumps(list(moves)), ",".join(catch), str(seconds), str(memory)]
        process = subprocess.Popen(
            words, cwd=place, user=person.uid, group=person.gid, extra_groups=[], pass_fds=[memory], umask=0
        )
        os.close(memory)
        racer = Racer(process, shared)
        try:
            _started(racer)
            yield racer
        finally:
            process.kill()
            process.wait()


def _started(racer: Racer) -> None:
    until = time.monotonic() + 10
    while racer.swaps == 0:
        assert racer.process.poll() is None, "the racer did not start"
        assert time.monotonic() < until, "the racer swaps nothing"
        time.sleep(0.01)
