"""Which subvolume of the index a directory lies in: that of its UUID, or the one that it is a snapshot of.

A restore brings a directory over from the home of the boot before as a snapshot. One that was taken after the
transaction as of which the index is exact holds everything of that, and whatever was written since has a later
transaction, before the snapshot and after it: so the index goes on with it. That hangs on no record; agents make
snapshots too, and for theirs it is as true. One that was taken before is another subvolume, and read in full.
"""

from collections.abc import Iterator
from contextlib import suppress

from persist.sync.index import Index
from persist.sync.sources import Source
from town import btrfs, files, subvolumes
from town.btrfs import BtrfsFailed

_MOST = 16  # snapshots of snapshots, one for each boot without a sync


def number(index: Index, source: Source, before: int) -> int:
    """The number in the index of the subvolume that a source lies in.

    `before`: that of the one which lay at its place. A snapshot of it that goes on from it takes its number over; one
    that lies beside it does not, for both hold the same inodes.
    """
    uuid = source.volume.uuid
    if source.frozen and before and find_volume(index, uuid) is None:
        with suppress(OSError, BtrfsFailed):
            for parent, made in _line(source.living):
                known = find_volume(index, parent)
                if known is not None:
                    if known == before and exact_before(index, known, made):
                        rename_volume(index, known, uuid)
                    break
    return volume(index, uuid)


def _line(living: int) -> Iterator[tuple[bytes, int]]:
    """What a subvolume is a snapshot of, and what that is: each with the transaction of the snapshot that was taken.

    Ends where one of them was deleted. Raises OSError, BtrfsFailed.
    """
    found = btrfs.number(living)
    for _ in range(_MOST):
        with files.opened(subvolumes.opened_root(living, found)) as root:
            info = btrfs.info(root)
        if not any(info.parent_bytes):
            return
        yield info.parent_bytes, info.origin_generation
        above = subvolumes.by_uuid(living, info.parent_bytes)
        if above is None:
            return
        found = above


def volume(index: Index, uuid: bytes) -> int:
    """The number of a subvolume."""
    found = index.db.execute("SELECT id FROM volumes WHERE uuid = ?", (uuid,)).fetchone()
    if found is None:
        return index.db.execute("INSERT INTO volumes(uuid) VALUES (?)", (uuid,)).lastrowid or 0
    return int(found[0])


def find_volume(index: Index, uuid: bytes) -> int | None:
    """The number of a subvolume, if it has one."""
    found = index.db.execute("SELECT id FROM volumes WHERE uuid = ?", (uuid,)).fetchone()
    return int(found[0]) if found else None


def exact_before(index: Index, volume: int, transid: int) -> bool:
    """Whether all that is known of a subvolume is exact as of that transaction or an earlier one."""
    first, last = index.db.execute(
        "SELECT min(transid), max(transid) FROM parts WHERE volume = ?", (volume,)
    ).fetchone()
    return first is not None and 0 < first <= last <= transid


def rename_volume(index: Index, volume: int, uuid: bytes) -> None:
    """What is known of a subvolume holds of another one now, which nothing is known of."""
    index.db.execute("UPDATE volumes SET uuid = ? WHERE id = ?", (uuid, volume))


def uuid_of(index: Index, number: int) -> bytes:
    """The UUID of a subvolume by its number; empty when there is none."""
    found = index.db.execute("SELECT uuid FROM volumes WHERE id = ?", (number,)).fetchone()
    return bytes(found[0]) if found else b""
