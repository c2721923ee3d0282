"""Files and directories, by descriptor: root never follows a name that an agent can change.

Names below a directory are opened with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, one descriptor per directory, so a
component that is swapped for a symlink at any moment is an error (Unsafe), never a way out.
"""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from town import kernel
from town.failure import Failure, Unsafe
from town.terminal import shown

BENEATH = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
_BATCH, _AT_ONCE = 1000, 32  # names read at a time, and directories held of each level, where memory is bounded
_GET_VERSION = 0x80087601  # FS_IOC_GETVERSION, include/uapi/linux/fs.h
_ATTEMPTS = 1000  # under a lasting race; each takes microseconds
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unreadable(Failure):
    """A file that is needed is missing, is no regular file, is too large, or may not be read."""


class Unwritable(Failure):
    """A file could not be written whole; what stood there before is unchanged."""


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """`with opened(os.open(…)) as fd:` closes it at the end, whatever happens."""
    try:
        yield fd
    finally:
        os.close(fd)


def read_bounded(path: str | os.PathLike[str], limit: int) -> bytes:
    """A regular file of at most `limit` bytes, whole. Never blocks on a FIFO or a device. Raises Unreadable."""
    name = shown(os.fspath(path))
    try:
        with opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)) as fd:
            return read_fd(fd, limit, name)
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte in the name
        raise Unreadable(f"{name} cannot be read: {error}") from error


def read_fd(fd: int, limit: int, name: str) -> bytes:
    """What a regular file that is open holds, at most `limit` bytes. Raises Unreadable; `name` is for the message."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"{name} is not a regular file")
    pieces, left = [], limit + 1
    while left > 0 and (piece := os.read(fd, min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    if left <= 0:
        raise Unreadable(f"{name} is larger than the {limit:,} bytes that such a file may have")
    return b"".join(pieces)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """os.write until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_whole(
    path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None
) -> None:
    """Write a file so that it holds all of `data`, durably, or is as it was. For directories that only root can change.

    Where an agent owns the directory, use `write_beneath` on a descriptor. Raises Unwritable.
    """
    target = Path(path)
    try:
        with opened(os.open(target.parent, DIRECTORY & ~os.O_NOFOLLOW)) as directory:
            write_beneath(directory, target.name, data, mode=mode, owner=owner)
    except OSError as error:
        raise Unwritable(f"{shown(str(target))} cannot be written: {error.strerror}") from error


def write_beneath(
    directory: int, name: str, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None
) -> None:
    """Write `name` in an open directory: beside, fsync, rename over, fsync the directory. Raises OSError.

    A symlink that stands at `name` is replaced, not followed. A directory there is an error.
    """
    assert "/" not in name
    beside = f".{name[:48]}.{os.urandom(6).hex()}.new"
    # 0600 and the right owner before the first byte: no reader gets in between.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with opened(os.open(beside, flags, 0o600, dir_fd=directory)) as fd:
            write_all(fd, data)
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException as error:
        with suppress(OSError):  # what went wrong before is what the caller wants to hear of
            os.unlink(beside, dir_fd=directory)
        if isinstance(error, OSError):
            error.filename = _named(directory, name)  # nobody knows the name beside it
        raise
    os.fsync(directory)


def _named(directory: int, name: str) -> str:
    """The path of `name` in an open directory, as the kernel knows it now: for a message, never to open it."""
    with suppress(OSError):
        return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), name)
    return name


def open_dir(path: str | os.PathLike[str]) -> int:
    """A directory by a path that only root can change; the last component is no symlink. Raises Unreadable."""
    try:
        return os.open(path, DIRECTORY)
    except OSError as error:
        raise Unreadable(f"{shown(os.fspath(path))} cannot be opened as a directory: {error.strerror}") from error


