"""Whether two files of one btrfs hold the same, by where their data lies: what lies in one place is not read.

Snapshots and reflinks share their data. Only for files whose data is all on the disk: those of snapshots. Needs
CAP_SYS_ADMIN. Source: struct btrfs_file_extent_item in include/uapi/linux/btrfs_tree.h.
"""

import os

from town import btrfs

_EXTENT_DATA, _REGULAR = 108, 1
_PIECE = 1 << 20
Extents = dict[int, bytes]


def same(one: int, other: int, size: int) -> bool:
    """Whether two open files of that size hold the same bytes. Raises OSError."""
    here, there = _extents(one), _extents(other)
    for start, end in sorted(_apart(here, there, size) + _apart(there, here, size)):
        for at in range(start, end, _PIECE):
            count = min(_PIECE, end - at)
            if os.pread(one, count, at) != os.pread(other, count, at):
                return False
    return True


def _extents(fd: int) -> Extents:
    """Where the data of a file lies, by its offset in it: each item without its generation; no holes."""
    found = btrfs.search(fd, 0, (os.fstat(fd).st_ino, _EXTENT_DATA))
    return {key.offset: item[8:] for key, item in found if not _is_hole(item)}


def _is_hole(item: bytes) -> bool:
    """A filesystem without the feature NO_HOLES says where there is no data, with a disk_bytenr of 0."""
    return item[20] == _REGULAR and not any(item[21:29])


def _apart(extents: Extents, others: Extents, size: int) -> list[tuple[int, int]]:
    """From where to where a file has data that the other has not in the same place."""
    found = []
    for offset, item in extents.items():
        if others.get(offset) != item:
            # ram_bytes u64, compression u8, encryption u8, other u16, type u8 (0: the data itself follows), and then
            # disk_bytenr, disk_num_bytes, offset, num_bytes u64.
            length = int.from_bytes(item[37:45], "little") if item[12] else size
            if (end := min(size, offset + length)) > offset:
                found.append((offset, end))
    return found
