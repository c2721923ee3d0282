"""Two hundred agents on one machine in one restore, some of them hostile: each of the others comes up with all it
declared, in bounded time and memory."""

import re
import sys
import time
from collections.abc import Callable

import pytest

from tests.machine.hostilehomes import STANDING
from tests.machine.hostilescene import Scene, scene
from tests.machine.racer import racing
from tests.machine.towns import Said, as_agent
from tests.reach import CHECKOUT
from tests.scale import SCALE
from town import mounts, process
from town.process import Person

__all__ = ["scene"]
pytestmark = pytest.mark.root
MANY, FIRST = 200, 50_000  # agents, and the uid of the first
HOSTILE = {
    "a link to a directory of root's": "projects", "a file": "work", "a FIFO that nobody writes to": "work",
    "a relative link to another agent's home": "work", "data that a mount would hide": "projects",
}  # fmt: skip
PROGRAM = """
import re, sys
from persist import cli
status = cli.main(sys.argv[1:])
print(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(status)
"""


def _declare(scene: Scene, persist: str) -> None:
    scene.declare("[]")
    head = scene.town.file.read_text().split("[agents.")[0]
    agents = [f"[agents.a{number}]\nuid = {FIRST + number}\npersist = {persist}\n" for number in range(MANY)]
    scene.town.file.write_text(head + "".join(agents))


def _apart(scene: Scene, *words: str) -> tuple[Said, float, int]:
    """The command in a process of its own, as a boot has it: what it said, seconds, MiB."""
    began = time.monotonic()
    argv = [sys.executable, "-c", PROGRAM, "--spec", str(scene.town.file), *words]
    env = {"PYTHONPATH": str(CHECKOUT)}
    done = process.run(argv, env=env, cwd=CHECKOUT, check=False)
    took, err = time.monotonic() - began, done.err.decode()
    peak = int(re.findall(r"^(\d+)$", err, re.MULTILINE)[-1]) >> 10
    return Said(done.status, done.out.decode(), err), took, peak


@pytest.mark.parametrize("scene", ["ext4"] if SCALE == 1 else ["btrfs", "ext4"], indirect=True)
def test_two_hundred_agents_come_up_in_one_restore_beside_hostile_ones(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    _declare(scene, "[]")
    scene.ok("restore")
    hostile = {}
    for number, (standing, at) in enumerate(HOSTILE.items()):
        home = scene.town.agents / f"a{number * 7}"
        program = f"shared = roots = human = vox = '/root'\n{STANDING[standing].replace('{at}', at)}"
        as_agent(Person(FIRST + number * 7, FIRST + number * 7), home, program)
        hostile[number * 7] = at
    _declare(scene, '["projects", "work/deep/place"]')
    racer = Person(FIRST + 3, FIRST + 3)
    with racing(racer, scene.town.agents / "a3", [("work", "link:/root"), ("projects", "link:../a4")]) as racing_:
        said = scene.run("restore")
        assert racing_.swaps > 100
    assert said.status == 1
    failed = set(re.findall(r"error: a(\d+): ", said.err))
    assert {str(number) for number in hostile} <= failed <= {*map(str, hostile), "3"}
    table = {mount.target: mount for mount in mounts.table()}
    for number in set(range(MANY)) - set(hostile) - {3}:
        home = scene.town.agents / f"a{number}"
        for place in ("projects", "work/deep/place"):
            assert table[bytes(home / place)].root.endswith(f"/agents/a{number}/{place}".encode())
            assert (home / place).stat().st_uid == FIRST + number
        assert home.stat().st_mode & 0o777 == 0o700
    record_property("agents that came up in one restore", MANY - len(hostile))


@pytest.mark.parametrize("scene", ["ext4"], indirect=True)
def test_two_hundred_agents_cost_bounded_time_and_memory(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    _declare(scene, '["projects", "work/deep/place"]')
    first, took, peak = _apart(scene, "restore")
    assert first.status == 0, first.err
    assert first.out.count("bind    ") == 2 * MANY
    again, took_again, _ = _apart(scene, "restore")
    assert (again.status, again.out.count("nothing to do")) == (0, MANY)
    assert peak < 100, "MiB"
    assert took < 60
    assert took_again < 30
    record_property("ms for 200 agents, first restore", int(took * 1000))
    record_property("ms for 200 agents, second restore", int(took_again * 1000))
    record_property("MiB for 200 agents", peak)
