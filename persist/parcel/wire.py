"""The file: a line that names the format, then objects, each with its key and its length. The commit comes last.

Nothing of a home stands in it in clear but sizes. A file that was cut off has no commit, or half an object.
"""

import os
import re
import struct
from collections.abc import Iterator
from datetime import datetime
from threading import Lock
from typing import NamedTuple

from persist.bucket import commits
from persist.bucket.commits import Commit, Name
from persist.bucket.keys import SIZE, AgentKeys, TownKey
from persist.bucket.packs import LARGEST as LARGEST_PACK
from persist.store import BadKey, Found, ObjectExists, ObjectMissing, StoreDamaged, StoreForeign, checked_key
from town import files, sops
from town.failure import Failure
from town.terminal import shown

MAGIC = b"nuketown export 1\n"
AGENT = "export"  # what keys are derived for: whose home it is, only those who can open it read
KEY, VALUE = "key", "export-key"
_HEAD, _LENGTH = struct.Struct(">H"), struct.Struct(">Q")
_LARGEST_KEY = 1 << 20  # bytes of the SOPS file
_MOST = 1 << 18  # objects
_LONGEST = 400  # bytes of an object's key


class ExportDamaged(Failure):
    """The file was cut off, changed, or is none that `persist export` wrote. Nothing of it was used."""


class ExportForeign(Failure):
    """The file is of another version, or something else."""


class OutputFailed(Failure):
    """What the file is written to took not all of it."""


class _OneWay:
    """What a store can do and a file from front to back cannot."""

    requests = 0

    def put(self, key: str, data: bytes) -> None:
        """Nothing is written."""
        del data
        raise ObjectExists(f"{shown(key)} cannot be written: the file is only read")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store.put_if_absent`."""
        try:
            self.put(key, data)
        except ObjectExists:
            return False
        return True

    def replace_if_unchanged(self, key: str, old: bytes, new: bytes) -> bool:
        """Nothing is replaced."""
        del key, old, new
        return False

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Nothing is read back."""
        del offset, length
        raise ObjectMissing(f"{shown(key)} was written, and cannot be read from here")

    def list(self, prefix: str) -> Iterator[Found]:
        """Nothing is listed."""
        del prefix
        yield from ()

    def size(self, key: str) -> int:
        """Nothing is read back."""
        raise ObjectMissing(f"{shown(key)} cannot be looked at")

    def delete(self, key: str) -> None:
        """What there is stays."""
        raise ObjectMissing(f"{shown(key)} cannot be taken away")

    def now(self) -> float:
        """No clock plays a part."""
        return 0.0


class Outgoing(_OneWay):
    """A store that is written from front to back. For several threads. Raises OutputFailed."""

    def __init__(self, fd: int) -> None:
        self._fd, self._lock = fd, Lock()
        self._keys: set[str] = set()
        self.written = 0  # bytes
        self._write(MAGIC)

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`. Raises OutputFailed."""
        name = checked_key(key).encode("ascii")
        with self._lock:
            if key in self._keys:
                raise ObjectExists(f"{key} is in the file already")
            self._keys.add(key)
            self._write(_HEAD.pack(len(name)) + name + _LENGTH.pack(len(data)))
            self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            files.write_all(self._fd, data)
        except OSError as error:
            raise OutputFailed(
                f"the export cannot be written: {error.strerror}", hint="what was written so far is of no use"
            ) from error
        self.written += len(data)


class Place(NamedTuple):
    """Where an object lies in the file."""

    offset: int
    size: int


class Incoming(_OneWay):
    """A file that somebody brought, as a store that is only read. `fd`: a regular file, open. Raises ExportDamaged."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.objects = dict(_objects(fd))

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        place = self.objects.get(key)
        if place is None:
            raise ObjectMissing(f"{shown(key)} is not in the file")
        self.requests += 1
        count = max(0, place.size - offset) if length is None else max(0, min(length, place.size - offset))
        return os.pread(self._fd, count, place.offset + offset)

    def list(self, prefix: str) -> Iterator[Found]:
        """See `Store.list`."""
        yield from (Found(key, self.objects[key].size) for key in sorted(self.objects) if key.startswith(prefix))

    def size(self, key: str) -> int:
        """See `Store.size`."""
        if key not in self.objects:
            raise ObjectMissing(f"{shown(key)} is not in the file")
        return self.objects[key].size


