"""`persist recall` on hosts where nothing rolls back: a copy of every file, which the next boot's tidy takes."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.machine import towns
from tests.machine.test_outgoing import BOOTS, plain, reboot
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from town import mounts

__all__ = ["plain", "town"]
pytestmark = pytest.mark.root
FILL = """
import os
os.makedirs('a/b'); open('a/b/note', 'w').write('old'); os.chmod('a/b/note', 0o640)
os.link('a/b/note', 'again'); os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe')
os.setxattr('a/b/note', 'user.said', b'yes')
open('run.sh', 'w').write('#!/bin/sh'); os.chmod('run.sh', 0o755)
open('.netrc', 'w').write('login')
"""


@pytest.fixture
def second(plain: Town, monkeypatch: pytest.MonkeyPatch) -> tuple[Town, str]:
    """The second boot of a town without [town.btrfs], and the name of ada's home of the first."""
    assert plain.persist("restore", "ada").status == 0
    as_agent(AS_ADA, plain.agents / "ada", FILL)
    reboot(plain, monkeypatch, BOOTS[1])
    assert plain.persist("restore", "ada").status == 0
    (home,) = json.loads(plain.persist("homes", "ada", "--json").out)["homes"]
    return plain, home["name"]


def test_an_old_home_is_copied_whole_and_stays_as_it_was(second: tuple[Town, str]) -> None:
    town, name = second
    look = town.base / "look"
    said = town.persist("recall", name, "--to", str(look))
    assert (said.status, said.out) == (0, f"{look}\n"), said.err
    found = mounts.at(look)
    assert found is not None
    assert {"nosuid", "nodev", "noexec"} <= found.options
    note = look / "a/b/note"
    assert (note.read_text(), stat.S_IMODE(note.stat().st_mode), note.stat().st_uid) == ("old", 0o640, ADA)
    assert os.getxattr(note, "user.said") == b"yes"
    assert note.stat().st_ino == (look / "again").stat().st_ino
    assert os.readlink(look / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((look / "pipe").lstat().st_mode)
    note.write_text("changed")
    (old,) = (town.agents / ".old").glob("*/ada/a/b/note")
    assert old.read_text() == "old"
    assert sorted(os.listdir(town.agents / "ada")) == ["projects"]


def test_dry_run_says_copy_and_ending_it_leaves_nothing(second: tuple[Town, str]) -> None:
    town, name = second
    planned = town.persist("recall", name, "--dry-run")
    assert planned.out.startswith(f"copy      {name} into {town.agents}/.recalled\n")
    made = Path(town.persist("recall", name, "--without-secrets").out.strip())
    assert not (made / ".netrc").exists()
    assert (made / "run.sh").exists()
    listed = json.loads(town.persist("homes", "ada", "--json").out)["homes"]
    assert sorted(each["kind"] for each in listed) == ["aside", "recalled"]
    assert town.persist("recall", "--end", name).status == 0
    assert os.listdir(town.agents / ".recalled") == []
    assert json.loads(town.persist("homes", "ada", "--json").out)["homes"][0]["name"] == name


def test_a_copy_of_an_earlier_boot_is_tidied_and_one_of_this_boot_is_not(
    second: tuple[Town, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    town, name = second
    town.persist("recall", name, "--to", str(town.base / "look"))
    assert town.persist("tidy").status == 0
    (copy,) = os.listdir(town.agents / ".recalled")
    towns.undo(town.base / "look")
    reboot(town, monkeypatch, BOOTS[0])
    assert f"delete    {copy}: recalled in an earlier boot\n" in town.persist("tidy", "--dry-run").out
    assert os.listdir(town.agents / ".recalled") == [copy]
    said = town.persist("tidy", "--json")
    assert [each["name"]["text"] for each in json.loads(said.out)["deleted"]] == [copy]
    assert os.listdir(town.agents / ".recalled") == []


def test_a_home_with_a_device_in_it_is_refused_and_leaves_no_copy(second: tuple[Town, str]) -> None:
    town, name = second
    (old,) = (town.agents / ".old").glob("*/ada")
    os.mknod(old / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    said = town.persist("recall", name)
    assert said.status == 1
    assert "disk is a device" in said.err
    assert os.listdir(town.agents / ".recalled") == []
