"""Disks that a rollback may begin with: fresh, used, and what each crash of docs/formats/disk.md leaves."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from demo import loopback
from persist import ballast
from tests.machine import rollbackdisk as disk
from tests.machine import scenarios
from tests.replay import image
from town import btrfs, files, process

ADA = 41100
SIZE = 128 << 20
KEY = "20010101T000000Z-11111111-2222-3333-4444-555555555555"

Start = Callable[[int], None]


def make(path: Path, start: Start) -> None:
    """A btrfs in a new sparse file, a town laid out on it, then what `start` does; unmounted at the end."""
    empty(path)
    with loopback.attached(path) as device:
        with btrfs.top_level(device) as top:
            lay_out(top)
            start(top)
            if start is cut_while_used:
                process.run(["cp", "--sparse=always", path, path.with_suffix(".cut")])
        image.forget(device)
    if start is cut_while_used:
        path.with_suffix(".cut").rename(path)


def make_full(path: Path) -> None:
    """A town with a ballast, in a new file; then its agent filled all that there was of data and metadata."""
    empty(path)
    with loopback.attached(path) as device:
        with btrfs.top_level(device) as top:
            lay_out(top)
            ballast.make(top, scenarios.NAMES)
            os.close(home(top))
        scenarios.fill(scenarios.Disk(path.parent, ExitStack(), device), "data")
        image.forget(device)


def empty(path: Path) -> None:
    """A btrfs with nothing on it."""
    with path.open("wb") as file:
        file.truncate(SIZE)
    process.run(["mkfs.btrfs", "--quiet", "--metadata", "single", path])


def lay_out(top: int) -> None:
    """A town that has run before: a home set aside earlier, a kept snapshot, and data that is no agent's."""
    disk.lay_out(top)
    for name in ("@agents-old", "@agents-snapshots", "plain"):
        os.mkdir(name, 0o700, dir_fd=top)
    set_aside_earlier(top)
    os.close(btrfs.create(top, "persist"))
    disk.put(top, "persist/data", os.urandom(20_000))
    disk.put(top, "plain/file", b"of no agent")
    btrfs.commit(top)


def set_aside_earlier(top: int) -> None:
    """A home of an earlier boot in @agents-old."""
    with disk.subvolume(top, "@agents-old") as old, files.opened(btrfs.create(old, KEY)) as aside:
        files.write_beneath(aside, "notes", b"set aside long ago")


def old_homes(top: int) -> None:
    """Three more homes of earlier boots, with nested subvolumes, some read-only; the newest is to be kept."""
    for year in (2002, 2003, 2004):
        nested(top)
        os.rename("@agents", f"@agents-old/{year}{KEY[4:]}", src_dir_fd=top, dst_dir_fd=top)
        with disk.subvolume(top, "@agents-blank") as blank:
            os.close(btrfs.snapshot(blank, top, "@agents", read_only=False))
    os.close(home(top))


def home(top: int, data: bytes = b"what ada wrote") -> int:
    """A home in @agents with a small file and one of several blocks; its descriptor."""
    with disk.subvolume(top, "@agents") as homes:
        made = btrfs.create(homes, "ada")
    os.fchown(made, ADA, ADA)
    files.write_beneath(made, "notes", data)
    files.write_beneath(made, "large", os.urandom(30_000))
    os.symlink("notes", "link", dir_fd=made)
    return made


def fresh(_: int) -> None:
    """The first boot: nothing was ever written to @agents."""


def dirty(top: int) -> None:
    """One home, used."""
    os.close(home(top))


def nested(top: int) -> None:
    """Subvolumes in subvolumes to depth 6, each second one read-only."""
    trail = [home(top)]
    for depth in range(6):
        trail.append(btrfs.create(trail[-1], f"n{depth}"))
        files.write_beneath(trail[-1], "payload", b"at depth %d" % depth)
    for fd in trail[::2]:
        btrfs.set_read_only(fd, True)
    for fd in trail:
        os.close(fd)


def all_read_only(top: int) -> None:
    """@agents itself is read-only: it cannot move to another directory as it is."""
    os.close(home(top))
    with disk.subvolume(top, "@agents") as homes:
        btrfs.set_read_only(homes, True)


def writable_blank(top: int) -> None:
    """Blank is empty but writable, and @agents-old is missing."""
    os.close(home(top))
    with disk.subvolume(top, "@agents-blank") as blank:
        btrfs.set_read_only(blank, False)
    os.rename("@agents-old", "plain/moved", src_dir_fd=top, dst_dir_fd=top)


def cut_while_used(top: int) -> None:
    """The machine lost power with homes in use: what was fsynced since the last commit is in btrfs's log tree only."""
    made = home(top)
    btrfs.commit(top)
    files.write_beneath(made, "fsynced", b"in the log tree")
    os.close(made)


def cut_after_the_snapshot(top: int) -> None:
    """@agents and an untouched @agents.new, read-only still."""
    os.close(home(top))
    leave_new(top, read_only=True)


def cut_before_the_renames(top: int) -> None:
    """@agents and an untouched @agents.new, writable."""
    os.close(home(top))
    leave_new(top)


def cut_between_the_renames(top: int) -> None:
    """No @agents, an untouched @agents.new."""
    os.close(home(top))
    leave_new(top)
    os.rename("@agents", f"@agents-old/{KEY}.1", src_dir_fd=top, dst_dir_fd=top)


def new_was_written_to(top: int) -> None:
    """@agents.new holds an old home, and @agents is used too."""
    os.close(home(top))
    leave_new(top)
    disk.put(top, "@agents.new/payload", b"an old home under the new name")


def homes_are_missing(top: int) -> None:
    """No @agents, no @agents.new."""
    btrfs.delete(top, "@agents")


def homes_are_a_directory(top: int) -> None:
    """A plain directory has the name of @agents, a file that of @agents.new."""
    btrfs.delete(top, "@agents")
    os.mkdir("@agents", 0o755, dir_fd=top)
    disk.put(top, "@agents/payload", b"in a plain directory")
    disk.put(top, "@agents.new", b"a file")


def leave_new(top: int, *, read_only: bool = False) -> None:
    """What the hook makes first."""
    with disk.subvolume(top, "@agents-blank") as blank:
        os.close(btrfs.snapshot(blank, top, "@agents.new", read_only=read_only))


STARTS: tuple[Start, ...] = (
    fresh, dirty, nested, all_read_only, writable_blank, cut_while_used, cut_after_the_snapshot, cut_before_the_renames,
    cut_between_the_renames, new_was_written_to, homes_are_missing, homes_are_a_directory,
)  # fmt: skip
