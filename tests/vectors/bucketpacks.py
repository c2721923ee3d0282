"""Vectors of packs."""

import struct
from typing import Any

from tests.vectors.bucketbase import HELLO, PLACE, altered, fixed, id_of, sealed, squeezed, write

MORE = b"a second piece\n" * 9
Frame = tuple[str, list[bytes]]
FRAMES: list[Frame] = [
    ("data", [HELLO, MORE]),
    ("tree", [b"a listing\n" * 20]),
    ("data", [fixed("incompressible", 32)]),
]


def pack(
    label: str,
    frames: list[Frame] = FRAMES,
    *,
    magic: bytes = b"nuketown pack 2\n",
    change: Any = None,
    last: int = 1,
    **sealing: Any,
) -> dict[str, Any]:
    """A pack; `change(heads, lengths, ids)` may alter what its directory will say."""
    object_ = f"packs/{PLACE}/{fixed(label).hex()}"
    body, heads, lengths, ids = magic, [], [], []
    for number, (kind, pieces) in enumerate(frames):
        data = b"".join(pieces)
        small = squeezed(data)
        raw = len(small) >= len(data)
        stored = sealed(kind, object_, number, data if raw else small, 0, **sealing)
        heads.append([("data", "tree").index(kind), int(not raw), len(pieces), len(stored), len(data)])
        lengths += [len(piece) for piece in pieces]
        ids += [id_of(kind, piece) for piece in pieces]
        body += stored
    if change:
        change(heads, lengths, ids)
    listed = b"".join(struct.pack(">BBIII", *head) for head in heads)
    listed += b"".join(struct.pack(">I", length) for length in lengths) + b"".join(ids)
    return ended(object_, body, squeezed(listed), len(frames), last=last, **sealing)


def ended(object_: str, body: bytes, listed: bytes, number: int, *, last: int = 1, **sealing: Any) -> dict[str, Any]:
    closed = sealed("directory", object_, number, listed, last, **sealing)
    data = body + closed + struct.pack(">II", number, len(closed))
    return {"object": object_, "size": len(data), "directory": len(closed), "data": data.hex()}


