"""Paths that leave the spec, and keys that nuketown installs: what the next commit holds of them."""

import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pytest

from persist.bucket import content
from persist.bucket.content import Piece, Writer
from persist.bucket.opening import open_bucket
from persist.sync import carried, history, local, schema
from tests.machine import stores
from tests.machine.stores import into_new, source, with_store
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town

__all__ = ["town"]
pytestmark = pytest.mark.root
STAYS = "persist: ada: notes: no longer declared for the store; its last state stays there"


@pytest.fixture
def made(town: Town) -> Town:
    """Ada has two directories with something in them, in the store."""
    with_store(town, '["projects", "notes"]')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    stores.torture(source(town, "notes"), small=10, deep=3, big=1 << 20)
    (source(town) / "p").write_text("p")
    assert town.persist("sync").status == 0
    return town


def test_a_misspelt_path_that_is_corrected_comes_back_from_the_newest_state(made: Town) -> None:
    before = stores.facts(source(made, "notes"))
    with_store(made, '["projects", "note"]')
    assert made.persist("restore", "ada").status == 0
    (source(made) / "p").write_text("changed")
    said = made.persist("sync", "ada")
    assert said.status == 0
    assert STAYS in said.err
    (source(made) / "p").write_text("once more")
    assert made.persist("sync", "ada").err == "", "it is said once"
    with_store(made, '["projects", "notes"]')
    made.boot("b1")
    source(made, "notes").rename(source(made).parent / "lost")
    assert made.persist("restore", "ada").status == 0
    assert stores.facts(source(made, "notes")) == before
    assert made.persist("sync", "ada").err.startswith("persist: ada: note: no longer declared")


def test_a_path_that_is_kept_on_this_machine_only_from_now_on_stays_too(made: Town) -> None:
    with_store(made, '["projects", {path = "notes", via = "bind"}]')
    said = made.persist("sync", "ada")
    assert STAYS in said.err
    assert "nothing new" in said.out
    assert PurePosixPath("notes") in stores.held(made).paths


def test_a_dry_run_says_it_and_forgets_nothing(made: Town) -> None:
    with_store(made, '["projects"]')
    for _ in range(2):
        assert STAYS in made.persist("sync", "--dry-run", "ada").err


@pytest.mark.parametrize(("first", "then"), [("work/a", "work"), ("work", "work/a")])
def test_what_a_declared_path_took_the_place_of_is_said_with_the_snapshot_that_has_it(
    town: Town, first: str, then: str
) -> None:
    with_store(town, f'[{{path = "{first}", via = "store"}}]')
    town.persist("init", "--store")
    town.persist("restore")
    as_agent(AS_ADA, town.agents / "ada", "import os; os.makedirs('work/a', exist_ok=True); open('work/a/f', 'w')")
    town.persist("sync", "ada")
    snapshot = stores.held(town).snapshot
    with_store(town, f'[{{path = "{then}", via = "store"}}]')
    said = town.persist("sync", "ada")
    assert said.status == 0
    stays = "no longer declared for the store, and a path that holds it, or lies in it, is: its last state stays in"
    nested = ["persist: ada: work/a: a nested subvolume: restored as a directory"] if then == "work" else []
    assert said.err.splitlines() == [f"persist: ada: {first}: {stays} {snapshot} only", *nested]
    assert stores.held(town).paths == (PurePosixPath(then),)


def test_what_would_have_to_give_way_to_a_path_that_stopped_stays(made: Town) -> None:
    with_store(made, '["projects", "notes/dir"]')  # below notes, which is the agent's: refused
    said = made.persist("sync", "ada")
    assert said.status == 1
    assert STAYS in said.err
    assert stores.held(made).paths == (PurePosixPath("projects"), PurePosixPath("notes"))


def packs(town: Town) -> int:
    return len(stores.held(town)._head.commit.packs)


def test_a_commit_that_carries_a_path_names_its_parents_packs_and_after_a_full_read_only_those_it_needs(
    made: Town,
) -> None:
    with_store(made, '["projects"]')
    for number in range(4):
        (source(made) / "p").write_text(f"another {number}")
        assert made.persist("sync", "ada").status == 0
    assert packs(made) == 5
    schema.place(made.spec, made.spec.agent("ada")).unlink()
    (source(made) / "p").write_text("the last")
    assert made.persist("sync", "ada").status == 0
    assert packs(made) == 2  # of the notes, and of the last change
    into_new(stores.held(made), source(made).parent / "back", "notes")
    assert stores.facts(source(made).parent / "back") == stores.facts(source(made, "notes"))


