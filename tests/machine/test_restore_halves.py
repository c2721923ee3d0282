"""The two halves of a restore: what needs no network and may mount, and what the store gives and mounts nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from persist.restore import retrying
from tests.machine.test_restore_store import filled, stored
from tests.machine.towns import ADA, Town, town
from town import kernel, mounts
from town.failure import TryLater

__all__ = ["stored", "town"]
pytestmark = pytest.mark.root
HEAVY = [
    "boto3", "botocore", "cryptography", "ruamel", "zstandard", "blake3", "pyfastcdc", "gnupg", "rich", "tomlkit",
    "sqlite3", "ssl", "http.client", "persist.fetch", "persist.fill", "persist.bucket", "persist.sync.run",
    "persist.store.s3",
]  # fmt: skip


def fresh_machine(town: Town) -> None:
    """The next boot on a machine that has nothing of ada's: all of it lies in the store."""
    assert town.persist("sync", "ada").status == 0
    for found in mounts.below(town.agents):
        kernel.umount(os.fsdecode(found.target), kernel.MNT_DETACH)
    town.boot("20260101T000000Z-11111111-1111-4111-8111-111111111111")
    shutil.rmtree(town.persisted / "agents")
    (town.persisted / ".nuketown/origins/ada.json").unlink()
    for left in (town.persisted / ".nuketown").glob("lineage/*"):
        left.unlink()


def in_place(town: Town) -> dict[str, bool]:
    home = town.agents / "ada"
    return {name: (home / name / "deep/file").exists() for name in ("projects", "scratch/results")}


def test_the_local_half_makes_homes_and_says_what_waits_for_the_store(stored: Town) -> None:
    filled(stored)
    fresh_machine(stored)
    said = stored.persist("restore", "--local", "ada")
    assert said.status == 0, said.err
    assert "wait    projects" in said.out
    assert "wait    scratch/results" in said.out
    assert not any(in_place(stored).values())
    assert (stored.agents / "ada").stat().st_uid == ADA


def test_the_halves_together_bring_everything_back(stored: Town) -> None:
    filled(stored)
    fresh_machine(stored)
    assert stored.persist("restore", "--local", "ada").status == 0
    before = len(mounts.below(stored.agents))
    said = stored.persist("restore", "--fetch", "ada")
    assert said.status == 0, said.err
    assert len(mounts.below(stored.agents)) == before, "the half that fetches mounts nothing"
    said = stored.persist("restore", "--local", "ada")
    assert said.status == 0, said.err
    assert all(in_place(stored).values())
    assert "nothing to do" in stored.persist("restore", "ada").out


def test_the_half_that_fetches_makes_no_home(stored: Town) -> None:
    filled(stored)
    fresh_machine(stored)
    said = stored.persist("restore", "--fetch", "ada")
    assert said.status == 1
    assert "restore --local" in said.err.replace(f"--spec {stored.file} ", "")
    assert not (stored.agents / "ada").exists()


def test_what_lies_here_is_bound_without_the_store(stored: Town) -> None:
    filled(stored)
    for found in mounts.below(stored.agents):
        kernel.umount(os.fsdecode(found.target), kernel.MNT_DETACH)
    stored.boot("20260101T000000Z-11111111-1111-4111-8111-111111111111")
    shutil.rmtree(stored.base / "store")
    said = stored.persist("restore", "--local", "ada")
    assert said.status == 0, said.err
    assert in_place(stored)["projects"]


@pytest.mark.parametrize(
    "words",
    [
        ("--local", "--at", "newest"),
        ("--local", "--take-over"),
        ("--local", "--at-least", "3"),
        ("--fetch", "--at", "newest"),
        ("--retry",),
        ("--local", "--retry"),
        ("--with-credentials",),
    ],
)
def test_what_does_not_go_together_is_a_wrong_usage(town: Town, words: tuple[str, ...]) -> None:
    assert town.persist("restore", *words, "ada").status == 2


def test_a_fetch_is_tried_again_until_another_machine_lets_go(stored: Town) -> None:
    filled(stored)
    fresh_machine(stored)
    assert stored.persist("restore", "--local", "ada").status == 0
    ours = stored.persisted / ".nuketown/machine"
    holder = ours.read_text()
    ours.write_text("0" * len(holder.strip()) + "\n")
    shutil.rmtree(stored.persisted / ".nuketown/sync")
    program = (
        "import sys; from persist import cli, proof; from persist.restore import retrying; from pathlib import Path\n"
        f"proof.PROOF = Path({str(stored.proof)!r}); retrying.FIRST = 0.5\n"
        f"sys.exit(cli.main(['--spec', {str(stored.file)!r}, 'restore', '--fetch', '--retry', 'ada']))"
    )
    env = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=env) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if "tried again" in line:
                ours.write_text(holder)
    assert running.returncode == 0, said
    assert any("syncs ada" in line for line in said), said


def test_each_agent_is_tried_until_it_is_done_and_pauses_grow() -> None:
    pauses, tries = list[float](), {"ada": 6, "vox": 1}

    class Each:
        def __init__(self, name: str) -> None:
            self.name = name

    def one(agent: Each) -> int:
        tries[agent.name] -= 1
        return TryLater.status if tries[agent.name] > 0 else 0

    assert retrying.retried([Each("ada"), Each("vox")], one, pauses.append) == 0  # type: ignore[list-item,arg-type]
    assert tries == {"ada": 0, "vox": 0}
    assert len(pauses) == 5
    assert all(3.75 <= pauses[0] <= 6.25 for _ in pauses[:1])
    assert pauses[4] > 2 * pauses[0]


def test_a_failure_that_time_does_not_cure_ends_it_at_once() -> None:
    class Each:
        name = "ada"

    pauses = list[float]()
    assert retrying.retried([Each()], lambda _agent: 1, pauses.append) == 1  # type: ignore[list-item,arg-type]
    assert pauses == []


def test_the_local_half_loads_nothing_heavy(stored: Town) -> None:
    filled(stored)
    program = (
        "import sys; from persist import cli, proof; from pathlib import Path\n"
        f"proof.PROOF = Path({str(stored.proof)!r})\n"
        f"status = cli.main(['--spec', {str(stored.file)!r}, 'restore', '--local'])\n"
        f"print('LOADED', status, *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED 0", done
