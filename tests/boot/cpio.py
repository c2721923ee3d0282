"""Files that are laid over an initrd: the kernel unpacks what is appended to it, later files over earlier ones."""

from collections.abc import Mapping
from pathlib import Path


def appended(initrd: Path, files: Mapping[str, tuple[int, bytes]], target: Path) -> Path:
    """A copy of `initrd` at `target`, with files (path: mode and content) laid over it."""
    data = initrd.read_bytes()
    padding = b"\0" * (-len(data) % 512)
    target.write_bytes(data + padding + archive(files))
    return target


def archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """The files, and the directories that they lie in, as an archive in the new portable format (newc)."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries = [(name, 0o40755, b"") for name in sorted(folders, key=len)]
    entries += [(name, 0o100000 | mode, data) for name, (mode, data) in files.items()]
    packed = [_entry(number, *entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*packed, _entry(0, "TRAILER!!!", 0, b"")])


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """cpio(5), "New ASCII Format": thirteen fields of eight hexadecimal digits, then name and data, padded to four."""
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