def test_where_a_piece_of_what_is_carried_is_missing_every_pack_is_named(made: Town) -> None:
    commit, bucket = stores.held(made)._head.commit, open_bucket(made.spec)
    assert carried.packs(commit.root, commit, bucket.store, bucket.keys("ada")) == set(commit.packs)
    (pack,) = (path for path in (made.base / "store/packs").rglob("*") if path.is_file())
    pack.unlink()
    assert carried.packs(commit.root, commit, bucket.store, bucket.keys("ada")) == set(commit.packs)


def test_what_is_carried_into_a_new_epoch_is_sealed_anew(made: Town) -> None:
    before = stores.facts(source(made, "notes"))
    with_store(made, '["projects"]')
    assert made.persist("sync", "ada").status == 0
    said = made.persist("key", "rotate")
    assert said.status == 0, said.err
    assert made.persist("sync", "ada").status == 0
    head = stores.held(made)._head
    assert head.keys.epoch == 2
    into_new(stores.held(made), source(made).parent / "back", "notes")
    assert stores.facts(source(made).parent / "back") == before
    assert "nothing new" in made.persist("sync", "ada").out


def test_a_large_file_of_many_pieces_is_carried_whole(made: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from random import Random

    with (source(made, "notes") / "large").open("wb") as file:  # more pieces than a listing names: lists of ids
        for number in range(78):
            file.write(Random(number).randbytes(1 << 20))
    cut = list[int]()
    write = content.write

    def counted(writer: Writer, kind: Piece, pieces: Iterable[bytes]) -> content.Content:
        made_of = write(writer, kind, pieces)
        cut.append(made_of.depth)
        return made_of

    monkeypatch.setattr(content, "write", counted)
    assert made.persist("sync", "ada").status == 0
    assert max(cut) > 0, "no list of ids was written"
    before = stores.facts(source(made, "notes"))
    with_store(made, '["projects"]')
    (source(made) / "p").write_text("changed")
    assert made.persist("sync", "ada").status == 0
    os.sync()
    into_new(stores.held(made), source(made).parent / "back", "notes")
    assert stores.facts(source(made).parent / "back") == before


def test_a_path_that_was_declared_elsewhere_in_another_shape_is_not_dropped_unasked(made: Town) -> None:
    assert history.release(made.spec, made.spec.agent("ada"), open_bucket(made.spec), local.machine(made.spec))
    (made.persisted / ".nuketown/machine").write_text("0" * 32 + "\n")  # another machine, which never had the notes
    (made.persisted / ".nuketown/sync/ada.json").unlink()
    with_store(made, '["notes/dir"]')
    said = made.persist("sync", "ada")
    assert said.status == 1
    assert "notes/dir here does not descend from that" in said.err


SECRET = b"-----BEGIN OPENSSH PRIVATE KEY----- not a real one, but long enough to be found " * 20


def hide_keys(home: Path) -> None:
    for name in (".ssh/id_ed25519", ".gnupg/private-keys-v1.d/AB.key"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(SECRET)


KEPT = {".ssh": ["config", "keys", "keys/id_ed25519"], ".gnupg": ["pubring.kbx"]}


@pytest.mark.parametrize("top", KEPT)
def test_a_private_key_that_nuketown_installs_never_reaches_the_store(
    town: Town, top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from persist.bucket.blobs import Writer

    seen: list[bytes] = []
    real = Writer.add
    monkeypatch.setattr(Writer, "add", lambda self, kind, piece: seen.append(piece) or real(self, kind, piece))
    with_store(town, f'[{{path = "{top}", via = "store"}}]')
    town.persist("init", "--store")
    town.persist("restore")
    home = town.agents / "ada"
    hide_keys(home)
    for name in KEPT[top]:
        if name == "keys":
            (home / top / name).mkdir()
        else:
            (home / top / name).write_text(f"kept {name}")
    assert town.persist("sync", "ada").status == 0
    assert any(b"kept" in piece for piece in seen)
    assert not any(b"PRIVATE KEY" in piece or b"private-keys-v1.d" in piece for piece in seen)
    back = town.persisted / "back"
    into_new(stores.held(town), back, top)
    assert sorted(str(path.relative_to(back)) for path in back.rglob("*")) == KEPT[top]
    (summary,) = json.loads(town.persist("sync", "--json", "ada").out)
    assert summary["files"] == sum(1 for path in back.rglob("*") if path.is_file())
    assert os.stat(back).st_uid == ADA
