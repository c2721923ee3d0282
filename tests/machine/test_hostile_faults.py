"""At each step the disk refuses: full, read-only, an I/O error, over quota. What fails says so and shows nothing half
made; when the fault is gone the next run completes, and nothing was lost.

One call into the kernel is refused, chosen by the seed of the run from all that the command makes: the error is given
where the kernel would give it, everything else is real.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from tests.machine import injected, movers, stores
from tests.machine.homes import Home
from tests.machine.hostilescene import Scene, scene
from tests.machine.injected import Ended
from tests.machine.towns import ADA
from tests.scale import SEED, times
from town import mounts, process

__all__ = ["scene"]
pytestmark = pytest.mark.root
DECLARED = '["projects", { path = "work/deep", via = "store" }, { path = ".tool", type = "file" }]'
FILL = """
import os
os.makedirs("projects/d", exist_ok=True)
for number in range(20):
    open(f"projects/d/f{number}", "wb").write(bytes([number]) * 3000)
    open(f"work/deep/f{number}", "wb").write(bytes([number]) * 5000)
open("work/deep/big", "wb").write(os.urandom(1 << 20))
open(".tool", "w").write("tool")
"""
PLACES = ("projects", "work/deep")
Facts = dict[bytes, stores.Fact]


@dataclass
class Trial:
    """One command in which one call is refused, in a scene whose data is known."""

    scene: Scene
    words: list[str]
    wanted: dict[str, Facts] = field(default_factory=dict)

    @property
    def argv(self) -> list[str]:
        return ["--spec", str(self.scene.town.file), *self.words]

    def remember(self) -> None:
        """What ada has now is what must be there in the end."""
        self.wanted = {place: stores.facts(self.scene.home / place) for place in PLACES}

    def refused(self, number: int, code: int) -> Ended:
        """Run it; what it says of the refusal is fit to be read, and names agent and step."""
        ended = injected.run(self.argv, number, code)
        for text in (ended.out, ended.err):
            assert "Traceback" not in text, (ended.refused, text)
        if ended.status != 0:
            assert ended.err.startswith("persist: "), ended
            # Directories above the spec are looked at too, up to the root.
            above = any(f"error: {path} cannot be read" in ended.err for path in self.scene.town.base.parents)
            assert above or "ada" in ended.err or str(self.scene.town.base) in ended.err, (ended.refused, ended.err)
        return ended

    def nothing_half(self, said: str) -> None:
        """Whatever is shown of ada's home is hers alone, and what is in its place is whole."""
        home = self.scene.home
        if not home.exists():
            return
        found = home.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ADA, 0o700), said
        for place, wanted in self.wanted.items():
            if (home / place).is_dir() and os.listdir(home / place):
                assert stores.facts(home / place) == wanted, (place, said)
        if (home / ".tool").exists():
            assert (home / ".tool").read_text() == "tool", said

    def completes(self, said: str) -> None:
        """The fault is gone: the next run does it all."""
        again = self.scene.run(*self.words)
        assert again.status == 0, (said, again)
        for place, wanted in self.wanted.items():
            assert stores.facts(self.scene.home / place) == wanted, (place, said)
        assert (self.scene.home / ".tool").read_text() == "tool", said


