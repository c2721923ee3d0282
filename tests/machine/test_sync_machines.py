"""Two machines with one store: neither loses data, each is told of the other, older data never goes on top unasked."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persist import sync as syncing
from persist.bucket import commits
from persist.bucket.opening import open_bucket
from persist.sync import history
from tests.machine import stores
from tests.machine.stores import into_new, source
from tests.machine.test_sync_hostile import objects, plain
from tests.machine.towns import Town, town
from town import process

__all__ = ["town"]
pytestmark = pytest.mark.root
Pair = tuple[Town, Town]


@pytest.fixture
def pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Pair:
    """One town on two machines; the second is empty."""
    one = plain(tmp_path / "one", capsys)
    two = Town(tmp_path / "two", "", capsys)
    two.base.mkdir()
    shutil.copytree(one.base / "identities", two.base / "identities")
    text = one.file.read_text()
    for name in ("agents", "persist"):
        text = text.replace(f'{name}_dir = "{one.base}/{name}"', f'{name}_dir = "{two.base}/{name}"')
    two.file.write_text(text)
    two.agents.mkdir()
    (two.persisted / "agents").mkdir(parents=True)
    return one, two


def bring(town: Town) -> None:
    """What a restore on a fresh machine does with ada's projects."""
    shutil.rmtree(source(town).parent, ignore_errors=True)
    source(town).parent.mkdir(mode=0o711)
    into_new(stores.held(town), source(town))


def test_an_empty_machine_gets_everything_from_the_store_alone(pair: Pair) -> None:
    one, two = pair
    bring(two)
    assert stores.facts(source(two)) == stores.facts(source(one))


def test_a_machine_that_restored_goes_on_and_the_first_one_is_told(pair: Pair) -> None:
    one, two = pair
    bring(two)
    (source(two) / "g").write_text("changed on two")
    assert two.persist("sync", "ada").status == 0
    (source(one) / "g").write_text("changed on one")
    before = objects(one, "")
    said = one.persist("sync", "ada")
    assert said.status == 1
    assert "has synced ada" in said.err
    assert "--take-over" in said.err
    assert objects(one, "") == before
    assert one.persist("sync", "vox").status == 0


def test_taking_over_puts_ones_own_on_top_and_keeps_the_others_history(pair: Pair) -> None:
    one, two = pair
    bring(two)
    (source(two) / "g").write_text("changed on two")
    two.persist("sync", "ada")
    theirs = stores.held(two)
    (source(one) / "g").write_text("changed on one")
    assert one.persist("sync", "--take-over", "ada").status == 0
    into_new(stores.held(one), one.base / "now")
    into_new(theirs, one.base / "theirs")
    assert (one.base / "now/g").read_text() == "changed on one"
    assert (one.base / "theirs/g").read_text() == "changed on two"
    assert two.persist("sync", "ada").status == 1


def test_data_that_never_came_from_the_store_is_not_put_on_top_of_it(pair: Pair) -> None:
    _, two = pair
    source(two).mkdir(parents=True)
    for name in ("stale1", "stale2"):
        (source(two) / name).write_text("from long ago")
    said = two.persist("sync", "ada")
    assert said.status == 1
    assert "does not descend from that" in said.err


def commands(said: str) -> str:
    """What the hint says to do to have what the store has."""
    return said.split("stop the agent, then: ")[1].split("; to put", maxsplit=1)[0]


def run(town: Town, line: str) -> None:
    """The commands of a hint, as a person types them."""
    for command in line.split(" && "):
        if command.startswith("persist "):
            said = town.persist(*command.split()[1:])
            assert said.status == 0, said.err
        else:
            process.run(["sh", "-c", command])


