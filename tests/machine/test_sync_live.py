"""A sync where no snapshot can be taken: files change, vanish and move while they are read."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from persist.sync import contents, scan
from tests.machine import stores
from tests.machine.stores import into_new, source
from tests.machine.test_sync_hostile import plain
from tests.machine.towns import Town
from town import files

pytestmark = pytest.mark.root


@pytest.fixture
def town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    return plain(tmp_path / "town", capsys)


def meanwhile(monkeypatch: pytest.MonkeyPatch, where: object, name: str, act: Callable[[int], None]) -> None:
    """After each call of `where.name`, counted from 1, let the agent act."""
    real: Callable[..., Any] = getattr(where, name)
    calls = [0]

    def call(*words: object, **more: object) -> object:
        result = real(*words, **more)
        calls[0] += 1
        act(calls[0])
        return result

    monkeypatch.setattr(where, name, call)


def back(town: Town) -> Path:
    into_new(stores.held(town), town.base / "back")
    return town.base / "back"


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_a_file_that_changed_while_it_was_read_is_read_again(
    town: Town, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    shutil.rmtree(source(town) / "dir")
    (source(town) / "g").write_bytes(b"1" * size)

    def act(number: int) -> None:
        if number == 1:
            with (source(town) / "g").open("ab") as file:
                file.write(b"2" * size)

    meanwhile(monkeypatch, contents, "stored", act)
    said = town.persist("sync", "ada")
    assert (said.status, said.err) == (0, "")
    assert (back(town) / "g").read_bytes() == b"1" * size + b"2" * size


def test_a_file_that_never_rests_is_kept_as_it_was_read_last_and_said(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(source(town) / "dir")

    def act(_: int) -> None:
        with (source(town) / "g").open("ab") as file:
            file.write(b"+")

    meanwhile(monkeypatch, contents, "stored", act)
    said = town.persist("sync", "ada")
    assert said.status == 0
    assert "g: changed each time it was read" in said.err
    assert (back(town) / "g").read_bytes() == b"ada" * 1000 + b"++"


def test_a_sparse_file_that_shrinks_while_it_is_read_still_restores(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(source(town) / "dir")
    with (source(town) / "g").open("wb") as file:
        for at in (0, 4 << 20, 8 << 20):
            file.seek(at)
            file.write(os.urandom(1 << 20))
        file.truncate(12 << 20)

    def act(_: int) -> None:
        os.truncate(source(town) / "g", (source(town) / "g").stat().st_size - (1 << 20))

    meanwhile(monkeypatch, contents, "_extents", act)
    said = town.persist("sync", "ada")
    assert said.status == 0
    assert "changed each time" in said.err
    assert (back(town) / "g").stat().st_size == 10 << 20


def test_names_of_one_file_say_the_same_even_when_it_changes_between_them(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(source(town) / "g", source(town) / "h")

    def act(_: int) -> None:
        with (source(town) / "g").open("ab") as file:
            file.write(b"+" * 5)

    meanwhile(monkeypatch, contents, "stored", act)
    assert town.persist("sync", "ada").status == 0
    restored = back(town)
    assert (restored / "g").stat().st_ino == (restored / "h").stat().st_ino


def test_what_vanishes_after_it_was_listed_is_left_out(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("z1", "z2"):
        (source(town) / name).write_text("x")
    (source(town) / "zdir").mkdir()

    real = files.scan

    def listed(fd: int) -> Iterator[os.DirEntry[str]]:
        found = list(real(fd))
        if any(entry.name == "z2" for entry in found):
            (source(town) / "z2").unlink()
            (source(town) / "z1").unlink()
            (source(town) / "z1").symlink_to("/etc/shadow")
            (source(town) / "zdir").rmdir()
            (source(town) / "zdir").symlink_to("/etc")
        return iter(found)

    monkeypatch.setattr(files, "scan", listed)
    said = town.persist("sync", "ada")
    monkeypatch.undo()
    assert said.status == 0, said.err
    assert sorted(os.listdir(back(town))) == ["dir", "g", "z1"]
    assert os.readlink(town.base / "back/z1") == "/etc/shadow"


def test_a_directory_that_moves_while_it_is_read_stops_that_path_for_now(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source(town) / "a/b/c").mkdir(parents=True)
    (source(town) / "elsewhere").mkdir()

    def act(_: int) -> None:
        if (source(town) / "a/b").exists():
            (source(town) / "a/b").rename(source(town) / "elsewhere/b")

    meanwhile(monkeypatch, scan.Scanner, "_closed", act)  # c is finished; `..` of b now leads elsewhere
    said = town.persist("sync", "ada")
    assert said.status == 75
    assert "moved about while they were read" in said.err
    monkeypatch.undo()
    assert town.persist("sync", "ada").status == 0
    assert (back(town) / "elsewhere/b/c").is_dir()
