"""The index of a work tree, versions 2 to 4: gitformat-index(5). Read from bytes that its owner may have forged."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from persist.git import Clock, Unknown

MOST = 64 << 20  # bytes
_ENTRIES, _PATHS = 500_000, 64 << 20  # entries, and bytes of all their paths: in version 4 a few bytes make a long one
_LONGEST = 4096  # bytes of a path, PATH_MAX
_HEAD = struct.Struct(">4sII")
_STAT = struct.Struct(">10I")  # ctime, mtime, each s and ns; dev, ino, mode, uid, gid, size
_U16 = struct.Struct(">H")
_EXTENSION = struct.Struct(">4sI")
_ASSUMED, _EXTENDED, _STAGE, _LENGTH = 0x8000, 0x4000, 0x3000, 0x0FFF
_SKIPPED, _INTENDED = 0x4000, 0x2000  # of the extended flags


@dataclass(frozen=True, slots=True)
class Entry:
    """One tracked path, as it was when git looked last. `hash` is that of its content."""

    path: bytes
    mode: int
    size: int
    mtime: tuple[int, int]
    hash: bytes
    conflict: bool
    added: bool  # `git add --intent-to-add`
    outside: bool  # not looked at: sparse, or assumed unchanged


@dataclass(slots=True)
class Index:
    """All of it. `tree`: the object that a commit of it would have; empty: something was staged since the last."""

    entries: list[Entry] = field(default_factory=list)
    tree: bytes | None = None  # None: it does not say


def parse(data: bytes, *, size: int, clock: Clock) -> Index:
    """`size` is that of an object's name in bytes. Raises Unknown when it is damaged or of another format."""
    try:
        return _parsed(data, size, clock)
    except (struct.error, IndexError, ValueError) as error:
        raise Unknown("its index is damaged") from error


def _parsed(data: bytes, size: int, clock: Clock) -> Index:
    magic, version, count = _HEAD.unpack_from(data)
    if magic != b"DIRC" or version not in (2, 3, 4):
        raise Unknown("its index is of another format")
    found, at, path, held = Index(), _HEAD.size, b"", 0
    for number in range(count):
        if number % 1024 == 0:
            clock.check()
        entry, at = _entry(data, at, size, path if version == 4 else None)
        path = entry.path
        held += len(path)
        if number >= _ENTRIES or held > _PATHS:
            raise Unknown("its index is too large")
        found.entries.append(entry)
    for name, said in _extensions(data, at, len(data) - size):
        if name in (b"link", b"sdir"):
            raise Unknown("its index is split, or sparse")
        if name == b"TREE":
            found.tree = _tree(said, size)
    return found


def _entry(data: bytes, start: int, size: int, before: bytes | None) -> tuple[Entry, int]:
    """`before`: the path of the entry before, whose beginning this one shares (version 4)."""
    said, at = _STAT.unpack_from(data, start), start + _STAT.size + size
    flags, more, at = _U16.unpack_from(data, at)[0], 0, at + 2
    if flags & _EXTENDED:
        more, at = _U16.unpack_from(data, at)[0], at + 2
    if before is not None:
        drop, at = _number(data, at)
        if drop > len(before):
            raise Unknown("its index is damaged")
        end = data.index(b"\0", at)
        path, at = before[: len(before) - drop] + data[at:end], end + 1
    else:
        end = data.index(b"\0", at + min(flags & _LENGTH, len(data) - at))
        path = data[at:end]
        at = start + (end - start + 8) // 8 * 8
    if at > len(data) or len(path) > _LONGEST:
        raise Unknown("its index is damaged")
    name = data[start + _STAT.size : start + _STAT.size + size]
    outside = bool(flags & _ASSUMED or more & _SKIPPED)
    return Entry(
        path, said[6], said[9], (said[2], said[3]), name, bool(flags & _STAGE), bool(more & _INTENDED), outside
    ), at


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, as offsets in packs have it: gitformat-pack(5)."""
    value = data[at] & 127
    while data[at] & 128:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 127)
        if value > len(data):
            raise Unknown("its index is damaged")
    return value, at + 1


def _extensions(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    while at + _EXTENSION.size <= end:
        name, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        yield name, data[at : min(at + length, end)]
        at += length


def _tree(said: bytes, size: int) -> bytes:
    """The object of the whole; empty where it has to be made anew."""
    _, _, rest = said.partition(b"\0")
    counts, _, rest = rest.partition(b"\n")
    return b"" if counts.startswith(b"-") else rest[:size]
