"""A town without a filesystem of its own, and places that its agents share with others: what sweeps are tried on.

A module that uses the fixture `swept_town` imports it by that name.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from persist import account, cli, owners, proof, running
from tests.machine.towns import ADA, VOX, Said
from town import strays

HUMAN = 41900
RUNNING = running.of


@dataclass(frozen=True)
class Swept:
    """The town, its shared places `tmp` (sticky, for everybody), `cron` and `linger`, and the command."""

    base: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def tmp(self) -> Path:
        return self.base / "tmp"

    @property
    def cron(self) -> Path:
        return self.base / "cron"

    @property
    def linger(self) -> Path:
        return self.base / "linger"

    @property
    def aside(self) -> Path:
        """Where copies go."""
        return self.base / "persist/.nuketown/swept" / proof.boot_id()

    def persist(self, *words: str) -> Said:
        self.capsys.readouterr()
        status = cli.main(["--spec", str(self.base / "town.toml"), *words])
        said = self.capsys.readouterr()
        return Said(status, said.out, said.err)

    def found(self, agent: str = "ada") -> dict[str, Any]:
        """What is on record of an agent."""
        record: dict[str, Any] = json.loads((self.base / "run/swept.json").read_text())["agents"][agent]
        return record


def put(path: Path, owner: int, text: str = "x") -> Path:
    """A file of that owner; directories above it that are missing are the owner's too."""
    missing = [above for above in path.parents if not above.exists()]
    for above in reversed(missing):
        above.mkdir(0o755)
        os.chown(above, owner, owner)
    path.write_text(text)
    os.chown(path, owner, owner)
    return path


def names(path: Path) -> list[str]:
    """Everything below a directory."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def made(base: Path, capsys: pytest.CaptureFixture[str], ours: pytest.MonkeyPatch) -> Swept:
    """The town below `base`, its places in the stead of the machine's."""
    town = Swept(base, capsys)
    for name in ("agents", "persist", "run", "cron", "linger"):
        (base / name).mkdir(0o755, parents=True)
    town.tmp.mkdir()
    town.tmp.chmod(0o1777)
    (base / "town.toml").write_text(
        f'[town]\nagents_dir = "{base}/agents"\npersist_dir = "{base}/persist"\n'
        f"[agents.ada]\nuid = {ADA}\n[agents.vox]\nuid = {VOX}\n"
    )
    (base / "strays.toml").write_text(
        f'[[place]]\npath = "{base}/tmp"\nname = "tmp"\n'
        f'[[place]]\npath = "{base}/cron"\nname = "crontabs"\ntake = "aside"\n'
        f'[[place]]\npath = "{base}/linger"\nname = "linger"\nby = "name"\n'
        f'[[place]]\npath = "{base}/nowhere"\nname = "nowhere"\n'
    )
    (base / "subuid").write_text("")
    ours.setattr(strays, "FILE", base / "strays.toml")
    ours.setattr(owners, "SUBUID", base / "subuid")
    ours.setattr(proof, "PROOF", base / "run/rollback")
    ours.setattr(account, "OPEN", base / "run/open")
    ours.setattr(running, "of", lambda _uid: [])  # other tests have processes of these agents
    return town


@pytest.fixture
def swept_town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Swept]:
    """Such a town below the test's directory."""
    with pytest.MonkeyPatch.context() as ours:
        yield made(tmp_path / "town", capsys, ours)
