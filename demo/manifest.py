"""A whole tree as comparable facts: what "byte for byte" means in the story and in the tests."""

import hashlib
import os
import stat
from pathlib import Path


def of(top: Path) -> dict[str, tuple[object, ...]]:
    """{relative path: (kind, mode, uid, gid, mtime in ns, content or target, xattrs, names of the same inode)}."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[tuple[int, int], list[str]] = {}
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files, "."]:
            path = os.path.normpath(os.path.join(folder, name))
            key = os.path.relpath(path, top)
            info = os.lstat(path)
            if not stat.S_ISDIR(info.st_mode):
                inodes.setdefault((info.st_dev, info.st_ino), []).append(key)
            found[key] = (
                stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns,
                _content(path, info), _xattrs(path),
            )  # fmt: skip
    for names in inodes.values():
        for key in names:
            found[key] = (*found[key], tuple(sorted(names)))
    return found


def _content(path: str, info: os.stat_result) -> str:
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(path)
    if stat.S_ISREG(info.st_mode):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return ""


def _xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    names = os.listxattr(path, follow_symlinks=False)
    return tuple(sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in names))
