"""The disk of the agents: made on this machine, put into LUKS without device-mapper, looked at between boots."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from demo import loopback
from persist import ballast
from tests.boot import image
from town import btrfs, files
from town.spec import Btrfs

UUID = "38b243a0-c875-4758-8998-cc6c6a4c451e"  # of the btrfs in all of them
LUKS_UUID = "7c1d0f8e-51e2-4c58-8d0a-0b9a4b2e6f11"
KEY = "a passphrase of the tests"
SIZE = 256 << 20


def fresh(folder: Path) -> Path:
    """A fresh btrfs as `persist init` leaves it, in a sparse file."""
    disk = folder / "agents.img"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    format_(disk, "-M")
    with mounted(disk) as top:
        lay_out(top)
    return disk


def format_(disk: Path, *options: str) -> None:
    """mkfs.btrfs with the UUID of all of them, which it refuses while another has it: attached, or in blkid's cache."""
    argv = ["mkfs.btrfs", "-q", *options, "-U", UUID, str(disk)]
    with image.lock("disks"):
        subprocess.run(argv, check=True, capture_output=True, env=os.environ | {"BLKID_FILE": "/dev/null"})


def lay_out(top: int) -> None:
    """The names of docs/formats/disk.md."""
    os.close(btrfs.create(top, "@agents-blank"))
    with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
        btrfs.set_read_only(blank, True)
        os.close(btrfs.snapshot(blank, top, "@agents", read_only=False))
    for name in ("@agents-old", "@agents-snapshots"):
        os.mkdir(name, 0o700, dir_fd=top)
    ballast.make(top, Btrfs(UUID))


@contextlib.contextmanager
def mounted(disk: Path) -> Iterator[int]:
    """The top level of a plain disk, on this machine: a descriptor."""
    with attached(disk) as (device,), btrfs.top_level(device) as top:
        yield top


@contextlib.contextmanager
def attached(*disks: Path) -> Iterator[tuple[str, ...]]:
    """The disks as devices. All of them have one UUID: so one process at a time, and the kernel is told to forget."""
    with image.lock("disks"), contextlib.ExitStack() as stack:
        devices = tuple(stack.enter_context(loopback.attached(disk)) for disk in disks)
        try:
            yield devices
        finally:
            subprocess.run(["btrfs", "device", "scan", "--forget", *devices], check=True, capture_output=True)


def encrypt(disk: Path) -> None:
    """Put the disk into LUKS, in place. No device-mapper is needed for it: QEMU knows the format itself."""
    sealed = disk.with_suffix(".luks")
    with _secret() as secret:
        subprocess.run(
            [
                *("qemu-img", "convert", "--object", secret, "-f", "raw", "-O", "luks"),
                *("-o", "key-secret=key,iter-time=10,hash-alg=sha256", str(disk), str(sealed)),
            ],
            check=True,
            capture_output=True,
        )
    with sealed.open("r+b") as file:
        file.seek(168)  # LUKS1 on-disk format, phdr: the UUID, 40 bytes of text
        file.write(LUKS_UUID.encode().ljust(40, b"\0"))
    sealed.replace(disk)


def decrypt(disk: Path) -> Path:
    """A plain copy of a disk in LUKS, beside it."""
    plain = disk.with_suffix(".plain")
    with _secret() as secret:
        source = f"driver=luks,key-secret=key,file.driver=file,file.filename={disk}"
        subprocess.run(
            ["qemu-img", "convert", "--object", secret, "--image-opts", source, "-O", "raw", str(plain)],
            check=True,
            capture_output=True,
        )
    return plain


@contextlib.contextmanager
def _secret() -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(KEY.encode())
        file.flush()
        yield f"secret,id=key,file={file.name}"