def open_beneath(directory: int, path: str | bytes | PurePosixPath, flags: int = DIRECTORY, mode: int = 0) -> int:
    """Open a path below an open directory. No symlink in it is followed, nothing above it is reached.

    Raises Unsafe when a component is a symlink or leads out, OSError for everything else.
    """
    name = path if isinstance(path, (str, bytes)) else str(path)
    attempts = 0
    while True:
        try:
            # O_NOFOLLOW would turn a symlink at the end into ENOTDIR; BENEATH refuses it by its own name, ELOOP.
            return kernel.openat2(directory, name, flags & ~os.O_NOFOLLOW, mode, BENEATH)
        except InterruptedError:
            continue
        except OSError as error:
            # A rename raced with the walk: openat2(2) says to try again. A lease that its holder keeps says the same.
            if error.errno == errno.EAGAIN and attempts < _ATTEMPTS:
                attempts += 1
                continue
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise Unsafe(
                    f"{shown(name)} goes through a symlink or leaves its directory",
                    hint="somebody put a link where a directory belongs: look at it with ls -l, then remove it",
                ) from error
            raise


def enter(directory: int, name: str | bytes, flags: int = DIRECTORY) -> int:
    """Open one name in an open directory: no symlink is followed and no mount is entered.

    What a user mounts over a name (FUSE does that without root) is thereby never asked anything. Raises Unsafe on a
    symlink, OSError for everything else: EXDEV where something is mounted.
    """
    assert b"/" not in os.fsencode(name)
    while True:
        try:
            return kernel.openat2(directory, name, flags & ~os.O_NOFOLLOW, 0, BENEATH | kernel.RESOLVE_NO_XDEV)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Unsafe(
                    f"{shown(name)} is a symbolic link where a directory belongs",
                    hint="look at it with ls -l, then remove it",
                ) from error
            raise


