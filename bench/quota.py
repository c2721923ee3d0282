"""What quotas cost: writing and committing the same files without them, with simple ones, and with full ones.

The disk is memory, so that what is measured is the kernel's own work and not a disk's.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from demo import loopback
from town import btrfs, files, kernel, process, quotas, subvolumes

ROUNDS = int(os.environ.get("ROUNDS", "9"))
_FILES, _SIZE = 20_000, 4096
_SNAPSHOTS = 4  # that share what is written: what full quotas pay for
_KINDS = ("without", "simple", "full")
_GROUP = quotas.group(41100)


def compare() -> None:
    """Print a line for each kind: the fastest round, and how many times as long as without."""
    print(
        f"quota: median of {ROUNDS} rounds of {_FILES:,} files of {_SIZE:,} bytes, half of them new; ms (times without)"
    )
    first: tuple[float, ...] = ()
    for kind in _KINDS:
        found = _measure(kind)
        first = first or found
        said = (
            f"{name} {value * 1e3:7.1f} ({value / base:4.2f})"
            for name, value, base in zip(("write", "commit", "delete a snapshot"), found, first, strict=True)
        )
        print(f"{kind:<8}{'   '.join(said)}", flush=True)
    print()


def _measure(kind: str) -> tuple[float, ...]:
    image = Path("/images/quota")
    with image.open("wb") as file:
        file.truncate(2 << 30)
    process.run(["mkfs.btrfs", "--quiet", "--force", image])
    try:
        with (
            loopback.attached(image) as device,
            btrfs.top_level(device) as top,
            files.opened(btrfs.create(top, "home")) as home,
        ):
            _turn_on(kind, top, home)
            rounds = [_round(top, home, number) for number in range(ROUNDS + _SNAPSHOTS)][_SNAPSHOTS:]
    finally:
        image.unlink()
    return tuple(map(min, zip(*rounds, strict=True)))


def _turn_on(kind: str, top: int, home: int) -> None:
    if kind == "full":
        process.run(["btrfs", "quota", "enable", f"/proc/{os.getpid()}/fd/{top}"])
    elif kind == "simple":
        quotas.turn_on(top)
        quotas.make(top, _GROUP)
        quotas.join(top, btrfs.number(home), _GROUP)
        quotas.limit(top, _GROUP, 1 << 40)
    btrfs.commit(top)


def _round(top: int, home: int, number: int) -> tuple[float, float, float]:
    """Seconds of writing, of the commit, and of deleting the oldest snapshot until its space is free."""
    began = time.perf_counter()
    _write(home, number)
    written = time.perf_counter()
    kernel.syncfs(home)
    committed = time.perf_counter()
    os.close(btrfs.snapshot(home, top, f"s{number}", read_only=True))
    deleting = time.perf_counter()
    with suppress(FileNotFoundError, btrfs.BtrfsFailed):
        btrfs.delete(top, f"s{number - _SNAPSHOTS}")
        while subvolumes.being_freed(top):
            btrfs.commit(top)
            time.sleep(0.001)
    return written - began, committed - written, time.perf_counter() - deleting


def _write(home: int, number: int) -> None:
    data = os.urandom(_SIZE)
    for name in (*(f"same-{index}" for index in range(_FILES // 2)), *_new(number)):
        with files.opened(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, dir_fd=home)) as fd:
            os.write(fd, data)
    if number > _SNAPSHOTS:
        for name in _new(number - _SNAPSHOTS):
            os.unlink(name, dir_fd=home)


def _new(number: int) -> tuple[str, ...]:
    return tuple(f"new-{number}-{index}" for index in range(_FILES // 2))
