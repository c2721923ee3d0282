"""Reset and `recall --replace` where a declared directory lies in the home: its present state stays."""

import json
from pathlib import Path

import pytest

from persist import account
from tests.machine import lineages, resets
from tests.machine.lineages import ok, record, synced, town, uuid, work
from tests.machine.stores import with_store
from tests.machine.towns import ADA, VOX, Town, as_agent, is_subvolume
from town.process import Person

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def stored(town: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    """The town of lineages.py, whose ada nobody else's test ends."""
    monkeypatch.setattr(account, "OPEN", town.base / "run/open")
    with_store(town, lineages.BOTH)
    town.file.write_text(town.file.read_text().replace(str(ADA), str(resets.UID)).replace(str(VOX), str(resets.OTHER)))
    ok(town, "init", "--store")
    ok(town, "restore")
    return town


def _write(town: Town, name: str, text: str) -> None:
    as_agent(Person(resets.UID, resets.UID), town.agents / "ada", f"open({name!r}, 'w').write({text!r})")


def test_a_reset_brings_over_what_was_not_synced_yet_and_its_record_is_of_what_lies_there(stored: Town) -> None:
    _write(stored, "work/sent", "sent")
    synced(stored)
    _write(stored, "work/since", "since")
    before = uuid(work(stored))
    ok(stored, "reset", "ada")
    assert {path.name: path.read_text() for path in work(stored).iterdir()} == {"sent": "sent", "since": "since"}
    assert is_subvolume(work(stored))
    assert record(stored)["work"][0]["uuid"] == uuid(work(stored)) != before
    synced(stored)
    into = stored.base / "got"
    ok(stored, "get", "ada", "work", "--to", str(into))
    assert (into / "work/since").read_text() == "since"


def test_a_replacement_keeps_the_present_state_of_what_is_declared_and_its_record(stored: Town) -> None:
    _write(stored, "work/sent", "then")
    _write(stored, "scratch", "then")
    synced(stored)
    name = json.loads(ok(stored, "reset", "ada", "--json").out)["kept"]
    _write(stored, "work/sent", "now")
    _write(stored, "work/new", "new")
    said = json.loads(ok(stored, "recall", name, "--replace", "--json").out)
    assert (stored.agents / "ada/scratch").read_text() == "then"
    assert {path.name: path.read_text() for path in work(stored).iterdir()} == {"sent": "now", "new": "new"}
    assert said["declared_stays"] == ["work"]
    assert record(stored)["work"][0]["uuid"] == uuid(work(stored))
    synced(stored)
    into = stored.base / "got"
    ok(stored, "get", "ada", "work", "--to", str(into))
    assert {path.name: path.read_text() for path in Path(into, "work").iterdir()} == {"sent": "now", "new": "new"}
    ok(stored, "recall", said["kept"], "--replace")
    assert not (stored.agents / "ada/scratch").exists()
    assert (work(stored) / "new").read_text() == "new"
    lineages.boot(stored)
    ok(stored, "restore", "ada")
    assert (work(stored) / "new").read_text() == "new"
