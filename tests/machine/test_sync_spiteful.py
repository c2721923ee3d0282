"""What one agent does to its own files costs that agent its sync, and nobody else."""

import os
from pathlib import Path

import pytest

import persist.restore
import persist.sync
from persist.bucket import packs
from persist.sync import scan
from tests.machine.stores import source
from tests.machine.test_sync_hostile import plain
from tests.machine.towns import Town

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
    _vox_goes_on(there, "the extended attributes of something in it hold more than 262,144 bytes")


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


def test_even_an_error_that_nobody_thought_of_stops_no_other_agent(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    real = persist.sync.sync

    def broken(spec: object, agent: object, *more: object, **named: object) -> object:
        if getattr(agent, "name", "") == "ada":
            raise ZeroDivisionError("odd \x1b")
        return real(spec, agent, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(persist.sync, "sync", broken)
    _vox_goes_on(town, "ada: ZeroDivisionError: odd \\x1b")


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
    monkeypatch.setattr(packs, "MOST_BLOBS", 10)
    monkeypatch.setattr("persist.bucket.blobs.GROUP", 100)
    for number in range(60):
        (source(town) / f"f{number}").write_bytes(os.urandom(50))
    before = len(list((town.base / "store/packs").rglob("*")))
    assert town.persist("sync", "ada").status == 0
    assert len(list((town.base / "store/packs").rglob("*"))) - before > 3
