"""A town of towns.py whose agents have uids of their own: what ends all processes of a uid ends no other test's."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from persist import account, underway
from tests.machine import towns
from tests.machine.towns import Said, Town
from tests.reach import PYTHON
from town import btrfs, files
from town.process import Person

# Of this worker's alone: tests of another one may run beside these.
UID = 43100 + 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
OTHER = UID + 1
AS_ADA, AS_VOX = Person(UID, UID), Person(OTHER, OTHER)
DECLARED = '["projects", "notes/deep", { path = ".profile", type = "file" }]'


def write(town: Town, ada: str = DECLARED, vox: str = "[]", more: str = "") -> None:
    """The spec of `Town.write`, with those uids."""
    town.write(ada, vox, more)
    text = town.file.read_text().replace(str(towns.ADA), str(UID)).replace(str(towns.VOX), str(OTHER))
    town.file.write_text(text)


@pytest.fixture
def still(town: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A town that was restored; nobody runs."""
    monkeypatch.setattr(account, "OPEN", town.base / "run/open")
    (town.base / "run").mkdir()
    write(town)
    assert town.persist("restore").status == 0
    return town


def home(town: Town) -> Path:
    return town.agents / "ada"


def say(town: Town, **written: str) -> None:
    """Files in the home, written by ada."""
    for name, text in written.items():
        making = f"import os; os.makedirs(os.path.dirname({name!r}) or '.', exist_ok=True)"
        towns.as_agent(AS_ADA, home(town), f"{making}\nopen({name!r}, 'w').write({text!r})")


def ok(town: Town, *words: str) -> Said:
    said = town.persist(*words)
    assert said.status == 0, said
    return said


@contextmanager
def runs(town: Town, program: str = "", *, uid: int = UID, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process of the agent that says when it is ready, in its home."""
    source = f"import time, os, signal, sys\n{program}\nprint('ready', flush=True)\ntime.sleep(100)"
    there = subprocess.Popen(
        [PYTHON, "-c", source], user=uid, group=uid, extra_groups=[], cwd=cwd or home(town), text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert there.stdout is not None
    try:
        assert there.stdout.readline() == "ready\n"
        yield there
    finally:
        there.kill()
        there.wait()
        there.stdout.close()


def kept(town: Town, name: str, path: str) -> str:
    """A file of the home that AGENT@NAME names and a rollback or a reset set aside."""
    agent, _, key = name.partition("@")
    with btrfs.top_level(town.device) as top, files.opened(files.open_beneath(top, f"@agents-old/{key}/{agent}")) as fd:
        return Path(f"/proc/self/fd/{fd}/{path}").read_text()


def old(town: Town) -> list[str]:
    """What lies in @agents-old."""
    with btrfs.top_level(town.device) as top, files.opened(files.enter(top, "@agents-old")) as fd:
        return [name.decode() for name in files.names(fd)]


def unfinished(town: Town) -> bool:
    return underway.read(town.spec.agent("ada")) is not None


def fill(town: Town) -> None:
    """Fill the disk with a file of ada's."""
    with (home(town) / "big").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 20)):
            pass
