"""`persist recall`: old homes on real btrfs, looked at without being touched."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.machine import towns
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from town import btrfs, files, mounts, process
from town.failure import ToolFailed

__all__ = ["town"]
pytestmark = pytest.mark.root

FIRST, SECOND = "20261120T080000Z-11111111-2222", "20261121T101500Z-33333333-4444"


@pytest.fixture
def old(town: Town) -> Town:
    """Two boots: ada left `first` in the older home, `second` and a nested subvolume in the newer."""
    town.persist("restore")
    as_agent(AS_ADA, town.agents / "ada", "open('first', 'w').write('1')")
    town.boot(FIRST)
    town.persist("restore")
    as_agent(
        AS_ADA,
        town.agents / "ada",
        "import os, subprocess; open('second', 'w').write('2'); os.makedirs('a/b')\n"
        "subprocess.run(['btrfs', 'subvolume', 'create', 'a/b/nested'], check=True)\n"
        "open('run.sh', 'w').write('#!/bin/sh\\necho ran\\n'); os.chmod('run.sh', 0o755)",
    )
    town.boot(SECOND)
    town.persist("restore")
    return town


def test_a_recalled_home_is_a_copy_that_can_be_written_and_the_old_one_stays(old: Town) -> None:
    look = old.base / "look"
    said = old.persist("recall", f"ada@{SECOND}", "--to", str(look))
    assert (said.status, said.out) == (0, f"{look}\n")
    assert (look / "second").read_text() == "2"
    (look / "second").write_text("changed")
    found = mounts.at(look)
    assert found is not None
    assert {"nosuid", "nodev", "noexec"} <= found.options
    with btrfs.top_level(old.device) as top:
        assert Path(f"/proc/self/fd/{top}/@agents-old/{SECOND}/ada/second").read_text() == "2"
    assert "note: " not in said.err
    assert (look / "a/b/nested").stat().st_ino == btrfs.FIRST_INODE, "nested subvolumes are in the copy"
    assert f"umount {look}" in said.err
    assert (old.agents / ".recalled").stat().st_mode & 0o777 == 0o700
    assert os.listdir(old.agents / "ada") == ["projects"]


def test_programs_run_in_it_only_with_exec(old: Town) -> None:
    old.persist("recall", f"ada@{SECOND}", "--to", str(old.base / "look"))
    with pytest.raises(PermissionError):
        subprocess.run([old.base / "look/run.sh"], check=True)
    old.persist("recall", f"ada@{SECOND}", "--to", str(old.base / "run"), "--exec")
    assert subprocess.run([old.base / "run/run.sh"], check=True, capture_output=True).stdout == b"ran\n"
    found = mounts.at(old.base / "run")
    assert found is not None
    assert {"nosuid", "nodev"} <= found.options


def test_a_beginning_will_do_while_it_is_unique(old: Town) -> None:
    said = old.persist("recall", "ada@20261120", "--to", str(old.base / "look"))
    assert said.status == 0
    assert (old.base / "look/first").read_text() == "1"


def test_an_ambiguous_name_is_refused_with_the_candidates(old: Town) -> None:
    said = old.persist("recall", "ada@2026", "--to", str(old.base / "look"))
    assert said.status == 1
    assert f"ada@{FIRST}, ada@{SECOND}" in said.err
    assert not (old.base / "look").exists()


def test_an_unknown_name_is_refused_with_the_nearest(old: Town) -> None:
    said = old.persist("recall", f"ada@{SECOND[:-1]}5", "--to", str(old.base / "look"))
    assert said.status == 1
    assert f"did you mean ada@{SECOND}?" in said.err
    for name in ("ada", "ada@", "@", "@2026"):
        assert old.persist("recall", name, "--to", str(old.base / "look")).status == 2
    assert not (old.base / "look").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_dry_run_says_what_a_recall_would_do_and_does_nothing(old: Town, there: bool) -> None:
    look = old.base / "deep/look"
    if there:
        look.mkdir(parents=True)
    before = len(mounts.table()), towns.facts(old.base)
    said = old.persist("recall", "ada@20260101", "--to", str(look), "--dry-run")
    assert (said.status, said.out) == (1, "")
    said = old.persist("recall", "ada@20261120", "--to", str(look), "--dry-run")
    assert (said.status, said.err) == (0, "")
    made = [] if there else [f"make      {look}, root:root 0755"]
    assert said.out.splitlines() == [
        f"snapshot  ada@{FIRST} into {old.agents}/.recalled", *made,
        f"mount     the copy at {look} (nosuid,nodev,noexec)",
    ]  # fmt: skip
    assert (len(mounts.table()), towns.facts(old.base)) == before


@pytest.mark.parametrize("case", ["agent's", "inside a home", "world", "group", "acl", "symlink", "full", "file"])
def test_a_place_that_an_agent_can_reach_or_that_is_taken_is_refused(old: Town, case: str) -> None:
    above = old.base / "above"
    above.mkdir(0o755)
    place = above / "look"
    match case:
        case "agent's":
            os.chown(above, ADA, ADA)
        case "inside a home":
            place = old.agents / "ada/look"
        case "world":
            above.chmod(0o777)
        case "group":
            os.chown(above, 0, ADA)
            above.chmod(0o775)
        case "acl":
            subprocess.run(["setfacl", "-m", f"u:{ADA}:rwx", above], check=True)
        case "symlink":
            (old.base / "real").mkdir()
            place.symlink_to(old.base / "real")
        case "full":
            (place / "x").mkdir(parents=True)
        case _:
            place.write_text("")
    before = len(mounts.table())
    dry = old.persist("recall", f"ada@{FIRST}", "--to", str(place), "--dry-run")
    said = old.persist("recall", f"ada@{FIRST}", "--to", str(place))
    assert (dry.status, dry.out, dry.err) == (1, "", said.err)
    assert said.status == 1
    assert said.out == ""
    assert said.err.startswith("persist: error: ")
    assert "persist: hint: " in said.err
    assert len(mounts.table()) == before
    recalled = old.agents / ".recalled"
    assert not recalled.exists() or os.listdir(recalled) == []


def test_a_mount_that_fails_leaves_no_copy(old: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_words: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mounts, "placed", refused)
    said = old.persist("recall", f"ada@{FIRST}", "--to", str(old.base / "look"))
    assert said.status == 1
    assert "No space left on device" in said.err
    assert os.listdir(old.agents / ".recalled") == []


def test_a_place_below_a_sticky_directory_will_do(old: Town) -> None:
    above = old.base / "tmp"
    above.mkdir()
    above.chmod(0o1777)
    assert old.persist("recall", f"ada@{FIRST}", "--to", str(above / "look")).status == 0


def test_a_home_that_was_no_subvolume_is_recalled_too(town: Town) -> None:
    (town.agents / "ada").mkdir()
    (town.agents / "ada/x").write_text("plain")
    (town.agents / "vox").mkdir()
    town.boot(FIRST)
    assert town.persist("recall", "ada@2026", "--to", str(town.base / "look")).status == 0
    assert os.listdir(town.base / "look") == ["x"]


def test_a_home_that_its_agent_made_read_only_is_recalled_writable(old: Town) -> None:
    with btrfs.top_level(old.device) as top, files.opened(files.open_beneath(top, f"@agents-old/{FIRST}/ada")) as home:
        btrfs.set_read_only(home, True)
    assert old.persist("recall", f"ada@{FIRST}", "--to", str(old.base / "look")).status == 0
    (old.base / "look/first").write_text("changed")
    with btrfs.top_level(old.device) as top, files.opened(files.open_beneath(top, f"@agents-old/{FIRST}/ada")) as home:
        assert btrfs.info(home).read_only


def test_a_recalled_copy_goes_with_the_next_boot(old: Town) -> None:
    old.persist("recall", f"ada@{FIRST}", "--to", str(old.base / "look"))
    towns.undo(old.base / "look")
    old.boot("20261122T000000Z-5")
    assert os.listdir(old.agents) == []


def test_the_agent_does_not_get_its_old_home_back_by_a_recall(old: Town) -> None:
    look = old.base / "look"
    old.persist("recall", f"ada@{SECOND}", "--to", str(look))
    assert (look.stat().st_uid, look.stat().st_mode & 0o7777) == (0, 0o700)
    assert (look / "second").stat().st_uid == ADA  # only the way in is closed; the files are as they were
    with pytest.raises(ToolFailed, match="Permission denied"):
        process.run(["ls", f"/proc/self/fd/{(fd := os.open(look, os.O_PATH))}/"], person=AS_ADA, fds=(fd,))
    os.close(fd)
