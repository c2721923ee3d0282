"""Random homes, what becomes of them, and a full walk of each: what `persist diff` is held against."""

import mmap
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.machine.stores import NOBODY, acl
from tests.machine.towns import ADA
from town import btrfs, files, kernel

_OPENED = (stat.S_IFREG, stat.S_IFDIR)
_NAMES = ["a", "b", "c", "a.b", "a-b", "ä ö", "n\nl", "-rf", "\udcff", "zz"]


class Shape:
    """A directory that a seed changes, in every way that an agent can."""

    def __init__(self, top: Path, seed: int, *, subvolumes: bool = True) -> None:
        self.top, self.random = top, random.Random(seed)
        self._subvolumes = subvolumes
        self._links = 0

    def grow(self, steps: int) -> None:
        """Make things, and change some."""
        for _ in range(steps):
            self.random.choice([self.make, self.make, self.make_dir, self.change])()

    def live(self, steps: int) -> None:
        """Everything else too."""
        ops: list[Callable[[], None]] = [
            self.make, self.make_dir, self.change, self.change, self.same_size, self.remove, self.move, self.move,
            self.attributes, self.link, self.special, self.swap, self.replace_dir, self.mapped, self.rewrite, self.turn,
        ]  # fmt: skip
        if self._subvolumes:
            ops += [self.subvolume]
        for _ in range(steps):
            self.random.choice(ops)()

    def dirs(self) -> list[Path]:
        found = [self.top]
        for above, names, _ in os.walk(self.top):
            found += [Path(above, name) for name in names if not os.path.islink(os.path.join(above, name))]
        return sorted(found)

    def some(self, *, directory: bool | None = False) -> Path | None:
        """Something that is there; `directory` None: of any kind."""
        found = []
        for above, names, others in os.walk(self.top):
            found += [Path(above, name) for name in others if directory in (False, None)]
            found += [Path(above, name) for name in names if directory in (True, None)]
        return self.random.choice(sorted(found)) if found else None

    def free(self) -> Path | None:
        place = self.random.choice(self.dirs()) / self.random.choice(_NAMES)
        return None if os.path.lexists(place) else place

    def file(self) -> Path | None:
        found = self.some()
        return found if found is not None and stat.S_ISREG(os.lstat(found).st_mode) else None

    def data(self) -> bytes:
        size = self.random.choice([0, 1, 10, 10, 3000, 9000, 200_000])
        return self.random.choice([bytes(size), b"x" * size, self.random.randbytes(size)])

    def make(self) -> None:
        if (place := self.free()) is not None:
            place.write_bytes(self.data())

    def make_dir(self) -> None:
        if (place := self.free()) is not None:
            place.mkdir()

    def change(self) -> None:
        if (place := self.file()) is not None:
            with place.open("r+b") as file:
                file.seek(self.random.randrange(max(1, place.stat().st_size)))
                file.write(self.random.randbytes(self.random.choice([1, 5000])))

    def same_size(self) -> None:
        """Another content of the same length, and the times put back."""
        if (place := self.file()) is not None and (size := place.stat().st_size):
            before = place.stat()
            with place.open("r+b") as file:
                file.seek(self.random.randrange(size))
                file.write(b"!")
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))

    def rewrite(self) -> None:
        """As an editor does: beside, and renamed over; now and then with what was there."""
        if (place := self.file()) is not None:
            beside = place.with_name("beside")
            beside.write_bytes(self.random.choice([place.read_bytes(), self.data()]))
            os.rename(beside, place)

    def remove(self) -> None:
        if (place := self.some(directory=None)) is not None:
            self._gone(place)

    def _gone(self, place: Path) -> None:
        if place.is_symlink() or not place.is_dir():
            place.unlink()
            return
        for above, names, _ in os.walk(place, topdown=False):
            for name in names:
                self._subvolume_gone(Path(above, name))
        if not self._subvolume_gone(place):
            shutil.rmtree(place)

    @staticmethod
    def _subvolume_gone(place: Path) -> bool:
        if place.is_symlink() or not place.is_dir():
            return False
        with files.opened(files.open_dir(place)) as fd:
            if not btrfs.is_subvolume(fd):
                return False
        with files.opened(files.open_dir(place.parent)) as above:
            btrfs.delete(above, place.name)
        return True

    def move(self) -> None:
        source, target = self.some(directory=None), self.random.choice(self.dirs()) / self.random.choice(_NAMES)
        if source is None or target.is_relative_to(source):
            return
        try:
            os.rename(source, target)
        except OSError:  # a directory over a file, a subvolume's border
            return

    def swap(self) -> None:
        one, other = self.some(directory=None), self.some(directory=None)
        if one is None or other is None or one.is_relative_to(other) or other.is_relative_to(one):
            return
        with files.opened(files.open_dir(one.parent)) as here, files.opened(files.open_dir(other.parent)) as there:
            try:
                kernel.renameat2(here, one.name, there, other.name, kernel.RENAME_EXCHANGE)
            except OSError:
                return

    def replace_dir(self) -> None:
        """A directory made anew under its name, with some of what it held."""
        place = self.some(directory=True)
        if place is None or place.is_symlink():
            return
        before = place.with_name("before")
        try:
            os.rename(place, before)
            place.mkdir()
            for name in sorted(os.listdir(before))[::2]:
                os.rename(before / name, place / name)
        except OSError:
            return
        self._gone(before)

    def turn(self) -> None:
        """A file where a directory was, or the reverse."""
        place = self.some(directory=None)
        if place is None:
            return
        was = place.is_dir() and not place.is_symlink()
        self._gone(place)
        if was:
            place.write_bytes(self.data())
        else:
            place.mkdir()
            (place / "in it").write_bytes(self.data())

    def attributes(self) -> None:
        place = self.some(directory=None)
        if place is None or place.is_symlink():
            return
        match self.random.randrange(5):
            case 0:
                os.chmod(place, self.random.choice([0o600, 0o640, 0o4755, 0o1777]))
            case 1:
                os.chown(place, self.random.choice([0, ADA, 5]), self.random.choice([0, ADA]))
            case 2:
                if place.is_dir() or place.is_file():
                    os.setxattr(place, "user.x", self.random.choice([b"1", b"2"]))
            case 3:
                if place.is_file() or place.is_dir():
                    os.setxattr(place, "system.posix_acl_access", _list_for(self.random.choice([5, 6])))
            case _:
                os.utime(place)

    def link(self) -> None:
        source, target = self.file(), self.free()
        if source is not None and target is not None:
            try:
                os.link(source, target)
            except OSError:  # a subvolume's border
                return

    def special(self) -> None:
        place = self.free()
        if place is not None:
            if self.random.random() < 0.7:
                os.symlink(self.random.choice(["/etc/passwd", "a", ".."]), place)
            else:
                os.mkfifo(place)

    def mapped(self) -> None:
        place = self.file()
        if place is not None and place.stat().st_size:
            with place.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
                memory[0] = self.random.randrange(256)

    def subvolume(self) -> None:
        place = self.free()
        if place is not None:
            with files.opened(files.open_dir(place.parent)) as above:
                os.close(btrfs.create(above, place.name))
            (place / "in it").write_bytes(self.data())


