"""Vectors of entries, names, keys, `config`, the lock beside the spec and key files."""

import json
from datetime import UTC, datetime
from typing import Any

from tests.vectors import bucketbase
from tests.vectors.bucketbase import ENTRY, HELLO, PLACE, TOWN, fixed, hkdf, id_of, subkey, write
from tests.vectors.bucketcommits import NAME

FILE: dict[str, Any] = {
    "name": "a.txt", "kind": "file", "mode": 0o640, "mtime": 1_700_000_000_000_000_000, "size": 12,
    "content": [id_of("data", HELLO).hex()],
}  # fmt: skip


def entries() -> None:
    sparse = FILE | {"size": 1 << 20, "data": [[(1 << 20) - 12, 12]], "owner": "root", "group": "other", "link": "1"}
    attributes = FILE | {
        "name": "\xff\n",
        "xattrs": {"user.colour": "bl\xffue", "system.posix_acl_access": "\x02\0\0\0"},
    }
    for name, why, entry in (
        ("file", "a file", FILE),
        ("sparse", "a file that is a hole but for its end, root's, with two names", sparse),
        ("attributes", "a name that is not UTF-8, and attributes", attributes),
        ("dir", "a directory", ENTRY),
        ("symlink", "a symlink", {"name": "l", "kind": "symlink", "mtime": -1, "target": "/x\n"}),
        ("fifo", "a fifo", {"name": "f", "kind": "fifo", "mode": 0o600, "mtime": 0}),
    ):
        write(f"good-entry-{name}", why, "entry", "opens", record=entry)
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "name-dots": ("a name that leaves the directory", {"name": ".."}),
        "name-dot": ("a name that is the directory", {"name": "."}),
        "name-empty": ("no name", {"name": ""}),
        "name-slash": ("a name that is a path", {"name": "a/b"}),
        "name-absolute": ("a name from the root on", {"name": "/etc/passwd"}),
        "name-nul": ("a name with a NUL", {"name": "a\0b"}),
        "name-long": ("a name of 256 bytes", {"name": "x" * 256}),
        "name-wide": ("a name with a code point above 255", {"name": "\u0100"}),
        "kind": ("a device", {"kind": "block"}),
        "owner": ("an owner that is no role", {"owner": "0"}),
        "mode": ("more than permission bits", {"mode": 0o100644}),
        "mode-negative": ("a negative mode", {"mode": -1}),
        "size-negative": ("a negative size", {"size": -1}),
        "size-huge": ("a size that no file has", {"size": 1 << 63}),
        "mtime": ("a time that no filesystem has", {"mtime": 1 << 100}),
        "extent-outside": ("an extent beyond the end", {"data": [[10, 3]]}),
        "extent-overlap": ("extents that overlap", {"data": [[0, 5], [4, 2]]}),
        "extent-empty": ("an extent of nothing", {"data": [[0, 0]]}),
        "content-id": ("an id of 31 bytes", {"content": ["00" * 31]}),
        "content-hex": ("an id that is no hex", {"content": ["zz" * 32]}),
        "content-many": ("65 ids", {"content": ["00" * 32] * 65}),
        "depth": ("lists of lists of lists of lists of lists", {"depth": 5}),
        "xattr": ("an attribute that is root's power", {"xattrs": {"security.capability": "x"}}),
        "unknown-key": ("a key that is not in the table", {"uid": 0}),
        "target-empty": ("a symlink to nothing", {"kind": "symlink", "target": ""}),
        "target-nul": ("a symlink to a NUL", {"kind": "symlink", "target": "a\0"}),
        "target-long": ("a symlink of 4096 bytes", {"kind": "symlink", "target": "x" * 4096}),
    }
    for name, (why, change) in changes.items():
        write(f"bad-entry-{name}", why, "entry", "damaged", record=FILE | change)


def names() -> None:
    for name, why, text in (
        ("short", "a digit is missing", NAME[:-1]),
        ("long", "a digit too many", NAME + "0"),
        ("upper", "upper-case letters", NAME.upper()),
        ("kind", "a kind that there is not", NAME.replace("commit", "commot")),
        ("number", "a generation that is not of 16 digits", NAME.replace(f"{7:016x}", "7")),
        ("path", "a way out before it", f"../{NAME}"),
        ("newline", "a newline behind it", f"{NAME}\n"),
        ("empty", "nothing", ""),
    ):
        write(f"bad-name-{name}", why, "name", "refused", name=text)


def keys() -> None:
    for purpose in ("place", "pack", "commit", "lease", "tomb", "id data", "id tree", "chunks"):
        length = {"place": 16, "chunks": 8}.get(purpose, 32)
        value = subkey(purpose, length=length).hex()
        write(
            f"good-key-{purpose.replace(' ', '-')}",
            f"an agent has `{purpose}`",
            "key",
            "opens",
            purpose=purpose,
            value=value,
        )
    write(
        "good-key-commitment", "what names the town's key", "commitment", "opens", value=subkey("commitment", "").hex()
    )
    secret, object_ = subkey("pack"), f"packs/{PLACE}/{fixed('a pack').hex()}"
    value = hkdf(secret, bytes.fromhex(object_[-64:]), b"object").hex()
    write("good-key-object", "the key of one object", "object key", "opens", object=object_, value=value)
    for kind in ("data", "tree"):
        write(f"good-id-{kind}", f"the id of a `{kind}` piece", "id", "opens", kind=kind, piece=HELLO.hex(),
              id=id_of(kind, HELLO).hex())  # fmt: skip


