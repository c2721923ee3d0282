"""`python -m bench.pieces`: what the writer and the stream cost by themselves, on pieces in the page cache.

500 MB (MEGABYTES=…) of small files and large ones, the same bytes at each run. Beside them: what zstd, AES-GCM and
BLAKE3 take for the same pieces in one thread and nothing else (`floor`), and `zstd -1` of the same bytes in one tar.
"""

import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from random import Random

from bench import clock
from persist.bucket import content, packing
from persist.bucket.blobs import FrameWanted, Writer, directories, stream
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.packs import Pack
from persist.bucket.sealing import Seal
from persist.store.directory import DirectoryStore

MEGABYTES = int(os.environ.get("MEGABYTES", "500"))
KEYS = AgentKeys.of(TownKey(bytes(32)), "ada")
_LARGE = 0.0004  # of all files: 1 to 48 MB; half of these, and some of the small ones, do not compress
_GROUP = 512 << 10


def main() -> int:
    """Make the corpus, run each measurement as a process of its own, print a line for each."""
    if len(sys.argv) > 1:
        return _measure(sys.argv[1], Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        size = _corpus(top / "corpus.tar")
        (top / "store").mkdir(mode=0o700)
        print(
            f"{size / 1e6:.0f} MB in {len(_members(top))} files; wall, CPU, peak memory; CPU without start and reading"
        )
        base = clock.run(_argv("read", top)).cpu
        rows = {name: clock.run(_argv(name, top)) for name in ("floor", "writer", "store", "stream")}
        rows["tar | zstd -1"] = clock.run(["sh", "-c", f"zstd -1 -q -c < {top}/corpus.tar > /dev/null"])
        for name, took in rows.items():
            own = took.cpu - (0 if "tar" in name else base)
            print(f"{name:<14}{took}  {own:6.2f} s  {size / 1e6 / took.wall:6.0f} MB/s")
        print(f"writer to floor {(rows['writer'].cpu - base) / (rows['floor'].cpu - base):.2f} of CPU")
        print(f"writer to tar | zstd -1 {rows['writer'].wall / rows['tar | zstd -1'].wall:.2f} of wall")
        stored = sum(path.stat().st_size for path in (top / "store").rglob("*") if path.is_file())
        print(f"stored {stored / 1e6:.1f} MB of {size / 1e6:.1f}")
    return 0


def _argv(what: str, top: Path) -> list[str]:
    return ["env", f"PYTHONPATH={Path(__file__).parent.parent}", sys.executable, "-m", "bench.pieces", what, str(top)]


def _corpus(path: Path) -> int:
    random, total = Random(11), 0
    words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz_", k=random.randint(2, 11))) for _ in range(6000)]
    weights = [1 / (at + 3) for at in range(len(words))]
    text = b"".join(
        word + random.choice((b" ", b"\n    ", b"(", b", ", b" = "))
        for word in random.choices(words, weights, k=4_000_000)
    )
    noise = random.randbytes(48 << 20)
    with tarfile.open(path, "w") as tar:
        while total < MEGABYTES * 1_000_000:
            large = random.random() < _LARGE
            size = (
                random.randint(1 << 20, 48 << 20) if large else min(400_000, int(random.lognormvariate(7.6, 1.5)) + 1)
            )
            pool = noise if random.random() < (0.5 if large else 0.06) else text
            start = random.randrange(max(1, len(pool) - size))
            data = pool[start : start + size]
            info = tarfile.TarInfo(f"f{total}")
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
            total += len(data)
    with tarfile.open(path) as tar:
        offsets = [(member.offset_data, member.size) for member in tar]
    path.with_name("members").write_text("\n".join(f"{offset} {size}" for offset, size in offsets))
    return total


def _members(top: Path) -> list[tuple[int, int]]:
    lines = (top / "members").read_text().splitlines()
    return [(int(offset), int(size)) for offset, size in map(str.split, lines)]


class _Part:
    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd, self._at, self._end = fd, offset, offset + size

    def readinto(self, buffer: memoryview, /) -> int:
        got = os.preadv(self._fd, [buffer[: self._end - self._at]], self._at)
        self._at += got
        return got


def _pieces(top: Path) -> Iterator[bytes]:
    fd = os.open(top / "corpus.tar", os.O_RDONLY)
    for offset, size in _members(top):
        if size <= content.SMALL:
            yield os.pread(fd, size, offset)
        else:
            yield from content.chunks(_Part(fd, offset, size), KEYS.chunks)
    os.close(fd)


def _measure(what: str, top: Path) -> int:
    match what:
        case "read":
            _read(top)
        case "floor":
            _floor(top)
        case "writer":
            _write(top, None)
        case "store":
            placed = _write(top, DirectoryStore(top / "store", fresh=True))
            (top / "packs").write_text("\n".join(f"{pack.id} {pack.size} {pack.directory}" for pack in placed))
        case "stream":
            _stream(top)
        case _:
            return os.EX_USAGE
    return 0


def _read(top: Path) -> None:
    """What every measurement has in it: Python's start, the imports, reading and cutting."""
    from blake3 import blake3

    KEYS.id("data", blake3(b"").digest())
    packing.packed(b"x")
    for _ in _pieces(top):
        pass


def _floor(top: Path) -> None:
    seal, group, size, number = Seal.of("ada", KEYS.pack, f"packs/{KEYS.place}/{'00' * 32}"), [], 0, 0
    for piece in _pieces(top):
        KEYS.id("data", piece)
        if len(piece) >= _GROUP:
            seal.close("data", number, packing.packed(piece)[1])
            number += 1
            continue
        group.append(piece)
        size += len(piece)
        if size >= _GROUP:
            seal.close("data", number, packing.packed(b"".join(group))[1])
            group, size, number = [], 0, number + 1


def _write(top: Path, store: DirectoryStore | None) -> list[Pack]:
    with Writer(store, KEYS) as writer:
        for piece in _pieces(top):
            writer.add("data", piece)
        return [placed.pack for placed in writer.finish()]


def _stream(top: Path) -> None:
    lines = map(str.split, (top / "packs").read_text().splitlines())
    packs = [Pack(id_, int(size), int(directory)) for id_, size, directory in lines]
    store = DirectoryStore(top / "store")
    wanted = (
        FrameWanted(pack, number, frame)
        for pack, frames in directories(store, KEYS, packs)
        for number, frame in enumerate(frames)
    )
    for want, data in stream(store, KEYS, wanted):
        for id_, offset, length in want.frame.pieces():
            assert KEYS.id("data", data[offset : offset + length]) == id_


if __name__ == "__main__":
    sys.exit(main())