def _trials(calls: Callable[[int], int], count: int) -> list[tuple[int, int]]:
    """(number, errno) of calls to refuse, spread over all of them, by the seed of the run."""
    random = Random(SEED)
    many = {code: calls(code) for code in (errno.ENOSPC, errno.EIO)}
    found = []
    assert many[errno.EIO] > 10, "hardly any call was counted"
    for position in range(count):
        code = injected.ERRNOS[position % len(injected.ERRNOS)] if many[errno.ENOSPC] else errno.EIO
        all_ = many[errno.EIO if code == errno.EIO else errno.ENOSPC]
        first = position * all_ // count
        found.append((random.randrange(first, max(first + 1, (position + 1) * all_ // count)), code))
    return found


@pytest.mark.parametrize("scene", ["btrfs", "ext4"], indirect=True)
def test_a_restore_that_is_refused_at_any_step_shows_nothing_half_and_the_next_completes(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    trial = Trial(scene, ["restore", "ada"])
    scene.begin(DECLARED, store=True)
    scene.ada(FILL)
    scene.ok("sync", "ada")
    trial.remember()
    failed = 0

    def counted(code: int) -> int:
        scene.reboot()
        return injected.calls(trial.argv, code)

    for number, code in _trials(counted, times(9)):
        scene.reboot()
        ended = trial.refused(number, code)
        failed += ended.status != 0
        trial.nothing_half(ended.refused)
        trial.completes(ended.refused)
    assert failed > 2
    record_property("refused calls of a restore", times(9))


@pytest.mark.parametrize("scene", ["btrfs", "ext4"], indirect=True)
def test_a_fetch_that_is_refused_at_any_step_shows_nothing_half_and_the_next_completes(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    trial = Trial(scene, ["restore", "ada"])
    scene.begin(DECLARED, store=True)
    scene.ada(FILL)
    scene.ok("sync", "ada")
    trial.remember()

    def gone() -> None:
        """Another machine: nothing of ada's lies here."""
        scene.unbind()
        Home(scene.town).forget()
        shutil.rmtree(scene.home)
        shutil.rmtree(scene.kept)

    def counted(code: int) -> int:
        gone()
        return injected.calls(["--spec", str(scene.town.file), "restore", "--take-over", "ada"], code)

    trial.words = ["restore", "--take-over", "ada"]
    for number, code in _trials(counted, times(6)):
        gone()
        ended = trial.refused(number, code)
        trial.nothing_half(ended.refused)
        trial.completes(ended.refused)
    record_property("refused calls of a fetch", times(6))


@pytest.mark.parametrize("scene", ["btrfs", "ext4"], indirect=True)
def test_a_sync_that_is_refused_at_any_step_keeps_every_state_and_the_next_completes(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    trial = Trial(scene, ["sync", "ada"])
    scene.begin(DECLARED, store=True)
    scene.ada(FILL)
    scene.ok("sync", "ada")
    home, turn = Home(scene.town), 0

    def change() -> None:
        nonlocal turn
        turn += 1
        scene.ada(f'import os; open("projects/d/f{turn % 20}", "w").write("{turn}"); os.mkdir("work/deep/d{turn}")')

    def counted(code: int) -> int:
        change()
        return injected.calls(trial.argv, code)

    for number, code in _trials(counted, times(6)):
        before = {state["snapshot"] for state in home.log()}
        change()
        trial.remember()
        ended = trial.refused(number, code)
        assert before <= {state["snapshot"] for state in home.log()}, ended.refused
        trial.completes(ended.refused)
        assert home.got(home.head) == trial.wanted["projects"], ended.refused
    record_property("refused calls of a sync", times(6))


# What moves data of an agent about. Each trial begins from a home with data, and ends with that data in its place.


def _adopted(scene: Scene) -> None:
    for top in (scene.home, scene.kept):
        scene.unbind()
        process.run(["rm", "-rf", "--one-file-system", *(top / place.split("/")[0] for place in PLACES)])
    scene.declare("[]", store=True)
    scene.ada(f'import os; os.makedirs("work/deep"); os.makedirs("projects")\n{FILL}')
    scene.declare('["projects", "work/deep"]', store=True)


def _released(scene: Scene) -> None:
    scene.declare('["projects", "work/deep"]', store=True)
    scene.ok("restore", "ada")
    scene.ada(FILL)


MOVES: dict[str, Callable[[Scene], None]] = {"adopt": _adopted, "release": _released}


def _all_of(scene: Scene) -> dict[str, Facts]:
    """Where ada's data lies, in the home or under persist_dir: each place that holds it."""
    found = {}
    for place in PLACES:
        for top in (scene.home, scene.kept):
            if (top / place).is_dir() and os.listdir(top / place):
                found[f"{top.parent.name}/{place}"] = stores.facts(top / place)
    return found


@pytest.mark.parametrize("verb", MOVES)
def test_a_move_that_is_refused_at_any_step_loses_nothing_and_the_next_completes(
    scene: Scene, verb: str, record_property: Callable[[str, object], None]
) -> None:
    scene.person = movers.AS_ADA  # no process of another test's ada is in the way
    scene.begin("[]", store=True)
    words = [verb, "ada"]
    trial, refusals = Trial(scene, words), 0

    def counted(code: int) -> int:
        MOVES[verb](scene)
        return injected.calls(trial.argv, code)

    for number, code in _trials(counted, times(6)):
        MOVES[verb](scene)
        trial.remember()
        ended = trial.refused(number, code)
        refusals += bool(ended.refused)
        left = _all_of(scene)
        for place in PLACES:
            lies = [facts for one, facts in left.items() if one.endswith(place)]
            assert lies, (place, ended.refused)
            assert all(_same(facts, trial.wanted[place]) for facts in lies), (place, ended.refused)
        scene.ok(*words)
        scene.ok("restore", "ada")
        for place, wanted in trial.wanted.items():
            assert _same(stores.facts(scene.home / place), wanted)
            assert mounts.at(scene.home / place) is not None
    assert refusals > 1
    record_property("refused calls of moves", refusals)


def _same(facts: Facts, wanted: Facts) -> bool:
    """Whether everything below a directory is the same; adopt closes the directory itself to others."""
    return {path: fact for path, fact in facts.items() if path} == {path: fact for path, fact in wanted.items() if path}


def test_what_the_refusals_count_is_what_a_command_does(scene: Scene) -> None:
    """The rig itself: a refused mkdir is a failure of the restore, and is named."""
    scene.begin("[]")
    scene.declare('["projects"]')
    ended = injected.run(["--spec", str(scene.town.file), "restore", "ada"], 0, errno.ENOSPC)
    assert ended.refused
    assert ended.status == 1
    assert "full" in ended.err or "No space" in ended.err