def texts() -> None:
    for name, why, expect, text in (
        ("good-config", "a store of this version", "opens", '{"format":"nuketown-store","version":2}\n'),
        ("bad-config-version-1", "the version before", "foreign", '{"format":"nuketown-store","version":1}\n'),
        ("bad-config-version-3", "a version from the future", "foreign", '{"format":"nuketown-store","version":3}\n'),
        (
            "bad-config-version-text",
            "a version that is no number",
            "foreign",
            '{"format":"nuketown-store","version":"2"}\n',
        ),
        (
            "bad-config-version-true",
            "a version that is true",
            "foreign",
            '{"format":"nuketown-store","version":true}\n',
        ),
        ("bad-config-format", "something else's", "foreign", '{"version":2}\n'),
        ("bad-config-empty", "nothing is left of it", "damaged", ""),
        ("bad-config-truncated", "cut off", "damaged", '{"format":"nuketown-store",'),
        ("bad-config-html", "what a proxy answered", "damaged", "<!DOCTYPE html><html></html>"),
    ):
        write(name, why, "config", expect, text=text)
    commitment = subkey("commitment", "").hex()
    good = f'format = "nuketown-store"\nversion = 2\ncommitment = "{commitment}"\nmade = "2026-11-21"\n'
    for name, why, expect, text in (
        ("good-lock", "the lock of one epoch", "opens", good),
        ("good-lock-epochs", "the lock of two epochs", "opens", f'{good}earlier = ["{fixed("K 1").hex()}"]\n'),
        ("bad-lock-version-3", "a version from the future", "foreign", good.replace("= 2", "= 3")),
        ("bad-lock-short", "a commitment that is cut", "refused", good.replace(commitment, "00")),
        ("bad-lock-none", "no commitment", "refused", good.replace("commitment =", "comment =")),
        ("bad-lock-earlier", "an earlier one that is none", "refused", f'{good}earlier = ["x"]\n'),
        ("bad-lock-not-toml", "no TOML", "refused", "{"),
    ):
        write(name, why, "lock", expect, text=text)


IDENTITY = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"  # 32 bytes of 0x42: no secret


def key_files() -> None:
    """These are sealed by the package's own SOPS code, which has vectors and tests of its own."""
    import pyrage

    from town import sops

    to = str(pyrage.x25519.Identity.from_str(IDENTITY).to_public())
    now = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
    one = {"store-key": TOWN.hex(), "number": f"{1:016x}", "recipients": to}
    two = one | {
        "store-key": fixed("K 3").hex(),
        f"store-key-{1:016x}": TOWN.hex(),
        f"store-key-{2:016x}": fixed("K 2").hex(),
    }
    gap = {key: value for key, value in two.items() if key != f"store-key-{1:016x}"}
    for name, why, expect, tree in (
        ("good-keyfile", "the key of the first epoch", "opens", one),
        ("good-keyfile-epochs", "the keys of three epochs", "opens", two),
        ("bad-keyfile-number", "it was written under another number", "damaged", one | {"number": f"{2:016x}"}),
        ("bad-keyfile-no-number", "it says no number", "damaged", {k: v for k, v in one.items() if k != "number"}),
        ("bad-keyfile-gap", "an epoch is missing", "damaged", gap),
        ("bad-keyfile-short", "a key of 31 bytes", "damaged", one | {"store-key": TOWN.hex()[2:]}),
        ("bad-keyfile-none", "no key", "damaged", {"number": f"{1:016x}", "recipients": to}),
    ):
        if not (bucketbase.HERE / f"{name}.json").exists():
            write(name, why, "keyfile", expect, text=sops.create(tree, [to], now=now).decode(), values=tree)
    good = json.loads((bucketbase.HERE / "good-keyfile.json").read_text())["text"]
    where = good.index("data:") + 5
    flipped = good[:where] + ("B" if good[where] == "A" else "A") + good[where + 1 :]
    write("bad-keyfile-flipped", "one letter of the key is changed", "keyfile", "refused", text=flipped)
    mac = good.index("data:", good.index("    mac: ")) + 5
    wrong = good[:mac] + ("B" if good[mac] == "A" else "A") + good[mac + 1 :]
    write("bad-keyfile-mac", "the seal over the whole does not match", "keyfile", "refused", text=wrong)
    write("bad-keyfile-truncated", "cut off", "keyfile", "refused", text=good[: len(good) // 2])
    write("bad-keyfile-clear", "it is not encrypted", "keyfile", "refused", text=f"store-key: {TOWN.hex()}\n")
