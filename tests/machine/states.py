"""States of an agent in a store, put there from a directory by the plainest code that can: no sync, no index, no notes.

What a restore must bring back is compared with the directory itself.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from persist import fill
from persist.bucket import commits, content, trees
from persist.bucket.blobs import Writer
from persist.bucket.commits import Commit, Name, Top
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.opening import open_bucket
from persist.bucket.packs import Pack
from persist.bucket.trees import Entry
from persist.fill import Facts, Source, Totals
from persist.fill.atlas import Atlas
from persist.store import Store
from tests.machine.towns import ADA, Town
from town import files
from town.process import Person

KEYS = AgentKeys.of(TownKey(bytes(range(32))), "ada")
PERSON = Person(ADA, ADA)
MACHINE = "ab" * 16


class Tree:
    """Entries of directories on the disk, their contents in a writer."""

    def __init__(self, writer: Writer, keys: AgentKeys, *, piece: int = 512 << 10) -> None:
        self._writer, self._keys, self._piece = writer, keys, piece
        self._links: dict[int, str] = {}
        self.files = self.bytes = 0

    def top(self, path: Path, declared: str) -> Top:
        """A declared path, everything below `path`."""
        self.files = self.bytes = 0
        entry = self._entry(path, os.fsencode(PurePosixPath(declared).name))
        return Top(PurePosixPath(declared), entry, self.files, self.bytes)

    def _entry(self, path: Path, name: bytes) -> Entry:
        with files.opened(os.open(path.parent, files.DIRECTORY)) as fd:
            return self._of(fd, os.fsencode(path.name), name)

    def _of(self, above: int, place: bytes, name: bytes) -> Entry:
        found = os.stat(place, dir_fd=above, follow_symlinks=False)
        at = os.fsencode(f"/proc/self/fd/{above}/") + place
        kind: trees.Kind = _KINDS[stat.S_IFMT(found.st_mode)]
        roles = [_role(found.st_uid), _role(found.st_gid)]
        mode = 0o777 if kind == "symlink" else trees.kept_mode(stat.S_IMODE(found.st_mode), *roles)
        xattrs = () if kind == "symlink" else tuple(_xattrs(at))
        entry = Entry(name, kind, mode, found.st_mtime_ns, *roles, xattrs)
        if kind == "dir":
            with files.opened(os.open(place, files.DIRECTORY, dir_fd=above)) as fd:
                below = [self._of(fd, each, each) for each in files.names(fd)]
            return replace(entry, content=trees.write(self._writer, below))
        self.files += 1
        if found.st_nlink > 1:
            entry = replace(entry, link=self._links.setdefault(found.st_ino, f"link {len(self._links)}"))
        if kind == "symlink":
            return replace(entry, target=os.readlink(place, dir_fd=above))
        return entry if kind == "fifo" else self._file(at, entry, found.st_size)

    def _file(self, place: bytes, entry: Entry, size: int) -> Entry:
        self.bytes += size
        with open(place, "rb") as file:
            extents = tuple(_extents(file.fileno(), size))
            data = None if extents in (((0, size),), ()) and not (size and not extents) else extents
            held = b"".join(os.pread(file.fileno(), length, offset) for offset, length in extents)
        pieces = [held[at : at + self._piece] for at in range(0, len(held), self._piece)]
        return replace(entry, size=size, content=content.write(self._writer, "data", pieces), data=data)


_KINDS: dict[int, trees.Kind] = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
}  # fmt: skip


def _role(number: int) -> trees.Role:
    return "agent" if number == ADA else "root" if number == 0 else "other"


def _xattrs(place: bytes) -> Iterator[tuple[bytes, bytes]]:
    for name in sorted(map(os.fsencode, os.listxattr(place, follow_symlinks=False))):
        if trees.kept_xattr(name):
            yield name, os.getxattr(place, name, follow_symlinks=False)


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, at - start


@dataclass(frozen=True)
class Packed:
    """A declared path in a store: what a commit would say of it."""

    store: Store
    top: Top
    packs: tuple[Pack, ...]

    def source(self) -> Source:
        """Where a restore takes it from."""
        made: list[Atlas] = []

        def atlas() -> Atlas:
            if not made:
                made.append(Atlas(self.store, KEYS, self.packs))
            return made[0]

        return Source(self.store, KEYS, atlas)

    def into(self, directory: Path, owner: Person = PERSON) -> Totals:
        """Restore it, into a directory that is made for it; the plan lies beside that for the time."""
        directory.mkdir(mode=0o700)
        with files.opened(files.open_dir(directory)) as fd:
            return fill.fill(self.source(), self.top, fd, Facts(owner, PERSON), directory.parent)


def packed(store: Store, path: Path, *, piece: int = 512 << 10) -> Packed:
    """What lies below `path`, in a store, as ada's `projects`."""
    with Writer(store, KEYS) as writer:
        top = Tree(writer, KEYS, piece=piece).top(path, "projects")
        return Packed(store, top, tuple(sorted(placed.pack for placed in writer.finish())))


def forged(store: Store, entries: Iterable[Entry], files_: int, bytes_: int, pieces: Iterable[bytes] = ()) -> Packed:
    """A declared path that holds just those entries, whatever they say; `pieces` are in the store too."""
    with Writer(store, KEYS) as writer:
        for piece in pieces:
            writer.add("data", piece)
        return _top(writer, store, trees.write(writer, entries), (files_, bytes_))


def lined(store: Store, listings: Iterable[bytes], files_: int, bytes_: int, *, depth: int = 0) -> Packed:
    """The same of listings, or lists of ids, as they are."""
    with Writer(store, KEYS) as writer:
        ids = tuple(writer.add("tree", piece) for piece in listings)
        return _top(writer, store, Content(ids, depth), (files_, bytes_))


def _top(writer: Writer, store: Store, listing: Content, sizes: tuple[int, int]) -> Packed:
    top = Top(PurePosixPath("projects"), Entry(b"projects", "dir", 0o755, 0, content=listing), *sizes)
    return Packed(store, top, tuple(sorted(placed.pack for placed in writer.finish())))


def committed(
    town: Town, held: dict[str, Path], *, generation: int = 1, parent: Name | None = None, agent: str = "ada",
    kind: commits.Kind = "commit", machine: str = MACHINE, time: datetime | None = None, piece: int = 512 << 10,
) -> Name:  # fmt: skip
    """A state of an agent in the town's store: declared path to the directory that it is made from."""
    bucket = open_bucket(town.spec)
    keys = bucket.keys(agent)
    with Writer(bucket.store, keys) as writer:
        tree = Tree(writer, keys, piece=piece)
        root = tuple(tree.top(path, declared) for declared, path in sorted(held.items()))
        packs = tuple(sorted(placed.pack for placed in writer.finish()))
    commit = Commit(
        agent, time or datetime.now(UTC), "elsewhere", machine, generation,
        None if parent is None else str(parent), root, packs, ADA, ADA,
    )  # fmt: skip
    return commits.write(bucket.store, keys, commit, kind=kind)