def _objects(fd: int) -> Iterator[tuple[str, Place]]:
    """Where everything lies. Raises ExportDamaged, ExportForeign."""
    size, at = os.fstat(fd).st_size, len(MAGIC)
    begins = os.pread(fd, at, 0)
    if begins != MAGIC:
        raise _strange(begins)
    seen: set[str] = set()
    while at < size:
        if len(seen) >= _MOST:
            raise ExportDamaged("the file holds more objects than any that was written")
        (length,) = _HEAD.unpack(_read(fd, at, _HEAD.size))
        key = _key(_read(fd, at + _HEAD.size, min(length, _LONGEST)))
        at += _HEAD.size + length
        (count,) = _LENGTH.unpack(_read(fd, at, _LENGTH.size))
        at += _LENGTH.size
        if count > size - at:
            raise cut_off()
        if key in seen:
            raise ExportDamaged(f"the file holds {key} twice")
        seen.add(key)
        yield key, Place(at, count)
        at += count


def _read(fd: int, at: int, count: int) -> bytes:
    data = os.pread(fd, count, at)
    if len(data) != count:
        raise cut_off()
    return data


def _key(data: bytes) -> str:
    try:
        return checked_key(data.decode("ascii"))
    except (UnicodeDecodeError, BadKey) as error:
        raise ExportDamaged("the file was changed: it holds an object that has no name", hint=_AGAIN) from error


def cut_off() -> ExportDamaged:
    """The failure for a file that ends too early."""
    return ExportDamaged("the file ends before its end: it was cut off", hint=_AGAIN)


def _strange(begins: bytes) -> Failure:
    if re.match(rb"nuketown export [0-9]+\n", begins):
        return ExportForeign("the file is of another version of the format", hint="install the nuketown that wrote it")
    if MAGIC.startswith(begins):
        return cut_off()
    return ExportForeign("this is no file of `persist export`", hint="it begins with `nuketown export 1`")


def seal_key(key: TownKey, recipients: tuple[str, ...], now: datetime) -> bytes:
    """The object `key`: a SOPS file. Raises sops.BadRecipient."""
    return sops.create({VALUE: key.secret.hex()}, recipients, now=now)


def open_key(incoming: Incoming, keys: sops.Keys) -> AgentKeys:
    """The keys of a file, for who can open it. Raises sops.NoKey, ExportDamaged, and what else sops raises."""
    if not incoming.objects:
        raise cut_off()
    if KEY not in incoming.objects or incoming.objects[KEY].size > _LARGEST_KEY:
        raise ExportDamaged("the file holds no key", hint=_AGAIN)
    try:
        value = sops.load(incoming.get(KEY), "the export", keys).get(VALUE)
    except sops.NoKey as failure:
        raise sops.NoKey(failure.what, hint="name a key that opens it: --key FILE") from failure
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * SIZE}}}", value):
        raise ExportDamaged("the file's key is none", hint=_AGAIN)
    return AgentKeys.of(TownKey(bytes.fromhex(value)), AGENT)


def commit(incoming: Incoming, keys: AgentKeys) -> Commit:
    """What the file says that it holds; its objects are exactly those that this needs. Raises ExportDamaged …"""
    last = list(incoming.objects)[-1]
    prefix = f"agents/{keys.place}/"
    if not last.startswith(prefix):
        raise cut_off()
    try:
        name = Name.parsed(last.removeprefix(prefix))
        found = commits.read(incoming, keys, name)
    except (ValueError, StoreDamaged) as error:
        raise damaged(error) from error
    except StoreForeign as error:
        raise ExportForeign(error.what, hint=error.hint) from error
    _check(incoming, keys, found, last)
    return found


def _check(incoming: Incoming, keys: AgentKeys, found: Commit, last: str) -> None:
    wanted = {pack.key(keys): pack for pack in found.packs}
    there = {key: place for key, place in incoming.objects.items() if key not in (KEY, last)}
    if wanted.keys() != there.keys() or any(there[key].size != pack.size for key, pack in wanted.items()):
        raise ExportDamaged("the file does not hold exactly what it says", hint=_AGAIN)
    if any(place.size > LARGEST_PACK for place in there.values()):
        raise ExportDamaged("a pack is larger than any that was written", hint=_AGAIN)


def damaged(error: Exception) -> ExportDamaged:
    """What a store would say of damage, said of a file."""
    what = error.what if isinstance(error, Failure) else shown(str(error))
    return ExportDamaged(f"the file was changed or cut off: {what}", hint=_AGAIN)


_AGAIN = "bring it again, or export again where the home is kept"