def test_the_way_to_have_what_the_store_has_works_as_it_is_said(town: Town) -> None:
    stores.with_store(town, '["projects", {path = "kept", via = "store"}]')
    town.persist("init", "--store")
    town.persist("restore")
    for top in (source(town), town.agents / "ada/kept"):
        (top / "f").write_text("in the store")
    town.persist("sync", "ada")
    shutil.rmtree(town.spec.state_dir)  # from here on it is another machine, of the same name
    for top in (source(town), town.agents / "ada/kept"):
        (top / "f").write_text("of this machine")
    said = town.persist("sync", "ada")
    assert said.status == 1
    assert f"this machine's own name: if it is this machine, its notes in {town.spec.state_dir} are gone" in said.err
    run(town, commands(said.err))
    for top in (town.agents / "ada/projects", town.agents / "ada/kept"):
        assert (top / "f").read_text() == "in the store"
        assert (top / "f").stat().st_uid == 0
    assert (source(town).parent / "projects.before/f").read_text() == "of this machine"
    assert town.persist("sync", "ada").status == 0


def test_where_nothing_lies_here_a_restore_is_all_that_is_asked_for(pair: Pair) -> None:
    _, two = pair
    said = two.persist("sync", "ada")
    assert said.status == 1
    assert commands(said.err) == f"persist restore --spec {two.file} ada"


def test_another_host_is_not_taken_for_this_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, two = pair
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert "own name" not in two.persist("sync", "ada").err


def test_both_at_once_leave_a_fork_that_both_see_alike_and_are_told_once(pair: Pair) -> None:
    bring(pair[1])
    heads = {}
    for here in pair:  # both have looked at the store before either writes
        (source(here) / "g").write_text(f"on {here.base.name}")
        bucket = open_bucket(here.spec)
        heads[here] = (bucket, history.head(here.spec, here.spec.agent("ada"), bucket))
    for here in pair:
        bucket, head = heads[here]
        work = syncing._Sync(here.spec, here.spec.agent("ada"), bucket, syncing.Options(), now=datetime.now(UTC))
        writer = syncing.Writer(bucket.store, work._keys, work._known(head))
        work._end(head, writer, work._read(head, writer))
    names = commits.listed(bucket.store, bucket.keys("ada"))
    assert [name.generation for name in names] == [1, 2, 2]
    seen = []
    for here in pair:
        here.capsys.readouterr()
        seen.append(stores.held(here).snapshot)
        said = here.capsys.readouterr().err
        assert "two machines synced at once" in said
        assert all(name.short in said for name in names[1:])
        stores.held(here)
        assert here.capsys.readouterr().err == ""
    assert seen[0] == seen[1]
    assert sorted(here.persist("sync", "ada").status for here in pair) == [0, 1]  # who lost is told and stops


def test_a_second_machine_has_its_own_name_and_keeps_it(pair: Pair) -> None:
    from persist.sync import local

    one, two = pair
    assert local.machine(one.spec) != local.machine(two.spec)
    assert local.machine(one.spec) == local.machine(one.spec)
    assert os.stat(one.spec.state_dir / "machine").st_mode & 0o777 == 0o600


def test_a_broken_record_is_named_and_nothing_is_assumed(pair: Pair) -> None:
    one, _ = pair
    record = one.spec.state_dir / "sync/ada.json"
    for text in ("", "{}", "[]", "\xff", '{"generation": "x"}'):
        record.write_text(text)
        said = one.persist("sync", "ada")
        assert said.status == 1
        assert "ada.json is damaged" in said.err


def test_an_agent_that_declares_nothing_any_more_keeps_what_the_store_has(pair: Pair) -> None:
    one, _ = pair
    before = objects(one, "")
    bound = one.file.read_text().replace('["projects"]', '[{path = "projects", via = "bind"}]')
    one.file.write_text(bound)
    said = one.persist("sync")
    assert (said.status, said.out) == (0, "ada: nothing to sync yet\nvox: nothing to sync yet\n")
    assert objects(one, "") == before


def test_a_pack_that_vanished_is_said_and_what_is_still_here_is_sent_again(pair: Pair) -> None:
    one, _ = pair
    place = open_bucket(one.spec).keys("ada").place
    (pack,) = objects(one, f"packs/{place}")
    pack.unlink()
    said = one.persist("sync", "ada")
    assert said.status == 0
    assert "what is still here is sent again" in said.err
    back = one.base / "back"
    into_new(stores.held(one), back)
    assert stores.facts(back) == stores.facts(source(one))
    assert "nothing new" in one.persist("sync", "ada").out
