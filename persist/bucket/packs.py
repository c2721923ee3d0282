"""A pack: many small pieces in one object of some 16 MiB, `packs/<place>/<id>`; the id is random and salts its key.

    "nuketown pack 1\\n" | frame 0 | frame 1 | … | directory | frames, directory's length: 4 bytes each, big-endian

A frame is sealed blobs, one after the other, compressed together; the directory, sealed as the last frame, says what
lies where. No length of a file stands outside it.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, get_args

from persist.bucket import packing, records
from persist.bucket.keys import SIZE, AgentKeys
from persist.bucket.sealing import HINT, TAG, Kind, Seal
from persist.store import ObjectMissing, Store, StoreDamaged

MAGIC = b"nuketown pack 1\n"
FULL = 16 << 20  # bytes after which a pack is closed
LARGEST_DIRECTORY = 64 << 20  # expanded
MOST_BLOBS = 200_000  # in one pack: some 80 bytes each in its directory
_TRAILER = struct.Struct(">II")  # frames, sealed bytes of the directory
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Pack:
    """A pack as a commit names it: id (64 hex digits), bytes of the object, bytes of its sealed directory."""

    id: str
    size: int
    directory: int

    def key(self, keys: AgentKeys) -> str:
        """Its key in the store."""
        return f"packs/{keys.place}/{self.id}"

    @classmethod
    def parsed(cls, record: Any) -> "Pack":
        """From `[id, size, directory]`. Raises ValueError, TypeError."""
        id_, size, directory = record
        # Lengths first: nobody is asked for a negative range, and a directory fits into its pack.
        if not (isinstance(id_, str) and _ID.fullmatch(id_) and type(size) is int and type(directory) is int):
            raise ValueError("a pack is [id, size, directory]")
        if not len(MAGIC) + _TRAILER.size + TAG < directory + len(MAGIC) + _TRAILER.size <= size:
            raise ValueError("a pack's directory does not fit into it")
        return cls(id_, size, directory)

    @property
    def record(self) -> list[object]:
        """What a commit says of it."""
        return [self.id, self.size, self.directory]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a pack: where it lies, and the blobs in it as (id, length)."""

    kind: Kind
    codec: packing.Codec
    offset: int  # of the sealed bytes in the object
    stored: int  # sealed bytes
    size: int  # bytes when expanded
    blobs: tuple[tuple[bytes, int], ...]


class PackWriter:
    """One pack while it grows, in memory."""

    def __init__(self, keys: AgentKeys, random: Callable[[int], bytes]) -> None:
        self._id = random(SIZE).hex()
        self.key = f"packs/{keys.place}/{self._id}"
        self._seal = Seal.of(keys.agent, keys.pack, self.key)
        self._bytes = bytearray(MAGIC)
        self._blobs = 0
        self._frames: list[dict[str, object]] = []

    @property
    def full(self) -> bool:
        """Whether it is time to close it."""
        # Many tiny pieces make a long directory, which has a limit of its own.
        return len(self._bytes) >= FULL or self._blobs >= MOST_BLOBS

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self._frames

    def add(self, kind: Kind, blobs: list[tuple[bytes, bytes]]) -> None:
        """One frame of blobs, (id, bytes) each."""
        piece = b"".join(data for _, data in blobs)
        self._blobs += len(blobs)
        assert len(piece) <= packing.LARGEST
        codec, small = packing.packed(piece)
        sealed = self._seal.close(kind, len(self._frames), small)
        self._bytes += sealed
        listed = [[id_.hex(), len(data)] for id_, data in blobs]
        self._frames.append({"kind": kind, "codec": codec, "stored": len(sealed), "size": len(piece), "blobs": listed})

    def closed(self) -> tuple[Pack, bytes]:
        """The finished pack: what a commit says of it, and the object."""
        record = packing.packed_record(records.written(self._frames))
        sealed = self._seal.close("directory", len(self._frames), record, last=True)
        self._bytes += sealed + _TRAILER.pack(len(self._frames), len(sealed))
        return Pack(self._id, len(self._bytes), len(sealed)), bytes(self._bytes)


class PackReader:
    """One pack of a store, read by ranges. Everything that it returns was authenticated."""

    def __init__(self, store: Store, keys: AgentKeys, pack: Pack) -> None:
        self._store, self._pack = store, pack
        self.key = pack.key(keys)
        self._seal = Seal.of(keys.agent, keys.pack, self.key)

    def frames(self) -> tuple[Frame, ...]:
        """The directory. Raises ObjectMissing, StoreDamaged."""
        start = self._pack.size - _TRAILER.size - self._pack.directory
        tail = self._get(start, self._pack.directory + _TRAILER.size)
        if len(tail) != self._pack.directory + _TRAILER.size:
            raise StoreDamaged(f"{self.key} is shorter than its commit says", hint=HINT)
        number, length = _TRAILER.unpack(tail[-_TRAILER.size :])
        record = self._seal.open("directory", number, tail[:length], last=True)
        found = _parsed(records.read(packing.unpacked_record(record, LARGEST_DIRECTORY), self.key), self.key)
        if sum(frame.stored for frame in found) + len(MAGIC) != start:
            raise StoreDamaged(f"{self.key}: its frames do not fill it", hint=HINT)
        return found

    def read(self, number: int, frame: Frame) -> bytes:
        """The blobs of a frame, one after the other. Raises ObjectMissing, StoreDamaged."""
        sealed = self._get(frame.offset, frame.stored)
        return packing.unpacked(frame.codec, self._seal.open(frame.kind, number, sealed), frame.size)

    def _get(self, offset: int, length: int) -> bytes:
        try:
            return self._store.get(self.key, offset, length)
        except ObjectMissing as missing:
            raise ObjectMissing(missing.what, hint=HINT) from missing


_FRAME = {"kind": str, "codec": str, "stored": int, "size": int, "blobs": list}


def _parsed(record: Any, what: str) -> tuple[Frame, ...]:
    if not isinstance(record, list):
        raise StoreDamaged(f"{what}: its directory is not a list of frames")
    frames, offset = [], len(MAGIC)
    for each in record:
        frame = records.checked(what, lambda fields, at=offset: _frame(fields, at), each, _FRAME)  # type: ignore[misc]
        frames.append(frame)
        offset += frame.stored
    return tuple(frames)


def _frame(fields: dict[str, Any], offset: int) -> Frame:
    blobs = tuple((bytes.fromhex(id_), int(length)) for id_, length in fields["blobs"])
    if fields["kind"] not in ("data", "tree") or fields["codec"] not in get_args(packing.Codec):
        raise ValueError("an unknown kind of frame")
    if fields["stored"] < TAG or any(len(id_) != SIZE or length < 0 for id_, length in blobs):
        raise ValueError("lengths that cannot be")
    if sum(length for _, length in blobs) != fields["size"]:
        raise ValueError("blobs that do not fill their frame")
    return Frame(cast(Kind, fields["kind"]), fields["codec"], offset, fields["stored"], fields["size"], blobs)
