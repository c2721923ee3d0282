"""Old homes for `persist tidy`: a top level with @agents-old, and what an agent could have left in it."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from persist import cli
from town import btrfs, files, subvolumes

BOOT = "78f91efc-edd7-4c7a-a748-ce7563c808be"
NOW = datetime.now(UTC)


def key(days: float = 0, boot: str = BOOT) -> str:
    """The name of a home that was set aside so many days ago."""
    return f"{NOW - timedelta(days=days):%Y%m%dT%H%M%SZ}-{boot}"


def lay_out(top: int) -> None:
    """What `persist init` makes, but for the ballast."""
    for name in ("@agents", "@agents-blank"):
        os.close(btrfs.create(top, name))
    os.mkdir("@agents-old", 0o700, dir_fd=top)


def add(top: int, name: str | bytes) -> int:
    """A home that was set aside, with a file in it: the root of its subvolume, open."""
    with files.opened(files.open_beneath(top, "@agents-old")) as old:
        fd = btrfs.create(old, os.fsdecode(name))
        files.write_beneath(fd, "file", b"x")
    btrfs.commit(top)  # so that no two are born in one generation
    return fd


def put(top: int, *names: str | bytes) -> None:
    """Some of them, in this order."""
    for name in names:
        os.close(add(top, name))


def names(top: int) -> list[str]:
    """What @agents-old holds, sorted."""
    with files.opened(files.open_beneath(top, "@agents-old")) as old:
        return [os.fsdecode(name) for name in files.names(old)]


def subvolume_count(top: int, number: int = 5) -> int:
    """How many subvolumes hang in one, however deep."""
    inner = [found.id for found in btrfs.nested(top)] if number == 5 else _inside(top, number)
    return len(inner) + sum(subvolume_count(top, each) for each in inner)


def _inside(top: int, number: int) -> list[int]:
    with files.opened(subvolumes.opened_root(top, number)) as fd:
        return [found.id for found in btrfs.nested(fd)]


def write_spec(file: Path, device: str, keep: str = 'homes = 1, days = 9999, free = "0%"', agents: str = "") -> None:
    """A town on `device`, with keep = { … }."""
    file.write_text(
        f'[town]\nagents_dir = "{agents or file.parent / "agents"}"\npersist_dir = "none"\n'
        f'[town.btrfs]\ndevice = "{device}"\nkeep = {{ {keep} }}\n[agents.ada]\nuid = 41100\n'
    )


def tidy(file: Path, *words: str) -> int:
    """The command, in this process."""
    return cli.main(["--spec", str(file), "tidy", *words])


def deep(fd: int, depth: int, name: str = "d") -> int:
    """Directories so deep below an open one; the innermost, open."""
    at = os.dup(fd)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        below = files.open_beneath(at, name)
        os.close(at)
        at = below
    return at


def fill_metadata(fd: int, most: int = 1 << 30) -> None:
    """Attributes in `fd`'s subvolume until the filesystem takes no more, or `most` bytes more are taken."""
    number = len(files.names(fd))
    last = number + most // 16384
    for size in (15_000, 1_000, 10):
        try:
            while number < last:
                number += 1
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                with files.opened(os.open(f"m{number}", flags, dir_fd=fd)) as file:
                    os.setxattr(file, "user.fill", bytes(size))
        except OSError:
            continue


def fill_data(fd: int, name: str = "data") -> None:
    """A file that takes all the room there is for data."""
    with files.opened(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, dir_fd=fd)) as file:
        try:
            while True:
                os.write(file, os.urandom(1 << 20))
        except OSError:
            os.fsync(file)


@contextmanager
def at_most_files(limit: int) -> Iterator[None]:
    """No more than `limit` open descriptors beside those that there are, while the block lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def wait_freed(top: int) -> None:
    """Until the cleaner is done."""
    for _ in range(500):
        if not subvolumes.being_freed(top):
            break
        btrfs.commit(top)
        time.sleep(0.02)
    btrfs.commit(top)
