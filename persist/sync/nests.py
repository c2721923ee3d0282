"""A nested subvolume, opened where the index knows it: from the directory that holds it, however deep that lies."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from persist.sync.rows import Directory, Rows, generation_of
from persist.sync.sources import Source
from persist.sync.volumes import uuid_of
from town import files

if TYPE_CHECKING:
    from persist.sync.tree import Work


@contextmanager
def opened(work: "Work", source: Source, rows: Rows, directory: Directory) -> Iterator[Source | None]:
    """The subvolume at the place of a directory of the index; None when there is none any more.

    A walk from the top for each of a hundred subvolumes below eight thousand directories would take seconds. A
    directory that moved since the index saw it changed its own inode, which is found by who asks what changed.
    """
    fd = _holder(work, source, rows, directory)
    if fd is None:
        with work.sources.nested(source.living, rows.names(directory.id) or []) as found:
            yield found
        return
    with files.opened(fd), work.sources.nested(fd, [directory.name]) as found:
        yield found


def _holder(work: "Work", source: Source, rows: Rows, directory: Directory) -> int | None:
    """The living directory that holds it, by its numbers; None when that cannot be, or is another by now."""
    above = rows.directory(directory.parent)
    if above is None:
        return None
    fd = work.sources.living(source.living, uuid_of(rows.index, above.volume), above.inode)
    if fd is None or generation_of(fd) == above.generation:
        return fd
    with files.opened(fd):
        return None
