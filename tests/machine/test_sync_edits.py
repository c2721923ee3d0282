"""After any edits, what a sync finds by asking what changed is what a sync finds that reads everything."""

import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from persist.sync import parts
from tests.machine import stores
from tests.machine.stores import into_new, source
from tests.machine.test_sync_changes import content, index, made, synced
from tests.machine.towns import Town, town
from tests.scale import times
from town import btrfs, files

__all__ = ["made", "town"]
pytestmark = pytest.mark.root
SEED = 20261121


class Edits:
    """Random edits of a tree, and of what lies outside of it in the same subvolume."""

    def __init__(self, town: Town, random: Random) -> None:
        self.inside, self.outside, self.random = source(town), source(town).parent / "outside", random
        self.outside.mkdir(exist_ok=True)
        self.done: list[str] = []
        self.subvolumes: list[Path] = []

    def directories(self, top: Path) -> list[Path]:
        return [Path(above) for above, _, _ in os.walk(top)]

    def files(self, top: Path) -> list[Path]:
        return [Path(above) / name for above, _, names in os.walk(top) for name in names]

    def any(self, some: list[Path]) -> Path | None:
        return self.random.choice(sorted(some)) if some else None

    def name(self) -> str:
        return f"n{self.random.randrange(12)}"

    def free(self, top: Path) -> Path:
        """A path below, where no FIFO stands: nobody would read it."""
        path = self.random.choice(self.directories(top)) / self.name()
        if path.is_fifo():
            path.unlink()
        return path

    def step(self) -> None:
        steps: list[Callable[[], None]] = [
            self.create, self.create, self.create, self.delete, self.rename, self.rename, self.mkdir, self.move_in,
            self.move_out, self.link, self.chmod, self.attribute, self.truncate, self.mapped, self.replace,
            self.remove_tree, self.swap, self.symlink, self.fifo, self.subvolume, self.outside_edit, self.sparse,
            self.touch, self.move_dir,
        ]  # fmt: skip
        step = self.random.choice(steps)
        self.done.append(step.__name__)
        try:
            step()
        except OSError as error:  # a name that is taken, a directory into itself, EXDEV
            self.done[-1] += f" ({error.strerror})"

    def create(self) -> None:
        self.free(self.inside).write_bytes(self.random.randbytes(self.random.choice([0, 10, 3000, 700_000])))

    def delete(self) -> None:
        if path := self.any(self.files(self.inside)):
            path.unlink()

    def rename(self) -> None:
        if path := self.any(self.files(self.inside)):
            path.rename(self.random.choice(self.directories(self.inside)) / self.name())

    def mkdir(self) -> None:
        (self.random.choice(self.directories(self.inside)) / self.name()).mkdir()

    def move_dir(self) -> None:
        path = self.any(self.directories(self.inside)[1:])
        if path and path not in self.subvolumes:
            path.rename(self.random.choice(self.directories(self.inside)) / self.name())

    def move_in(self) -> None:
        if path := self.any([*self.directories(self.outside)[1:], *self.files(self.outside)]):
            path.rename(self.random.choice(self.directories(self.inside)) / self.name())

    def move_out(self) -> None:
        if path := self.any([*self.directories(self.inside)[1:], *self.files(self.inside)]):
            path.rename(self.random.choice(self.directories(self.outside)) / self.name())

    def link(self) -> None:
        if path := self.any(self.files(self.random.choice([self.inside, self.inside, self.outside]))):
            os.link(path, self.random.choice(self.directories(self.inside)) / self.name(), follow_symlinks=False)

    def chmod(self) -> None:
        if path := self.any([*self.directories(self.inside), *self.files(self.inside)]):
            path.chmod(self.random.choice([0o700, 0o755, 0o711])) if not path.is_symlink() else None

    def attribute(self) -> None:
        path = self.any([*self.directories(self.inside), *self.files(self.inside)])
        if path and not path.is_symlink() and not path.is_fifo():
            os.setxattr(path, f"user.{self.name()}", self.random.randbytes(5))

    def regular(self) -> Path | None:
        return self.any([path for path in self.files(self.inside) if path.is_file() and not path.is_symlink()])

    def truncate(self) -> None:
        if path := self.regular():
            os.truncate(path, self.random.choice([0, 5, 5000]))

    def mapped(self) -> None:
        """A write through a mapping, with size and time as they were."""
        path = self.regular()
        if path and (found := path.stat()).st_size:
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
                view[0:1] = self.random.randbytes(1)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def replace(self) -> None:
        """Another file under the same name, often with the inode that was freed."""
        if path := self.regular():
            path.unlink()
            path.write_bytes(self.random.randbytes(20))

    def remove_tree(self) -> None:
        path = self.any(self.directories(self.inside)[1:])
        if path and not any(one.is_relative_to(path) for one in self.subvolumes) and self.random.random() < 0.3:
            shutil.rmtree(path)

    def swap(self) -> None:
        some = self.directories(self.inside)[1:]
        one, other = self.any(some), self.any(some)
        if one and other and one.parent == other.parent:
            aside = one.parent / "aside"
            one.rename(aside)
            other.rename(one)
            aside.rename(other)

    def symlink(self) -> None:
        (self.random.choice(self.directories(self.inside)) / self.name()).symlink_to(self.name())

    def fifo(self) -> None:
        os.mkfifo(self.random.choice(self.directories(self.inside)) / self.name())

    def sparse(self) -> None:
        with self.free(self.inside).open("wb") as file:
            file.seek(1 << 20)
            file.write(b"end")

    def touch(self) -> None:
        if path := self.any(self.directories(self.inside)):
            os.utime(path, ns=(1, self.random.randrange(10**18)))

    def subvolume(self) -> None:
        if len(self.subvolumes) < 3:
            above = self.random.choice(self.directories(self.inside))
            name = f"sub{len(self.subvolumes)}"
            with files.opened(files.open_dir(above)) as fd:
                os.close(btrfs.create(fd, name))
            (above / name / "in").write_text(name)
            self.subvolumes.append(above / name)

    def outside_edit(self) -> None:
        path = self.free(self.outside)
        if self.random.random() < 0.4:
            path.mkdir()
            (path / "within").write_bytes(self.random.randbytes(20))
        elif not path.is_dir():
            path.write_bytes(self.random.randbytes(20))


