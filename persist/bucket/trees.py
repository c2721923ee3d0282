"""Directories: a listing is one JSON line for each entry, sorted by name. What an entry says is what restore makes.

Owners are roles (`agent`, `root`, `other`), because numbers mean nothing on another machine; the agent's is left out.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Literal, get_args

from persist.bucket import content as contents
from persist.bucket import records
from persist.bucket.blobs import Reader, Writer
from persist.bucket.content import Content
from persist.store import StoreDamaged
from town.terminal import shown

Kind = Literal["file", "dir", "symlink", "fifo"]
Xattrs = tuple[tuple[bytes, bytes], ...]
Role = Literal["agent", "root", "other"]
_KINDS, _ROLES = frozenset(get_args(Kind)), frozenset(get_args(Role))
LARGEST_XATTRS = 64 << 10  # bytes of names and values of one entry: its line has up to six for each
MOST_EXTENTS = 2000  # of a sparse file
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
    kind: Kind = fields["kind"]
    owner: Role = fields.get("owner", "agent")
    group: Role = fields.get("group", "agent")
    if kind not in _KINDS or owner not in _ROLES or group not in _ROLES:
        raise ValueError("an unknown kind, or an unknown owner")
    if not -_FAR <= fields["mtime"] < _FAR:
        raise ValueError("a time that no filesystem has")
    mode = 0o777 if kind == "symlink" else fields["mode"]
    if not 0 <= mode <= 0o7777:
        raise ValueError("a mode that cannot be")
    size = fields["size"] if kind == "file" else 0
    if not 0 <= size < 1 << 63:
        raise ValueError("a size that no file has")
    data = _extents(fields["data"], size) if "data" in fields else None
    return Entry(
        name=checked_name(records.raw(fields["name"])),
        kind=kind,
        mode=mode,
        mtime=fields["mtime"],
        owner=owner,
        group=group,
        xattrs=_xattrs(fields["xattrs"]) if "xattrs" in fields else (),
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
    if sum(len(name) + len(value) for name, value in found) > LARGEST_XATTRS:
        raise ValueError(f"more than {LARGEST_XATTRS:,} bytes of extended attributes")
    return found


def kept_xattr(name: bytes) -> bool:
    """Whether an extended attribute is kept: the user's own and ACLs. `security.` and `trusted.` are root's power."""
    return name.startswith(b"user.") or name in (b"system.posix_acl_access", b"system.posix_acl_default")


def _target(fields: dict[str, Any]) -> bytes:
    target = records.raw(fields["target"])
    if not target or b"\0" in target or len(target) > 4095:
        raise ValueError("a target that no symlink can have")
    return target


def _extents(listed: list[Any], size: int) -> tuple[tuple[int, int], ...]:
    if len(listed) > MOST_EXTENTS:
        raise ValueError(f"more than {MOST_EXTENTS:,} extents")
    end = 0
    for offset, length in listed:
        if type(offset) is not int or type(length) is not int or offset < end or length <= 0 or offset + length > size:
            raise ValueError("extents that overlap or leave the file")
        end = offset + length
    return tuple((offset, length) for offset, length in listed)


def line(  # noqa: PLR0913 - one for each key of the format
    name: bytes,
    kind: Kind,
    mode: int,
    mtime: int,
    owner: Role = "agent",
    group: Role = "agent",
    *,
    xattrs: Xattrs = (),
    size: int = 0,
    content: Content | None = None,
    data: tuple[tuple[int, int], ...] | None = None,
    target: bytes = b"",
    link: str = "",
) -> bytes:
    """`records.written(record(Entry(…)))`, the same bytes without the objects in between: a sync makes many of them."""
    # The keys in the order in which the format sorts them.
    said = f'{{{_content(content, data)}"kind":"{kind}",' if group == "agent" else (
        f'{{{_content(content, data)}"group":"{group}","kind":"{kind}",'
    )  # fmt: skip
    if link:
        said += f'"link":{_quoted(link)},'
    if kind != "symlink":
        said += f'"mode":{mode},'
    said += f'"mtime":{mtime},"name":{_quoted(name.decode("latin-1"))}'
    if owner != "agent":
        said += f',"owner":"{owner}"'
    if kind == "file":
        said += f',"size":{size}'
    elif kind == "symlink":
        said += f',"target":{_quoted(target.decode("latin-1"))}'
    return (said + (f',"xattrs":{_attributes(xattrs)}}}' if xattrs else "}")).encode("ascii")


def _content(content: Content | None, data: tuple[tuple[int, int], ...] | None) -> str:
    said = ""
    if content is not None:
        ids = '","'.join([id_.hex() for id_ in content.ids])
        said = f'"content":["{ids}"],' if ids else '"content":[],'
    if data is not None:
        said += f'"data":[{",".join([f"[{offset},{length}]" for offset, length in data])}],'
    if content is not None and content.depth:
        said += f'"depth":{content.depth},'
    return said


def _attributes(xattrs: Xattrs) -> str:
    return records.written({records.text(name): records.text(value) for name, value in xattrs}).decode("ascii")


def line_of(entry: Entry) -> bytes:
    """The line of an entry."""
    return line(
        entry.name, entry.kind, entry.mode, entry.mtime, owner=entry.owner, group=entry.group, xattrs=entry.xattrs,
        size=entry.size, content=entry.content, data=entry.data, target=entry.target, link=entry.link,
    )  # fmt: skip


def write(writer: Writer, entries: Iterable[Entry]) -> Content:
    """Store a listing, in whatever order the entries are."""
    return write_lines(writer, map(line_of, sorted(entries, key=lambda entry: entry.name)))


def write_lines(writer: Writer, lines: Iterable[bytes]) -> Content:
    """Store a listing of lines (without their newlines) that are sorted by name.

    Split by content when it is long, so that one change sends one piece; held in memory one piece at a time.
    """
    return contents.write(writer, "tree", _split(iter(lines)))


def read(reader: Reader, listing: Content) -> Iterator[Entry]:
    """The entries of a listing; names strictly ascending. Raises ObjectMissing, StoreDamaged."""
    before = b""
    for piece in contents.read(reader, "tree", listing):
        for fields in records.lines(piece, "a line of a listing"):
            entry = parsed(fields, "an entry of a listing")
            if entry.name <= before:
                raise StoreDamaged(f"a listing names {shown(entry.name)} twice, or out of order")
            before = entry.name
            yield entry


def _split(lines: Iterator[bytes]) -> Iterator[bytes]:
    first: list[bytes] = []
    size = 0
    for line in lines:
        first.append(line)
        size += len(line) + 1
        if size > _UNSPLIT:
            yield from _pieces(chain(first, lines))
            return
    if first:
        yield _joined(first)


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    piece: list[bytes] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line) + 1
        # Some 64 lines a piece; the boundary hangs on the line alone, so an edit moves only the boundary beside it.
        if (size >= _PIECE_MIN and not zlib.crc32(line) & 63) or size >= _PIECE_MAX:
            yield _joined(piece)
            piece, size = [], 0
    if piece:
        yield _joined(piece)


def _joined(lines: list[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"