def _list_for(uid: int) -> bytes:
    return acl((1, 6, NOBODY), (2, 4, uid), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY))


@dataclass(frozen=True)
class Seen:
    """A thing as a walk sees it."""

    kind: int
    mode: int
    owner: tuple[int, int]
    held: object
    xattrs: tuple[tuple[str, bytes], ...]
    lists: tuple[tuple[str, bytes], ...]
    inode: tuple[int, int]  # with its generation; 0: in a subvolume of its own
    names: int

    def differs(self, other: "Seen") -> set[str]:
        """In what, as `persist diff` says it."""
        if self.kind != other.kind:
            return {"type"}
        pairs = {"content": "held", "mode": "mode", "owner": "owner", "xattr": "xattrs", "acl": "lists"}
        return {word for word, name in pairs.items() if getattr(self, name) != getattr(other, name)}


def walked(top: Path) -> dict[bytes, Seen]:
    """Everything below a directory, and the directory itself, by path: every byte is read."""
    device = os.lstat(top).st_dev
    found = {b"": _seen(os.fsencode(top), device)}
    for above, names, others in os.walk(os.fsencode(top)):
        for name in (*names, *others):
            path = os.path.join(above, name)
            found[os.path.relpath(path, os.fsencode(top))] = _seen(path, device)
    return found