@pytest.mark.parametrize("young", [None, 0])
@pytest.mark.parametrize("seed", range(times(3)))
def test_after_any_edits_what_changed_is_what_a_full_read_finds(
    made: Town, monkeypatch: pytest.MonkeyPatch, seed: int, young: int | None
) -> None:
    if young is not None:  # else every file is too young to be taken from the living subvolume's memory
        monkeypatch.setattr(parts, "_YOUNG", young)
    _edited_and_compared(made, seed)


@pytest.mark.parametrize("seed", range(times(3)))
def test_after_any_edits_a_look_at_every_name_finds_what_a_full_read_finds(
    made: Town, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    def none(*_: object, **__: object) -> int:
        raise btrfs.BtrfsFailed("no snapshots today")

    monkeypatch.setattr(btrfs, "snapshot", none)
    monkeypatch.setattr(
        parts, "_YOUNG", -(10**12)
    )  # every ctime is trusted: the kernel's are as fine as they are asked
    _edited_and_compared(made, seed)


def _edited_and_compared(made: Town, seed: int) -> None:
    edits = Edits(made, Random(SEED + seed))
    for _ in range(30):
        edits.step()
    for _ in range(6):
        synced(made, "--accept-loss")
        for _ in range(edits.random.choice([1, 4, 15])):
            edits.step()
        synced(made, "--accept-loss")
        incremental = content(made)
        index(made).rename(index(made).with_suffix(".kept"))
        full = synced(made)
        assert (content(made), full["new_bytes"]) == (incremental, 0), (seed, edits.done)
        index(made).unlink()
        index(made).with_suffix(".kept").rename(index(made))
        edits.done.append("|")
    back = made.persisted / "back"
    into_new(stores.held(made), back)
    assert _plain(stores.facts(back)) == _plain(stores.facts(source(made))), edits.done


def _plain(found: dict[bytes, stores.Fact]) -> dict[bytes, object]:
    """Without owners: what is root's stays root's, and so do the names of files that are linked from outside."""
    return {path: fact for path, fact in found.items() if path != b"/names of one file/"}
