"""Directories: a listing is one JSON line for each entry, sorted by name. What an entry says is what restore makes.

Owners are roles (`agent`, `root`, `other`), because numbers mean nothing on another machine; the agent's is left out.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from persist.bucket import content, records
from persist.bucket.blobs import Reader, Writer
from persist.bucket.content import Content
from persist.store import StoreDamaged
from town.terminal import shown

Kind = Literal["file", "dir", "symlink", "fifo"]
Xattrs = tuple[tuple[bytes, bytes], ...]
Role = Literal["agent", "root", "other"]
_UNSPLIT = 64 << 10  # bytes up to which a listing is one piece
_FAR = 10**9 << 63  # ns; seconds have 64 bits
_PIECE_MIN, _PIECE_MAX = 8 << 10, 64 << 10
_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str, "kind": str, "mode": int, "owner": str, "group": str, "mtime": int, "size": int, "content": list,
    "depth": int, "data": list, "target": str, "xattrs": dict, "link": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a listing. `mode` holds permission bits only; `mtime` is in ns; `size` in bytes."""

    name: bytes
    kind: Kind
    mode: int
    mtime: int
    owner: Role = "agent"
    group: Role = "agent"
    xattrs: Xattrs = ()
    size: int = 0  # of a file
    content: Content | None = None  # of a file or a directory
    data: tuple[tuple[int, int], ...] | None = None  # of a sparse file: (offset, length) of what its content holds
    target: bytes = b""  # of a symlink
    link: str = ""  # names of one file share this


def record(entry: Entry) -> dict[str, Any]:
    """An entry as its JSON object."""
    fields: dict[str, Any] = {"name": records.text(entry.name), "kind": entry.kind, "mtime": entry.mtime}
    if entry.kind == "symlink":
        fields["target"] = records.text(entry.target)
    else:
        fields["mode"] = entry.mode
    if entry.kind == "file":
        fields["size"] = entry.size
    if entry.content is not None:
        fields |= entry.content.record
    if entry.owner != "agent":
        fields["owner"] = entry.owner
    if entry.group != "agent":
        fields["group"] = entry.group
    if entry.xattrs:
        fields["xattrs"] = {records.text(name): records.text(value) for name, value in entry.xattrs}
    if entry.data is not None:
        fields["data"] = [list(extent) for extent in entry.data]
    if entry.link:
        fields["link"] = entry.link
    return fields


def parsed(fields: Any, what: str) -> Entry:
    """The entry that a JSON object says. Raises StoreDamaged; `what` names where it stands."""
    return records.checked(what, _entry, fields, _KEYS)


def _entry(fields: dict[str, Any]) -> Entry:
    kind = fields["kind"]
    owner, group = fields.get("owner", "agent"), fields.get("group", "agent")
    if kind not in get_args(Kind) or owner not in get_args(Role) or group not in get_args(Role):
        raise ValueError("an unknown kind, or an unknown owner")
    if not -_FAR <= fields["mtime"] < _FAR:
        raise ValueError("a time that no filesystem has")
    mode = 0o777 if kind == "symlink" else fields["mode"]
    if not 0 <= mode <= 0o7777:
        raise ValueError("a mode that cannot be")
    data = tuple((offset, length) for offset, length in fields["data"]) if "data" in fields else None
    size = fields["size"] if kind == "file" else 0
    _check_extents(data, size)
    return Entry(
        name=checked_name(records.raw(fields["name"])),
        kind=cast(Kind, kind),
        mode=mode,
        mtime=fields["mtime"],
        owner=cast(Role, owner),
        group=cast(Role, group),
        xattrs=_xattrs(fields.get("xattrs", {})),
        size=size,
        content=Content.parsed(fields) if kind in ("file", "dir") else None,
        data=data,
        target=_target(fields) if kind == "symlink" else b"",
        link=fields.get("link", "") if kind != "dir" else "",
    )


def checked_name(name: bytes) -> bytes:
    """A name that one directory can hold. Raises ValueError for an empty one, `.`, `..`, `/`, NUL or over 255 bytes."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > 255:
        raise ValueError(f"the name {shown(name)} that no directory can hold")
    return name


def kept_mode(mode: int, owner: Role, group: Role) -> int:
    """Permission bits without set-uid and set-gid, unless the file is the agent's own: those bits lend its rights."""
    return mode & ~(0 if owner == "agent" else 0o4000) & ~(0 if group == "agent" else 0o2000)


def _xattrs(fields: dict[str, str]) -> Xattrs:
    found = tuple(sorted((records.raw(name), records.raw(value)) for name, value in fields.items()))
    if not all(kept_xattr(name) for name, _ in found):
        raise ValueError("an extended attribute that this format does not keep")
    return found


def kept_xattr(name: bytes) -> bool:
    """Whether an extended attribute is kept: the user's own and ACLs. `security.` and `trusted.` are root's power."""
    return name.startswith(b"user.") or name in (b"system.posix_acl_access", b"system.posix_acl_default")


def _target(fields: dict[str, Any]) -> bytes:
    target = records.raw(fields["target"])
    if not target or b"\0" in target or len(target) > 4095:
        raise ValueError("a target that no symlink can have")
    return target


def _check_extents(data: tuple[tuple[int, int], ...] | None, size: int) -> None:
    if not 0 <= size < 1 << 63:
        raise ValueError("a size that no file has")
    end = 0
    for offset, length in data or ():
        if type(offset) is not int or type(length) is not int or offset < end or length <= 0 or offset + length > size:
            raise ValueError("extents that overlap or leave the file")
        end = offset + length


def write(writer: Writer, entries: Iterable[Entry]) -> Content:
    """Store a listing; split by content when it is long, so that one change sends one piece."""
    lines = [records.written(record(entry)) + b"\n" for entry in sorted(entries, key=lambda entry: entry.name)]
    return content.write(writer, "tree", _split(lines))


def read(reader: Reader, listing: Content) -> Iterator[Entry]:
    """The entries of a listing; names strictly ascending. Raises ObjectMissing, StoreDamaged."""
    before = b""
    for piece in content.read(reader, "tree", listing):
        for line in piece.splitlines():
            entry = parsed(records.read(line, "a line of a listing"), "an entry of a listing")
            if entry.name <= before:
                raise StoreDamaged(f"a listing names {shown(entry.name)} twice, or out of order")
            before = entry.name
            yield entry


def _split(lines: list[bytes]) -> Iterator[bytes]:
    if sum(map(len, lines)) <= _UNSPLIT:
        if lines:
            yield b"".join(lines)
        return
    piece, size = [], 0
    for line in lines:
        piece.append(line)
        size += len(line)
        # Some 64 lines a piece; the boundary hangs on the line alone, so an edit moves only the boundary beside it.
        if (size >= _PIECE_MIN and zlib.crc32(line) & 63 == 0) or size >= _PIECE_MAX:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)
