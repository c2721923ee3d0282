"""Vectors of commits, branches, leases and tombs."""

from typing import Any

from blake3 import blake3

from tests.vectors.bucketbase import ENTRY, MACHINE, PLACE, altered, fixed, line, sealed, squeezed, subkey, write

PACK = [fixed("a pack").hex(), 400, 100]
PARENT = f"commit-{6:016x}-{MACHINE}-{fixed('its parent').hex()}"
COMMIT: dict[str, Any] = {
    "agent": "ada", "time": "2026-11-21T10:15:00+00:00", "host": "signi", "machine": MACHINE, "generation": 7,
    "parent": PARENT, "lease": 3, "uid": 41100, "gid": 41100, "packs": [PACK],
    "root": [{"path": "projects", "files": 0, "bytes": 0, "entry": ENTRY}],
}  # fmt: skip
NAME = f"commit-{7:016x}-{MACHINE}-{fixed('a commit').hex()}"
MAGIC = b"nuketown commit 2\n"


def commit(
    record: object = COMMIT, name: str = NAME, *, magic: bytes = MAGIC, packed: Any = None, **seal: Any
) -> dict[str, Any]:
    piece = packed if packed is not None else squeezed(record if isinstance(record, bytes) else line(record))
    data = magic + sealed("commit", f"agents/{PLACE}/{name}", 0, piece, seal.pop("last", 1), **seal)
    return {"name": name, "data": data.hex()}


def commits() -> None:
    good = commit()
    branch = NAME.replace("commit", "branch")
    first = NAME.replace(f"{7:016x}", f"{1:016x}")
    write("good-commit", "a whole state", "commit", "opens", **good, record=COMMIT)
    write(
        "good-branch", "what a machine had that lost the lease", "commit", "opens", **commit(name=branch), record=COMMIT
    )
    start = COMMIT | {"generation": 1, "parent": None, "lease": None, "root": [], "packs": []}
    write("good-commit-first", "the first state, of nothing", "commit", "opens", **commit(start, first), record=start)

    def bad(name: str, why: str, fields: dict[str, Any], expect: str = "damaged") -> None:
        write(f"bad-commit-{name}", why, "commit", expect, **fields)

    data = bytes.fromhex(good["data"])
    bad("version-3", "a version from the future", commit(magic=b"nuketown commit 3\n"), "foreign")
    bad("version-1", "a version of the past", commit(magic=b"nuketown commit 1\n"), "foreign")
    bad("magic", "it is not a commit", commit(magic=b"something else at all\n"))
    bad("sealed-as-version-3", "it is sealed for another version", commit(version=3))
    bad("flipped", "one bit is flipped", altered(good, 40))
    bad("truncated", "the last byte is gone", good | {"data": data[:-1].hex()})
    bad("trailing", "a byte behind it", good | {"data": (data + b"\0").hex()})
    bad("empty", "nothing is left of it", good | {"data": ""})
    bad("moved", "it lies under another name", good | {"name": NAME[:-64] + fixed("another").hex()})
    bad("as-branch", "a commit that was made a branch by its name", good | {"name": branch})
    bad("other-generation", "a name of a higher generation", good | {"name": NAME.replace(f"{7:016x}", f"{8:016x}")})
    bad("wrong-agent", "it was written for another agent", commit(agent="vox"))
    bad("not-last", "it is not sealed as the last piece", commit(last=0))
    bad("bomb", "it expands to 128 MB", commit(squeezed_bytes(128)))
    bad("not-zstd", "it is not packed", commit(packed=b"{}"))
    bad("not-json", "it is no JSON", commit(b"not JSON"))
    bad("deep-json", "it is nested a hundred thousand times", commit(b"[" * 100_000))
    bad("no-object", "it is a list", commit([]))
    bad("says-other-agent", "its record says another agent", commit(COMMIT | {"agent": "vox"}))
    bad("says-other-generation", "its record says another generation", commit(COMMIT | {"generation": 8}))
    bad("says-other-machine", "its record says another machine", commit(COMMIT | {"machine": "6" * 32}))
    bad("unknown-key", "it holds a key that is not in the table", commit(COMMIT | {"colour": "blue"}))
    bad("no-time", "it lacks a key", commit({key: value for key, value in COMMIT.items() if key != "time"}))
    bad("naive-time", "its time has no zone", commit(COMMIT | {"time": "2026-11-21T10:15:00"}))
    bad("parent", "its parent is no name", commit(COMMIT | {"parent": "../../config"}))
    bad("uid", "its uid is no number", commit(COMMIT | {"uid": "0"}))
    bad("true", "a truth value where a number belongs", commit(COMMIT | {"generation": True}))
    bad("pack", "a pack with a name that leads elsewhere", commit(COMMIT | {"packs": [["../../../etc", 400, 100]]}))
    for name, why, path in (
        ("absolute", "from the root on", "/etc"),
        ("dots", "out of the home", "../vox"),
        ("dot", "the home itself", "."),
        ("nothing", "empty", ""),
        ("double", "not normal", "a//b"),
    ):
        top = COMMIT["root"][0] | {"path": path}
        bad(f"path-{name}", f"a declared path: {why}", commit(COMMIT | {"root": [top]}))
    overlap = [COMMIT["root"][0], COMMIT["root"][0] | {"path": "projects/a"}]
    bad("overlap", "declared paths that overlap", commit(COMMIT | {"root": overlap}))
    link = ENTRY | {"kind": "symlink", "target": "/etc"}
    bad(
        "root-is-a-link",
        "a declared path that is a symlink",
        commit(COMMIT | {"root": [COMMIT["root"][0] | {"entry": link}]}),
    )


