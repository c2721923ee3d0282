"""The format as it is on the disk: each file of tests/vectors/bucket says one thing, and why.

They were written by tests/vectors/make_bucket.py, which shares no code with the package.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persist.bucket import commits, keyfile, leases, lock, opening, packs, records, tombs, trees
from persist.bucket.blobs import Reader
from persist.bucket.commits import Name
from persist.bucket.keys import AgentKeys, TownKey, hkdf
from persist.bucket.lock import BadLock
from persist.bucket.packs import Pack
from persist.store import Store, StoreDamaged, StoreForeign
from persist.store.memory import MemoryStore
from tests.vectors import bucketbase, bucketentries, make_bucket
from town import spec as specs
from town.failure import Failure
from town.sops import Keys
from town.spec import Spec

HERE = Path(make_bucket.HERE)
VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
TOWN = TownKey(bucketbase.TOWN)
ADA = AgentKeys.of(TOWN, "ada")
REFUSALS: dict[str, type[Exception] | tuple[type[Exception], ...]] = {
    "damaged": StoreDamaged,
    "foreign": StoreForeign,
    "refused": (ValueError, Failure),
}


def stored(key: str, vector: dict[str, Any]) -> Store:
    """A store that answers with the vector's object, whatever is asked of it."""
    store = MemoryStore()
    store.put(key, bytes.fromhex(vector["data"]))
    return store


def pack(vector: dict[str, Any], _: Path) -> None:
    key = vector["object"]
    named = Pack.parsed([key[-64:], vector["size"], vector["directory"]])
    reader, found = Reader(stored(key, vector), ADA), []
    reader.load(named)
    for frame in packs.PackReader(stored(key, vector), ADA, named).frames():
        found += [[frame.kind, reader.get(frame.kind, id_).hex()] for id_, _, _ in frame.pieces()]
    assert found == vector["pieces"]


def commit(vector: dict[str, Any], _: Path) -> None:
    name = Name.parsed(vector["name"])
    found = commits.read(stored(commits.key(ADA, name), vector), ADA, name)
    record = vector["record"]
    assert {key: getattr(found, key) for key in ("agent", "host", "machine", "generation", "parent", "lease")} == {
        key: record[key] for key in ("agent", "host", "machine", "generation", "parent", "lease")
    }
    assert (found.time.isoformat(), found.uid, found.gid) == (record["time"], record["uid"], record["gid"])
    assert [one.record for one in found.packs] == record["packs"]
    assert [(str(top.path), trees.record(top.entry)) for top in found.root] == [
        (top["path"], top["entry"]) for top in record["root"]
    ]


def lease(vector: dict[str, Any], _: Path) -> None:
    found = leases.parsed(ADA, vector["name"], 0.0)
    assert str(found) == vector["name"]
    assert leases.host(stored(f"agents/{ADA.place}/{found}", vector), ADA, found) == vector["host"]


def tomb(vector: dict[str, Any], _: Path) -> None:
    assert tombs.is_name(vector["name"])
    found = tombs.read(stored(tombs.key(ADA, vector["name"]), vector), ADA, vector["name"])
    record = vector["record"]
    assert (sorted(found.packs), [one.record for one in found.to], sorted(found.seen)) == (
        record["packs"], record["to"], record["seen"],
    )  # fmt: skip


def entry(vector: dict[str, Any], _: Path) -> None:
    line = records.written(vector["record"])
    found = trees.parsed(records.read(line, "a line"), "an entry")
    assert trees.line_of(found) == line


def name(vector: dict[str, Any], _: Path) -> None:
    Name.parsed(vector["name"])


def key(vector: dict[str, Any], _: Path) -> None:
    value, purpose = vector["value"], vector["purpose"]
    if purpose == "chunks":
        assert ADA.chunks == int(value, 16) >> 1
        return
    found = getattr(ADA, {"id data": "data", "id tree": "tree"}.get(purpose, purpose))
    assert (found if isinstance(found, str) else found.hex()) == value


def commitment(vector: dict[str, Any], _: Path) -> None:
    assert TOWN.commitment == vector["value"]