def packs() -> None:
    good = pack("a pack")
    plain = [
        ["data", HELLO.hex()],
        ["data", MORE.hex()],
        ["tree", FRAMES[1][1][0].hex()],
        ["data", FRAMES[2][1][0].hex()],
    ]
    write("good-pack", "frames of both kinds, zstd and raw", "pack", "opens", **good, pieces=plain)
    data = bytes.fromhex(good["data"])

    def bad(name: str, why: str, fields: dict[str, Any], expect: str = "damaged") -> None:
        write(f"bad-pack-{name}", why, "pack", expect, **fields)

    bad("version-3", "a version from the future", pack("a pack", magic=b"nuketown pack 3\n"), "foreign")
    bad("version-1", "a version of the past", pack("a pack", magic=b"nuketown pack 1\n"), "foreign")
    bad("magic", "it does not begin like a pack", pack("a pack", magic=b"something else!\n"))
    bad("sealed-as-version-3", "its pieces are sealed for another version", pack("a pack", version=3))
    bad("flipped-frame", "one bit of a frame is flipped", altered(good, 20))
    bad("flipped-directory", "one bit of the directory is flipped", altered(good, -12))
    bad("flipped-number", "one bit of the number of frames is flipped", altered(good, -5))
    bad("flipped-length", "one bit of the directory's length is flipped", altered(good, -1))
    bad("truncated", "the last byte is gone", good | {"data": data[:-1].hex()})
    bad("cut-in-half", "the second half is gone", good | {"data": data[: len(data) // 2].hex()})
    bad("empty", "nothing is left of it", good | {"data": ""})
    bad(
        "trailing",
        "a byte behind it, and the commit says so",
        good | {"data": (data + b"\0").hex(), "size": len(data) + 1},
    )
    bad("zeros", "zeros of the right length", good | {"data": bytes(len(data)).hex()})
    other = f"packs/{PLACE}/{fixed('another pack').hex()}"
    bad("moved-object", "it lies under another pack's name", good | {"object": other})
    bad("wrong-agent", "it was written for another agent", pack("a pack", agent="vox"))
    swapped = pack("a pack", [FRAMES[0], ("data", [bytes(len(HELLO + MORE))])])
    first = 16 + len(sealed("data", good["object"], 0, squeezed(HELLO + MORE), 0))
    twin = pack("a pack", [("data", [MORE]), ("data", [MORE])])
    body, half = bytes.fromhex(twin["data"]), (len(twin["data"]) // 2 - 8 - twin["directory"] - 16) // 2
    moved = body[:16] + body[16 + half : 16 + 2 * half] + body[16 : 16 + half] + body[16 + 2 * half :]
    bad("moved-piece", "two frames of it changed places", twin | {"data": moved.hex()})
    cut = bytes.fromhex(swapped["data"])
    bad("frames-do-not-fill", "a byte lies between two frames", swapped | {
        "data": (cut[:first] + b"\0" + cut[first:]).hex(), "size": swapped["size"] + 1,
    })  # fmt: skip
    bad("not-last", "the directory is not sealed as the last piece", pack("a pack", last=0))
    bad(
        "kind", "the directory calls a listing a file's", pack("a pack", change=lambda h, _, __: h[1].__setitem__(0, 0))
    )
    bad(
        "unknown-kind",
        "a kind of frame that there is not",
        pack("a pack", change=lambda h, _, __: h[0].__setitem__(0, 2)),
    )
    bad("unknown-codec", "a codec that there is not", pack("a pack", change=lambda h, _, __: h[0].__setitem__(1, 2)))
    bad(
        "size-differs",
        "a frame expands to another size than the directory says",
        pack("a pack", change=lambda h, n, _: (h[0].__setitem__(4, h[0][4] + 1), n.__setitem__(1, n[1] + 1))),
    )
    bad("pieces-do-not-fill", "pieces that are shorter than their frame",
        pack("a pack", change=lambda _, n, __: n.__setitem__(0, 1)))  # fmt: skip
    bad("empty-piece", "a piece without a byte", pack("a pack", [("data", [HELLO, b""])]))
    bad("empty-frame", "a frame without a piece", pack("a pack", change=lambda h, _, __: h[0].__setitem__(2, 0)))
    most = 2**32 - 1
    bad(
        "bomb-frame",
        "a frame of 4 GB",
        pack("a pack", change=lambda h, n, _: (h[0].__setitem__(4, most), n.__setitem__(0, most - n[1]))),
    )
    bad("bomb-zstd", "a frame whose zstd header says 1 GB", bomb())
    bad("bomb-directory", "a directory that expands to 64 MB",
        ended(good["object"], b"nuketown pack 2\n", squeezed(bytes(64 << 20)), 1))  # fmt: skip
    bad("bomb-pieces", "four billion pieces", pack("a pack", change=lambda h, _, __: h[0].__setitem__(2, 2**32 - 1)))
    bad(
        "directory-is-not-zstd", "a directory that is not packed", ended(good["object"], b"nuketown pack 2\n", b"{}", 0)
    )
    bad("wrong-id", "a piece that is not what its id says",
        pack("a pack", change=lambda _, __, i: i.__setitem__(0, fixed("an id"))))  # fmt: skip
    bad(
        "commit-says-more",
        "its commit says that it is longer than the format allows",
        good | {"size": 1 << 40},
        "refused",
    )
    bad("commit-says-less", "its commit says less bytes than a pack has", good | {"size": 20}, "refused")
    bad("commit-says-negative", "its commit says a negative length", good | {"directory": -1}, "refused")


def bomb() -> dict[str, Any]:
    """A frame as the directory promises it, 135 bytes, whose own header says that it expands to 1 GB."""
    object_ = f"packs/{PLACE}/{fixed('a pack').hex()}"
    header = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 1 << 30) + b"\x01\x00\x00"
    stored = sealed("data", object_, 0, header, 0)
    listed = struct.pack(">BBIII", 0, 1, 1, len(stored), 135) + struct.pack(">I", 135) + fixed("an id")
    return ended(object_, b"nuketown pack 2\n" + stored, squeezed(listed), 1)
