"""Repairing a store: what is still here is sent again, older states are made whole by it, the rest is listed."""

import json
from pathlib import Path
from random import Random

import pytest

from persist.bucket.commits import Name
from persist.bucket.opening import open_bucket
from persist.bucket.packs import Pack, PackReader
from persist.upkeep import repair
from persist.upkeep.looking import looks
from tests.machine import histories
from tests.machine.histories import DAY, Machine, machine, prune, restored, states
from tests.machine.stores import facts, into_new, source, with_store
from tests.machine.test_prune import files, grown, store_of, whole
from tests.machine.towns import Town, town

__all__ = ["town"]


def heal(ours: Machine) -> list[Name]:
    """What a repair does to the store."""
    (look,) = looks(ours.bucket, "ada")
    found = list(repair.healing(look))
    repair.heal(look, found)
    return [name for one in found for name in one.states]


def test_states_of_before_become_whole_by_what_a_sync_sent_again() -> None:
    ours = machine()
    made = grown(ours, 5)
    pack = histories.commits.read(ours.bucket.store, ours.keys, next(iter(made))).packs[0]
    store_of(ours).delete(pack.key(ours.keys))
    assert heal(ours) == []  # nobody has it
    ours.known = {id_: where for id_, where in ours.known.items() if where != pack}
    ours.head = None
    everything: dict[str, bytes] = {}
    for at, held in enumerate(made.values()):
        everything |= {f"{at}/{path.replace('/', '-')}": data for path, data in held.items()}
    made[ours.sync(everything)] = everything
    assert heal(ours) == list(made)[1:5]  # of those only files were lost
    first = next(iter(made))
    assert [one.name for (look,) in [looks(ours.bucket, "ada")] for one in look.suffering] == [first]
    made[ours.sync(made[first])] = made[first]  # its listings too, then
    assert heal(ours) == [first]
    whole(ours, made)
    for _ in range(3):
        prune(ours.bucket)
        store_of(ours).time += 8 * DAY
        whole(ours, made)


def test_a_state_of_which_a_piece_is_gone_for_good_is_left_as_it_is() -> None:
    ours = machine()
    first = ours.sync(files(1))
    second = ours.sync(files(2))
    pack = histories.commits.read(ours.bucket.store, ours.keys, first).packs[0]
    store_of(ours).delete(pack.key(ours.keys))
    before = store_of(ours).objects()
    assert heal(ours) == []
    assert store_of(ours).objects() == before
    assert restored(ours.bucket, second) == files(2)


@pytest.fixture
def made(town: Town) -> Town:
    with_store(town)
    town.persist("init", "--store")
    town.persist("restore")
    for number in range(4):
        (source(town) / f"file{number}").write_bytes(Random(number).randbytes(40_000))
        (source(town) / "same").write_bytes(b"the same" * number)
        assert town.persist("sync").status == 0
    return town