def squeezed_bytes(megabytes: int) -> bytes:
    return bytes(megabytes << 20)


LEASE_AT, HALF = 3, fixed("half a salt", 16).hex()


def lease(
    verb: str = "take",
    *,
    signed: str = "",
    agent: str = "ada",
    magic: bytes = b"nuketown lease 2\n",
    host: object = "signi",
) -> dict[str, Any]:
    says = "\0".join((agent, f"{LEASE_AT:016x}", MACHINE, signed or verb, HALF)).encode()
    tag = blake3(says, key=subkey("lease", agent)).digest(16).hex()
    name = f"lease-{LEASE_AT:016x}-{MACHINE}-{verb}-{HALF}{tag}"
    data = magic + sealed("lease", f"agents/{PLACE}/{name}", 0, line({"host": host}), 1, agent=agent)
    return {"name": name, "data": data.hex(), "host": host}


def leases() -> None:
    good = lease()
    for verb in ("take", "keep", "free"):
        write(f"good-lease-{verb}", f"a lease with the verb `{verb}`", "lease", "opens", **lease(verb))

    def bad(name: str, why: str, fields: dict[str, Any], expect: str = "damaged") -> None:
        write(f"bad-lease-{name}", why, "lease", expect, **fields)

    data = bytes.fromhex(good["data"])
    bad("other-verb", "`free` made of `take` by its name", lease("free", signed="take"), "refused")
    bad(
        "other-machine",
        "another machine in its name",
        good | {"name": good["name"].replace(MACHINE, "6" * 32)},
        "refused",
    )
    bad(
        "other-sequence",
        "another sequence in its name",
        good | {"name": good["name"].replace("0003", "0004")},
        "refused",
    )
    bad("unknown-verb", "a verb that there is not", lease("grab"), "refused")
    bad("wrong-agent", "it was written for another agent", lease(agent="vox"), "refused")
    bad("untagged", "a salt that is only random", good | {"name": good["name"][:-64] + fixed("x").hex()}, "refused")
    bad("version-3", "a version from the future", lease(magic=b"nuketown lease 3\n"), "foreign")
    bad("magic", "it is not a lease", lease(magic=b"something else\n"))
    bad("flipped", "one bit is flipped", altered(good, 25))
    bad("truncated", "the last byte is gone", good | {"data": data[:-1].hex()})
    bad("trailing", "a byte behind it", good | {"data": (data + b"\0").hex()})
    bad("host", "its host is no text", lease(host=1))


TOMB = {"packs": [fixed("a pack").hex()], "to": [[fixed("a new pack").hex(), 400, 100]], "seen": [NAME]}


def tomb(record: object = TOMB, *, magic: bytes = b"nuketown tomb 2\n", **seal: Any) -> dict[str, Any]:
    name = f"tomb-{fixed('a tomb').hex()}"
    data = magic + sealed("tomb", f"agents/{PLACE}/{name}", 0, squeezed(line(record)), seal.pop("last", 1), **seal)
    return {"name": name, "data": data.hex()}


def tombs() -> None:
    good = tomb()
    write("good-tomb", "packs that go, and what holds what was needed of them", "tomb", "opens", **good, record=TOMB)

    def bad(name: str, why: str, fields: dict[str, Any], expect: str = "damaged") -> None:
        write(f"bad-tomb-{name}", why, "tomb", expect, **fields)

    data = bytes.fromhex(good["data"])
    bad("version-3", "a version from the future", tomb(magic=b"nuketown tomb 3\n"), "foreign")
    bad("magic", "it is not a tomb", tomb(magic=b"something else\n"))
    bad("flipped", "one bit is flipped", altered(good, 30))
    bad("truncated", "the last byte is gone", good | {"data": data[:-1].hex()})
    bad("trailing", "a byte behind it", good | {"data": (data + b"\0").hex()})
    bad("moved", "it lies under another name", good | {"name": f"tomb-{fixed('another tomb').hex()}"})
    bad("wrong-agent", "it was written for another agent", tomb(agent="vox"))
    bad("not-last", "it is not sealed as the last piece", tomb(last=0))
    bad("pack", "a pack with a name that leads elsewhere", tomb(TOMB | {"packs": ["../config"]}))
    bad("to", "a new pack of a negative length", tomb(TOMB | {"to": [[fixed("x").hex(), -1, 100]]}))
    bad("seen", "a name that is no commit's", tomb(TOMB | {"seen": ["config"]}))
    bad("unknown-key", "it holds a key that is not in the table", tomb(TOMB | {"colour": "blue"}))
