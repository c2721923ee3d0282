"""`persist status`: what is missing is reported, never raised, and the status says how bad it is."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from persist import status
from tests.machine import towns
from tests.machine.towns import Town, town
from town import process

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def no_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the hook leaves in /run is the machine's: each test has its own place for it."""
    monkeypatch.setattr(status, "PROOF", tmp_path / "run/rollback")
    (tmp_path / "run").mkdir()
    return tmp_path / "run/rollback"


def _json(town: Town, level: int) -> dict[str, Any]:
    said = town.persist("status", "ada", "--json")
    assert said.status == level, said.out
    return json.loads(said.out)["agents"][0]


def test_a_town_that_was_restored_is_good(town: Town) -> None:
    town.write('["projects", { path = "scratch", required = false }]')
    town.persist("restore")
    said = town.persist("status")
    assert (said.status, said.err) == (0, "")
    agent = _json(town, 0)
    assert agent["home"]["present"]
    assert agent["home"]["subvolume"]
    assert agent["home"]["since"].startswith("20")
    found = [(item["path"]["text"], item["via"], item["class"], item["state"]) for item in agent["directories"]]
    assert found == [("projects", "bind", "data", "bound"), ("scratch", "bind", "data", "bound")]
    assert "projects  bound, made here (via bind, data)" in said.out


def test_a_missing_home_is_broken_and_names_the_next_command(town: Town) -> None:
    agent = _json(town, 4)
    assert not agent["home"]["present"]
    assert agent["troubles"] == [{"level": 4, "what": f"no home at {town.agents}/ada", "next": "persist restore ada"}]


def test_a_required_bind_that_is_missing_is_broken_another_needs_attention(town: Town) -> None:
    town.persist("restore")
    town.write('["projects", { path = "scratch", required = false }]')
    assert _json(town, 3)["troubles"][0]["what"] == "scratch is missing (not required)"
    town.write('["projects", "scratch"]')
    assert _json(town, 4)["troubles"][0]["what"] == "scratch is missing"


def test_a_bind_that_was_undone_is_broken(town: Town) -> None:
    town.persist("restore")
    towns.undo(town.agents / "ada/projects")
    agent = _json(town, 4)
    assert agent["directories"][0]["state"] == "not bound"


def test_an_agents_dir_that_is_not_mounted_is_reported(town: Town) -> None:
    towns.undo(town.agents)
    said = town.persist("status")
    assert said.status == 4
    assert "is not the mounted subvolume @agents" in said.out
    assert "next:  mount -t btrfs" in said.out
    assert said.err == ""


def test_a_persist_dir_that_is_missing_is_reported(town: Town) -> None:
    town.persist("restore")
    towns.undo(town.persisted)
    shutil.rmtree(town.persisted)
    assert town.persist("status").status == 4


def test_what_is_unsafe_is_reported(town: Town) -> None:
    town.persist("restore")
    os.chown(town.persisted / "agents/ada", 41100, 41100)
    said = town.persist("status")
    assert said.status == 4
    assert "may be changed by others" in said.out
    assert "vox: good" in said.out


def test_a_home_that_is_a_plain_directory_needs_attention(town: Town) -> None:
    (town.agents / "ada").mkdir(0o700)
    os.chown(town.agents / "ada", 41100, 41100)
    assert town.persist("restore").status == 0
    assert "plain directory" in _json(town, 3)["troubles"][0]["what"]


def test_the_proof_of_the_rollback_is_shown(town: Town, no_proof: Path) -> None:
    town.persist("restore")
    no_proof.write_text("version=1\nboot_id=b\nold=@agents-old/\x1bx\n")
    said = town.persist("status")
    assert said.status == 0
    assert said.out.splitlines()[0] == "rollback: the subvolume was made blank at boot b; set aside: @agents-old/\\x1bx"


def test_a_rollback_that_failed_is_broken(town: Town, no_proof: Path) -> None:
    town.persist("restore")
    no_proof.with_name("rollback.failed").write_text("error: no disk\nhint: look\n")
    said = town.persist("status")
    assert said.status == 4
    assert said.out.splitlines()[0] == "rollback: FAILED: error: no disk; hint: look"


def test_what_was_never_synced_needs_attention_until_it_is(town: Town) -> None:
    key = process.run(["age-keygen"]).out.decode()
    (town.base / "age.key").write_text(key)
    (town.base / "age.key").chmod(0o600)
    recipient = next(line.split()[-1] for line in key.splitlines() if "public key" in line)
    store = f'store = "file://{town.base}/store"\nrecipients = {{ humans = ["{recipient}"] }}\n'
    town.write('["projects"]', town=f'{store}host_key = {{ age = "{town.base}/age.key" }}')
    assert town.persist("init", "--store").status == 0
    town.persist("restore")
    assert _json(town, 3)["troubles"] == [
        {"level": 3, "what": "never synced from this machine", "next": "persist sync ada"}
    ]
    assert town.persist("sync", "ada").status == 0
    agent = _json(town, 0)
    assert agent["last_sync"]["files"] == 0
    assert agent["last_sync"]["time"].startswith("20")
