"""The hook as a whole process beside the ioctls that it cannot do without, and beside delete and snapshot by btrfs(8).

The home is a snapshot of one that was filled once: setting 200,000 files aside is measured, not making them.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import initrd
from bench import clock
from demo import loopback
from town import btrfs, files, kernel, process

ROUNDS = int(os.environ.get("ROUNDS", "15"))
SHAPES = tuple((count, nested) for count in (0, 10_000, 200_000) for nested in (0, 100))
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# What users of a blank snapshot do by hand. With a subvolume in a home the delete fails and the snapshot lands inside.
_BY_HAND = """
mount -o subvolid=5 "$NUKETOWN_DEVICE" /images/top
btrfs subvolume delete /images/top/@agents && btrfs subvolume snapshot /images/top/@agents-blank /images/top/@agents
status=$?; umount /images/top; exit $status
"""
Top = int


def compare() -> None:
    """Print all three for homes of several shapes: the hook's time should not depend on the shape."""
    print(f"hook: median of {ROUNDS} whole runs (fastest); the filesystem is mounted by nobody else")
    Path("/images/top").mkdir()
    with loopback.attached(_image(Path("/images/hook"))) as device:
        with btrfs.top_level(device) as top:
            os.close(btrfs.create(top, "@agents-blank"))
            with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
                btrfs.set_read_only(blank, True)
        clock.run(_hook(), env=_told(device))
        for count in sorted({count for count, _ in SHAPES}):
            with btrfs.top_level(device) as top:
                _template(top, count)
            for shape in (shape for shape in SHAPES if shape[0] == count):
                _row(device, *shape)


def _image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(4 << 30)
    process.run(["mkfs.btrfs", "--quiet", path])
    return path


def _row(device: str, count: int, nested: int) -> None:
    hook, bare, by_hand = _measure(device, nested)
    fastest, median = min(hook) * 1e3, statistics.median(hook) * 1e3
    ioctls = statistics.median(bare) * 1e3
    line = f"{count:>7} files {nested:>4} nested: hook {median:5.1f} ms ({fastest:4.1f})   ioctls {ioctls:4.1f} ms"
    peer = f"delete and snapshot {statistics.median(by_hand) * 1e3:5.1f} ms" if by_hand else "delete and snapshot fail"
    ratio = f", ratio {statistics.median(hook) / statistics.median(by_hand):.2f}" if by_hand else ""
    print(f"{line}   {peer}{ratio}", flush=True)


def _measure(device: str, nested: int) -> tuple[list[float], list[float], list[float]]:
    hook, bare, by_hand = [], [], []
    for _ in range(ROUNDS):
        bare.append(_dirtied(device, nested, _ioctls))
        _dirtied(device, nested)
        hook.append(clock.run(_hook(), env=_told(device)).wall)
        if not nested:
            _dirtied(device, nested)
            by_hand.append(clock.run(["sh", "-c", _BY_HAND], env=_told(device)).wall)
    return hook, bare, by_hand


def _hook() -> list[str]:
    return ["sh", str(initrd.hook())]


def _told(device: str) -> dict[str, str]:
    return {"NUKETOWN_DEVICE": device, "PATH": _PATH}


def _template(top: Top, count: int) -> None:
    """A subvolume with the home of one agent, `count` files in it: what @agents is, used."""
    if b"used" in files.names(top):
        btrfs.delete(top, "used")
    with files.opened(btrfs.create(top, "used")) as used:
        os.mkdir("ada", dir_fd=used)
        with files.opened(files.open_beneath(used, "ada")) as home:
            for number in range(count):
                if number % 1000 == 0:
                    os.mkdir(f"d{number}", dir_fd=home)
                os.close(os.open(f"d{number // 1000 * 1000}/f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=home))


def _dirtied(device: str, nested: int, then: Callable[[Top], float] | None = None) -> float:
    """Make @agents a used one and, on the same mount, do `then`."""
    with btrfs.top_level(device) as top:
        _clear(top)
        btrfs.delete(top, "@agents")
        with (
            files.opened(files.open_beneath(top, "used")) as used,
            files.opened(btrfs.snapshot(used, top, "@agents", read_only=False)),
            files.opened(files.open_beneath(top, "@agents/ada")) as home,
        ):
            for number in range(nested):
                os.close(btrfs.create(home, f"s{number}"))
        btrfs.commit(top)
        return then(top) if then else 0.0


def _clear(top: Top) -> None:
    """As at a boot: nothing of an earlier run in /run, old homes out of the way (pruning is another program's work)."""
    shutil.rmtree("/run/nuketown", ignore_errors=True)
    with files.opened(files.open_beneath(top, "@agents-old")) as old:
        for name in map(os.fsdecode, files.names(old)):
            with files.opened(files.open_beneath(old, f"{name}/ada")) as home:
                for inner in map(os.fsdecode, files.names(home)):
                    if inner.startswith("s"):
                        btrfs.delete(home, inner)
            btrfs.delete(old, name)


def _ioctls(top: Top) -> float:
    start = time.monotonic()
    with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
        os.close(btrfs.snapshot(blank, top, "new", read_only=False))
    with files.opened(files.open_beneath(top, "@agents-old")) as old:
        kernel.renameat2(top, "@agents", old, f"bench-{time.monotonic_ns()}")
    kernel.renameat2(top, "new", top, "@agents")
    btrfs.commit(top)
    return time.monotonic() - start