def look(directory: int, name: str | bytes) -> os.stat_result:
    """What has that name in an open directory, a symlink itself. What is mounted there is asked nothing.

    Raises OSError: EXDEV where something is mounted.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    with opened(kernel.openat2(directory, name, flags, 0, BENEATH | kernel.RESOLVE_NO_XDEV)) as fd:
        return os.fstat(fd)


def make_dirs(
    directory: int,
    path: PurePosixPath,
    *,
    mode: int,
    owner: tuple[int, int],
    parents: tuple[int, tuple[int, int]] | None = None,
) -> int:
    """Open `path` below `directory`, making every component that is missing. Returns the descriptor of the last.

    A component that is made gets `mode` and `owner` (uid, gid); those above the last get `parents` (mode, owner) where
    given. What exists is left as it is. Raises Unsafe on a symlink, NotADirectoryError on a file in the way.
    """
    fd = os.dup(directory)
    try:
        for position, part in enumerate(path.parts):
            last = position == len(path.parts) - 1
            wanted = (mode, owner) if last or parents is None else parents
            below = _make_dir(fd, part, *wanted)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_dir(directory: int, name: str, mode: int, owner: tuple[int, int]) -> int:
    try:
        return open_beneath(directory, name)
    except FileNotFoundError:
        pass
    # Made under a hidden name, given away, then shown: nobody sees it with the wrong owner, and a crash leaves only
    # an empty directory that the next run does not mind.
    beside = f".{name[:48]}.{os.urandom(6).hex()}.new"
    os.mkdir(beside, 0o700, dir_fd=directory)
    fd = open_beneath(directory, beside)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise Unsafe(f"{shown(name)} was swapped while it was being made", hint="stop the agent's processes first")
        os.fchown(fd, *owner)
        os.fchmod(fd, mode)
        kernel.renameat2(directory, beside, directory, name)
    except BaseException as error:
        os.close(fd)
        os.rmdir(beside, dir_fd=directory)
        if isinstance(error, FileExistsError):  # somebody else made it meanwhile
            return open_beneath(directory, name)
        raise
    return fd


Other = Callable[[int, bytes], None]


def remove_tree(directory: int, name: str | bytes, *, other: Other | None = None) -> None:
    """Remove `name` below an open directory, whatever it is, however deep: by descriptors, never by a long path.

    Does not enter other mounts or btrfs subvolumes (EXDEV or EBUSY are raised). With `other` it is called with the
    directory and the name of each subvolume instead, and must remove it; then also no more than some names of a
    directory are held at a time, however full it is. Raises OSError.
    """
    name = os.fsencode(name)
    try:
        os.unlink(name, dir_fd=directory)
        return
    except IsADirectoryError:
        pass
    _Removal(other).empty(directory, name)
    os.rmdir(name, dir_fd=directory)


class _Removal:
    def __init__(self, other: Other | None) -> None:
        self._other = other
        # Without a bound one look at a directory is enough, so that nobody who goes on filling it holds us up.
        self._batch = None if other is None else _BATCH

    def empty(self, directory: int, name: bytes) -> None:
        # One descriptor, however deep: `..` of a directory that we hold leads back even when somebody moved it, so
        # the way back is checked against (device, inode).
        fd = _enter(directory, name, os.fstat(directory).st_dev)
        device = os.fstat(fd).st_dev
        trail: list[tuple[bytes, tuple[int, int], list[bytes]]] = []
        try:
            left = self._unlink_files(fd)
            while left or trail:
                if left:
                    below = left.pop()
                    if (deeper := self._entered(fd, below, device)) is not None:
                        here = os.fstat(fd)
                        trail.append((below, (here.st_dev, here.st_ino), left))
                        os.close(fd)
                        fd = deeper
                        left = self._unlink_files(fd)
                        continue
                else:
                    done, parent, left = trail.pop()
                    above = _above(fd, parent)
                    os.close(fd)
                    fd = above
                    os.rmdir(done, dir_fd=fd)
                if not left and self._batch is not None:
                    left = self._unlink_files(fd)
        finally:
            os.close(fd)

    def _entered(self, fd: int, name: bytes, device: int) -> int | None:
        """The directory, open; None when it was another's and is gone."""
        try:
            return _enter(fd, name, device)
        except OSError as error:
            if self._other is None or error.errno != errno.EXDEV:
                raise
        self._other(fd, name)
        return None

    def _unlink_files(self, fd: int) -> list[bytes]:
        """Unlink what is no directory; names of directories that are left, all of them or some: none, when none is."""
        while found := [
            (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in islice(scan(fd), self._batch)
        ]:
            for name, is_directory in found:
                if not is_directory:
                    os.unlink(name, dir_fd=fd)
            directories = [name for name, is_directory in found if is_directory]
            if directories or self._batch is None:
                return directories if self._batch is None else directories[:_AT_ONCE]
        return []


def _above(fd: int, expected: tuple[int, int]) -> int:
    """The parent of an open directory, which must be the one of that device and inode."""
    above = os.open("..", DIRECTORY, dir_fd=fd)
    found = os.fstat(above)
    if (found.st_dev, found.st_ino) != expected:
        os.close(above)
        raise Unsafe("a directory was moved while it was being removed", hint="stop the agent's processes first")
    return above


def _enter(directory: int, name: bytes, device: int) -> int:
    fd = kernel.openat2(directory, name, DIRECTORY, 0, BENEATH | kernel.RESOLVE_NO_XDEV)
    if os.fstat(fd).st_dev != device:  # a btrfs subvolume is no mount, but another device number
        os.close(fd)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(name))
    return fd


def generation(fd: int) -> int:
    """When an inode was made, as far as the filesystem says: its number may be given again. 0 where it does not say."""
    number = bytearray(8)
    try:
        fcntl.ioctl(fd, _GET_VERSION, number)
    except OSError:  # a filesystem without it
        return 0
    return int.from_bytes(number, sys.byteorder)


def scan(fd: int) -> Iterator[os.DirEntry[str]]:
    """What an open directory holds now: os.scandir that sees entries made after the descriptor was opened.

    btrfs notes the last index of a directory when it is opened (Linux 6.5 and later) and shows nothing newer until a
    rewind: a plain os.listdir(fd) misses files that were made meanwhile.
    """
    os.lseek(fd, 0, os.SEEK_SET)
    with os.scandir(fd) as entries:
        yield from entries


def names(fd: int) -> list[bytes]:
    """The names in an open directory, sorted bytes."""
    return sorted(os.fsencode(entry.name) for entry in scan(fd))
