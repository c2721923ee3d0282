"""A hostile agent, as its own uid, swaps all it can reach while root restores: nothing outside its home moves."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.machine import towns
from tests.machine.towns import ADA, VOX, Town, town
from tests.reach import PYTHON
from town import kernel, mounts

__all__ = ["town"]
pytestmark = pytest.mark.root

# Every component of the two places becomes, in turn: a symlink out, a file, a directory, nothing, another's place.
RACER = """
import itertools, os, random, shutil, sys
outside = sys.argv[1]
random.seed(int(sys.argv[2]))
def quietly(act, *words):
    try: act(*words)
    except OSError: pass
NAMES = ["work", "work/deep", "work/deep/place", "other", "other/place"]
for turn in itertools.count():
    name = random.choice(NAMES)
    act = random.choice("slrmfxxdd")
    if act == "s": quietly(os.symlink, outside, name)
    if act == "l": quietly(os.symlink, "../" * random.randrange(1, 6) + "vox", name)
    if act == "r": quietly(os.rename, name, random.choice(["moved%d" % turn, *NAMES]))
    if act == "m": quietly(os.makedirs, name)
    if act == "f": quietly(lambda: open(name, "x").close())
    if act == "x": quietly(os.unlink, name)
    if act == "d": quietly(shutil.rmtree, name)
    for found in os.listdir("."):
        if found.startswith(".nuketown-") or found.endswith(".new"):
            quietly(os.rename, found, "caught%d" % turn)
            quietly(os.symlink, outside, found)
        elif found.startswith(("moved", "caught")):
            quietly(shutil.rmtree, found)
"""


@contextmanager
def _racing(home: Path, outside: Path, seed: int) -> Iterator[subprocess.Popen[bytes]]:
    racer = subprocess.Popen(
        [PYTHON, "-c", RACER, str(outside), str(seed)], cwd=home, user=ADA, group=ADA, extra_groups=[]
    )
    try:
        yield racer
        assert racer.poll() is None, "the racer ended before the race did"
    finally:
        racer.send_signal(signal.SIGKILL)
        racer.wait()


@contextmanager
def _stopped(racer: subprocess.Popen[bytes]) -> Iterator[None]:
    """A moment to look, and to unmount by path, in which nothing moves."""
    racer.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, racer.pid, os.WSTOPPED)
    yield
    racer.send_signal(signal.SIGCONT)


def _undo_binds(town: Town) -> int:
    """Every mount below agents_dir lies in ada's home or is vox's own; ada's two places are unmounted and counted."""
    found = [mount for mount in mounts.below(town.agents) if mount.target != bytes(town.agents / "vox/notes")]
    assert all(mount.target.startswith(bytes(town.agents / "ada") + b"/") for mount in found)
    places = [mount for mount in found if not mount.root.endswith(b"/projects")]
    for mount in places:
        kernel.umount(os.fsdecode(mount.target), kernel.MNT_DETACH)
    return len(places)


def _owned_by(path: Path, uid: int) -> list[str]:
    return [str(found) for found in (path, *path.rglob("*")) if found.lstat().st_uid == uid]


def test_an_agent_that_swaps_every_component_reaches_nothing_outside_its_home(town: Town) -> None:
    town.write('["projects"]', '["notes"]')
    town.persist("restore")
    outside = town.base / "outside"
    outside.mkdir()
    outside.chmod(0o777)  # the agent's permissions are not what keeps it in
    places = '["projects", { path = "work/deep/place" }, { path = "other/place", required = false }]'
    vox = towns.facts(town.agents / "vox"), towns.facts(town.persisted / "agents/vox")
    statuses, bound, until = set(), 0, time.monotonic() + 3
    with _racing(town.agents / "ada", outside, seed=7) as racer:
        town.write(places, '["notes"]')
        while time.monotonic() < until:
            said = town.persist("restore")
            statuses.add(said.status)
            assert "vox: nothing to do" in said.out
            assert "Traceback" not in said.err
            with _stopped(racer):
                bound += _undo_binds(town)
    assert statuses == {0, 1}, "both sides won now and then, or this was no race"
    assert bound > 3
    assert list(outside.iterdir()) == []
    assert (towns.facts(town.agents / "vox"), towns.facts(town.persisted / "agents/vox")) == vox
    assert _owned_by(town.persisted / "agents/ada", VOX) == []
    assert sorted(os.listdir(town.agents)) == ["ada", "vox"]
