"""Every write and flush that something does to a btrfs, recorded below it: QEMU's blklogwrites under a loop device.

qemu-storage-daemon shows the image as one file by FUSE and logs what is written to it; a loop device lies on that file,
never with direct I/O, which damages both (seen with QEMU 7.2). Nothing outlives the process that records: the daemon
gets SIGKILL with its parent, and the loop device goes with its last descriptor.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from demo import loopback
from tests.replay import image, log
from tests.replay.image import Image
from tests.replay.log import Log
from town import kernel, process


@dataclass(frozen=True, slots=True)
class Files:
    """What a recording lies in: the disk before, the disk (after, when it is done), the log of writes."""

    base: Path
    disk: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Recording:
    """The disk before, and each write since."""

    files: Files
    base: Image
    log: Log

    def is_whole(self, scratch: Path) -> bool:
        """Whether the disk before with all writes is the disk after, byte for byte."""
        every = [(write.offset, write.data) for epoch in self.log.epochs for write in epoch]
        image.build(self.base, every, scratch, own_uuid=False)
        try:
            return image.same(scratch, self.files.disk)
        finally:
            scratch.unlink()


def record(disk: Path, run: Callable[[str, Path], object]) -> Recording:
    """Record what `run(device, log)` writes to the image `disk`. It must have unmounted the device when it returns."""
    there = Files(disk.with_suffix(".base"), disk, disk.with_suffix(".log"))
    process.run(["cp", "--sparse=always", disk, there.base])
    with _exported(there) as export, loopback.attached(export) as device:
        try:
            run(device, there.log)
        finally:
            image.forget(device)
    return Recording(there, image.load(there.base), log.read(there.log))


@contextmanager
def _exported(there: Files) -> Iterator[Path]:
    """The image as a file that logs what is written to it."""
    export = there.disk.with_suffix(".export")
    export.touch()
    there.log.touch()
    drivers = [
        {"driver": "file", "node-name": "disk", "filename": str(there.disk)},
        {"driver": "file", "node-name": "log", "filename": str(there.log)},
        {"driver": "blklogwrites", "node-name": "both", "file": "disk", "log": "log",
         "log-sector-size": 512, "log-super-update-interval": 1},
    ]  # fmt: skip
    shown = {"type": "fuse", "id": "export", "node-name": "both", "mountpoint": str(export), "writable": True}
    words = [word for driver in drivers for word in ("--blockdev", json.dumps(driver))]
    # What is asked for is done in order: when the monitor greets, the export is there.
    argv = ["setpriv", "--pdeathsig", "KILL", "qemu-storage-daemon", *words, "--export", json.dumps(shown),
            "--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"]  # fmt: skip
    daemon = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process.environment(),
    )
    try:
        _expect(daemon, "QMP")
        yield export
        for command in ("qmp_capabilities", "quit"):
            _tell(daemon, command)
        daemon.communicate(timeout=30)
    finally:
        daemon.kill()
        daemon.communicate()
        with suppress(OSError):  # it has unmounted it, unless it was killed
            kernel.umount(str(export), kernel.MNT_DETACH)


def _tell(daemon: subprocess.Popen[bytes], command: str) -> None:
    assert daemon.stdin is not None
    daemon.stdin.write(json.dumps({"execute": command}).encode() + b"\n")
    daemon.stdin.flush()
    _expect(daemon, "return")


def _expect(daemon: subprocess.Popen[bytes], key: str) -> None:
    assert daemon.stdout is not None
    while line := daemon.stdout.readline():
        if key in json.loads(line):
            return
    assert daemon.stderr is not None
    raise RuntimeError(f"qemu-storage-daemon did not say {key}: {process.last_words(daemon.stderr.read())}")
