"""Disks for the rollback's scenarios: made, filled as an agent would fill them, and read whole to be compared."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from demo import loopback
from persist import ballast
from tests.machine import rollbackdisk as disk
from tests.reach import PYTHON
from town import btrfs, files, kernel, process
from town.process import Person
from town.spec import Btrfs

ADA = 41100
NAMES = Btrfs("unused")
SINGLE, DUP, MIXED = ("--metadata", "single"), ("--metadata", "dup"), ("--mixed",)
MIB = 1 << 20


@dataclass
class Disk:
    """One machine's disk before a rollback, and what the rollback is told about it."""

    at: Path  # a directory of its own
    ends: ExitStack  # what is undone when the test ends
    device: str = ""  # where the btrfs is, for looking at it
    told: str = ""  # NUKETOWN_DEVICE
    wait: int = 0  # NUKETOWN_WAIT
    before: str = "true"  # shell words run in the hook's mount namespace before it
    ready: Callable[[], None] | None = None  # what happens right before the first run, after the disk was looked at
    meanwhile: Callable[[], None] | None = None  # what happens a second after the first run was started
    programs: dict[str, str] = field(default_factory=dict)  # name: its source; THE_REAL_ONE is the path of the real one

    at_least: float = 0  # seconds that the first run takes
    at_most: float = 60
    errors: ExitStack = field(default_factory=ExitStack)  # a disk that fails, until this is closed
    _loop: ExitStack = field(default_factory=ExitStack)

    @property
    def image(self) -> Path:
        return self.at / "disk.img"

    def attach(self, *, read_only: bool = False) -> None:
        """Put the image on a loop device: `device`."""
        self.device = self._loop.enter_context(loopback.attached(self.image, read_only=read_only))
        self.ends.callback(self._loop.close)

    def detach(self) -> None:
        """Take the disk away from the machine."""
        self._loop.close()

    @contextmanager
    def top(self) -> Iterator[int]:
        """The top level, committed at the end and not mounted any more: the next mount reads the disk."""
        with btrfs.top_level(self.device) as fd:
            yield fd
            btrfs.commit(fd)


def make(at: Path, ends: ExitStack, *, mkfs: tuple[str, ...] = SINGLE, with_ballast: bool = True) -> Disk:
    """A town of 256 MiB as `persist init` leaves it, and something beside it that is none of the hook's."""
    made = Disk(at, ends)
    sparse(made.image, 256 * MIB)
    ends.callback(made.image.unlink)  # pytest keeps its directories
    process.run(["mkfs.btrfs", "--quiet", *mkfs, made.image])
    made.attach()
    made.told = made.device
    with made.top() as top:
        lay_out(top, with_ballast=with_ballast)
    return made


def lay_out(top: int, *, with_ballast: bool = True) -> None:
    """The names of a fresh town at the top level, and a subvolume `persist` with a file."""
    disk.lay_out(top)
    for name in (NAMES.old, NAMES.snapshots):
        os.mkdir(name, 0o700, dir_fd=top)
    if with_ballast:  # mounting is slower with it: 80 ms, not 5
        ballast.make(top, NAMES)
    os.close(btrfs.create(top, "persist"))
    disk.put(top, "persist/kept", b"nobody's home")


def sparse(image: Path, size: int) -> Path:
    with image.open("wb") as file:
        file.truncate(size)
    return image


def home(top: int, name: str = "ada", owner: int = ADA, data: bytes = b"what ada wrote") -> None:
    """A home in @agents with a file in it, all the agent's own."""
    with disk.subvolume(top, NAMES.subvolume) as homes, files.opened(btrfs.create(homes, name)) as made:
        os.fchown(made, owner, owner)
        os.fchmod(made, 0o700)
        files.write_beneath(made, "notes", data, owner=(owner, owner))


# ---------------------------------------------------------------- full

# Run as the agent, in its home. SHAPE names what it writes until there is no room for one more of each.
_FILL = """
import ctypes, errno, os, sys
libc, serial = ctypes.CDLL(None), 0

def attempt(write, *words):
    try:
        write(*words)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True

def opened(name):
    return os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)

def data():
    fd, size, at = opened(f"data{serial}"), 64 << 20, 0
    while size >= 4096:
        if attempt(os.posix_fallocate, fd, at, size):
            at += size
        else:
            size //= 2
    os.close(fd)
    raise OSError(errno.ENOSPC, "as much as there was")

def attributes():
    fd = opened(f"{serial}".ljust(230, "n"))
    try:
        for number in range(4):
            os.setxattr(fd, f"user.{number}", os.urandom(3500))
    finally:
        os.close(fd)

def inline():
    fd = opened(f"inline{serial}")
    try:
        os.write(fd, os.urandom(2000))
    finally:
        os.close(fd)

def directories():
    os.mkdir(f"directory{serial}")

def until_full(write):
    global serial
    made = missed = 0
    while missed < 3:
        serial += 1
        if attempt(write):
            made += 1
        else:
            missed += 1
    return made

written = bool(sys.argv[1])
for shape in sys.argv[2:]:
    until_full(globals()[shape])
rounds = 0
while written and rounds < 8:  # a commit gives back what was reserved
    attempt(os.sync)
    rounds += 1
    written = sum(until_full(write) for write in (attributes, inline, directories))
"""