def object_key(vector: dict[str, Any], _: Path) -> None:
    assert hkdf(ADA.pack, bytes.fromhex(vector["object"][-64:]), b"object").hex() == vector["value"]


def id_(vector: dict[str, Any], _: Path) -> None:
    assert ADA.id(vector["kind"], bytes.fromhex(vector["piece"])).hex() == vector["id"]


def spec(base: Path) -> Spec:
    (base / "town.toml").write_text("[town]\n[agents.ada]\nuid = 41100\n")
    return specs.load(base / "town.toml")


def config(vector: dict[str, Any], _: Path) -> None:
    opening.check_config(vector["text"].encode())


def the_lock(vector: dict[str, Any], base: Path) -> None:
    (base / lock.NAME).parent.mkdir()
    (base / lock.NAME).write_text(vector["text"])
    found = lock.read(spec(base))
    assert found is not None
    assert found.commitment == TOWN.commitment
    assert list(found.all[:-1]) == [bucketbase.fixed("K 1").hex()][: len(found.earlier)]


def the_key_file(vector: dict[str, Any], base: Path) -> None:
    (base / "age.key").write_text(bucketentries.IDENTITY)
    found = keyfile.opened(vector["text"].encode(), 1, Keys.of_age_file(base / "age.key"))
    found.check_number()
    assert found.tree == vector["values"]
    assert [one.epoch for one in (*found.earlier, found.key)] == list(range(1, len(found.earlier) + 2))


CHECKS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "pack": pack, "commit": commit, "lease": lease, "tomb": tomb, "entry": entry, "name": name, "key": key,
    "commitment": commitment, "object key": object_key, "id": id_, "config": config, "lock": the_lock,
    "keyfile": the_key_file,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("good-")])
def test_what_the_format_says_is_read(name: str, tmp_path: Path) -> None:
    assert VECTORS[name]["expect"] == "opens"
    CHECKS[VECTORS[name]["what"]](VECTORS[name], tmp_path)


@pytest.mark.parametrize("name", [name for name in VECTORS if not name.startswith("good-")])
def test_what_the_format_does_not_say_is_refused_and_named(name: str, tmp_path: Path) -> None:
    vector = VECTORS[name]
    with pytest.raises(REFUSALS[vector["expect"]]) as refused:
        CHECKS[vector["what"]](vector, tmp_path)
    if isinstance(refused.value, Failure):
        assert refused.value.what.isprintable()


def test_each_file_has_a_reason_of_its_own() -> None:
    assert len({(vector["what"], vector["why"]) for vector in VECTORS.values()}) == len(VECTORS)
    assert {vector["what"] for vector in VECTORS.values()} == set(CHECKS)
    assert len(VECTORS) > 150


def test_the_files_are_those_that_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for sealed bytes: another release of zstd may choose others for the same content, and SOPS its own."""
    monkeypatch.setattr(bucketbase, "HERE", HERE)
    make_bucket.main(tmp_path / "made")
    made = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "made").glob("*.json")}
    assert {name: said(vector) for name, vector in made.items()} == {
        name: said(vector) for name, vector in VECTORS.items()
    }
    assert made["good-lease-take"] == VECTORS["good-lease-take"]


def said(vector: dict[str, Any]) -> dict[str, Any]:
    sealed = ("data", "size", "directory") if vector["what"] != "keyfile" else ("text",)
    return {key: value for key, value in vector.items() if key not in sealed}


def test_hkdf_is_that_of_the_rfc() -> None:
    # RFC 5869, appendix A.1
    found = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_no_two_keys_of_two_agents_or_two_epochs_are_the_same() -> None:
    every = [AgentKeys.of(town, agent) for town in (TOWN, TownKey(bytes(32), 2)) for agent in ("ada", "vox")]
    found = {
        getattr(keys, one) for keys in every for one in ("place", "pack", "commit", "lease", "tomb", "data", "tree")
    }
    assert len(found) == 4 * 7


def test_a_lock_that_is_none_says_where(tmp_path: Path) -> None:
    (tmp_path / lock.NAME).parent.mkdir()
    (tmp_path / lock.NAME).write_text("x")
    with pytest.raises(BadLock, match=r"store\.lock\.toml"):
        lock.read(spec(tmp_path))
