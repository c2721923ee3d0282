"""A disk for the hook, an initrd's programs, and what a test asks of them. The real hook, btrfs, mounts and /run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import initrd
from town import btrfs, files, process

PROGRAMS = ("btrfs", "mount", "umount", "mv", "mkdir", "rm", "stat", "sleep")
SHELLS = ("dash", "bash", "busybox")


@dataclass(frozen=True)
class Initrd:
    """What the hook finds: a shell, a PATH with nothing but what an initrd has, a /run of its own."""

    shell: tuple[str, ...]
    path: Path
    run: Path

    def argv(self, device: str, **environment: str) -> list[str]:
        """The hook as a program: in a mount namespace of its own, with `run` as its /run, and no other environment."""
        told = {"PATH": str(self.path), "NUKETOWN_DEVICE": device} | environment
        inside = 'mount --bind "$1" /run && shift && exec env -i "$@"'
        words = [f"{name}={value}" for name, value in told.items()]
        return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", inside, "sh", str(self.run),
                *words, *self.shell, str(initrd.hook())]  # fmt: skip

    def __call__(self, device: str, **environment: str) -> process.Done:
        return process.run(self.argv(device, **environment), check=False)

    def proof(self) -> dict[str, str] | None:
        """The proof file as a table; None when there is none. `old` is the last one set aside."""
        file = self.run / "nuketown/rollback"
        return dict(line.split("=", 1) for line in file.read_text().splitlines()) if file.exists() else None

    def reason(self) -> str | None:
        """What the hook left for a failure."""
        file = self.run / "nuketown/rollback.failed"
        return file.read_text() if file.exists() else None


def make_initrd(at: Path, shell: str) -> Initrd:
    """An initrd's programs below `at`: coreutils for dash and bash; for busybox its applets and `btrfs` alone."""
    path, run = at / "bin", at / "run"
    path.mkdir(parents=True)
    run.mkdir()
    busybox = shutil.which("busybox")
    for name in PROGRAMS:
        found = busybox if shell == "busybox" and name != "btrfs" else shutil.which(name)
        assert found is not None, name
        (path / name).symlink_to(found)
    words = (busybox, "ash") if shell == "busybox" else (shutil.which(shell),)
    return Initrd(tuple(word for word in words if word), path, run)


def lay_out(top: int) -> None:
    """A fresh town: blank, read-only, and @agents as its snapshot."""
    with files.opened(btrfs.create(top, "@agents-blank")) as blank:
        os.fchmod(blank, 0o755)
        btrfs.set_read_only(blank, True)
        os.close(btrfs.snapshot(blank, top, "@agents", read_only=False))
    btrfs.commit(top)


@contextmanager
def subvolume(top: int, path: str) -> Iterator[int]:
    """A directory below the top level, open."""
    with files.opened(files.open_beneath(top, path)) as fd:
        yield fd


def info(top: int, path: str) -> btrfs.Subvolume:
    """What the filesystem says of a subvolume below the top level."""
    with subvolume(top, path) as fd:
        return btrfs.info(fd)


def exists(top: int, name: str) -> bool:
    """Whether anything has a name at the top level."""
    return name.encode() in files.names(top)


def put(top: int, path: str, data: bytes) -> None:
    """A file with content, its directory being there."""
    directory, _, name = path.rpartition("/")
    with subvolume(top, directory or ".") as fd:
        files.write_beneath(fd, name, data)


def is_blank(top: int) -> bool:
    """Whether @agents is what the hook promises: a child of blank, writable, never written to."""
    fresh, blank = info(top, "@agents"), info(top, "@agents-blank")
    with subvolume(top, "@agents") as fd:
        found = os.fstat(fd)
        return (
            files.names(fd) == []
            and (found.st_ino, found.st_uid, found.st_gid, found.st_mode & 0o7777) == (256, 0, 0, 0o755)
            and fresh.parent_uuid == blank.uuid
            and fresh.generation == fresh.origin_generation
            and not fresh.read_only
        )


def payloads(top: int) -> list[bytes]:
    """The content of every file on the filesystem, sorted: each byte that was there is in exactly one place."""
    found: list[bytes] = []
    waiting = [os.dup(top)]
    while waiting:
        with files.opened(waiting.pop()) as fd:
            for entry in list(files.scan(fd)):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(files.open_beneath(fd, entry.name))
                elif entry.is_symlink():
                    found.append(os.fsencode(os.readlink(entry.name, dir_fd=fd)))
                else:
                    with files.opened(files.open_beneath(fd, entry.name, os.O_RDONLY)) as file:
                        found.append(files.read_fd(file, 1 << 24, "file"))
    return sorted(found)


def old_homes(top: int) -> list[str]:
    """The names under @agents-old."""
    try:
        with subvolume(top, "@agents-old") as fd:
            return [os.fsdecode(name) for name in files.names(fd)]
    except FileNotFoundError:
        return []
