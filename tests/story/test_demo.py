"""`make demo` as a test: every fact of the story holds, and it leaves nothing behind however it ends."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests import reach
from tests.scale import SEED, times

pytestmark = pytest.mark.root
CHECKOUT = Path(__file__).parent.parent.parent
MARK = os.urandom(8).hex().encode()  # in the environment of this run's demos, and of no other's
DEMO = [sys.executable, "-m", "demo"]


PLACES = ("/agents", "/persist", "/vega", "/images", "/backup", "/josh", "/look", "/etc/nuketown", "/run/nuketown")


def _read(paths: Iterable[str]) -> list[bytes]:
    texts = []
    for path in paths:
        with contextlib.suppress(OSError):  # a process or device that went away meanwhile
            texts.append(Path(path).read_bytes())
    return texts


def _marked() -> dict[str, str]:
    return os.environ | {"DEMO_MARK": MARK.decode()}


def _left() -> dict[str, object]:
    """What a demo could leave on the machine. Other tests run beside this one: only what is a demo's counts."""
    marks = [b" %s " % os.fsencode(place) for place in PLACES]
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return {
        "mounts": [line for line in lines if any(mark in line for mark in marks)],
        "loop devices": [
            text
            for text in _read(f"/sys/block/{name}/loop/backing_file" for name in os.listdir("/sys/block"))
            if b"/images/signi" in text or b"/images/vega" in text
        ],
        "processes": sum(MARK in text for text in _read(f"/proc/{name}/environ" for name in os.listdir("/proc"))),
        "places": [name for name in PLACES if Path(name).exists()],
        "accounts": Path("/etc/passwd").read_bytes() + Path("/etc/group").read_bytes(),
        "host name": os.uname().nodename,
    }


def test_the_whole_story_holds_and_leaves_nothing() -> None:
    before = _left()
    start = time.monotonic()
    done = subprocess.run(DEMO, cwd=CHECKOUT, env=_marked(), capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "facts hold" in done.stdout
    assert _left() == before
    print(f"the story took {time.monotonic() - start:.1f} s")


def _interrupted(how: signal.Signals, after: float) -> int:
    told = subprocess.Popen(DEMO, cwd=CHECKOUT, env=_marked(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    told.send_signal(how)
    return told.wait(30)


@pytest.mark.parametrize("turn", range(times(3)))
def test_an_interrupted_demo_leaves_nothing(turn: int) -> None:
    dice = random.Random(SEED + turn)
    how = [signal.SIGINT, signal.SIGKILL, signal.SIGTERM][turn % 3]
    before = _left()
    status = _interrupted(how, dice.uniform(0.2, 1.8))
    assert status in (-how, 128 + how)
    deadline = time.monotonic() + 10
    while _left() != before and time.monotonic() < deadline:  # after SIGKILL the kernel takes it apart on its own
        time.sleep(0.1)
    assert _left() == before


def test_without_root_it_says_that_it_needs_root() -> None:
    with reach.checkout() as (place, packages):
        for command in ([reach.PYTHON, "-m", "demo"], ["make", "-s", "demo"]):
            done = subprocess.run(
                command, cwd=place, env=os.environ | packages, user=65534, group=65534, extra_groups=[],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode != 0
            assert "needs root" in done.stderr
