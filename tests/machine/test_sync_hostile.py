"""A hostile store: whoever runs it changes, cuts, swaps, drops and replays objects, or has the key. Each is named.

Nothing is written outside the directory that a restore was given, and nothing that was not authenticated inside.
"""

import os
import re
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.bucket.opening import open_bucket
from tests.machine import stores
from tests.machine.forgeries import FORGED
from tests.machine.hostile import homes, objects, plain, scene
from tests.machine.tampering import Scene, Tampering
from tests.machine.tamperings import TAMPERINGS
from tests.machine.towns import Said, Town, undo
from town import process

__all__ = ["objects", "plain"]  # others begin from it too
pytestmark = pytest.mark.root
SLOWEST = 20.0  # seconds that a refusal may take
_CHANGED = ("store", "persist", "agents")
LARGEST = 700 << 20  # bytes of address space that one may take beyond what is taken already


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A place for the scene's town; beside it what every test begins from."""
    base = tmp_path_factory.mktemp("hostile")
    yield base / "town", base / "saved"
    undo(base)


@pytest.fixture
def there(saved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> tuple[Town, Scene]:
    """The scene, as it was made: the store, this machine's records and the homes."""
    base, kept = saved
    if not kept.exists():
        scene(base, capsys)
        kept.mkdir()
        process.run(["cp", "-a", *(base / name for name in _CHANGED), kept])
    town = Town(base, "", capsys)
    for name in _CHANGED:
        shutil.rmtree(base / name, ignore_errors=True)  # a test may have taken it away
    process.run(["cp", "-a", *(kept / name for name in _CHANGED), base])
    return town, Scene(base / "store", open_bucket(town.spec), base / "older", base / "other/store")


def restored(town: Town, tampering: Tampering) -> Said:
    """Run the command of a tampering on a machine whose home is empty: one that saw the store, or a new one."""
    shutil.rmtree(town.agents)
    town.agents.mkdir()
    if tampering.who == "fresh":
        shutil.rmtree(town.persisted)
        town.persisted.mkdir(mode=0o755)
    agents = ("ada",) if tampering.verb[0] in ("restore", "sync", "verify") else ()
    take = (
        ("--take-over",) if tampering.verb == ("restore",) and tampering.who == "fresh" and tampering.take_over else ()
    )
    return town.persist(*tampering.verb, *agents, *take, *tampering.more)


def everything(top: Path) -> list[str]:
    """Every name below `top` but what lies in the store, in homes and in this machine's own records."""
    apart = {top / "store", top / "agents", top / "persist"}
    return sorted(str(path) for path in top.rglob("*") if not apart & {path, *path.parents})


def refuse(town: Town, scene: Scene, tampering: Tampering) -> None:
    """The tampering is detected and named, in bounded time and memory; nothing is left of what it wanted."""
    before, outside = everything(town.base), set(os.listdir("/tmp"))
    tampering.change(scene)
    start = time.monotonic()
    said = restored(town, tampering)
    assert said.status == tampering.status, said
    assert re.search(tampering.says, said.err + said.out), said
    assert "Traceback" not in said.err
    assert "report it" not in said.err, said.err  # an error that somebody thought of
    assert "\x1b" not in said.err
    assert time.monotonic() - start < SLOWEST
    assert everything(town.base) == before
    assert not [name for name in set(os.listdir("/tmp")) - outside if name in ("out", "x")]
    if tampering.verb[0] == "restore":
        assert not (homes(town).exists() and os.listdir(homes(town))), "something was restored"


def test_untouched_it_restores(there: tuple[Town, Scene]) -> None:
    town, _ = there
    before = stores.facts(homes(town))
    said = restored(town, Tampering("nothing", lambda _: None, ""))
    assert said.status == 0, said
    assert stores.facts(homes(town)) == before


@pytest.fixture
def bounded() -> Iterator[None]:
    """No more memory than the format's own limits ask for."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + LARGEST, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda tampering: tampering.name)
def test_tampering_is_detected_and_named(there: tuple[Town, Scene], tampering: Tampering, bounded: None) -> None:
    refuse(*there, tampering)


@pytest.mark.parametrize("tampering", FORGED, ids=lambda tampering: tampering.name)
def test_what_the_format_cannot_say_is_refused(there: tuple[Town, Scene], tampering: Tampering, bounded: None) -> None:
    refuse(*there, tampering)


def test_the_table_is_long_enough() -> None:
    assert len({tampering.name for tampering in TAMPERINGS}) == len(TAMPERINGS) >= 40
