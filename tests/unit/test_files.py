"""Files are written whole or not at all, and read only when they are what they should be."""

import os
from pathlib import Path

import pytest

from town import files


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("old")
    files.write_whole(target, b"new", mode=0o640)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o640)
    assert os.listdir(tmp_path) == ["f"]


def test_a_symlink_at_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "f").symlink_to("precious")
    files.write_whole(tmp_path / "f", b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "f").is_symlink()


def test_when_writing_fails_the_old_file_stays_and_nothing_half_made_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "f"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.Unwritable, match="No space left"):
        files.write_whole(target, b"new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_fifo_a_directory_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero", tmp_path / "none", "a\0b"):
        with pytest.raises(files.Unreadable):
            files.read_bounded(path, 100)


def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 101)
    with pytest.raises(files.Unreadable, match="larger than"):
        files.read_bounded(tmp_path / "f", 100)
    (tmp_path / "f").write_bytes(b"x" * 100)
    assert len(files.read_bounded(tmp_path / "f", 100)) == 100
