"""Looking at a store: what is whole is said to be; what is damaged is named, with the states and paths that suffer."""

import json
from pathlib import Path
from random import Random

import pytest

from persist.bucket import commits, trees
from persist.bucket.blobs import Writer
from persist.bucket.commits import Name
from persist.bucket.content import Content
from persist.bucket.packs import PackReader
from persist.upkeep import verify
from persist.upkeep.looking import Look, looks
from tests.machine import histories
from tests.machine.histories import DAY, ClockStore, Machine, last, machine, prune
from tests.machine.stores import source, with_store
from tests.machine.test_prune import files, grown, store_of
from tests.machine.towns import Town, town
from town.failure import WrongUsage

__all__ = ["town"]


def looked(ours: Machine, share: float = 0.0) -> Look:
    (look,) = looks(ours.bucket, "ada", share)
    return look


def suffering(look: Look) -> dict[Name, set[bytes]]:
    return {one.name: set(one.paths) for one in look.suffering}


def changed(store: ClockStore, key: str, data: bytes) -> None:
    store.delete(key)
    store.put(key, data)


def test_a_whole_store_is_whole_before_and_after_prunes_and_with_all_data_read() -> None:
    ours = machine()
    grown(ours, 8)
    for _ in range(3):
        look = looked(ours, 1.0)
        assert (look.damage, look.suffering) == ([], [])
        assert look.read > 20_000
        prune(ours.bucket, last(5))
        store_of(ours).time += DAY


def test_a_missing_pack_is_named_with_exactly_the_states_and_paths_that_suffer() -> None:
    ours = machine()
    first = ours.sync(files(1))
    second = ours.sync(files(1) | {"d0/new": b"x" * 5000})
    third = ours.sync(files(3))
    (pack,) = {*_packs(ours, second)} - {*_packs(ours, first)}
    store_of(ours).delete(pack.key(ours.keys))
    look = looked(ours)
    assert [(damage.pack, damage.what) for damage in look.damage] == [(pack.id, "is missing")]
    # The listing of d0 and the top one were written with it: nothing below them can be told.
    assert suffering(look) == {second: {b"projects/"}}
    assert third not in look.missing


def _packs(ours: Machine, name: Name) -> tuple[histories.Pack, ...]:
    return commits.read(ours.bucket.store, ours.keys, name).packs


def in_two_packs(ours: Machine) -> tuple[Name, histories.Pack, dict[str, bytes]]:
    """A state whose files of d0 lie in a pack of their own, without its listings."""
    held = files(7)
    ours.sync({path: data for path, data in held.items() if path.startswith("d0/")})
    (pack,) = _packs(ours, ours.head) if ours.head else ()
    ours.known = {id_: where for id_, where in ours.known.items() if id_ in _data(ours, held)}
    return ours.sync(held), pack, held


def _data(ours: Machine, held: dict[str, bytes]) -> set[bytes]:
    cuts = (data[at : at + 1000] for data in held.values() for at in range(0, len(data), 1000))
    return {ours.keys.id("data", cut) for cut in cuts}


def test_files_whose_pieces_are_missing_are_named_one_by_one() -> None:
    ours = machine()
    name, pack, held = in_two_packs(ours)
    store_of(ours).delete(pack.key(ours.keys))
    wanted = {f"projects/{path}".encode() for path in held if path.startswith("d0/")}
    assert suffering(looked(ours))[name] == wanted


def test_a_short_pack_is_named_without_reading_it() -> None:
    ours = machine()
    made = grown(ours, 2)
    pack = _packs(ours, tuple(made)[-1])[-1]
    data = store_of(ours).get(pack.key(ours.keys))
    changed(store_of(ours), pack.key(ours.keys), data[:-1])
    (damage,) = looked(ours).damage
    assert (damage.pack, damage.what) == (pack.id, f"has {pack.size - 1:,} bytes, not {pack.size:,}")


def test_a_damaged_directory_is_found_without_reading_data() -> None:
    ours = machine()
    name, pack, _ = in_two_packs(ours)
    data = bytearray(store_of(ours).get(pack.key(ours.keys)))
    data[-20] ^= 1
    changed(store_of(ours), pack.key(ours.keys), bytes(data))
    look = looked(ours)
    assert look.broken == {pack.id}
    assert name in suffering(look)


def test_a_bit_that_flipped_in_data_is_found_by_reading_all_and_only_then() -> None:
    ours = machine()
    name, pack, held = in_two_packs(ours)
    reader = PackReader(ours.bucket.store, ours.keys, pack)
    frame = next(frame for frame in reader.frames() if frame.kind == "data")
    data = bytearray(store_of(ours).get(pack.key(ours.keys)))
    data[frame.offset + 5] ^= 1
    changed(store_of(ours), pack.key(ours.keys), bytes(data))
    assert looked(ours).damage == []
    look = looked(ours, 1.0)
    assert look.broken == {pack.id}
    assert suffering(look)[name] == {f"projects/{path}".encode() for path in held if path.startswith("d0/")}


def test_a_listing_that_another_pack_holds_too_is_read_there_and_that_pack_is_not_blamed() -> None:
    ours = machine()
    held = files(1)
    first = ours.sync(held)
    ours.known, ours.head = {}, None
    second = ours.sync(held | {"new": b"new"})
    by_id = {pack.id: (name, pack) for name in (first, second) for pack in _packs(ours, name)}
    name, pack = by_id[min(by_id)]  # the one that is looked into first
    assert len(by_id) == 2
    reader = PackReader(ours.bucket.store, ours.keys, pack)
    data = bytearray(store_of(ours).get(pack.key(ours.keys)))
    for frame in reader.frames():
        if frame.kind == "tree":
            data[frame.offset + 5] ^= 1
    changed(store_of(ours), pack.key(ours.keys), bytes(data))
    look = looked(ours, 1.0)
    assert look.broken == {pack.id}
    assert set(look.missing) == {name}


