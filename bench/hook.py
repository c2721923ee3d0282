"""The hook as a whole process beside the ioctls that it cannot do without: snapshot, two renames, commit."""

import os
import statistics
import time
from pathlib import Path

import initrd
from bench import clock
from demo import loopback
from town import btrfs, files, kernel, process

ROUNDS = 7
SHAPES = ((0, 0), (10_000, 0), (0, 100), (10_000, 100))  # files, nested subvolumes


def compare() -> None:
    """Print both for homes of several shapes: the times should not depend on the shape."""
    print("hook: median of whole runs, beside the bare ioctls on the same filesystem")
    image = Path("/images/hook")
    with image.open("wb") as file:
        file.truncate(1 << 30)
    process.run(["mkfs.btrfs", "--quiet", image])
    with loopback.attached(image) as device:
        with btrfs.top_level(device) as top:
            os.close(btrfs.create(top, "@agents-blank"))
            with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
                btrfs.set_read_only(blank, True)
        for shape in SHAPES:
            hooks, bare = _measure(device, *shape)
            print(f"{shape[0]:>7} files {shape[1]:>4} nested: hook {hooks * 1e3:6.1f} ms  ioctls {bare * 1e3:6.1f} ms")


def _measure(device: str, count: int, nested: int) -> tuple[float, float]:
    hooks, bare = [], []
    argv = ["sh", str(initrd.hook())]
    env = {"NUKETOWN_DEVICE": device, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    clock.run(argv, env=env)
    for number in range(ROUNDS):
        with btrfs.top_level(device) as top:
            _dirty(top, count, nested)
            bare.append(_ioctls(top, number))
            _dirty(top, count, nested)
            btrfs.commit(top)
        hooks.append(clock.run(argv, env=env).wall)
    return statistics.median(hooks), statistics.median(bare)


def _dirty(top: int, count: int, nested: int) -> None:
    with files.opened(files.open_beneath(top, "@agents")) as home:
        for number in range(count):
            os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=home))
        for number in range(nested):
            os.close(btrfs.create(home, f"s{number}"))


def _ioctls(top: int, number: int) -> float:
    start = time.monotonic()
    with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
        os.close(btrfs.snapshot(blank, top, "new", read_only=False))
    with files.opened(files.open_beneath(top, "@agents-old")) as old:
        kernel.renameat2(top, "@agents", old, f"bench{number}-{time.monotonic_ns()}")
    kernel.renameat2(top, "new", top, "@agents")
    btrfs.commit(top)
    return time.monotonic() - start
