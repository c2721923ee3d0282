"""A home out of a file that somebody brought: every byte authenticated, every name checked, where there is room.

Whoever made the file chose its key and may have written anything in the format: it is read like a hostile store. What
it makes lies in a directory that only root reaches; nothing in it lends anybody's rights.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from persist import fill
from persist.bucket import trees
from persist.bucket.blobs import Reader
from persist.bucket.commits import Commit, Top
from persist.bucket.keys import AgentKeys
from persist.fill import Facts, Room, Source, single
from persist.fill.atlas import Atlas
from persist.parcel import story, wire
from persist.parcel.story import Story
from persist.parcel.wire import ExportDamaged, Incoming
from persist.store import StoreDamaged, StoreForeign
from town import btrfs, sops, space
from town.failure import Failure
from town.process import Person
from town.terminal import size

if TYPE_CHECKING:
    from persist.progress import Progress

_NAME = 1024  # bytes of metadata that a file takes, and more
_RESERVE = 20  # of the disk, one part in so many stays free
_LEAST = 64 << 20  # bytes that stay free in any case


class NoRoom(Failure):
    """The disk has no room for what the file holds. Nothing was made."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file that was opened: what it says of the home, and what it holds."""

    story: Story
    commit: Commit
    keys: AgentKeys
    incoming: Incoming
    atlas: Atlas

    @property
    def home(self) -> Top:
        """The home itself."""
        found = self.commit.top(story.HOME)
        assert found is not None, "that was looked at when it was opened"
        return found

    @property
    def persisted(self) -> tuple[tuple[PurePosixPath, Top], ...]:
        """What lay outside of it, by path in the home."""
        tops = (top for top in self.commit.root if top.path.parts[0] == str(story.PERSISTED))
        return tuple((top.path.relative_to(story.PERSISTED), top) for top in tops)

    def unpack(self, top: Top, into: int, owner: Person, scratch: Path, progress: "Progress | None" = None) -> None:
        """Fill the empty directory `into`, which only root reaches. Raises NoRoom, ExportDamaged, CannotMake."""
        refuse_full(into, Room(top.files, 0))  # before the plan, which takes room too
        facts = Facts(owner, Person(self.commit.uid, self.commit.gid), plain=True)
        source = Source(self.incoming, self.keys, lambda: self.atlas)
        with _as_damage():
            fill.fill(source, top, into, facts, scratch, progress=progress, fits=lambda room: refuse_full(into, room))


@contextmanager
def opened(fd: int, keys: sops.Keys) -> Iterator[Parcel]:
    """What a regular file holds, for who can open it. Raises ExportDamaged, ExportForeign, and what sops raises."""
    incoming = Incoming(fd)
    agent = wire.open_key(incoming, keys)
    commit = wire.commit(incoming, agent)
    with _as_damage():
        atlas = Atlas(incoming, agent, commit.packs)
    try:
        with _as_damage():
            told = story.parsed(_told(atlas, commit))
        _check(commit)
        yield Parcel(told, commit, agent, incoming, atlas)
    finally:
        atlas.close()


def _told(atlas: Atlas, commit: Commit) -> bytes:
    top = commit.top(story.FILE)
    if top is None or top.entry.content is None or top.files != 1 or top.bytes > story.LARGEST:
        raise StoreDamaged("it does not say whose home it is")
    entry = next(trees.read(cast(Reader, atlas), top.entry.content), None)
    if entry is None or entry.kind != "file" or entry.size > story.LARGEST:
        raise StoreDamaged("it does not say whose home it is")
    return b"".join(single.contents(atlas, entry))


def _check(commit: Commit) -> None:
    """Refuse what no export holds. Raises ExportDamaged."""
    if commit.top(story.HOME) is None:
        raise ExportDamaged("the file holds no home")
    for top in commit.root:
        inside = top.path.parts[0] == str(story.PERSISTED) and len(top.path.parts) > 1
        if top.path not in (story.FILE, story.HOME) and not inside:
            raise ExportDamaged("the file holds something that is neither a home nor what one persists")


@contextmanager
def _as_damage() -> Iterator[None]:
    """What a store would say of damage, said of a file."""
    try:
        yield
    except (StoreDamaged, StoreForeign) as error:
        raise wire.damaged(error) from error


def refuse_full(into: int, room: Room) -> None:
    """Raises NoRoom when what is to be made would not leave the disk that `into` lies on with some room."""
    data, names = _free(into)
    what = "" if room.bytes <= data else f"{size(room.bytes)}, and {size(max(0, data))} can be used"
    if not what and room.names * _NAME > names:
        what = f"{room.names:,} files, and there is no room for so many"
    if what:
        raise NoRoom(
            f"the disk has no room for what the file holds: {what}", hint="make room: persist homes, persist tidy"
        )


def _free(fd: int) -> tuple[int, int]:
    """Bytes that may be used for data, and for metadata."""
    if btrfs.is_btrfs(fd):
        found = space.of(fd)
        return tuple(kind.room - max(_LEAST, kind.all // _RESERVE) for kind in found)  # type: ignore[return-value]
    there = os.fstatvfs(fd)
    free = there.f_bavail * there.f_frsize - max(_LEAST, there.f_blocks * there.f_frsize // _RESERVE)
    return free, min(free, there.f_favail * _NAME) if there.f_files else free
