"""Whole processes: memory stays bounded when the store is slow, and Ctrl-C or a crash ends at once, threads or not."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent.parent
_HEAD = """
import os, resource, sys, threading, time
from random import Random
from persist.bucket.blobs import FrameWanted, Writer, directories, stream
from persist.bucket.keys import AgentKeys, TownKey
from persist.store.memory import MemoryStore
keys, random = AgentKeys.of(TownKey(bytes(32)), "ada"), Random(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
class Slow:
    def put(self, key, data):
        time.sleep(0.15)
class Stuck:
    def put(self, key, data):
        os.write(1, b"stuck\\n")  # one write: several threads come here
        threading.Event().wait()
    def get(self, key, offset=0, length=None):
        self.put(key, b"")
def fill(writer, mebibytes):
    for number in range(mebibytes):
        writer.add("data", random.randbytes(1 << 20))
        writer.add("tree", random.randbytes(9_000))
"""
WRITE = "writer = Writer(Slow(), keys); fill(writer, 320); writer.finish(); print(peak())"
# A store in a file of its own, so that only what the stream holds counts.
READ = """
import os, tempfile
class Disk(MemoryStore):
    def __init__(self):
        super().__init__()
        self.top = tempfile.TemporaryDirectory()
    def put(self, key, data):
        open(os.path.join(self.top.name, key[-64:]), "wb").write(data)
    def get(self, key, offset=0, length=None):
        with open(os.path.join(self.top.name, key[-64:]), "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)
store = Disk()
if os.fork() == 0:
    writer = Writer(store, keys); fill(writer, 160)
    for number in range(60):
        writer.add("data", bytes([number]) * (4 << 20))
    packs = [placed.pack for placed in writer.finish()]
    open(os.path.join(store.top.name, "packs"), "w").write(repr([pack.record for pack in packs]))
    os._exit(0)
os.wait()
from persist.bucket.packs import Pack
packs = [Pack.parsed(each) for each in eval(open(os.path.join(store.top.name, "packs")).read())]
wanted = (FrameWanted(p, n, f) for p, frames in directories(store, keys, packs) for n, f in enumerate(frames))
size = 0
for want, data in stream(store, keys, wanted):
    size += len(data)
    time.sleep(0.001)
assert size > 400 << 20
print(peak())
"""


@contextmanager
def start(script: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the script; killed at the end where it did not end by itself."""
    argv = [sys.executable, "-W", "error", "-c", _HEAD + script]
    with subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
        try:
            yield ran
        finally:
            ran.kill()


@pytest.mark.parametrize(("script", "most"), [(WRITE, 160), (READ, 150)], ids=["writer", "stream"])
def test_memory_is_bounded_however_slow_the_other_side_is(script: str, most: int) -> None:
    # The process is started by this one, whose own peak it would inherit: a small one stands between.
    between = "import os, sys; sys.exit(os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:]))"
    argv = [sys.executable, "-I", "-S", "-c", between]
    argv += [sys.executable, "-W", "error", "-c", _HEAD + script]
    ran = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert 40 < int(ran.stdout) < most


INTERRUPTED = {
    "add": "writer = Writer(Stuck(), keys); fill(writer, 1000)",
    "finish": "writer = Writer(Stuck(), keys); fill(writer, 1); writer.finish()",
    "with": "with Writer(Stuck(), keys) as writer: fill(writer, 1000)",
    "stream": """
store = MemoryStore(); writer = Writer(store, keys); fill(writer, 40)
wanted = [FrameWanted(p.pack, n, f) for p in writer.finish()
          for _, frames in directories(store, keys, [p.pack]) for n, f in enumerate(frames)]
frames = stream(Stuck(), keys, wanted)
next(frames)
""",
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_an_interruption_while_the_store_hangs_ends_the_process(where: str) -> None:
    with start(INTERRUPTED[where]) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        assert ran.stdout.readline() == "stuck\n"
        time.sleep(0.3)
        began = time.monotonic()
        ran.send_signal(signal.SIGINT)
        assert ran.wait(20) == -signal.SIGINT
        assert time.monotonic() - began < 10
        said = ran.stderr.read()
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert "Fatal" not in said


def test_a_crash_of_the_program_ends_it_though_the_threads_are_at_work() -> None:
    script = "writer = Writer(Slow(), keys); fill(writer, 30); print('stuck', flush=True); raise ZeroDivisionError"
    for _ in range(5):
        with start(script) as ran:
            assert ran.stderr is not None
            said = ran.stderr.read()
            assert ran.wait(20) == 1
            assert said.rstrip().endswith("ZeroDivisionError")
            assert "Fatal" not in said