def fill(made: Disk, *shapes: str, name: str = "ada", ends: bool = False) -> None:
    """Fill the disk from the agent's home, as the agent, until nothing more goes in and a commit makes no more room.

    `shapes` come first, in order, each until there is no room: data, attributes, inline, directories. `data` before
    the others leaves metadata little room to grow, and takes a second where `attributes` alone take five. With `ends`
    nothing is written after them.
    """
    target = made.at / "homes"
    target.mkdir(exist_ok=True)
    kernel.mount(made.device, str(target), "btrfs", kernel.MOUNT_NOSUID, f"subvol={NAMES.subvolume}")
    try:
        person = Person(ADA, ADA)
        process.run(
            [PYTHON, "-c", _FILL, "" if ends else "more", *shapes], person=person, cwd=target / name, timeout=280
        )
    finally:
        kernel.umount(str(target))


def mounted(made: Disk, options: str) -> None:
    """Mount it for the length of the test, beside whatever the hook does; `ro` is `persist` read-only."""
    target = made.at / "mounted elsewhere"
    target.mkdir()
    kernel.mount(
        made.device,
        str(target),
        "btrfs",
        kernel.MOUNT_RDONLY if options == "ro" else 0,
        options.replace("ro", "subvol=persist"),
    )
    made.ends.callback(kernel.umount, str(target), kernel.MNT_DETACH)


def without_ballast(top: int) -> None:
    """The ballast was used at an earlier boot and never made anew."""
    btrfs.delete(top, NAMES.ballast)
    btrfs.commit(top)


def small_ballast(top: int) -> None:
    """A ballast that frees next to nothing."""
    without_ballast(top)
    os.close(btrfs.create(top, NAMES.ballast))


# ---------------------------------------------------------------- all that is there

Entry = tuple[bytes, str]


def inventory(top: int) -> Counter[Entry]:
    """Everything on the filesystem: (path, what it is), homes without the name that they have at the moment.

    What is in @agents, in @agents.new and in a home set aside counts the same, so a rollback that loses, doubles or
    changes nothing leaves this as it was. The ballast and the read-only flag of what is at the top level are not in it.
    """
    found: Counter[Entry] = Counter()
    for name in files.names(top):
        where = b"" if name in (b"@agents", b"@agents.new") else name
        if name == os.fsencode(NAMES.ballast):
            continue
        if name == os.fsencode(NAMES.old) and _is_dir(top, name):
            with files.opened(files.open_beneath(top, name)) as old:
                for key in files.names(old):
                    _collect(old, key, b"", found)
        else:
            _collect(top, name, where, found)
    flagged = [entry for entry in found if entry[0] == os.fsencode(NAMES.blank)]
    for path, what in flagged:  # a rollback may set it read-only
        found[path, what.rpartition(" ")[0]] = found.pop((path, what))
    return found


def _is_dir(directory: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _collect(directory: int, name: bytes, path: bytes, found: Counter[Entry]) -> None:
    """Depth first, one descriptor for each level: a tree of any width, to a depth of some hundred."""
    if path or not _is_dir(directory, name):
        found[path, _what(directory, name)] += 1
    if _is_dir(directory, name):
        with files.opened(files.open_beneath(directory, name)) as fd:
            for below in files.names(fd):
                _collect(fd, below, path + b"/" + below, found)


def _what(directory: int, name: bytes) -> str:
    entry = os.stat(name, dir_fd=directory, follow_symlinks=False)
    facts = f"{entry.st_mode:o} {entry.st_uid}:{entry.st_gid}"
    if stat.S_ISLNK(entry.st_mode):
        return f"{facts} -> {os.readlink(name, dir_fd=directory)!r}"
    if stat.S_ISDIR(entry.st_mode):
        with files.opened(files.open_beneath(directory, name)) as fd:
            return f"{facts} {_attributes(fd)} {btrfs.info(fd).read_only if entry.st_ino == btrfs.FIRST_INODE else ''}"
    if stat.S_ISREG(entry.st_mode):
        with files.opened(files.open_beneath(directory, name, os.O_RDONLY)) as fd:
            beginning = hashlib.sha256(os.read(fd, MIB)).hexdigest()
            return f"{facts} {entry.st_size} {beginning} {_attributes(fd)}"
    return facts


def _attributes(fd: int) -> str:
    values = hashlib.sha256()
    for name in sorted(os.listxattr(fd)):
        values.update(os.fsencode(name) + b"\0" + os.getxattr(fd, name) + b"\0")
    return values.hexdigest()[:16]


# ---------------------------------------------------------------- a disk that fails


@contextmanager
def failing(image: Path, at: Path, kind: str, **where: int) -> Iterator[str]:
    """`image` on a loop device through QEMU's blkdebug: every `kind` of request (read, write, flush) ends in EIO.

    `where` narrows it: sector=128 is the superblock alone, so that a commit fails in its last step.
    """
    shown = at / "failing.img"
    shown.touch()
    error = {"event": "none", "iotype": kind, "errno": errno.EIO} | where
    debug = {"driver": "blkdebug", "node-name": "debug", "image": "file", "inject-error": [error]}
    export = f"type=fuse,id=export,node-name=debug,mountpoint={shown},writable=on"
    file = f"driver=file,node-name=file,filename={image}"
    argv = ["qemu-storage-daemon", "--blockdev", file, "--blockdev", json.dumps(debug), "--export", export]
    daemon = subprocess.Popen(argv)
    try:
        _until(lambda: shown.stat().st_size > 0)
        with loopback.attached(shown) as device:
            yield device
        _until(lambda: os.fsencode(shown) not in _loops())
    finally:
        daemon.terminate()
        daemon.wait(20)


def _loops() -> set[bytes]:
    found = set()
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it went meanwhile
            found.add(file.read_bytes().strip())
    return found


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
