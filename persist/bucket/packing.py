"""Compression of one frame: zstd, with a size that was agreed before a byte is expanded."""

import threading
from typing import TYPE_CHECKING, Literal

from persist.store import StoreDamaged

if TYPE_CHECKING:
    from zstandard import ZstdCompressor, ZstdDecompressor

Codec = Literal["zstd", "raw"]
LARGEST = 8 << 20  # bytes of one frame, expanded


def packed(piece: bytes) -> tuple[Codec, bytes]:
    """The smaller of the two ways to store a piece."""
    small = _compressor().compress(piece)
    return ("zstd", small) if len(small) < len(piece) else ("raw", piece)


def unpacked(codec: str, piece: bytes, size: int, *, limit: int = LARGEST) -> bytes:
    """The piece expanded to exactly `size` bytes. Raises StoreDamaged before anything larger is made."""
    from zstandard import ZstdError, frame_content_size

    if not 0 <= size <= limit:
        raise StoreDamaged(f"a frame claims {size:,} bytes, the format allows {limit:,}")
    try:
        if codec == "zstd" and frame_content_size(piece) != size:
            raise StoreDamaged("a frame expands to another size than its directory says")
        data = _decompressor().decompress(piece, max_output_size=size) if codec == "zstd" else piece
    except (ZstdError, MemoryError) as error:
        raise StoreDamaged(f"a frame cannot be expanded: {error}") from error
    if codec not in ("zstd", "raw") or len(data) != size:
        raise StoreDamaged("a frame has another size, or another codec, than the format allows")
    return data


def packed_record(record: bytes) -> bytes:
    """A directory or a commit: always zstd, which says its own size first."""
    return _compressor().compress(record)


def unpacked_record(piece: bytes, limit: int) -> bytes:
    """What `packed_record` packed, at most `limit` bytes. Raises StoreDamaged before anything larger is made."""
    from zstandard import ZstdError, frame_content_size

    try:
        size = frame_content_size(piece)
    except ZstdError as error:
        raise StoreDamaged(f"a record cannot be expanded: {error}") from error
    if size < 0:
        raise StoreDamaged("a record does not say how long it is")
    return unpacked("zstd", piece, size, limit=limit)


class _Own(threading.local):
    """Each thread's own: a context of zstandard must not be used by two at once."""

    compressor: "ZstdCompressor | None" = None
    decompressor: "ZstdDecompressor | None" = None


_own = _Own()


def _compressor() -> "ZstdCompressor":
    from zstandard import ZstdCompressor

    if _own.compressor is None:
        _own.compressor = ZstdCompressor(level=1, write_checksum=False)
    return _own.compressor


def _decompressor() -> "ZstdDecompressor":
    from zstandard import ZstdDecompressor

    if _own.decompressor is None:
        _own.decompressor = ZstdDecompressor()
    return _own.decompressor