def packs(town: Town) -> list[Path]:
    return sorted((town.base / "store/packs").glob("*/*"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.root
def test_a_whole_store_needs_no_repair(made: Town) -> None:
    said = made.persist("repair")
    assert said.status == 0
    assert "whole, nothing to repair" in said.out


@pytest.mark.root
def test_after_a_lost_pack_repair_sync_repair_bring_back_what_this_machine_has(made: Town) -> None:
    packs(made)[0].unlink()  # file0, and listings of the first state
    before = {path: path.read_bytes() for path in (made.base / "store").rglob("*") if path.is_file()}
    said = made.persist("repair", "--dry-run")
    assert said.status == 4
    assert {path: path.read_bytes() for path in before} == before
    said = made.persist("repair")
    assert said.status == 4
    assert "persist sync ada" in said.err.replace(f" --spec {made.file}", "")
    assert all(path.read_bytes() == data for path, data in before.items())  # nothing is deleted
    said = made.persist("sync")
    assert said.status == 0, said.err
    assert "nothing new" not in said.out
    bucket = open_bucket(made.spec)
    newest = states(bucket)[-1]
    into_new_and_compare(made)
    said = made.persist("repair", "--json")
    (found,) = [one for one in json.loads(said.out) if one["agent"] == "ada"]
    assert found["newest_whole"] == newest.short
    # Of the older ones only what only the first state held, its listings, is gone for good.
    assert {one["snapshot"] for one in found["lost"]} <= {states(bucket)[0].short}
    assert [action.split()[0] for action in found["actions"] if action.startswith("heal")] == ["heal"]
    said = made.persist("verify", "--read-data", "100%", "--json")
    (found,) = [one for one in json.loads(said.out) if one["agent"] == "ada"]
    assert {one["snapshot"] for one in found["suffering"]} <= {states(bucket)[0].short}


def into_new_and_compare(town: Town) -> None:
    from tests.machine import stores

    back = town.persisted / f"back{len(list(town.persisted.glob('back*')))}"
    into_new(stores.held(town), back)
    assert facts(back) == facts(source(town))


@pytest.mark.root
def test_what_nobody_has_is_listed_by_state_and_path(made: Town) -> None:
    pack = packs(made)[-1]
    (source(made) / "file3").unlink()
    pack.unlink()
    said = made.persist("repair", "--json")
    (found,) = [one for one in json.loads(said.out) if one["agent"] == "ada"]
    bucket = open_bucket(made.spec)
    newest, whole_one = states(bucket)[-1], states(bucket)[-2]
    assert (said.status, found["newest_whole"]) == (4, whole_one.short)
    assert [one["snapshot"] for one in found["lost"]] == [newest.short]
    assert found["lost"][0]["newest"] is True
    said = made.persist("repair")
    assert f"persist restore --at {whole_one.short} ada" in said.err.replace(f" --spec {made.file}", "")


def flip(town: Town, path: Path, kind: str) -> None:
    """One bit of the first frame of that kind in a pack."""
    keys = open_bucket(town.spec).keys("ada")
    data = bytearray(path.read_bytes())
    pack = Pack(path.name, len(data), int.from_bytes(data[-4:], "big"))
    reader = PackReader(open_bucket(town.spec).store, keys, pack)
    frame = next(frame for frame in reader.frames() if frame.kind == kind)
    data[frame.offset + 5] ^= 1
    path.write_bytes(bytes(data))


def reported(town: Town, *words: str) -> dict[str, object]:
    said = town.persist(*words, "--json")
    (found,) = [one for one in json.loads(said.out) if one["agent"] == "ada"]
    return dict(found) | {"status": said.status}


@pytest.mark.root
@pytest.mark.parametrize("kind", ["data", "tree"])
@pytest.mark.parametrize("at", [0, -1])
def test_after_a_flipped_bit_verify_repair_sync_repair_bring_back_what_this_machine_has(
    made: Town, kind: str, at: int
) -> None:
    flip(made, packs(made)[at], kind)
    said = made.persist("verify", "--read-data", "100%")
    assert said.status == 4
    assert "persist repair ada" in said.err.replace(f" --spec {made.file}", "")
    assert made.persist("repair").status == 4
    said = made.persist("sync")
    assert (said.status, "nothing new" in said.out) == (0, False)
    into_new_and_compare(made)
    made.persist("repair")
    newest, gone = states(open_bucket(made.spec))[-1], {states(open_bucket(made.spec))[at if at == 0 else -2].short}
    found = reported(made, "verify", "--read-data", "100%")
    # The files are here still; listings of a state of before are nowhere else, unless nothing changed since.
    assert {one["snapshot"] for one in found["suffering"]} <= (gone if kind == "tree" else set())  # type: ignore[attr-defined]
    assert (kind == "tree") or (found["ok"], found["status"]) == (True, 0)
    assert reported(made, "repair", "--read-data", "100%")["newest_whole"] == newest.short
    into_new_and_compare(made)


@pytest.mark.root
def test_a_repair_that_reads_all_data_needs_no_verify_before(made: Town) -> None:
    flip(made, packs(made)[-1], "data")
    assert "whole, nothing to repair" in made.persist("repair").out
    said = made.persist("repair", "--read-data", "100%", "--dry-run")
    assert (said.status, "mark" in said.out) == (4, True)
    assert "nothing new" in made.persist("sync").out
    assert made.persist("repair", "--read-data", "100%").status == 4
    assert "nothing new" not in made.persist("sync").out
    made.persist("repair")
    assert reported(made, "verify", "--read-data", "100%")["ok"]


@pytest.mark.root
def test_a_lost_index_does_not_make_a_damaged_pack_pass_for_whole(made: Town) -> None:
    flip(made, packs(made)[-1], "data")
    assert made.persist("verify", "--read-data", "100%").status == 4
    for path in (made.spec.state_dir / "index").iterdir():
        path.unlink()
    assert "nothing new" not in made.persist("sync").out
    into_new_and_compare(made)


@pytest.mark.root
def test_what_is_whole_in_a_damaged_pack_and_only_there_is_written_anew_for_older_states(made: Town) -> None:
    (source(made) / "big").write_bytes(Random(8).randbytes(600_000))  # a frame of its own
    (source(made) / "other").write_bytes(Random(9).randbytes(600_000))
    assert made.persist("sync").status == 0
    older, pack = states(open_bucket(made.spec))[-1], packs(made)[-1]
    flip(made, pack, "data")
    said = made.persist("verify", "--read-data", "100%")
    assert ("projects/big" in said.out) is not ("projects/other" in said.out)
    (source(made) / ("other" if "projects/big" in said.out else "big")).unlink()  # what is whole is here no more
    made.persist("repair")
    assert made.persist("sync", "--accept-loss").status == 0
    said = made.persist("repair")
    assert "written anew" in said.out
    assert older.short in said.out
    assert reported(made, "verify", "--read-data", "100%")["ok"]
    pack.unlink()
    assert reported(made, "verify", "--read-data", "100%")["ok"]
