"""What one agent does to its own files costs that agent its sync, and nobody else."""

import errno
import os
import sys
from pathlib import Path

import pytest

import persist.restore
import persist.sync
from persist.bucket import frames
from persist.sync import scan, schema
from tests.machine.stores import source
from tests.machine.test_sync_hostile import plain
from tests.machine.towns import Town
from tests.reach import CHECKOUT
from town import process

pytestmark = pytest.mark.root


@pytest.fixture
def town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    return plain(tmp_path / "town", capsys)


def _vox_goes_on(town: Town, says: str) -> None:
    (source(town, agent="vox") / "new").write_text("new")
    said = town.persist("sync")
    assert said.status == 1
    assert says in said.err
    assert "persist: error: ada: " in said.err
    assert "vox: 3 files" in said.out


def test_attributes_without_measure_stop_that_directory_alone(
    btrfs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = plain(btrfs_dir / "town", capsys)  # btrfs takes attributes of any number
    (source(there) / "x").touch()
    for number in range(120):
        os.setxattr(source(there) / "x", f"user.a{number}", b"\xff" * 16_000)
    _vox_goes_on(there, "the extended attributes of something in it hold more than 65,536 bytes")


_PROGRAM = """
import re, sys
from persist import cli
status = cli.main(sys.argv[1:])
# Not ru_maxrss: that of the parent is handed on to a child.
print(int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10)
sys.exit(status)
"""


def _peak(town: Town, *words: str) -> tuple[int, int, str]:
    """Status, the most memory that `persist` took (MiB), and what it said; in a process of its own."""
    done = process.run([sys.executable, "-c", _PROGRAM, "--spec", str(town.file), *words], check=False, cwd=CHECKOUT)
    return done.status, int(done.out.split()[-1]), done.err.decode()


def _many_names(town: Town, count: int) -> None:
    (source(town) / "x").touch()
    for number in range(4):
        os.setxattr(source(town) / "x", f"user.a{number}", b"\xff" * 16_000)
    (source(town) / "names").mkdir()
    for number in range(count):
        os.link(source(town) / "x", source(town) / f"names/{number}")


def test_attributes_times_names_cost_bounded_memory_and_index_and_stop_that_directory_alone(
    btrfs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = plain(btrfs_dir / "town", capsys)
    _many_names(there, 400)  # 154 MB of lines
    status, most, said = _peak(there, "sync", "ada")
    assert status == 1
    assert "names/0: it has too many names for its attributes and holes" in said
    assert most < 150, "MiB"
    assert schema.place(there.spec, there.spec.agent("ada")).stat().st_size < 120 << 20
    _vox_goes_on(there, "take more than 64 MiB to list")
    for number in range(1, 400):
        (source(there) / f"names/{number}").unlink()
    assert there.persist("sync", "ada").status == 0


def test_an_index_full_of_long_lines_is_compared_in_bounded_memory(
    btrfs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = plain(btrfs_dir / "town", capsys)
    _many_names(there, 150)  # 58 MB of lines: that is taken
    first = _peak(there, "sync", "ada")
    (source(there) / "names/new").touch()
    second = _peak(there, "sync", "ada")
    assert (first[0], second[0]) == (0, 0)
    assert max(first[1], second[1]) < 150, "MiB"


def test_a_file_of_endless_holes_stops_that_directory_alone(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persist.sync.contents.MOST_EXTENTS", 3)
    with (source(town) / "sparse").open("wb") as file:
        for number in range(6):
            file.seek(number * 1_000_000)
            file.write(b"x")
    _vox_goes_on(town, "a sparse file in it has more than 3 pieces")


def test_directories_without_a_bottom_stop_that_directory_alone(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "DEEPEST", 5)
    (source(town) / "1/2/3/4/5/6").mkdir(parents=True)
    _vox_goes_on(town, "directories lie deeper than 5 levels")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ZeroDivisionError("odd \x1b"), "ada: ZeroDivisionError: odd \\x1b"),
        (MemoryError(), "ada: MemoryError"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "ada: No space left on device"),
    ],
)
def test_even_an_error_that_nobody_thought_of_stops_no_other_agent(
    town: Town, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    real = persist.sync.sync

    def broken(spec: object, agent: object, *more: object, **named: object) -> object:
        if getattr(agent, "name", "") == "ada":
            raise error
        return real(spec, agent, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(persist.sync, "sync", broken)
    _vox_goes_on(town, says)


def test_a_restore_of_one_agent_that_breaks_stops_no_other(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    real = persist.restore._restored

    def broken(spec: object, agent: object, *more: object) -> object:
        if getattr(agent, "name", "") == "ada":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd")
        return real(spec, agent, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(persist.restore, "_restored", broken)
    said = town.persist("restore")
    assert said.status == 1
    assert "persist: error: ada: UnicodeDecodeError" in said.err
    assert (town.agents / "vox").exists()


def test_a_pack_is_closed_before_its_directory_is_too_long(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST", 10)
    monkeypatch.setattr("persist.bucket.blobs.GROUP", 100)
    for number in range(60):
        (source(town) / f"f{number}").write_bytes(os.urandom(50))
    before = len(list((town.base / "store/packs").rglob("*")))
    assert town.persist("sync", "ada").status == 0
    assert len(list((town.base / "store/packs").rglob("*"))) - before > 3
