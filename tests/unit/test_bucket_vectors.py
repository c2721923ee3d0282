"""The format on the disk: frozen objects are read by the package, and by a reader that shares no code with it."""

import hmac
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from persist.bucket import commits, content, trees
from persist.bucket.blobs import Reader
from persist.bucket.commits import Name
from persist.bucket.keys import AgentKeys, TownKey, hkdf
from persist.store.memory import MemoryStore

VECTOR = json.loads((Path(__file__).parent.parent / "vectors/bucket-1.json").read_text())
OBJECTS = {key: bytes.fromhex(data) for key, data in VECTOR["objects"].items()}
COMMIT, PACK = OBJECTS


def test_hkdf_is_that_of_the_rfc() -> None:
    # RFC 5869, appendix A.1
    found = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_subkeys_are_what_they_were() -> None:
    town = TownKey(bytes.fromhex(VECTOR["town_key"]))
    keys = AgentKeys.of(town, VECTOR["agent"])
    assert town.commitment == VECTOR["commitment"]
    assert keys.place == VECTOR["place"]
    assert keys.id("data", b"hello, town\n").hex() == VECTOR["id_data_hello"]
    others = AgentKeys.of(town, "vox")
    assert len({getattr(each, name) for each in (keys, others) for name in ("pack", "commit", "data", "tree")}) == 8


def test_frozen_objects_are_read() -> None:
    store = MemoryStore()
    for key, data in OBJECTS.items():
        store.put(key, data)
    keys = AgentKeys.of(TownKey(bytes.fromhex(VECTOR["town_key"])), VECTOR["agent"])
    (name,) = commits.listed(store, keys)
    commit = commits.read(store, keys, name)
    assert (commit.generation, commit.host, commit.time.isoformat()) == (7, "signi", "2026-11-21T10:15:00+00:00")
    (top,) = commit.root
    assert (top.path, top.files, top.bytes) == (PurePosixPath("projects"), 3, 12 + (1 << 20))
    reader = Reader(store, keys)
    for pack in commit.packs:
        reader.load(pack)
    assert top.entry.content is not None
    d, hole, link = trees.read(reader, top.entry.content)
    assert (d.name, d.kind, d.mode) == (b"d", "dir", 0o2750)
    assert (hole.owner, hole.group, hole.data, hole.size) == ("root", "other", (((1 << 20) - 3, 3),), 1 << 20)
    assert (link.name, link.kind, link.target, link.mtime) == (b"l\xffnk", "symlink", b"/x\n", -1)
    assert d.content is not None
    (file,) = trees.read(reader, d.content)
    assert (file.name, file.mtime, file.xattrs) == (b"a.txt", 1234567890123456789, ((b"user.colour", b"bl\xffue"),))
    assert file.content is not None
    assert b"".join(content.read(reader, "data", file.content)) == b"hello, town\n"


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\1", "sha256")


def _open(kind: str, subkey: bytes, key: str, number: int, sealed: bytes, last: int) -> bytes:
    says = "\0".join(["nuketown-store", "1", kind, "ada", key, str(number), str(last)]).encode()
    return AESGCM(_hkdf(subkey, bytes.fromhex(key[-64:]), b"object")).decrypt(number.to_bytes(12, "big"), sealed, says)


def _pieces(town: bytes) -> dict[str, bytes]:
    """Every piece of the pack by its id: the format's text and nothing else."""
    subkey, data = _hkdf(town, b"nuketown-store 1", b"pack\0ada"), OBJECTS[PACK]
    frames, length = int.from_bytes(data[-8:-4], "big"), int.from_bytes(data[-4:], "big")
    directory = _open("directory", subkey, PACK, frames, data[-8 - length : -8], 1)
    pieces, at = {}, 16
    for number, frame in enumerate(json.loads(zstandard.decompress(directory))):
        plain = _open(frame["kind"], subkey, PACK, number, data[at : at + frame["stored"]], 0)
        plain = zstandard.decompress(plain) if frame["codec"] == "zstd" else plain
        at += frame["stored"]
        for id_, size in frame["blobs"]:
            pieces[id_], plain = plain[:size], plain[size:]
    return pieces


def test_thirty_lines_without_this_package_read_a_file_back() -> None:
    town = bytes(range(32))
    assert _hkdf(town, b"nuketown-store 1", b"place\0ada")[:16].hex() == COMMIT.split("/")[1]
    data, pieces = OBJECTS[COMMIT], _pieces(town)
    sealed = data[data.index(b"\n") + 1 :]
    record = _open("commit", _hkdf(town, b"nuketown-store 1", b"commit\0ada"), COMMIT, 0, sealed, 1)
    commit: dict[str, Any] = json.loads(zstandard.decompress(record))
    assert [pack[0] for pack in commit["packs"]] == [PACK[-64:]]
    listing = pieces[commit["root"][0]["entry"]["content"][0]].splitlines()
    d = next(entry for entry in map(json.loads, listing) if entry["name"] == "d")
    (file,) = map(json.loads, pieces[d["content"][0]].splitlines())
    assert b"".join(pieces[id_] for id_ in file["content"]) == b"hello, town\n"
    assert file["xattrs"]["user.colour"].encode("latin-1") == b"bl\xffue"


@pytest.mark.parametrize("text", ["", "x", "0" * 16, f"{0:016}-{0:032}", f"{'G' * 16}-{0:032}-{0:064}"])
def test_a_name_that_is_no_commits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no name of a commit"):
        Name.parsed(text)


def test_generations_are_ordered_as_numbers_and_forks_by_name() -> None:
    low, high = Name(9, "f" * 32, "f" * 64), Name(10, "0" * 32, "0" * 64)
    twin = Name(10, "0" * 32, "1" * 64)
    assert commits.head([twin, low, high]) == twin
    assert commits.head([]) is None
    assert commits.forks([twin, low, high]) == [(high, twin)]
