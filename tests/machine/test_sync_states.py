"""A sync on top of another state than the one that its index is of: its commit names every pack that it needs.

The index knows of each tree which state it is of. Where that is not the head (a machine that took over, a branch or an
older state that was brought back), what is not read again lies in packs that the head need not name.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.machine.homes import Home
from tests.machine.stores import with_store
from tests.machine.towns import ADA, Town, town

__all__ = ["town"]
pytestmark = pytest.mark.root
Pair = tuple[Home, Home]


@pytest.fixture
def pair(town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Pair:
    """Ada on two machines, on btrfs and on plain directories; only the first has a home yet."""
    with_store(town, '[{ path = "projects", via = "store" }]')
    two = Town(tmp_path / "two", "", capsys)
    for directory in (two.base, two.agents, two.persisted):
        directory.mkdir(mode=0o755)
    text = town.file.read_text().replace(f'"{town.agents}"', f'"{two.agents}"')
    text = text.replace(f'"{town.persisted}"', f'"{two.persisted}"').replace(f'device = "{town.device}"', "")
    two.file.write_text(text.replace("[town.btrfs]", ""))
    town.persist("init", "--store")
    shutil.copytree(town.base / "identities", two.base / "identities")
    Home(town).ok("restore", "ada")
    return Home(town), Home(two)


def put(home: Home, **files: str) -> None:
    """Files of ada's."""
    for name, text in files.items():
        path = home.projects / name
        path.write_text(text)
        os.chown(path, ADA, ADA)


def sync(home: Home, *words: str) -> None:
    home.ok("sync", "ada", *words)


def empty(home: Home) -> None:
    for path in home.projects.iterdir():
        path.unlink()


def branch(home: Home) -> str:
    return next(str(state["snapshot"]) for state in home.log() if state["kind"] == "branch")


def whole(home: Home, **files: str) -> None:
    """The store holds all that its states name, and the newest comes back as those files."""
    home.ok("verify", "ada")
    home.reboot()
    home.ok("restore", "ada", "--take-over")
    assert {path.name: path.read_text() for path in home.projects.iterdir()} == files


def test_a_machine_that_takes_over_after_another_read_everything_names_its_own_packs(pair: Pair) -> None:
    one, two = pair
    put(one, a="one")
    sync(one)
    two.ok("restore", "ada", "--take-over")
    empty(two)
    put(two, b="two", c="two more")
    sync(two, "--accept-loss")  # its first: it reads everything, and names only its own packs
    one.ok("verify", "ada")
    sync(one, "--take-over")  # nothing has changed here
    whole(one, a="one")


def test_a_sync_after_a_branch_was_brought_back_names_the_packs_of_the_branch(pair: Pair) -> None:
    one, two = pair
    put(one, a="one")
    sync(one)
    two.ok("restore", "ada", "--take-over")
    put(one, of_the_branch="branch")
    assert one.run("sync", "ada").status == 1
    put(two, b="two")
    sync(two)
    two.ok("restore", "ada", "--at", branch(two))
    sync(two)
    whole(two, a="one", of_the_branch="branch")


def test_a_sync_after_a_branch_of_another_machine_was_brought_back_on_btrfs_names_its_packs(pair: Pair) -> None:
    one, two = pair
    put(one, a="one")
    sync(one)
    two.ok("restore", "ada", "--take-over")
    put(two, b="two")
    sync(two)
    sync(one, "--take-over")
    put(one, c="three")
    sync(one)
    put(two, of_the_branch="branch")
    assert two.run("sync", "ada").status == 1
    one.ok("restore", "ada", "--at", branch(one))
    sync(one)
    whole(one, a="one", b="two", of_the_branch="branch")


def test_a_sync_after_an_older_state_was_brought_back_names_packs_that_the_head_does_not(pair: Pair) -> None:
    one, _ = pair
    put(one, a="one")
    sync(one)
    old = one.head
    empty(one)
    put(one, b="two", c="three")
    for path in (one.town.spec.state_dir / "index").iterdir():  # so that everything is read, and the packs of a leave
        path.unlink()
    sync(one, "--accept-loss")
    one.ok("restore", "ada", "--at", old)
    sync(one)
    whole(one, a="one")


def test_the_first_sync_of_a_machine_that_has_just_restored_reads_nothing(pair: Pair) -> None:
    one, _ = pair
    put(one, **{f"file{number}": str(number) for number in range(5)})
    sync(one)
    one.forget()
    one.reboot()
    one.ok("restore", "ada", "--take-over")
    (said,) = json.loads(one.ok("sync", "ada", "--json").out)
    assert (said["read_files"], said["committed"]) == (0, False)