def test_a_share_of_the_data_is_read_at_random() -> None:
    ours = machine()
    grown(ours, 40)
    whole = looked(ours, 1.0).read
    part = {looked(ours, 0.25).read for _ in range(5)}
    assert len(part) > 1
    assert all(whole * 0.05 < one < whole * 0.6 for one in part)


def test_a_state_that_names_too_few_packs_is_found_although_another_names_them() -> None:
    from dataclasses import replace

    ours = machine()
    made = grown(ours, 3)
    commit = commits.read(ours.bucket.store, ours.keys, tuple(made)[-1])
    wrong = commits.write(ours.bucket.store, ours.keys, replace(commit, generation=9, packs=commit.packs[:-1]))
    look = looked(ours)
    assert set(suffering(look)) == {wrong}
    assert suffering(look)[wrong]


def test_a_state_whose_listings_lie_in_a_pack_that_it_does_not_name_is_found() -> None:
    from dataclasses import replace

    ours = machine()
    first = ours.sync({"d0/name": b"the same"})
    commit = commits.read(ours.bucket.store, ours.keys, ours.sync({"d0/other": b"the same"}))
    wrong = commits.write(ours.bucket.store, ours.keys, replace(commit, generation=9, packs=_packs(ours, first)))
    assert suffering(looked(ours)) == {wrong: {b"projects/"}}


def test_a_merged_pack_that_is_missing_is_what_is_named() -> None:
    ours = machine()
    made = grown(ours, 6)
    prune(ours.bucket, last(6))
    store_of(ours).time += DAY
    prune(ours.bucket, last(6))
    (pack,) = histories.packs(ours.bucket)
    store_of(ours).delete(f"packs/{ours.keys.place}/{pack}")
    look = looked(ours)
    assert [damage.pack for damage in look.damage] == [pack]
    assert suffering(look).keys() == made.keys()


def test_a_piece_that_is_another_than_its_id_says_is_found() -> None:
    ours = machine()
    keys = ours.keys
    with Writer(ours.bucket.store, keys) as writer:
        right = writer.add("data", b"right" * 100)
        writer._mine.clear()
        writer._secret["data"] = bytes(32)  # a writer whose ids are wrong
        wrong = writer.add("data", b"wrong" * 100)
        writer._secret["data"] = keys.data
        lines = [trees.Entry(b"f", "file", 0o600, 1, size=500, content=Content((wrong,))),
                 trees.Entry(b"g", "file", 0o600, 1, size=500, content=Content((right,)))]  # fmt: skip
        listing = trees.write(writer, lines)
        packs = tuple(placed.pack for placed in writer.finish())
    from datetime import UTC, datetime
    from pathlib import PurePosixPath

    top = commits.Top(PurePosixPath("projects"), trees.Entry(b"projects", "dir", 0o700, 1, content=listing), 2, 1000)
    commits.write(ours.bucket.store, keys, commits.Commit(
        "ada", datetime.now(UTC), "host", histories.A, 1, None, (top,), packs, 1, 1))  # fmt: skip
    assert looked(ours).damage == []
    look = looked(ours, 1.0)
    assert "not its id's" in look.damage[0].what


def test_a_long_file_and_a_long_directory_are_followed_through_their_lists() -> None:
    ours = machine()
    held = {f"many/file number {at:05}": b"small" for at in range(3000)} | {"long": Random(1).randbytes(200_000)}
    name = ours.sync(held)
    assert looked(ours, 1.0).damage == []
    (pack,) = _packs(ours, name)
    store_of(ours).delete(pack.key(ours.keys))
    assert suffering(looked(ours)) == {name: {b"projects/"}}


@pytest.mark.parametrize(("text", "share"), [(None, 0.0), ("5%", 0.05), ("100", 1.0), ("0.5%", 0.005)])
def test_a_share_is_written_in_percent(text: str | None, share: float) -> None:
    assert verify.percent(text) == share


@pytest.mark.parametrize("text", ["", "101%", "-1%", "5%%", "a", "nan", "1e1"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage):
        verify.percent(text)


@pytest.mark.root
def test_the_command_names_damage_safely_and_ends_with_4(town: Town) -> None:
    with_store(town)
    town.persist("init", "--store")
    town.persist("restore")
    (source(town) / "deep").mkdir()
    (source(town) / "deep/evil\n\x1b[31m").write_bytes(Random(1).randbytes(50_000))
    assert town.persist("sync").status == 0
    said = town.persist("verify", "--read-data", "100%")
    assert (said.status, said.err) == (0, "")
    assert "1 state, 1 pack" in said.out
    assert "whole" in said.out
    (pack,) = (town.base / "store/packs").glob("*/*")
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.write_bytes(data)
    assert town.persist("verify").status == 0
    said = town.persist("verify", "--read-data", "100%")
    assert said.status == 4
    assert pack.name in said.out
    assert "deep/evil\\n\\x1b[31m" in said.out
    assert "\x1b" not in said.out
    assert "persist repair ada" in said.err.replace(f" --spec {town.file}", "")
    said = town.persist("verify", "--read-data", "100%", "--json")
    (found,) = [one for one in json.loads(said.out) if one["agent"] == "ada"]
    assert (said.status, found["ok"], found["suffering"][0]["newest"]) == (4, False, True)
    pack.unlink()
    said = town.persist("verify")
    assert said.status == 4
    assert "is missing" in said.out
    assert town.persist("verify", "--read-data", "much").status == 2
    assert Path(town.base / "store").exists()
