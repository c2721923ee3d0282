"""Kept homes of every kind as values: which one a person means, and its directory, open."""

import os
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest

from persist import about, kept, shelves, shelving
from persist.about import About
from persist.kept import Kept, Kind, NoSuchHome
from tests.machine.boots import FIRST, SECOND, old, town
from tests.machine.towns import Town
from town import btrfs, files, locks
from town.failure import Unsafe, WrongUsage

__all__ = ["old", "town"]
pytestmark = pytest.mark.root
NOTHING = datetime(2026, 11, 22, tzinfo=UTC)


def of(name: bytes, kind: Kind = "aside", agent: bytes = b"ada") -> Kept:
    return Kept(kind, agent, name, NOTHING, "", True, ())


def test_a_home_is_meant_by_its_name_or_by_a_beginning_that_no_other_has() -> None:
    there = [of(b"20261120T1-a"), of(b"20261121T1-b"), of(b"safe", "snapshot"), of(b"safer", "snapshot")]
    assert kept.chosen(there, "ada@20261120") is there[0]
    assert kept.chosen(there, "ada@safe") is there[2], "a whole name, though another begins with it"
    assert kept.chosen(there, "ada@safer") is there[3]
    with pytest.raises(NoSuchHome, match=r"the beginning of 2 homes: ada@20261120T1-a, ada@20261121T1-b"):
        kept.chosen(there, "ada@2026")
    with pytest.raises(NoSuchHome) as missing:
        kept.chosen(there, "ada@saver")
    assert missing.value.hint == "did you mean ada@safer?"
    with pytest.raises(NoSuchHome):
        kept.chosen(there, "vox@safe")
    for text in ("ada", "ada@", "@safe", ""):
        with pytest.raises(WrongUsage):
            kept.chosen(there, text)


def test_a_copy_does_not_make_the_beginning_of_its_origin_ambiguous() -> None:
    there = [of(b"20261120T1-a"), of(b"20261122T000000Z", "recalled")]
    assert kept.chosen(there, "ada@2026") is there[0]
    assert kept.chosen(there, "ada@20261122") is there[1]


def test_odd_names_are_meant_as_they_are_and_as_they_are_shown() -> None:
    odd = of(b"\xff\n\\", agent=b"a\x1bd")
    assert odd.name == "a\\x1bd@\\xff\\n\\\\"
    assert kept.chosen([odd], odd.name) is odd
    assert kept.chosen([odd], os.fsdecode(b"a\x1bd@\xff\n\\")) is odd


def test_every_kind_is_opened_as_a_directory(old: Town) -> None:
    old.persist("snapshot", "ada", "--name", "safe")
    old.persist("recall", f"ada@{FIRST}", "--to", str(old.base / "look"))
    with shelves.opened(old.spec) as where:
        homes = [home for home in kept.every(old.spec, *where) if home.whose == "ada"]
        assert {home.kind for home in homes} == {"aside", "snapshot", "recalled"}
        for home in homes:
            with kept.opened(old.spec, where.top, home, where.agents) as there:
                assert btrfs.is_subvolume(there.fd)
                if home.kind != "snapshot":
                    assert (b"first" in files.names(there.fd)) == (home.key != SECOND.encode())
        with kept.opened(old.spec, where.top, kept.chosen(homes, "ada@safe"), where.agents) as there:
            assert list(there.persisted) == [PurePosixPath("projects")]


def test_what_goes_meanwhile_is_said(old: Town) -> None:
    with shelves.opened(old.spec) as where:
        home = kept.chosen(kept.every(old.spec, *where), f"ada@{FIRST}")
        assert old.persist("homes", "--delete", home.name).status == 0
        with pytest.raises(NoSuchHome, match="is gone"), kept.opened(old.spec, where.top, home, where.agents):
            pass


def test_shelves_that_others_may_enter_are_refused(old: Town) -> None:
    old.persist("snapshot", "ada", "--name", "safe")
    with btrfs.top_level(old.device) as top:
        os.chmod("@agents-snapshots", 0o755, dir_fd=top)
    said = old.persist("homes")
    assert (said.status, said.out) == (1, "")
    assert "can be entered by others than root" in said.err
    with shelves.opened(old.spec) as where, pytest.raises(Unsafe):
        kept.every(old.spec, *where)


def test_a_note_says_again_what_was_written(tmp_path: object, btrfs_top: int) -> None:
    whole = About(
        time=datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC), message="a\n\udcff", boot="b", transids={"home": 7},
        paths=(PurePosixPath("a/b"),), inside="ada", of="ada@x", origin={"host": "h"}, place="/p", user="u",
        notes=("n",), apart=True,
    )  # fmt: skip
    about.write(btrfs_top, whole)
    assert about.read(btrfs_top) == whole
    for wrong in ('{"version": 2}', "[]", "1", '{"version": 1, "paths": [1]}', '{"version": 1, "inside": "../x"}', "{"):
        files.write_beneath(btrfs_top, about.FILE, wrong.encode())
        assert about.read(btrfs_top) == about.NOTHING
    files.write_beneath(btrfs_top, about.FILE, b'{"version": 1, "paths": ["/etc", "../x", "ok"], "time": "soon"}')
    assert about.read(btrfs_top) == About(paths=(PurePosixPath("ok"),))


def test_what_is_being_made_is_told_from_what_a_kill_left(btrfs_top: int) -> None:
    with shelving.entry(btrfs_top, "one") as fd:
        assert shelving.sweep(btrfs_top) == 0
        files.write_beneath(fd, "x", b"x")
        assert len([name for name in files.names(btrfs_top) if name.startswith(shelving.NEW)]) == 1
    os.mkdir(".new-left", dir_fd=btrfs_top)
    with pytest.raises(KeyError), shelving.entry(btrfs_top, "two"):
        raise KeyError
    with pytest.raises(shelving.NameTaken), shelving.entry(btrfs_top, "one"):
        pass
    with files.opened(files.enter(btrfs_top, ".new-left")) as held:
        assert locks.free(held, shared=True)
        shelving.sweep(btrfs_top)
        assert files.names(btrfs_top) == [b".new-left", b"one"]
    shelving.sweep(btrfs_top)
    assert files.names(btrfs_top) == [b"one"]
    assert shelving.free_name(btrfs_top, "one") == "one.1"
    assert shelving.free_name(btrfs_top, "two") == "two"
