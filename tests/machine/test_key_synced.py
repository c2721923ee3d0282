"""Keys and real syncs: a rotation begins anew and keeps what was, and no store but the town's own is believed."""

import json
import shutil

import pytest

from persist.bucket import agents
from persist.bucket.opening import open_bucket
from tests.machine.keystores import empty_store, objects
from tests.machine.stores import facts, fetched, source, with_store
from tests.machine.towns import Town, town

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def synced(town: Town) -> Town:
    """A town whose ada and vox have synced a file each."""
    with_store(town, '["projects"]', '["projects"]')
    for words in (("init", "--store"), ("restore",)):
        said = town.persist(*words)
        assert said.status == 0, said.err
    for agent in ("ada", "vox"):
        (source(town, agent=agent) / "note").write_text(f"of {agent}")
    sync(town)
    return town


def sync(town: Town, *words: str) -> str:
    said = town.persist("sync", *words)
    assert said.status == 0, said.err
    return said.out


def places(town: Town) -> set[str]:
    return {key.split("/")[1] for key in objects(town) if key.startswith(("agents/", "packs/"))}


def test_after_a_rotation_each_agents_next_sync_starts_in_the_new_epoch(synced: Town) -> None:
    before, old = places(synced), objects(synced)
    assert synced.persist("key", "rotate").status == 0
    for agent in ("ada", "vox"):
        (source(synced, agent=agent) / "more").write_text("in the second epoch")
    sync(synced)
    bucket = open_bucket(synced.spec)
    assert bucket.key.epoch == 2
    for agent in ("ada", "vox"):
        listing = agents.listed(bucket.store, bucket.keys(agent))
        assert len(listing.commits) == 1
        assert bucket.keys(agent).place not in before
        assert any(key.startswith(f"packs/{bucket.keys(agent).place}/") for key in objects(synced))
    assert {key: objects(synced)[key] for key in old} == old


def test_after_a_rotation_the_newest_state_and_the_history_are_there(synced: Town) -> None:
    assert synced.persist("key", "rotate").status == 0
    with fetched(synced, synced.base / "before"):
        assert facts(synced.base / "before") == facts(source(synced))
    (source(synced) / "more").write_text("in the second epoch")
    sync(synced)
    with fetched(synced, synced.base / "after"):
        assert facts(synced.base / "after") == facts(source(synced))
    said = synced.persist("log", "ada", "--json")
    assert said.status == 0, said.err
    assert said.out.count('"generation"') == 2 or len(json.loads(said.out)) >= 2


def test_a_sync_in_which_nothing_changed_starts_the_new_epoch_too(synced: Town) -> None:
    """Else what a removed recipient can read would stay the only copy."""
    synced.persist("key", "rotate")
    sync(synced)
    bucket = open_bucket(synced.spec)
    assert agents.listed(bucket.store, bucket.keys("ada")).commits


@pytest.mark.parametrize("verb", ["sync", "restore"])
def test_an_emptied_store_stops_what_would_use_it(synced: Town, verb: str) -> None:
    empty_store(synced)
    (source(synced) / "more").write_text("more")
    if verb == "restore":
        with_store(synced, '["projects", {path = "models", via = "store"}]', '["projects"]')
    said = synced.persist(verb)
    assert said.status != 0
    assert not [key for key in objects(synced) if key.startswith(("config", "keys/"))]
    assert (source(synced) / "note").read_text() == "of ada"


def test_an_agent_that_never_synced_here_is_not_told_that_an_emptied_store_holds_nothing(synced: Town) -> None:
    """Another machine may have synced it: only who asks the store knows that it is the town's."""
    open_bucket(synced.spec)
    assert not open_bucket(synced.spec).asked
    empty_store(synced)
    shutil.rmtree(synced.spec.state_dir / "sync")
    with_store(synced, '["projects", {path = "models", via = "store"}]', '["projects"]')
    for words in (("restore",), ("log",), ("sync",)):
        said = synced.persist(*words)
        assert said.status == 1, words
        assert "the store is empty, or not the one that the lock" in said.err, words
