"""Ada swaps names without pause, as her own uid, while root restores, syncs, looks: each race counts its swaps.

Nothing outside her places is changed, made, mounted, given away, or read for her. She may cost herself a directory;
when she stops, the next run brings it back.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machine.canaries import held
from tests.machine.homes import Home
from tests.machine.hostilescene import Scene, sampled, scene
from tests.machine.racer import Racer
from tests.machine.towns import ADA, Said
from tests.scale import SCALE
from town import mounts, process

__all__ = ["scene"]
pytestmark = pytest.mark.root
BOTH = ["btrfs", "ext4"]
SECONDS = 0.6 if SCALE == 1 else 5.0  # of each race
FEWEST, LONGEST = 300, 8.0  # swaps in one, or it was none (there are some ten thousand); seconds that it may take
PLACE = "work/deep/place"

Moves = list[tuple[str, str]]
# What is swapped for what, while something declared belongs at work/deep/place.
RACES: dict[str, Moves] = {
    "the place for a link to another agent's home": [(PLACE, "link:{vox}")],
    "the place for a link to where everybody may look": [(PLACE, "link:{shared}")],
    "the place for a link to root's": [(PLACE, "link:{roots}")],
    "a parent for a link to where everybody may look": [("work/deep", "link:{shared}")],
    "the first component for a relative link to another agent's home": [("work", "link:../vox")],
    "a parent for a relative link to where everybody may look": [("work/deep", "link:../../../shared")],
    "the place for a relative link to root's": [(PLACE, "link:../../../../root")],
    "the first component for a link through /proc": [("work", "link:/proc/self/root")],
    "each component for a link, in turn": [("work", "link:{shared}"), ("work/deep", "link:{vox}"), (PLACE, "link:.")],
    "the place for a file": [(PLACE, "file")],
    "a parent for a file": [("work/deep", "file")],
    "the place for a FIFO": [(PLACE, "fifo")],
    "a parent for a socket": [("work/deep", "socket")],
    "the place for one with data": [(PLACE, "filled")],
    "a parent for one in which the next is a link": [("work", "maze:deep:{shared}")],
    "a parent for nothing": [("work", "away")],
    "the place for nothing": [(PLACE, "away")],
    "two parents for each other's place": [("work/deep", "maze:place:{vox}"), ("work", "away")],
}


def _while_racing(scene: Scene, racer: Racer, run: Callable[[], Said], between: Callable[[], object]) -> list[Said]:
    """Run it again and again while the race goes on; with a moment `between` in which nothing moves."""
    said, until, swaps = [], time.monotonic() + SECONDS, 0
    while time.monotonic() < until or ((len(said) < 2 or swaps < FEWEST) and time.monotonic() < until + LONGEST):
        before = racer.swaps
        said.append(run())
        swaps += racer.swaps - before
        with racer.stopped():
            between()
    assert swaps >= FEWEST, "this was no race"
    return said


def _restore(scene: Scene) -> Said:
    said = scene.run("restore")
    assert "vox: nothing to do" in said.out
    return said


def _clear(home: Path) -> None:
    """Every place that was raced for is gone: what lies there is ada's alone."""
    names = [home / name for name in os.listdir(home) if name != ".decoys"]
    process.run(["rm", "-rf", "--", *names])  # it goes into subvolumes, and follows no link


@pytest.mark.parametrize("scene", BOTH, indirect=True)
@pytest.mark.parametrize("race", sampled(RACES, 6))
def test_a_restore_that_binds_is_led_nowhere(scene: Scene, race: str) -> None:
    scene.begin("[]")
    scene.declare(f'["{PLACE}"]')
    with scene.racing(RACES[race], catch=[".", "work"]) as racer:
        _while_racing(scene, racer, lambda: _restore(scene), scene.unbind)
    _comes_back(scene)
    scene.unharmed()


def _comes_back(scene: Scene) -> None:
    """The race is over: what ada left is gone, all she declared is there."""
    scene.unbind()
    _clear(scene.home)
    scene.ok("restore")
    mount = mounts.at(scene.home / PLACE)
    assert mount is not None
    assert (scene.home / PLACE).stat().st_uid == ADA
    assert mount.root.endswith(b"/agents/ada/" + PLACE.encode())


