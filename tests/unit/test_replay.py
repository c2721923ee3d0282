"""The parts of the crash replay that need no filesystem: the log's reader, what states there are, the superblocks."""

import itertools
import random
import struct
from pathlib import Path

import pytest

from tests.replay import image, log, states
from tests.replay.log import DISCARD, FLUSH, FUA, MAGIC, MARK, PIECE
from tests.replay.states import SECTOR, State

SUPER = image.SUPERBLOCKS[0][0]


def _log(path: Path, *entries: tuple[int, bytes, int]) -> Path:
    """A log of (offset, data, flags)."""
    raw = struct.pack("<QQQI", MAGIC, 1, len(entries), SECTOR).ljust(SECTOR, b"\0")
    for offset, data, flags in entries:
        raw += struct.pack("<4Q", offset // SECTOR, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0")
        raw += b"" if flags & DISCARD else data
    path.write_bytes(raw)
    return path


def _two_epochs(path: Path) -> log.Log:
    nodes = bytes(range(1, 7)) * (PIECE // 2)
    return log.read(
        _log(path, (1 << 20, nodes, 0), (2 << 20, b"n" * PIECE, 0), (0, b"", FLUSH), (SUPER, b"s" * 4096, FUA))
    )


def test_writes_are_read_by_epoch_and_cut_where_a_node_may_begin(tmp_path: Path) -> None:
    read = _two_epochs(tmp_path / "log")
    assert [[(write.entry, write.offset, len(write.data)) for write in epoch] for epoch in read.epochs] == [
        [(0, (1 << 20) + piece * PIECE, PIECE) for piece in range(3)] + [(1, 2 << 20, PIECE)],
        [(3, SUPER, 4096)],
        [],
    ]
    assert (read.flushes, read.requests, read.entries) == ((2, 3), 3, 4)
    assert [read.flushed(entries) for entries in (2, 3, 4)] == [0, 1, 2]


def test_a_discard_writes_zeros_and_an_empty_file_is_a_log_of_nothing(tmp_path: Path) -> None:
    read = log.read(_log(tmp_path / "log", (4096, b"x" * 1024, DISCARD), (8192, b"y" * 512, 0)))
    assert [(write.offset, write.data) for write in read.epochs[0]] == [(4096, bytes(1024)), (8192, b"y" * 512)]
    (tmp_path / "empty").touch()
    assert log.read(tmp_path / "empty").epochs == ((),)


@pytest.mark.parametrize(
    "raw",
    [b"x", struct.pack("<QQQI", MAGIC + 1, 1, 0, 512), struct.pack("<QQQI", MAGIC, 2, 0, 512)],
    ids=["short", "magic", "version"],
)
def test_what_is_no_log_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "log").write_bytes(raw)
    with pytest.raises(log.NotALog):
        log.read(tmp_path / "log")


def test_an_entry_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(log.NotALog, match="entry 0"):
        log.read(_log(tmp_path / "log", (0, b"x" * 512, MARK)))


def test_prefixes_are_every_moment_once(tmp_path: Path) -> None:
    read = _two_epochs(tmp_path / "log")
    images = [b"".join(data for _, data in states.writes(read, state)) for state in states.prefixes(read)]
    assert len(images) == len(set(images)) == len(read) + 1
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(images))


def test_a_sample_holds_each_kind_once_and_the_seed_gives_it_again(tmp_path: Path) -> None:
    read = _two_epochs(tmp_path / "log")
    first, again = (states.sample(read, random.Random(7), 30, every_prefix=True) for _ in range(2))
    assert first == again != states.sample(read, random.Random(8), 30, every_prefix=True)
    assert len(set(first)) == len(first) > 20
    assert set(states.prefixes(read)) < set(first)
    assert any(state.torn for state in first)
    assert any(state.kept and state.kept[0] != 0 for state in first)


def test_no_superblock_is_ever_cut(tmp_path: Path) -> None:
    read = _two_epochs(tmp_path / "log")
    cut = set(itertools.islice(states.torn(read, random.Random(1)), 400))
    assert {state.epoch for state in cut} == {0}
    around = log.read(_log(tmp_path / "around", (SUPER - 1024, b"x" * 8192, 0)))
    pieces = {write.number: write for write in around.epochs[0]}
    for state in itertools.islice(states.torn(around, random.Random(1)), 400):
        assert state.torn is not None
        end = pieces[state.torn[0]].offset + state.torn[1] * SECTOR
        assert not SUPER < end < SUPER + 4096


@pytest.mark.parametrize("state", [State(0), State(3, (4, 5)), State(2, (), (7, 1)), State(1, (0, 2), (1, 31))])
def test_a_state_is_read_as_it_was_printed(state: State) -> None:
    assert states.parse(str(state)) == state


def test_what_a_state_keeps_is_written_in_order_and_the_torn_one_in_part(tmp_path: Path) -> None:
    read = _two_epochs(tmp_path / "log")
    written = list(states.writes(read, State(0, (0, 3), (1, 2))))
    assert [(offset, len(data)) for offset, data in written] == [
        (1 << 20, PIECE), ((1 << 20) + PIECE, 2 * SECTOR), (2 << 20, PIECE)
    ]  # fmt: skip
    assert [offset for offset, _ in states.writes(read, State(2))][-1] == SUPER


def test_the_checksum_is_that_of_rfc_3720() -> None:
    assert image.crc32c(b"123456789") == 0xE3069283
    assert image.crc32c(bytes(32)) == 0x8A9136AA


def test_an_image_keeps_its_holes_and_its_bytes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(4 << 20)
        file.seek(1 << 20)
        file.write(b"data")
    loaded = image.load(tmp_path / "sparse")
    assert (loaded.size, len(loaded) < 1 << 16) == (4 << 20, True)
    image.build(loaded, [], tmp_path / "same", own_uuid=False)
    assert image.same(tmp_path / "sparse", tmp_path / "same")
    image.build(loaded, [(2 << 20, b"more")], tmp_path / "other", own_uuid=False)
    assert not image.same(tmp_path / "sparse", tmp_path / "other")
