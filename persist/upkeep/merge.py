"""Pieces from packs that are to go into new ones, in the order in which the newest state is read.

The pieces of the head come first, as its trees name them, so that a restore reads the new packs from end to end; then
what only older states need. Memory: some 64 MB of pieces at a time; a frame is read once for each such window.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from persist.bucket.blobs import FrameWanted, Writer, stream
from persist.bucket.packs import Pack
from persist.bucket.sealing import HINT
from persist.store import StoreDamaged
from persist.upkeep.holdings import Holdings

WINDOW = 64 << 20  # bytes of pieces that are held at once
_PENDING = """
SELECT need.at, piece.id, min(piece.pack), piece.frame, piece.start, piece.length
FROM need JOIN piece ON piece.id = need.id WHERE piece.pack IN (SELECT pack FROM going)
GROUP BY piece.id ORDER BY need.at
"""


@dataclass(frozen=True, slots=True)
class _Piece:
    at: int
    id: bytes
    pack: int
    frame: int
    start: int
    length: int


def merged(holdings: Holdings, going: Iterable[Pack], moved: Callable[[int], None]) -> tuple[Pack, ...]:
    """New packs, durable, with all that is needed of those in `going`. `moved` is told of bytes as they are read.

    Raises StoreDamaged, ObjectMissing, StoreFull, StoreUnreachable; what was sent is left over then.
    """
    holdings.db.execute("CREATE TEMP TABLE IF NOT EXISTS going (pack INTEGER PRIMARY KEY)")
    holdings.db.execute("DELETE FROM going")
    holdings.db.executemany("INSERT INTO going VALUES (?)", [(holdings.numbers[pack.id],) for pack in going])
    with Writer(holdings.store, holdings.keys) as writer:
        for window in _windows(holdings):
            _move(holdings, window, writer, moved)
        return tuple(placed.pack for placed in writer.finish())


def _windows(holdings: Holdings) -> Iterator[list[_Piece]]:
    window: list[_Piece] = []
    size = 0
    for row in holdings.db.execute(_PENDING):
        window.append(_Piece(*row))
        size += window[-1].length
        if size >= WINDOW:
            yield window
            window, size = [], 0
    if window:
        yield window


def _move(holdings: Holdings, window: list[_Piece], writer: Writer, moved: Callable[[int], None]) -> None:
    frames: dict[tuple[int, int], list[_Piece]] = {}
    for piece in window:
        frames.setdefault((piece.pack, piece.frame), []).append(piece)
    wanted = (
        FrameWanted(holdings.packs[pack], number, holdings.frame(pack, number), frames[pack, number])
        for pack, number in sorted(frames)
    )
    held: dict[int, bytes] = {}
    for want, data in stream(holdings.store, holdings.keys, wanted, ahead_bytes=WINDOW // 2):
        for piece in frames[holdings.numbers[want.pack.id], want.number]:
            held[piece.at] = data[piece.start : piece.start + piece.length]
            moved(piece.length)
    for piece in window:
        kind = holdings.frame(piece.pack, piece.frame).kind
        if writer.add(kind, held.pop(piece.at)) != piece.id:
            raise StoreDamaged(f"{holdings.packs[piece.pack].key(holdings.keys)}: a piece is not its id's", hint=HINT)