@pytest.mark.parametrize("scene", BOTH, indirect=True)
@pytest.mark.parametrize("race", sampled(RACES, 4))
def test_a_restore_that_fetches_into_the_home_is_led_nowhere(scene: Scene, race: str) -> None:
    scene.begin(f'[{{ path = "{PLACE}", via = "store" }}]', store=True)
    scene.ada(f'open("{PLACE}/mine", "w").write("mine"); import os; os.mkdir("{PLACE}/in")')
    scene.ok("sync", "ada")
    _clear(scene.home)
    with scene.racing(RACES[race], catch=[".", "work", "work/deep"]) as racer:
        _while_racing(scene, racer, lambda: _restore(scene), lambda: _clear(scene.home))
    _clear(scene.home)
    scene.ok("restore")
    assert (scene.home / PLACE / "mine").read_text() == "mine"
    scene.unharmed()


@pytest.mark.parametrize("race", ["the place for a link to root's", "the place for a file", "a parent for nothing"])
def test_a_restore_over_what_is_there_is_led_nowhere(scene: Scene, race: str) -> None:
    scene.begin(f'[{{ path = "{PLACE}", via = "store" }}]', store=True)
    scene.ada(f'open("{PLACE}/mine", "w").write("mine")')
    scene.ok("sync", "ada")
    head = Home(scene.town).head
    with scene.racing(RACES[race], catch=["."]) as racer:
        _while_racing(scene, racer, lambda: scene.run("restore", "ada", "--at", head), lambda: None)
    _clear(scene.home)
    scene.ok("restore", "ada", "--at", head)
    assert (scene.home / PLACE / "mine").read_text() == "mine"
    scene.unharmed()


# What is swapped for what, in what is synced.
INSIDE: dict[str, Moves] = {
    "a file for a link to root's secret": [("f", "link:{roots}/secret")],
    "a file for a link to another agent's": [("f", "link:{vox}/secret")],
    "a file for a FIFO": [("f", "fifo")],
    "a file for a socket": [("f", "socket")],
    "a directory for a link to root's": [("d", "link:{roots}"), ("d/e", "link:{human}")],
    "a directory for a file": [("d", "file")],
    "a directory for nothing": [("d", "away"), ("d/e", "away")],
    "a directory for one in which the next is a link": [("d", "maze:e:{vox}")],
}
FILL = """
import os
os.makedirs("projects/d/e", exist_ok=True)
for name in ("f", "d/f", "d/e/f"):
    open(f"projects/{name}", "w").write(name * 9)
"""


def _synced(scene: Scene, via: str) -> None:
    scene.begin(f'[{{ path = "projects", via = "{via}" }}]', store=True)
    scene.ada(FILL)
    scene.ok("sync", "ada")


@pytest.mark.parametrize("scene", BOTH, indirect=True)
@pytest.mark.parametrize("race", sampled(INSIDE, 3))
def test_a_sync_reads_nothing_that_is_not_adas(scene: Scene, race: str) -> None:
    _synced(scene, "both" if len(race) % 2 else "store")
    with scene.racing(INSIDE[race], place=scene.home / "projects") as racer:
        _while_racing(scene, racer, lambda: scene.run("sync", "ada"), lambda: None)
    scene.ok("sync", "ada", "--accept-loss")
    home = Home(scene.town)
    for state in home.log():
        for path, fact in home.got(state["snapshot"]).items():
            assert not any(isinstance(part, bytes) and scene.outside.tells(part) for part in fact), path
    scene.unharmed()


@pytest.mark.parametrize("race", ["a file for a link to root's secret", "a directory for nothing"])
def test_a_look_at_what_would_be_lost_ends_and_shows_nothing_of_others(scene: Scene, race: str) -> None:
    scene.begin("[]")
    scene.ada(FILL)
    with scene.racing(INSIDE[race], place=scene.home / "projects") as racer:
        said = _while_racing(scene, racer, lambda: scene.run("lost", "ada"), lambda: None)
    assert all("secret" not in one.out + one.err for one in said)
    assert "3 files" in scene.ok("lost", "ada").out or held(scene.home)
    scene.unharmed()


def test_a_status_beside_a_race_ends(scene: Scene) -> None:
    scene.begin(f'["projects", "{PLACE}"]')
    with scene.racing([*RACES["each component for a link, in turn"]]) as racer:
        _while_racing(scene, racer, lambda: scene.run("status"), lambda: None)
    scene.unharmed()
