"""Files that are no spec at all: missing, no regular file, no text, no TOML, too much of something."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from town import spec, toml
from town.failure import BadSpec, Problem

LEAST = "[agents.ada]\nuid = 1100\n"


def problems(data: bytes) -> tuple[Problem, ...]:
    with pytest.raises(BadSpec) as caught:
        spec.parse(data, Path("/etc/nuketown/town.toml"))
    assert all(problem.cure and str(problem).isprintable() for problem in caught.value.problems)
    return caught.value.problems


def test_thousands_of_mistakes_are_cut_short() -> None:
    found = problems((LEAST + "".join(f"key{i} = 1\n" for i in range(50_000))).encode())
    assert len(found) == 201
    assert "more than 200" in found[-1].what


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"[town]\n\nx y\n", "line 3, column 3", "expected '=' after a key"),
        (b'[town]\ndomain = "a\n', "line 2, column 12", "illegal character"),
        (b"[town]\na = 1\na = 2\n", "line 3, column 6", "overwrite"),
        (b"[town", "line 1 (the end)", "not TOML"),
        (b"a = [1,\n2", "line 2 (the end)", "unclosed array"),
        (b"[town]\ndomain = '\xff'\n", "line 2, byte 11", "byte 0xff is not UTF-8"),
        (b"[town]\n\xed\xa0\x80", "line 2, byte 1", "byte 0xed is not UTF-8"),
        (b"\xff\xfe[\x00t\x00", "line 1, byte 1", "byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbf[town]\n", "line 1", "byte order mark"),
        (b"[town]\n#\x00\n", "line 2, byte 2", "NUL"),
        (b"a = " + b"[" * 100_000, "", "deep"),
        (b"a = " + b"{a=" * 100_000, "", "deep"),
        (b"\n".join(b"[" + b".".join([b"a"] * depth) + b"]" for depth in range(1, 60)), "", "deep"),
        (b"a = " + b"[" * 30 + b"]" * 30, "", "deep"),
        (b"a = " + b"9" * 5000, "", "too many digits"),
        (b"a." * 30_000 + b"b = 1", "line 1, byte 1", "more than 64 parts"),
        (b"\n[ " + b"a . 'b'." * 50 + b"b]", "line 2, byte 3", "more than 64 parts"),
        (b"#" * (toml.LIMIT + 1), "", "larger than 1,048,576 bytes"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(data: bytes, where: str, what: str) -> None:
    (problem,) = problems(data)
    assert problem.where == where
    assert what in problem.what


def test_relative_files_in_a_home_are_refused() -> None:
    with pytest.raises(BadSpec) as caught:
        spec.parse(LEAST.encode(), Path("/agents/ada/town.toml"))
    assert {problem.where for problem in caught.value.problems} == {"town.sops_file", "town.recovery_file"}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda _: None, "cannot be read: No such file"),
        (Path.mkdir, "not a regular file"),
        (_fifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("/dev/tty"), ""),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.write_bytes(b"#" * (1 << 21)), "larger than"),
        (lambda path: path.write_bytes(b""), "names no agent"),
    ],
)
@pytest.mark.timeout(20)
def test_what_is_no_readable_file_is_told_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    file = tmp_path / "town.toml"
    make(file)
    with pytest.raises(BadSpec) as caught:
        spec.load(file)
    (problem,) = caught.value.problems
    assert what in problem.what
    assert problem.cure
    assert str(caught.value).count(str(file)) == 1


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "/" * 5000, "town\udcff.toml", "\n"])
def test_a_name_that_no_file_can_have_is_told(name: str) -> None:
    with pytest.raises(BadSpec) as caught:
        spec.load(Path(name))
    assert caught.value.what.isprintable()
