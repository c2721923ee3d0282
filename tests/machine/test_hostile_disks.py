"""The disk fails for real, in the middle of a command: it is full, read-only, dead, or over quota from one call on.

The command fails with a word that a person can act on, or was done; nothing half made is shown; when the disk is well
again the next run completes, and nothing that had reached the disk is lost.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from persist import proof
from tests.machine import faultydisk, injected, stores, towns
from tests.machine.canaries import Outside
from tests.machine.faultydisk import Disk
from tests.machine.homes import Home
from tests.machine.hostilescene import Scene
from tests.machine.towns import ADA, undo
from tests.scale import SEED, times
from town import kernel, process

pytestmark = pytest.mark.root
DECLARED = '["projects", { path = "work/deep", via = "store" }]'
PLACES = ("projects", "work/deep")
FILL = """
import os
for place in ("projects", "work/deep"):
    os.makedirs(place, exist_ok=True)
    for number in range(10):
        open(f"{place}/f{number}", "wb").write(os.urandom(9000))
    open(f"{place}/big", "wb").write(os.urandom(300_000))
"""


@dataclass
class Rig:
    """A scene on a disk that can fail."""

    scene: Scene
    disk: Disk
    top: Path

    def mount(self) -> None:
        """Everything is mounted as a boot leaves it, the homes as they are."""
        town = self.scene.town
        kernel.mount(self.disk.device, str(self.top), "btrfs", 0, "subvolid=5")
        for path, name in ((town.agents, "@agents"), (town.persisted, "@persist")):
            kernel.mount(self.disk.device, str(path), "btrfs", 0, f"subvol={name}")

    def well_again(self) -> None:
        """The disk was pulled; now it is there again, with what had been flushed, perhaps under another name."""
        town, before = self.scene.town, self.disk.device
        undo(town.base)
        undo(self.top.parent)
        self.disk.detach()
        self.disk.attach()
        self.scene.town = replace(town, device=self.disk.device)
        self.scene.outside.town = self.scene.town
        town.file.write_text(town.file.read_text().replace(f'"{before}"', f'"{self.disk.device}"'))
        self.mount()
        self.scene.town.prove()


@contextmanager
def _scene(base: Path, disk: Disk, capsys: pytest.CaptureFixture[str]) -> Iterator[Rig]:
    top = base / "top"
    for path in (top, base / "town"):
        path.mkdir()
    with towns.made(base / "town", disk.device, capsys) as town, ExitStack() as processes:
        kernel.mount(disk.device, str(top), "btrfs", 0, "subvolid=5")
        scene = Scene(town, Outside(town), processes, "btrfs")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proof, "PROOF", town.proof)
            try:
                yield Rig(scene, disk, top)
            finally:
                undo(base)


@pytest.fixture
def rig(tmp_path: Path, capsys: pytest.CaptureFixture[str], needs_root: None) -> Iterator[Rig]:
    """The rig of a test; the store lies on another disk, which is well."""
    base = Path(tempfile.mkdtemp(prefix="nuketown-disk-", dir="/tmp"))
    base.chmod(0o755)
    try:
        with faultydisk.made(tmp_path) as disk, _scene(base, disk, capsys) as rig:
            yield rig
    finally:
        undo(base)
        process.run(["rm", "-r", "--one-file-system", base])


def _limit(rig: Rig, size: str) -> None:
    for path in (rig.scene.town.agents, rig.scene.town.persisted, rig.scene.home, rig.scene.kept):
        if path.exists():
            process.run(["btrfs", "qgroup", "limit", size, path], check=False)


@dataclass(frozen=True)
class Fault:
    """How a disk fails, in the child that runs the command, and what makes it well."""

    happens: Callable[[Rig], None]
    ends: Callable[[Rig], None]
    before: Callable[[Rig], None] = lambda _rig: None


def _quota(rig: Rig, do: str) -> None:
    process.run(["btrfs", "quota", do, rig.top])


FAULTS = {
    "full": Fault(lambda rig: faultydisk.fill(rig.top), lambda rig: faultydisk.empty(rig.top)),
    "read-only": Fault(
        lambda rig: faultydisk.read_only(rig.top, value=True), lambda rig: faultydisk.read_only(rig.top, value=False)
    ),
    "dead": Fault(lambda rig: rig.disk.die(), Rig.well_again),
    "over quota": Fault(
        lambda rig: _limit(rig, "16K"), lambda rig: _quota(rig, "disable"), lambda rig: _quota(rig, "enable")
    ),
}


def _booted(rig: Rig) -> list[str]:
    undo(rig.scene.town.agents)
    rig.scene.town.boot(f"20261121T101500Z-{os.urandom(4).hex()}")
    return ["restore", "ada"]


def _fetched(rig: Rig) -> list[str]:
    rig.scene.unbind()
    Home(rig.scene.town).forget()
    undo(rig.scene.home)
    process.run(["rm", "-rf", rig.scene.home, rig.scene.kept])
    return ["restore", "--take-over", "ada"]


def _changed(rig: Rig) -> list[str]:
    for place in PLACES:
        path = rig.scene.home / place / "f1"
        path.write_bytes(os.urandom(20_000))
        os.chown(path, ADA, ADA)
    os.sync()
    return ["sync", "ada"]


COMMANDS: dict[str, Callable[[Rig], list[str]]] = {
    "restore after a boot": _booted, "fetch": _fetched, "sync": _changed,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_fails_in_the_middle_costs_nothing_that_it_had(
    rig: Rig, fault: str, command: str, record_property: Callable[[str, object], None]
) -> None:
    scene, how = rig.scene, FAULTS[fault]
    random = Random(f"{SEED}{fault}{command}")
    scene.begin(DECLARED, store=True)
    scene.ada(FILL)
    os.sync()
    scene.ok("sync", "ada")
    words = COMMANDS[command](rig)
    argv = ["--spec", str(scene.town.file)]
    calls = injected.during([*argv, *words], -1, lambda: None).calls
    for _ in range(times(1)):
        scene.ok("restore", "ada")
        words = COMMANDS[command](rig)
        wanted = _wanted(rig)
        how.before(rig)
        ended = injected.during([*argv, *words], random.randrange(calls), lambda: how.happens(rig))
        said = f"{ended.refused}: {ended}"
        assert "Traceback" not in ended.out + ended.err, said
        assert ended.status == 0 or (ended.err.startswith("persist: ") and "ada" in ended.err), said
        how.ends(rig)
        _nothing_half(rig, wanted, said)
        again = scene.run(*words)
        if again.status == 75:  # it says itself that the next try may do it
            again = scene.run(*words)
        assert again.status == 0, (said, again)
        scene.ok("restore", "ada")
        assert {place: stores.facts(scene.home / place) for place in PLACES} == wanted, said
    record_property("disks that failed", times(1))


def _wanted(rig: Rig) -> dict[str, dict[bytes, stores.Fact]]:
    """What must be there in the end: what is there now, or, where it is gone on purpose, what the store has."""
    found = {}
    home = Home(rig.scene.town)
    for place in PLACES:
        top = rig.scene.home / place
        if top.is_dir() and os.listdir(top):
            found[place] = stores.facts(top)
        elif (rig.scene.kept / place).is_dir():
            found[place] = stores.facts(rig.scene.kept / place)
        else:
            found[place] = _of_store(home, place)
    return found


def _of_store(home: Home, place: str) -> dict[bytes, stores.Fact]:
    into = home.town.base / f"got-{os.urandom(3).hex()}"
    stores.into_new(stores.held(home.town), into, place)
    facts = stores.facts(into)
    process.run(["rm", "-r", into])
    return facts


def _nothing_half(rig: Rig, wanted: dict[str, dict[bytes, stores.Fact]], said: str) -> None:
    home = rig.scene.home
    if not home.exists():
        return
    found = home.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ADA, 0o700), said
    for place in PLACES:
        if (home / place).is_dir() and os.listdir(home / place):
            assert stores.facts(home / place) == wanted[place], (place, said)
