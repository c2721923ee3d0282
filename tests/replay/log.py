"""A reader of the dm-log-writes format: what was written to a disk, in order, and where it was flushed.

Source: drivers/md/dm-log-writes.c of Linux; QEMU's block/blklogwrites.c writes the same. All numbers little-endian:
a sector with magic, version, count of entries (u64 each) and sector size (u32); then for each entry a sector with
where and how long (in sectors), flags and data_len (u64 each), followed by the data unless it is a discard.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE = 16 << 10  # bytes: a btrfs node; the kernel joins many to one write, and a disk may keep any of them
MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD, MARK, METADATA = 1, 2, 4, 8, 16
_KNOWN = FLUSH | FUA | DISCARD | METADATA
_SUPER, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")


class NotALog(Exception):
    """The bytes are no log of writes, or one with something in it that is not replayed here."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write, or a piece of one: its number among all of them, the entry of the log that it is from, where, what.

    A discard writes zeros.
    """

    number: int
    entry: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Log:
    """The writes between two flushes, for each such epoch; after the last flush there may be more."""

    entries: int
    epochs: tuple[tuple[Write, ...], ...]
    flushes: tuple[int, ...]  # the entry that ended each epoch but the last
    requests: int  # writes and discards as they were issued, whole

    def flushed(self, entries: int) -> int:
        """How many epochs were whole on the disk when the log had so many entries."""
        return sum(flush < entries for flush in self.flushes)

    def __len__(self) -> int:
        return sum(len(epoch) for epoch in self.epochs)


def read(path: Path) -> Log:
    """The log in a file. Raises NotALog."""
    with path.open("rb") as file:
        raw = file.read()
    if not raw:  # the first write makes the superblock
        return Log(0, ((),), (), 0)
    magic, version, count, sector = _SUPER.unpack_from(raw) if len(raw) >= _SUPER.size else (0, 0, 0, 0)
    if (magic, version) != (MAGIC, VERSION) or sector < 512:
        raise NotALog(f"{path} does not start as a log of version {VERSION}")
    epochs: list[list[Write]] = [[]]
    flushes, number, requests, at = [], 0, 0, sector
    for entry in range(count):
        where, length, flags, _ = _ENTRY.unpack_from(raw, at)
        at += sector
        if flags & ~_KNOWN:
            raise NotALog(f"{path}: entry {entry} has the flags {flags:#x}")
        if flags & FLUSH:  # it covers what was written before it, not its own data
            epochs.append([])
            flushes.append(entry)
        data = bytes(length * sector)
        if not flags & DISCARD:
            data = raw[at : at + len(data)].ljust(len(data), b"\0")  # zeros at the end of the log are a hole
            at += len(data)
        requests += bool(data)
        for offset, piece in _pieces(where * sector, data):
            epochs[-1].append(Write(number, entry, offset, piece))
            number += 1
        if flags & FUA:
            epochs.append([])
            flushes.append(entry)
    return Log(count, tuple(map(tuple, epochs)), tuple(flushes), requests)


def _pieces(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut where a node may begin. A superblock is shorter than a piece and aligned: it stays whole."""
    while data:
        length = PIECE - offset % PIECE
        yield offset, data[:length]
        offset, data = offset + length, data[length:]
