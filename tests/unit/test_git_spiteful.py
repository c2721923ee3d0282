"""Repositories made to cost: few bytes that would become gigabytes, or hours, where root reads them."""

import hashlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from persist import git
from town import files

ROOM = 1 << 30  # bytes of address space
_LOOK = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({ROOM}, {ROOM}))
from persist import git
from town import files
with files.opened(files.open_dir(sys.argv[1])) as fd:
    print(git.look(fd, b"work", 60.0, sys.argv[1].encode()).words)
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    (place / ".git/refs/heads").mkdir(parents=True)
    (place / ".git/objects").mkdir()
    (place / ".git/HEAD").write_text("ref: refs/heads/main\n")
    return place


def _entry(length: int, rest: bytes) -> bytes:
    return struct.pack(">10I", 0, 0, 0, 0, 0, 0, 0o100644, 0, 0, 0) + bytes(20) + struct.pack(">H", length) + rest


def _index(work: Path, version: int, entries: list[bytes]) -> None:
    head = struct.pack(">4sII", b"DIRC", version, len(entries))
    (work / ".git/index").write_bytes(head + b"".join(entries) + bytes(20))


def _commit(work: Path) -> None:
    body = b"tree " + b"0" * 40 + b"\n\nx"
    raw = b"commit %d\0" % len(body) + body
    name = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    (work / f".git/objects/{name[:2]}").mkdir()
    (work / f".git/objects/{name[:2]}/{name[2:]}").write_bytes(zlib.compress(raw))
    (work / ".git/refs/heads/main").write_text(f"{name}\n")


def _said(work: Path) -> str:
    """What is said of it with little room: a MemoryError would be said in other words."""
    done = subprocess.run([sys.executable, "-c", _LOOK, str(work.parent)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_index_whose_paths_share_one_of_megabytes_is_not_unfolded(work: Path) -> None:
    long = _entry(0xFFF, b"\0" + b"a" * (6 << 20) + b"\0")
    _index(work, 4, [long, *[_entry(0xFFF, b"\0b\0")] * 1000])
    assert _said(work).endswith("its index is damaged")


def test_paths_that_may_be_so_long_are_held_up_to_a_bound(work: Path) -> None:
    _index(work, 4, [_entry(0xFFF, b"\0" + b"a" * 4000 + b"\0"), *[_entry(0xFFF, b"\0b\0")] * 90])
    assert "too large" not in _said(work)
    short = _entry(0xFFF, b"\x01b\0")
    _index(work, 4, [_entry(0xFFF, b"\0" + b"a" * 4000 + b"\0"), *[short] * 20_000])
    assert _said(work).endswith("its index is too large")


def test_an_index_of_deep_paths_does_not_become_a_tree_of_gigabytes(work: Path) -> None:
    _commit(work)
    entries = []
    for number in range(1000):
        path = b"%06d" % number + b"/b" * 2040
        entry = _entry(len(path), path)
        entries.append(entry + bytes(8 - len(entry) % 8))
    _index(work, 2, entries)
    assert _said(work).endswith("its index has too many directories")


def test_rules_that_are_slow_to_match_end_with_the_time(work: Path) -> None:
    (work / ".gitignore").write_bytes((b"*" + b"a" * 126 + b"b\n") * 2000)
    for number in range(500):  # each takes seconds
        (work / ("a" * 249 + f"{number:06d}")).mkdir()
    with files.opened(files.open_dir(work.parent)) as fd:
        assert git.look(fd, b"work", 0.5).unknown == ("it took too long",)


def test_one_rule_over_a_deep_path_ends_with_the_time_too(work: Path) -> None:
    (work / ".gitignore").write_bytes(b"**/" + b"*a/" * 330 + b"b\n")
    place = os.open(work, os.O_RDONLY)
    for _ in range(1500):  # a path that is longer than a system call takes
        os.mkdir("a" * 200, dir_fd=place)
        below = os.open("a" * 200, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    try:
        with files.opened(files.open_dir(work.parent)) as fd:
            assert git.look(fd, b"work", 0.5).unknown == ("it took too long",)
    finally:
        with files.opened(files.open_dir(work.parent)) as fd:
            files.remove_tree(fd, "work")


def test_more_rules_than_a_tree_may_have_are_said(work: Path) -> None:
    for number in range(30):
        (work / str(number)).mkdir()
        (work / str(number) / ".gitignore").write_bytes(b"x\n" * 1000)
    with files.opened(files.open_dir(work.parent)) as fd:
        assert git.look(fd, b"work", 60.0).unknown == ("it has too many rules of what to ignore",)


def test_packed_refs_of_nothing_but_lines_are_read_within_the_room(work: Path) -> None:
    (work / ".git/packed-refs").write_bytes(b"\n" * ((16 << 20) - 1))
    assert _said(work) == "nothing is in it"
