"""A store in a directory (`file://`): an object is a file, 0600, below directories, 0700.

An object is written beside its place, fsync'd, then linked to its name: it appears whole, and link(2) fails when the
name is taken, so two processes cannot overwrite each other. Every name is opened beneath the store's own descriptor
and no symlink is followed.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from threading import Lock

from persist.store import (
    INIT,
    Found,
    ObjectExists,
    ObjectMissing,
    StoreDamaged,
    StoreDenied,
    StoreFull,
    StoreMissing,
    StoreUnreachable,
    checked_key,
)
from town import files
from town.failure import Failure, Unsafe
from town.files import opened
from town.terminal import shell_word, shown

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_BESIDE = ".new-"  # no key starts with a dot, so a half-written file is never an object
_LEFTOVER = 24 * 3600.0  # seconds after which a half-written file belongs to nobody any more
_LOCK = ".lock"
_DEEPEST = 8  # components of a key
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_AWAY = {errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE}


class DirectoryStore:
    """The store below `path`, which must be a directory that only its owner, this user, can change."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """Open the store. `fresh`: it may be a directory that nothing lies in yet, whatever its mode."""
        self._path = shown(str(path))
        if not fresh:
            _refuse_mount_point(path)
        _only_ours(path)
        with _named(self._path):
            try:
                self._fd = os.open(path, files.DIRECTORY & ~os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise StoreMissing(
                    f"the store {self._path} is not there",
                    hint=f"mount what holds it; where there never was one, {INIT}",
                ) from error
        self._swept: set[str] = set()
        self._lock = Lock()
        self.requests = 0  # calls: each is one

    @classmethod
    def make(cls, path: Path) -> "DirectoryStore":
        """The store below `path`, made (0700) when it is missing; what is above it must be there.

        A directory that is missing above it is a misspelt one, or a disk that is not mounted. Raises StoreMissing.
        """
        with _named(shown(str(path))):
            if not path.parent.is_dir():
                raise StoreMissing(
                    f"{shown(str(path.parent))}, where the store {shown(str(path))} would lie, is not there",
                    hint=f"correct town.store, mount the disk, or make it: mkdir -p {shell_word(str(path.parent))}",
                )
            with suppress(FileExistsError):
                path.mkdir(0o700)
                with opened(os.open(path.parent, files.DIRECTORY & ~os.O_NOFOLLOW)) as parent:
                    os.fsync(parent)
        return cls(path, fresh=True)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        with self._object(key) as fd:
            end = os.fstat(fd).st_size
            left = max(0, end - offset if length is None else min(length, end - offset))
            pieces = []
            while left and (piece := os.pread(fd, left, offset)):
                pieces.append(piece)
                offset, left = offset + len(piece), left - len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        if not self.put_if_absent(key, data):
            raise ObjectExists(f"{shown(key)} is in the store {self._path} already")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store.put_if_absent`."""
        self._sent()
        with self._parent(key) as (directory, name), _beside(directory, data) as made:
            try:
                os.link(made, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            except FileExistsError:
                return False
            os.fsync(directory)
            return True

    def replace_if_unchanged(self, key: str, old: bytes, new: bytes) -> bool:
        """See `Store.replace_if_unchanged`."""
        self._sent()
        with self._parent(key) as (directory, name), self._alone():
            try:
                if self.get(key) != old:
                    return False
            except ObjectMissing:
                return False
            with _beside(directory, new) as made:
                os.rename(made, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            return True

    def list(self, prefix: str) -> Iterator[Found]:
        """See `Store.list`."""
        self._sent()
        with _named(self._path):
            yield from sorted(self._below("", prefix), key=lambda found: found.key)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._sent()
        above = PurePosixPath(checked_key(key)).parent
        with (
            _named(self._path, key),
            suppress(FileNotFoundError),
            opened(files.open_beneath(self._fd, above)) as directory,
        ):
            os.unlink(PurePosixPath(key).name, dir_fd=directory)
            os.fsync(directory)

    def size(self, key: str) -> int:
        """See `Store.size`."""
        with self._object(key) as fd:
            return os.fstat(fd).st_size

    def now(self) -> float:
        """See `Store.now`: the clock that the files' times come from."""
        return time.time()

    def _sent(self) -> None:
        with self._lock:
            self.requests += 1

    @contextmanager
    def _object(self, key: str) -> Iterator[int]:
        self._sent()
        with _named(self._path, shown(key)):
            try:
                fd = files.open_beneath(self._fd, checked_key(key), _READ)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ObjectMissing(f"{key} is not in the store {self._path}") from error
            with opened(fd):
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise StoreDamaged(f"{key} in the store {self._path} is not a regular file")
                yield fd

    @contextmanager
    def _parent(self, key: str) -> Iterator[tuple[int, str]]:
        path = PurePosixPath(checked_key(key))
        with _named(self._path, key), opened(self._made(path.parent)) as directory:
            if str(path.parent) not in self._swept:
                self._swept.add(str(path.parent))
                _sweep(directory, time.time() - _LEFTOVER)
            yield directory, path.name

    def _made(self, path: PurePosixPath) -> int:
        fd = os.dup(self._fd)
        for part in path.parts:
            with opened(fd) as above:
                try:
                    fd = files.open_beneath(above, part)
                except FileNotFoundError:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=above)
                    os.fsync(above)
                    fd = files.open_beneath(above, part)
        return fd

    def _below(self, path: str, prefix: str) -> Iterator[Found]:
        with opened(files.open_beneath(self._fd, path or ".")) as fd:
            for entry in files.scan(fd):
                key = f"{path}/{entry.name}" if path else entry.name
                if entry.name.startswith(".") or not (key.startswith(prefix) or prefix.startswith(key + "/")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if key.count("/") < _DEEPEST:
                        yield from self._below(key, prefix)
                elif key.startswith(prefix):
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        found = entry.stat(follow_symlinks=False)
                        yield Found(key, found.st_size, found.st_mtime)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with opened(files.open_beneath(self._fd, _LOCK, os.O_RDWR | os.O_CREAT, 0o600)) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield


@contextmanager
def _beside(directory: int, data: bytes) -> Iterator[str]:
    """A file with `data`, durable, under a name that is no key; the name is gone afterwards."""
    name = _BESIDE + secrets.token_hex(12)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with opened(os.open(name, flags, 0o600, dir_fd=directory)) as fd:
            files.write_all(fd, data)
            os.fsync(fd)
        yield name
    finally:
        with suppress(OSError):  # renamed away, or what went wrong before matters more
            os.unlink(name, dir_fd=directory)


def _sweep(directory: int, before: float) -> None:
    """Remove what killed writers left half-written in one directory."""
    for entry in files.scan(directory):
        with suppress(FileNotFoundError):
            if entry.name.startswith(_BESIDE) and entry.stat(follow_symlinks=False).st_mtime < before:
                os.unlink(entry.name, dir_fd=directory)


def _refuse_mount_point(path: Path) -> None:
    """An empty directory that others may look into was not made by nuketown: something gets mounted there.

    To close it to others, as `_only_ours` asks, would make a store of what only stands in for one.
    """
    with suppress(OSError):
        if path.stat().st_mode & 0o077 and not any(path.iterdir()):
            raise StoreMissing(
                f"{shown(str(path))} is empty, so it is not the store", hint="mount what holds it, then try again"
            )


def _only_ours(path: Path) -> None:
    """Refuse a store that somebody else could replace: every directory above is root's or ours, and not writable."""
    place = path.resolve()
    for at in (place, *place.parents):
        try:
            found = at.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreDenied(f"{shown(str(at))} cannot be read: {error.strerror}") from error
        sticky = at != place and found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o022 and not sticky):
            raise Unsafe(
                f"others can change {shown(str(at))}, so the store {shown(str(path))} is not safe there",
                hint="put the store where only root can write, for example /var/lib/nuketown/store",
            )
        if at == place and stat.S_ISDIR(found.st_mode) and found.st_mode & 0o077:
            cure = f"chmod 0700 {shell_word(str(path))}"
            raise Unsafe(f"others can look into the store {shown(str(path))}", hint=cure)


@contextmanager
def _named(path: str, key: str = "") -> Iterator[None]:
    """What fails about an object of the store at `path`, or about all of it, is named; both can be shown."""
    try:
        yield
    except Failure:
        raise
    except OSError as error:
        kind, what = _kind(error), f"{path}: {key}" if key else path
        hint = f"make room in {path}; then the same command goes on" if kind is StoreFull else ""
        raise kind(f"{what}: {error.strerror}", hint=hint) from error


def _kind(error: OSError) -> type[Failure]:
    if error.errno in _FULL:
        return StoreFull
    if error.errno in _DENIED:
        return StoreDenied
    return StoreUnreachable if error.errno in _AWAY else StoreDamaged
