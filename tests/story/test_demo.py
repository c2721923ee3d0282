"""`make demo` as a test: every fact of the story holds, and it leaves nothing behind however it ends."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from demo import private
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


# A machine where somebody followed the README, and who had other plans for the names at its root: a private one, on
# which a private one is made. What the inner one sees of it is printed.
_TOWN_OF_ITS_OWN = """
import json, os, subprocess, sys
from pathlib import Path
from demo import private
from demo.story import CHECKOUT

FILES = ("/etc/nuketown/town.toml", "/etc/nuketown/age.key", "/usr/lib/nuketown/rollback.sh",
    "/usr/lib/dracut/modules.d/90nuketown/module-setup.sh", "/etc/initramfs-tools/hooks/nuketown")
UNITS = Path("/etc/systemd/system")
NAMES = ("agents", "persist", "backup", "josh", "vega", "images", "look", "town", "second", "mnt-top", "mnt-readme")

def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

def machine():
    for name in NAMES:
        put(Path("/", name, "mine"), "mine")
    for name in FILES:
        put(Path(name), "# an older release's")
    put(UNITS / "agents.mount", "# Written by nuketown: an older release")
    put(UNITS / "mine.mount", "# mine")
    put(UNITS / "x.wants/agents.mount", "")
    (UNITS / "x.wants/agents.mount").unlink()
    (UNITS / "x.wants/agents.mount").symlink_to("/etc/systemd/system/agents.mount")
    Path("/etc/fstab").write_text("LABEL=p /persist/ btrfs nofail 0 0\\nLABEL=h /home ext4 nofail 0 0\\n")
    subprocess.run(["useradd", "--uid", "1100", "--home-dir", "/agents/ada", "--no-create-home", "ada"], check=True)
    return private.run(inside, CHECKOUT)

def inside():
    put(Path("/usr/lib/nuketown/new"), "it can be written")
    tables = [line for name in ("passwd", "shadow", "group", "gshadow") for line in open(f"/etc/{name}")]
    print(json.dumps({
        "root": sorted(set(NAMES) & set(os.listdir("/"))),
        "files": [name for name in FILES if os.path.exists(name)],
        "units": sorted(path.name for path in UNITS.rglob("*agents.mount")) + sorted(map(str, UNITS.glob("mine*"))),
        "fstab": open("/etc/fstab").read(),
        "ada": [line for line in tables if line.startswith("ada:")],
        "root's": sum(line.startswith("root:") for line in tables),
    }))
    return 0

sys.exit(private.run(machine, CHECKOUT))
"""


def test_a_town_that_the_machine_has_is_not_seen_and_not_touched() -> None:
    before = _left()
    done = subprocess.run(
        [sys.executable, "-c", _TOWN_OF_ITS_OWN],
        cwd=CHECKOUT,
        env=_marked(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {
        "root": [],
        "files": [],
        "units": ["/etc/systemd/system/mine.mount"],
        "fstab": "LABEL=h /home ext4 nofail 0 0\n",
        "ada": [],
        "root's": 4,
    }
    assert _left() == before
    assert not Path("/usr/lib/nuketown/new").exists()


def _places(source: str) -> set[str]:
    """The directories at the root that a program names."""
    return set(re.findall(r'"/([a-z][a-z-]*)(?=["/])', (CHECKOUT / source).read_text()))


@pytest.mark.parametrize("source", ["demo/story.py", "demo/machines.py", "bench/__main__.py", "bench/hook.py",
    "tests/story/test_readme.py"])  # fmt: skip
def test_every_place_that_is_made_at_the_root_is_left_out_of_the_machine(source: str) -> None:
    of_every_machine = set(os.listdir("/")) & {
        "bin",
        "dev",
        "etc",
        "home",
        "mnt",
        "proc",
        "run",
        "sys",
        "tmp",
        "usr",
        "var",
    }
    assert _places(source) - of_every_machine - {"sbin"} <= private.LEFT_OUT


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
