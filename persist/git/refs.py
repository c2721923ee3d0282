"""Branches, what of them a remote has, a stash: from loose and packed refs, and from the log of what remotes had."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress

from persist.git import Clock, Unknown
from persist.git.place import Place, read
from persist.walk import Entry, walk
from town import files, kernel
from town.failure import Failure

_PACKED = 16 << 20  # bytes
_LOG = 256 << 10  # bytes at the end of the log of one remote branch
_SMALL = 4096
_MOST = 20_000  # loose refs
_HEX = re.compile(rb"(?:[0-9a-f]{40}|[0-9a-f]{64})")
_LINE = re.compile(rb"(?m)^([0-9a-f]{40}|[0-9a-f]{64}) (refs/(?:heads|remotes)/.*|refs/stash)$")

Refs = dict[bytes, bytes]  # name: object


def read_all(place: Place, clock: Clock) -> Refs:
    """Branches, remote ones, and the stash; loose ones go before packed ones. Raises Unknown, OSError."""
    found = dict(_packed(place, clock))
    with suppress(FileNotFoundError), files.opened(files.enter(place.shared, "refs")) as refs:
        for entry in _loose(refs, clock):
            name = b"refs/" + entry.directory.path(entry.name)
            if _wanted(name) and (said := _said(place.shared, name)):
                found[name] = said
    return found


def unpushed(place: Place, found: Refs, clock: Clock) -> tuple[bytes, ...]:
    """Branches (and a detached HEAD) whose newest commit no remote is known to have, or to have had."""
    here = {name.removeprefix(b"refs/heads/"): at for name, at in found.items() if name.startswith(b"refs/heads/")}
    if (detached := _said(place.own, b"HEAD")) and detached not in here.values():
        here[b"HEAD"] = detached
    there = {at for name, at in found.items() if name.startswith(b"refs/remotes/")}
    missing = {name for name, at in here.items() if at not in there}
    if missing:
        there |= set(_had(place, clock))
    return tuple(sorted(name for name in missing if here[name] not in there))


def head(place: Place, found: Refs) -> bytes:
    """The commit that is checked out; empty before the first one of a branch."""
    text = read(place.own, b"HEAD", _SMALL).strip()
    if _HEX.fullmatch(text):
        return text
    return found.get(text.removeprefix(b"ref: "), b"")


def _wanted(name: bytes) -> bool:
    return name.startswith((b"refs/heads/", b"refs/remotes/")) or name == b"refs/stash"


def _packed(place: Place, clock: Clock) -> Iterator[tuple[bytes, bytes]]:
    try:
        text = read(place.shared, b"packed-refs", _PACKED)
    except FileNotFoundError:
        return
    for count, line in enumerate(_LINE.finditer(text)):
        if count % 1024 == 0:
            clock.check()
        yield line[2], line[1]


def _loose(refs: int, clock: Clock) -> Iterator[Entry]:
    for count, event in enumerate(walk(refs, lambda above, name: above.depth > 0 or name in (b"heads", b"remotes"))):
        if count > _MOST:
            raise Unknown("it has too many refs")
        if count % 64 == 0:
            clock.check()
        if isinstance(event, Entry) and event.kind == "file":
            yield event


def _said(directory: int, name: bytes) -> bytes:
    """The object that a ref names; empty for one that names another ref, or is none."""
    with suppress(FileNotFoundError, Failure, Unknown):
        text = read(directory, name, _SMALL).strip()
        if _HEX.fullmatch(text):
            return text
    return b""


def _had(place: Place, clock: Clock) -> Iterator[bytes]:
    """What remote branches were before they went on: a branch that was pushed, and others pushed to it since."""
    try:
        logs = files.open_beneath(place.shared, b"logs/refs/remotes")
    except (FileNotFoundError, NotADirectoryError):
        return
    with files.opened(logs):
        for entry in _log_files(logs, clock):
            for line in _end(logs, entry.directory.path(entry.name)).splitlines():
                yield from (word for word in line.split(b" ", 2)[:2] if _HEX.fullmatch(word))


def _log_files(logs: int, clock: Clock) -> Iterator[Entry]:
    for count, event in enumerate(walk(logs, lambda _above, _name: True)):
        clock.check()
        if count > _MOST:
            raise Unknown("it has too many logs")
        if isinstance(event, Entry) and event.kind == "file":
            yield event


def _end(logs: int, path: bytes) -> bytes:
    with suppress(OSError, Failure):
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        with files.opened(kernel.openat2(logs, path, flags, 0, files.BENEATH | kernel.RESOLVE_NO_XDEV)) as fd:
            return os.pread(fd, _LOG, max(0, os.fstat(fd).st_size - _LOG))
    return b""
