"""`persist lost` where 50 files among 200,000 are new: a search by the filesystem beside a walk of that home.

By a kept home, and by a time: after a sync, and where nobody noted anything.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench import clock, corpus
from bench.figures import Report
from demo import loopback
from persist import searched, since, transactions
from persist.walk import Entry, walk
from town import btrfs, files, kernel, process, standing

FILES, NEW, ROUNDS = 200_000, 50, 9
_MOST = 50.0  # ms of work
_NOATIME = 1024  # mount(2) MS_NOATIME
_SPEC = """
[town]
agents_dir = "/agents"
persist_dir = "none"
[town.btrfs]
device = "{device}"
[agents.ada]
uid = 41100
"""


def measure(place: Path) -> None:
    """Print the rows; the image of the disk lies in the directory `place`."""
    print(f"\nlost: {NEW} new files among {FILES:,} of a home; median of {ROUNDS}")
    with loopback.attached(_image(place / "lost")) as device:
        home = _home(device)
        corpus.make(home, FILES, owner=41100)
        os.sync()
        with files.opened(files.open_dir(home)) as fd:
            transid = _kept(device, fd)
            transactions.commit(fd)  # as a sync does
            moment = _later()
            for number, directory in zip(range(NEW), sorted(_directories(home)), strict=False):
                (directory / f"new-{number}").write_bytes(bytes(1000))
            _rows(fd, transid, moment, device)
        kernel.umount("/agents", kernel.MNT_DETACH)


def _later() -> int:
    """A time (ns) that is after all that was written: inodes are told apart by the second."""
    time.sleep(2)
    return time.time_ns()


def _rows(fd: int, transid: int, moment: int, device: str) -> None:
    def search() -> Iterable[object]:
        return searched.search(fd, _all, searched.mounted(fd), since=transid)

    def by_time() -> Iterable[object]:
        near = since.nearer(since.Since(time=moment), fd).transid
        return searched.search(fd, _all, searched.mounted(fd), since=near, changed=moment)

    report = Report()
    work, _ = _row("search, warm", _times(search, fd))
    timed, _ = _row("search by time, warm", _times(by_time, fd))
    for noted in (standing.RUN / "transactions").iterdir():
        noted.unlink()
    _row("search by time, not noted", _times(by_time, fd))
    _row("search, cold", _times(search, fd, cold=True))
    _row("everything by a search", _times(lambda: searched.search(fd, _all), fd, rounds=1))
    _row("everything by a walk", _times(lambda: walk(fd, _all), fd, rounds=1))
    Path("/town/lost.toml").write_text(_SPEC.format(device=device))
    command = ["persist", "--spec", "/town/lost.toml", "lost", "ada", "--since", "ada@kept"]
    whole = [clock.run(command) for _ in range(ROUNDS)]
    _row("persist lost --since", [(took.cpu * 1e3, took.wall * 1e3) for took in whole])
    report.figure("lost", "ms of work for 50 of 200,000, warm", work, _MOST, 15)
    report.figure("lost --since TIME", "ms of work for 50 of 200,000, warm", timed, _MOST, 30)
    report.end()


def _times(
    events: Callable[[], Iterable[object]], fd: int, *, rounds: int = ROUNDS, cold: bool = False
) -> list[tuple[float, float]]:
    """Milliseconds of work, and of waiting too, of each round; the commit before it included."""
    found = []
    for _ in range(rounds):
        if cold:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        cpu, wall = time.process_time(), time.perf_counter()
        assert searched.ready(fd)
        count = sum(isinstance(event, Entry) for event in events())
        found.append(((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3))
        assert count >= NEW
    return found


def _row(name: str, times: list[tuple[float, float]]) -> tuple[float, float]:
    """Print the medians of work and of wall time, and the fastest of the latter."""
    work, wall = (statistics.median(column) for column in zip(*times, strict=True))
    fastest = min(wall for _, wall in times)
    print(f"{name:<26}CPU {work:8.1f} ms   wall {wall:8.1f} ms (fastest {fastest:.1f})", flush=True)
    return work, wall


def _all(_directory: object, _name: bytes) -> bool:
    return True


def _image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(8 << 30)
    process.run(["mkfs.btrfs", "--quiet", path])
    return path


def _home(device: str) -> Path:
    with btrfs.top_level(device) as top:
        os.close(btrfs.create(top, "@agents"))
        for name in ("@agents-old", "@agents-snapshots"):
            os.mkdir(name, 0o700, dir_fd=top)
    Path("/agents").mkdir(exist_ok=True)
    kernel.mount(device, "/agents", "btrfs", _NOATIME, "subvol=@agents")
    with files.opened(files.open_dir("/agents")) as agents:
        os.close(btrfs.create(agents, "ada"))
    os.chown("/agents/ada", 41100, 41100)
    return Path("/agents/ada")


def _kept(device: str, home: int) -> int:
    """A snapshot as `persist snapshot` makes one; the transaction that it is of."""
    with btrfs.top_level(device) as top:
        os.makedirs(f"/proc/self/fd/{top}/@agents-snapshots/ada/kept", 0o700)
        with (
            files.opened(files.open_beneath(top, "@agents-snapshots/ada/kept")) as place,
            files.opened(btrfs.snapshot(home, place, "home", read_only=True)) as made,
        ):
            return btrfs.info(made).origin_generation


def _directories(home: Path) -> list[Path]:
    return [Path(above) for above, _, _ in os.walk(home)][::97]
