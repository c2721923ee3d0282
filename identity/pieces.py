"""The pieces of an identity in a home: what each should be, and what becomes of it. Runs as the agent there."""

import hashlib
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Literal

from town import files
from town.failure import Unsafe

What = Literal["made", "rewritten", "kept", "left", "removed", "stays", "absent", "failed"]
_FILE_LIMIT = 1 << 20  # bytes that are read of a file in the home, to tell what it held
_ROOTS_OWN = ("/run/secrets/", "/run/secrets.d/", "/nix/store/")  # where links of sops-nix and home-manager lead


@dataclass(frozen=True, slots=True, repr=False)
class HomeFile:
    """One file of ours: its place below the home, what it holds. A `seed` is written only where there is none."""

    path: PurePosixPath
    data: bytes
    mode: int = 0o644
    seed: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """A signing subkey for the agent's GnuPG home; `expires` is the subkey's, None: never."""

    armored: bytes
    primary: str
    signing: str
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Order:
    """What a home shall have, and what it shall have no longer.

    `gone`: SHA-256 of what was installed, by path below the home. `dropped`: signing subkeys that were imported.
    `left`: what somebody else brings, and all that lies below it. `keyring` None: none is imported, none removed.
    `published`: public keys that tell gpg what was revoked.
    """

    files: tuple[HomeFile, ...] = ()
    keyring: Keyring | None = None
    published: bytes = b""
    gone: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    left: tuple[PurePosixPath, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What became of one piece: a path below the home.

    `left`: somebody else brings it; `why` is empty when it is not there. `rewritten`: `why` names a link of sops-nix or
    home-manager that stood there. `stays`: of no use any more, and changed since
    it was installed. `held` is the SHA-256 of a file that was written over, empty when what stood there was no plain
    file of the mode that it should have. `keys`: SHA-256 of the files of private keys in a keyring, by path.
    """

    path: str
    what: What
    why: str = ""
    hint: str = ""
    held: str = ""
    keys: tuple[tuple[str, str], ...] = ()


def below(path: PurePosixPath, others: tuple[PurePosixPath, ...]) -> bool:
    """Whether a path is one of the others, or lies below one."""
    return any(path.is_relative_to(other) for other in others)


def left(home: int, path: PurePosixPath) -> Piece:
    """A piece that the spec leaves to somebody else, by the descriptor of the home. Changes nothing."""
    try:
        with files.opened(files.open_beneath(home, path.parent)) as parent:
            os.stat(path.name, dir_fd=parent, follow_symlinks=False)
        return Piece(str(path), "left", "the spec says so")
    except (OSError, Unsafe):
        return Piece(str(path), "left")


def put(home: int, piece: HomeFile, dry: bool = False) -> Piece:
    """Make a file hold what it should, by the descriptor of the home. Raises Unsafe, OSError."""
    found = _found(home, piece)
    if piece.mode & 0o077 == 0 and not dry:
        _tidy(home, piece.path)
    if found.what in ("kept", "left") or dry:
        return found
    owner = (os.getuid(), os.getgid())
    with files.opened(files.make_dirs(home, piece.path.parent, mode=0o700, owner=owner)) as parent:
        files.write_beneath(parent, piece.path.name, piece.data, mode=piece.mode)
    return found


def _tidy(home: int, path: PurePosixPath) -> None:
    """Take away what a run that was killed had begun to write of a private file, as files.write_beneath names it."""
    begun = re.compile(rf"\.{re.escape(path.name[:48])}\.[0-9a-f]{{12}}\.new".encode())
    with suppress(OSError, Unsafe), files.opened(files.open_beneath(home, path.parent)) as parent:
        for name in filter(begun.fullmatch, files.names(parent)):
            os.unlink(name, dir_fd=parent)


def remove(home: int, path: PurePosixPath, installed: str, dry: bool = False) -> Piece:
    """Remove a file that is of no use any more, where it still is what was installed. Raises Unsafe, OSError."""
    try:
        with files.opened(files.open_beneath(home, path.parent)) as parent:
            if digest(parent, path.name) != installed:
                return Piece(str(path), "stays")
            if not dry:
                os.unlink(path.name, dir_fd=parent)
            return Piece(str(path), "removed")
    except (FileNotFoundError, NotADirectoryError):
        return Piece(str(path), "absent")


def digest(parent: int, name: str) -> str:
    """SHA-256 of a plain file; empty for anything else that stands there."""
    try:
        with files.opened(files.open_beneath(parent, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            return hashlib.sha256(files.read_fd(fd, _FILE_LIMIT, name)).hexdigest()
    except (Unsafe, files.Unreadable, PermissionError):
        return ""


def _found(home: int, piece: HomeFile) -> Piece:
    """What putting it would mean: made, rewritten, kept or left."""
    name = str(piece.path)
    try:
        with files.opened(files.open_beneath(home, piece.path, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise IsADirectoryError(0, "a directory stands where a file belongs")
            return Piece(name, "kept") if piece.seed else _compared(fd, piece)
    except FileNotFoundError:
        return Piece(name, "made")
    except Unsafe:
        return Piece(name, "kept") if piece.seed else _linked(home, piece)
    except (files.Unreadable, PermissionError):
        return Piece(name, "rewritten")  # something that is no file, or too long: a file takes its place


def _linked(home: int, piece: HomeFile) -> Piece:
    """A symlink: left where it brings exactly what belongs there, from where only root writes.

    Whoever plants one chooses nothing by it, so nobody has to say who made it: the agent itself owns those of
    home-manager.
    """
    with files.opened(files.open_beneath(home, piece.path.parent)) as parent:
        target = os.readlink(piece.path.name, dir_fd=parent)
    if _brings(target, piece.data):
        return Piece(str(piece.path), "left", f"a link to {target}")
    return Piece(str(piece.path), "rewritten", f"a link to {target}" if _ours(target) else "")


def _ours(target: str) -> bool:
    return target.startswith(_ROOTS_OWN) and ".." not in PurePosixPath(target).parts


def _brings(target: str, data: bytes) -> bool:
    if not _ours(target):
        return False
    try:
        real = os.path.realpath(target, strict=True)
        return _ours(real) and files.read_bounded(real, max(_FILE_LIMIT, len(data))) == data
    except (OSError, files.Unreadable):
        return False


def _compared(fd: int, piece: HomeFile) -> Piece:
    name, held = str(piece.path), files.read_fd(fd, max(_FILE_LIMIT, len(piece.data)), str(piece.path))
    if stat.S_IMODE(os.fstat(fd).st_mode) != piece.mode:
        return Piece(name, "rewritten")
    if held == piece.data:
        return Piece(name, "kept")
    return Piece(name, "rewritten", held=hashlib.sha256(held).hexdigest())
