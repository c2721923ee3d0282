"""A pack: many small pieces in one object of some 16 MiB, `packs/<place>/<id>`; the id is random and salts its key.

    "nuketown pack 2\\n" | frame 0 | frame 1 | … | directory | frames, directory's length: 4 bytes each, big-endian

A frame is pieces, one after the other, compressed together and sealed; the directory (`persist.bucket.frames`), sealed
as the last of them, says what lies where. No length of a file stands outside it.
"""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from persist.bucket import frames, packing
from persist.bucket.frames import Frame, Kind
from persist.bucket.keys import SIZE, AgentKeys
from persist.bucket.sealing import HINT, TAG, Seal
from persist.store import ObjectMissing, Store, StoreDamaged, StoreForeign

MAGIC = b"nuketown pack 2\n"
FULL = 16 << 20  # bytes after which a pack is closed
LARGEST = 64 << 20  # bytes of a pack: none that was written is even half as long
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
        if size > LARGEST or directory > frames.LARGEST:
            raise ValueError("a pack that is larger than any that was written")
        return cls(id_, size, directory)

    @property
    def record(self) -> list[object]:
        """What a commit says of it."""
        return [self.id, self.size, self.directory]


@dataclass(frozen=True, slots=True)
class Packed:
    """A frame that is compressed and not sealed yet: it can still go into any pack."""

    kind: Kind
    codec: packing.Codec
    data: bytes
    size: int  # bytes when expanded
    ids: tuple[bytes, ...]
    lengths: Sequence[int]

    @classmethod
    def of(cls, kind: Kind, ids: tuple[bytes, ...], pieces: Sequence[bytes]) -> "Packed":
        """Those pieces, compressed together; 8 MiB of them at most."""
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        assert len(whole) <= packing.LARGEST
        codec, data = packing.packed(whole)
        return cls(kind, codec, data, len(whole), ids, tuple(map(len, pieces)))

    @property
    def stored(self) -> int:
        """Bytes that it takes in a pack."""
        return len(self.data) + TAG


class PackWriter:
    """One pack while it grows, in memory."""

    def __init__(self, keys: AgentKeys, random: Callable[[int], bytes]) -> None:
        self._id = random(SIZE).hex()
        self.key = f"packs/{keys.place}/{self._id}"
        self._seal = Seal.of(keys.agent, keys.pack, self.key)
        self._parts: list[bytes] = [MAGIC]
        self._frames: list[Frame] = []
        self.ids: list[bytes] = []  # of every piece in it
        self.size = len(MAGIC)  # bytes so far

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self._frames

    def takes(self, bytes_: int, pieces: int) -> bool:
        """Whether so much more fits: of its bytes, and of its directory, which many tiny pieces make long."""
        return self.size + bytes_ <= FULL and len(self.ids) + pieces <= frames.MOST

    def add(self, frame: Packed) -> None:
        """Seal a frame into it."""
        sealed = self._seal.close(frame.kind, len(self._frames), frame.data)
        ids = b"".join(frame.ids)
        self._frames.append(Frame(frame.kind, frame.codec, self.size, len(sealed), frame.size, ids, frame.lengths))
        self._parts.append(sealed)
        self.size += len(sealed)
        self.ids += frame.ids

    def closed(self) -> tuple[Pack, bytes]:
        """The finished pack: what a commit says of it, and the object. It takes nothing more."""
        number, record = len(self._frames), packing.packed_record(frames.written(self._frames))
        sealed = self._seal.close("directory", number, record, last=True)
        data = b"".join((*self._parts, sealed, _TRAILER.pack(number, len(sealed))))
        self._parts.clear()
        return Pack(self._id, len(data), len(sealed)), data


class PackReader:
    """One pack of a store, read by ranges. Everything that it returns was authenticated. Threads may share it."""

    def __init__(self, store: Store, keys: AgentKeys, pack: Pack) -> None:
        self._store, self.pack = store, pack
        self.key = pack.key(keys)
        self._seal = Seal.of(keys.agent, keys.pack, self.key)

    def frames(self) -> tuple[Frame, ...]:
        """The directory. Raises ObjectMissing, StoreDamaged."""
        start = self.pack.size - _TRAILER.size - self.pack.directory
        tail = self.fetch(start, self.pack.directory + _TRAILER.size)
        number, length = _TRAILER.unpack(tail[-_TRAILER.size :])
        if length != self.pack.directory:
            raise StoreDamaged(f"{self.key}: its directory has another length than its commit says", hint=HINT)
        record = self._seal.open("directory", number, tail[:length], last=True)
        record = packing.unpacked_record(record, frames.LARGEST)
        found = frames.parsed(record, number, len(MAGIC), self.key)
        if sum(frame.stored for frame in found) + len(MAGIC) != start:
            raise StoreDamaged(f"{self.key}: its frames do not fill it", hint=HINT)
        return found

    def read(self, number: int, frame: Frame) -> bytes:
        """The pieces of a frame, one after the other. Raises ObjectMissing, StoreDamaged."""
        return self.opened(number, frame, self.fetch(frame.offset, frame.stored))

    def opened(self, number: int, frame: Frame, sealed: bytes | memoryview) -> bytes:
        """What a frame holds, from its sealed bytes. Raises StoreDamaged."""
        return packing.unpacked(frame.codec, self._seal.open(frame.kind, number, sealed), frame.size)

    def fetch(self, offset: int, length: int) -> bytes | memoryview:
        """Exactly those bytes of the object, as they are stored. Raises ObjectMissing, StoreDamaged, StoreForeign."""
        head = len(MAGIC) if offset == len(MAGIC) else 0  # with the first frame comes what stands before it
        try:
            data = self._store.get(self.key, offset - head, length + head)
        except ObjectMissing as missing:
            raise ObjectMissing(missing.what, hint=HINT) from missing
        if len(data) != length + head:
            raise StoreDamaged(f"{self.key} is shorter than its commit says", hint=HINT)
        if head and not data.startswith(MAGIC):
            self._strange(data[:head])
        return memoryview(data)[head:] if head else data

    def _strange(self, found: bytes) -> NoReturn:
        if re.fullmatch(rb"nuketown pack [0-9]+\n?", found):
            raise StoreForeign(f"{self.key} is of another version", hint="install the nuketown that wrote it")
        raise StoreDamaged(f"{self.key} does not begin like a pack", hint=HINT)
