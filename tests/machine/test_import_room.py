"""A file of a few kilobytes that claims to hold a disk full: refused before the plan of it has filled the disk."""

import os
from pathlib import Path, PurePosixPath

import pytest

from persist.bucket import trees
from persist.bucket.commits import Top
from persist.bucket.content import Content
from persist.bucket.trees import Entry, Writer
from persist.fill import plan
from tests.machine.test_export import forged, key, lived
from tests.machine.towns import Town, town

__all__ = ["key", "lived", "town"]
pytestmark = pytest.mark.root
MANY = 20_000


def _within(writer: Writer, leaf: list[Entry]) -> Content:
    """A listing of many directories, each of which holds the same."""
    held = trees.write(writer, leaf)
    return trees.write(writer, [Entry(b"d%06d" % number, "dir", 0o755, 0, content=held) for number in range(MANY)])


def _files(writer: Writer) -> list[Top]:
    leaf = [Entry(b"x" * 240 + b"%06d" % n, "file", 0o644, 0, size=0, content=Content(())) for n in range(MANY)]
    return [_top(_within(writer, leaf), MANY * MANY)]


def _directories(writer: Writer) -> list[Top]:
    leaf = [Entry(b"x" * 240 + b"%06d" % n, "dir", 0o755, 0, content=Content(())) for n in range(MANY)]
    return [_top(_within(writer, leaf), 0)]


def _top(content: Content, files: int) -> Top:
    return Top(PurePosixPath("home"), Entry(b"home", "dir", 0o755, 0, content=content), files, 0)


def _free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_more_files_than_there_is_room_for_are_refused_by_their_number(lived: Town, key: Path) -> None:
    file = forged(lived.base / "forged", key, _files)
    assert file.stat().st_size < 1 << 20
    said = lived.persist("import", str(file), "--key", str(key))
    assert said.status == 1
    assert "400,000,000 files, and there is no room for so many" in said.err
    assert lived.persist("homes", "ada").out.count("imported") == 0


def test_directories_that_nobody_counted_end_with_a_share_of_the_room(
    lived: Town, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_SHARE", 20)  # so that it does not take long
    before = _free(lived.persisted)
    file = forged(lived.base / "forged", key, _directories)
    said = lived.persist("import", str(file), "--key", str(key))
    assert said.status == 1
    assert "the plan of what is to be made takes" in said.err
    assert _free(lived.persisted) > before * 3 // 4, "the plan is gone"
    assert list(lived.spec.state_dir.glob("**/*plan*")) == []