def _seen(path: bytes, device: int) -> Seen:
    entry = os.lstat(path)
    kind = stat.S_IFMT(entry.st_mode)
    held: object = None
    if stat.S_ISREG(entry.st_mode):
        held = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(entry.st_mode):
        held = os.readlink(path)
    xattrs = [] if kind == stat.S_IFLNK else [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]
    return Seen(
        kind, 0 if kind == stat.S_IFLNK else stat.S_IMODE(entry.st_mode), (entry.st_uid, entry.st_gid), held,
        tuple(each for each in xattrs if not each[0].startswith("system.")),
        tuple(each for each in xattrs if each[0].startswith("system.")),
        (entry.st_ino if entry.st_dev == device else 0, _generation(path) if kind in _OPENED else 0), entry.st_nlink,
    )  # fmt: skip


def _generation(path: bytes) -> int:
    with files.opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as fd:
        return files.generation(fd)


def verify(told: list[dict[str, Any]], one: dict[bytes, Seen], other: dict[bytes, Seen], *, lineage: bool) -> None:
    """Whether what was told turns the first home into the second, and nothing that was not told differs.

    `lineage`: the two were one, so whatever has kept its inode was not created.
    """
    by_sort: dict[str, dict[bytes, dict[str, Any]]] = {"created": {}, "removed": {}, "changed": {}, "renamed": {}}
    for change in told:
        by_sort[change["change"]][raw(change["path"])] = change
    assert sum(map(len, by_sort.values())) == len(told), "something was told twice"
    sources: dict[bytes, bytes | None] = {b"": b""}
    for path in sorted(set(other) - {b""}, key=lambda path: path.split(b"/")):
        above, _, name = path.rpartition(b"/")
        beside = sources[above]
        natural = None if beside is None else beside + b"/" + name if beside else name
        if path in by_sort["renamed"]:
            sources[path] = raw(by_sort["renamed"][path]["before"])
        elif path in by_sort["created"]:
            sources[path] = None
            assert natural not in one or natural not in by_sort["removed"], (path, "is there in both")
        else:
            assert natural in one, (path, "is new, and was not told")
            sources[path] = natural
    for path, source in sources.items():
        if source is None:
            continue
        what = one[source].differs(other[path])
        said = {*by_sort["changed"].get(path, {}).get("what", ()), *by_sort["renamed"].get(path, {}).get("what", ())}
        assert said == what, (path, source, said, what)
    used = [source for source in sources.values() if source is not None]
    assert len(used) == len(set(used)), "two things come from one"
    assert set(by_sort["removed"]) == set(one) - set(used)
    assert not set(by_sort["removed"]) & set(used)
    if lineage:
        _verify_inodes(sources, one, other)


def _verify_inodes(sources: dict[bytes, bytes | None], one: dict[bytes, Seen], other: dict[bytes, Seen]) -> None:
    """What both have once, under one inode, is one thing."""
    before = {seen.inode: path for path, seen in one.items() if seen.kind in _OPENED and seen.inode[0] > 256}
    for path, seen in other.items():
        plain = seen.kind == stat.S_IFDIR or seen.names == 1
        old = before.get(seen.inode) if plain and seen.kind in _OPENED else None
        if old is not None and (seen.kind == stat.S_IFDIR or one[old].names == 1) and one[old].kind == seen.kind:
            assert sources[path] == old, (path, sources[path], old)


def raw(named: dict[str, str]) -> bytes:
    """The bytes of a name in JSON."""
    import base64

    return base64.b64decode(named["base64"])
