"""`persist sweep` against what ada leaves, and moves about, where everybody may write: hers goes, what others have
stays to the byte, and nothing of theirs is read."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.machine import stores
from tests.machine.hostilehomes import HOMES, STANDING
from tests.machine.hostilescene import sampled, sane
from tests.machine.racer import racing
from tests.machine.sweeps import HUMAN, Swept, put, swept_town
from tests.machine.towns import ADA, AS_ADA, VOX, Said, as_agent
from tests.scale import SCALE

__all__ = ["swept_town"]
pytestmark = pytest.mark.root
SECONDS = 0.8 if SCALE == 1 else 5.0
LEFT = {name: text for name, text in STANDING.items() if "subvolume" not in name}
if SCALE > 1:
    LEFT["twenty thousand names"] = HOMES["it holds twenty thousand names"]


@dataclass
class Shared:
    """The town, and what others have: below `roots`, `human` and `vox`, and in the shared directory itself."""

    town: Swept
    before: dict[str, dict[bytes, stores.Fact]]

    def sweep(self) -> Said:
        said = self.town.persist("sweep")
        sane(said)
        return said

    def unharmed(self) -> None:
        """What others have is as it was, and none of it lies where copies go."""
        assert _facts(self.town) == self.before
        aside = self.town.aside
        held = [path.read_bytes() for path in aside.rglob("*") if path.is_file()] if aside.exists() else []
        assert not any(b"secret of" in data for data in held)


def _facts(town: Swept) -> dict[str, dict[bytes, stores.Fact]]:
    found = {name: stores.facts(town.base / name) for name in ("roots", "human", "vox", "tmp/theirs", "tmp/roots")}
    for facts in found.values():
        facts.pop(b"/names of one file/")  # ada may make one
    return found


@pytest.fixture
def shared(swept_town: Swept) -> Shared:
    """Others have something, in the shared directory too."""
    for name, uid in (("roots", 0), ("human", HUMAN), ("vox", VOX), ("tmp/theirs", HUMAN), ("tmp/roots", 0)):
        put(swept_town.base / name / "d/secret", uid, f"secret of {uid}")
        put(swept_town.base / name / "secret", uid, f"secret of {uid}").chmod(0o666)
    return Shared(swept_town, _facts(swept_town))


def _ada(shared: Shared, program: str) -> None:
    base = shared.town.base
    names = {"shared": base / "roots", "roots": base / "roots", "human": base / "human", "vox": base / "vox"}
    text = "\n".join([*(f"{name} = {str(path)!r}" for name, path in names.items()), program])
    as_agent(AS_ADA, shared.town.tmp, text)


def _adas(top: Path) -> list[str]:
    """What is ada's below a directory that it is safe to walk."""
    return [str(path) for path in top.rglob("*") if path.lstat().st_uid == ADA]


@pytest.mark.parametrize("left", sampled(LEFT, 7))
def test_whatever_ada_left_is_gone_and_nothing_else(shared: Shared, left: str) -> None:
    _ada(shared, LEFT[left].replace("{at}", "left"))
    said = shared.sweep()
    assert said.status == 0, said
    assert _adas(shared.town.tmp) == []
    shared.unharmed()


@pytest.mark.parametrize("left", ["a link to another agent's home", "a FIFO that nobody writes to", "a socket"])
def test_what_ada_left_among_crontabs_is_gone_and_copied_only_where_it_is_a_file(shared: Shared, left: str) -> None:
    shared.town.cron.chmod(0o1777)
    program = LEFT[left].replace("{at}", "../cron/ada")
    _ada(shared, f'import os; os.chdir("../cron")\n{program.replace("../cron/", "")}')
    assert shared.sweep().status == 0
    assert os.listdir(shared.town.cron) == []
    shared.unharmed()


RACES = {
    "a directory for a link to root's": [("mine/d", "link:{roots}"), ("mine", "link:{human}")],
    "a directory for one in which the next is a link": [("mine", "maze:d:{roots}")],
    "a directory for nothing": [("mine/d/e", "away"), ("mine/d", "away"), ("mine", "away")],
    "a file for a directory": [("x", "directory"), ("x", "file")],
    "a file for another name of one that is not hers": [
        ("x", "hard:../roots/secret"),
        ("mine/x", "hard:../human/secret"),
    ],
    "a directory for a link to a shared one's": [("mine", "link:theirs"), ("mine/d", "link:../theirs")],
}


@pytest.mark.parametrize("race", sampled(RACES, 4))
def test_a_sweep_beside_a_race_takes_nothing_of_others(shared: Shared, race: str) -> None:
    base = shared.town.base
    moves = [(name, kind.format(roots=base / "roots", human=base / "human")) for name, kind in RACES[race]]
    swaps, until = 0, time.monotonic() + SECONDS
    with racing(AS_ADA, shared.town.tmp, moves) as racer:
        while time.monotonic() < until or swaps < 300:
            before = racer.swaps
            assert shared.sweep().status in (0, 1)
            swaps += racer.swaps - before
            assert time.monotonic() < until + 20, "this was no race"
    assert shared.sweep().status == 0
    # Names of a file of others are theirs: what holds them stays.
    assert "another name" in race or _adas(shared.town.tmp) == []
    assert not any(Path(path).is_file() for path in _adas(shared.town.tmp))
    shared.unharmed()
