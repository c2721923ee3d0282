"""What the store said last of its format and its key, in `STATE/store/`: so that opening it again asks for nothing.

`config` and `key-<number>` are the objects as they are stored, encrypted; `url` says whose they are, and its time when
the store was asked. None of it is believed: the keys must fit the lock beside the spec, like those of the store.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from town import files
from town.failure import Failure
from town.spec import Spec

DIRECTORY = "store"
_LIMIT = 1 << 20
_KEY = re.compile(r"key-([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the store said: its object `config`, the number of its newest key file and the file. `age` in seconds."""

    config: bytes
    number: int
    key: bytes
    age: float = 0.0


def recall(spec: Spec) -> Remembered | None:
    """What this machine remembers of the store that the spec names; None when nothing whole, or of another store."""
    try:
        with _directory(spec, make=False) as directory:
            if _read(directory, "url") != (spec.town.store or "").encode():
                return None
            number = max(_numbers(directory))
            asked = os.stat("url", dir_fd=directory, follow_symlinks=False).st_mtime
            found = _read(directory, "config"), number, _read(directory, f"key-{number:016x}")
            return Remembered(*found, age=time.time() - asked)
    except (OSError, ValueError, Failure):
        return None


def remember(spec: Spec, found: Remembered) -> None:
    """Keep what the store said, root's only. Where that cannot be written, the store is asked again next time."""
    with suppress(OSError, Failure), _directory(spec, make=True) as directory:
        if _old(directory, "url") != (spec.town.store or "").encode():
            forget(directory)
        for name, data in (("config", found.config), (f"key-{found.number:016x}", found.key)):
            if _old(directory, name) != data:
                files.write_beneath(directory, name, data, mode=0o600)
        # Last: without it the rest counts for nothing.
        files.write_beneath(directory, "url", (spec.town.store or "").encode(), mode=0o600)
        for number in _numbers(directory):
            if number != found.number:
                os.unlink(f"key-{number:016x}", dir_fd=directory)


def forget(directory: int) -> None:
    """Remove what is remembered, `url` first."""
    for name in ("url", "config", *(f"key-{number:016x}" for number in _numbers(directory))):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


@contextmanager
def _directory(spec: Spec, *, make: bool) -> Iterator[int]:
    """STATE/store, when only its owner, who is the caller, can change it. Raises OSError, Failure."""
    where = spec.state_dir
    if not make and not os.path.lexists(where / DIRECTORY):
        raise FileNotFoundError(where / DIRECTORY)
    with files.opened(files.open_dir(where.parent)) as above:
        path = PurePosixPath(where.name, DIRECTORY)
        fd = files.make_dirs(above, path, mode=0o700, owner=(os.geteuid(), os.getegid()))
    with files.opened(fd):
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(where / DIRECTORY)
        yield fd


def _numbers(directory: int) -> list[int]:
    return [int(match[1], 16) for name in files.names(directory) if (match := _KEY.fullmatch(os.fsdecode(name)))]


def _read(directory: int, name: str) -> bytes:
    with files.opened(files.open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
        return files.read_fd(fd, _LIMIT, name)


def _old(directory: int, name: str) -> bytes | None:
    try:
        return _read(directory, name)
    except FileNotFoundError:
        return None
