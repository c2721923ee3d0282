"""`persist lost --record` at a shutdown, `--last` after the reboot: what went, and the name that `recall` takes."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from persist import lost
from tests.machine import towns
from tests.machine.towns import AS_ADA, Said, Town, as_agent, town
from tests.reach import PYTHON
from tests.scale import times
from town import bootid

__all__ = ["town"]
pytestmark = pytest.mark.root


class Machine:
    """A town that reboots: each boot has an id of its own."""

    def __init__(self, town: Town, patch: pytest.MonkeyPatch) -> None:
        self.town, self._patch, self._count = town, patch, 0
        self._new_boot()
        town.write('["projects"]', "[]")
        town.prove(boot_id=bootid.text())
        assert town.persist("restore").status == 0

    @property
    def home(self) -> Path:
        return self.town.agents / "ada"

    @property
    def records(self) -> Path:
        return self.town.spec.state_dir / "lost"

    def _new_boot(self) -> None:
        self._patch.setenv("NUKETOWN_BOOT_ID", uuid4().hex)

    def shut_down(self) -> Said:
        return self.town.persist("lost", "--record")

    def boot(self) -> str:
        """The power comes back; the name of the homes that were set aside."""
        self._new_boot()
        self._count += 1
        key = f"20261121T1015{self._count:02}Z-{bootid.text()}"
        self.town.boot(key)
        self.town.prove(boot_id=bootid.text())
        assert self.town.persist("restore").status == 0
        return key

    def last(self, *words: str) -> Said:
        return self.town.persist("lost", "ada", "--last", *words)

    def told(self) -> dict[str, Any]:
        said = self.last("--json")
        assert said.status == 0, said
        (agent,) = json.loads(said.out)["agents"]
        return agent


@pytest.fixture
def machine(town: Town, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(town, monkeypatch)


def _write(path: Path, size: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


def _folded(agent: dict[str, Any]) -> list[tuple[str, int]]:
    return [(line["path"]["text"], line["bytes"]) for line in agent["folded"]]


def test_after_the_reboot_it_says_what_went_and_recall_brings_it(machine: Machine, tmp_path: Path) -> None:
    _write(machine.home / "work/notes/today.md", 500)
    _write(machine.home / "projects/kept", 70)
    (machine.home / "odd\nname").write_bytes(bytes(9))
    assert machine.shut_down().status == 0
    key = machine.boot()
    said = machine.last()
    assert said.status == 0
    lines = said.out.splitlines()
    assert lines[0].startswith(f"ada: 509 B, 2 files in {machine.home} went with the last reboot, as written down at ")
    assert lines[1:] == [
        "  work/notes/…  500 B, 1 file  (notes)",
        "  odd\\nname  9 B, 1 file",
        'persist = ["work/notes"]',
    ]
    assert f"ada@{key}" in said.err
    assert "persist recall" in said.err
    assert machine.told()["recall"] == f"ada@{key}"
    place = tmp_path / "look"
    assert machine.town.persist("recall", f"ada@{key}", "--to", str(place)).status == 0
    assert (place / "work/notes/today.md").stat().st_size == 500
    towns.undo(place)


def test_what_was_written_down_is_roots_alone(machine: Machine) -> None:
    _write(machine.home / "secret-project/x")
    machine.shut_down()
    found = [path.lstat() for path in (machine.records, *machine.records.rglob("*"))]
    assert [(entry.st_uid, entry.st_mode & 0o077) for entry in found] == [(0, 0)] * len(found)
    assert len(found) == 4  # the directory, that of the boot, two agents
    assert any(stat.S_ISREG(entry.st_mode) for entry in found)
    looked = as_agent(AS_ADA, machine.home, f"import os; os.listdir({str(machine.records)!r})", check=False)
    assert looked.status != 0


def test_where_no_shutdown_wrote_it_down_the_old_home_says_it(machine: Machine) -> None:
    _write(machine.home / "first")
    machine.shut_down()
    machine.boot()
    _write(machine.home / "second", 22)
    key = machine.boot()  # the power went
    said = machine.last()
    assert said.out.splitlines()[0].endswith("went with the last reboot, as the old home shows it")
    assert said.out.splitlines()[1:] == ["  second  22 B, 1 file"]
    assert (machine.told()["recorded"], machine.told()["recall"]) == (False, f"ada@{key}")


def test_once_the_old_home_is_gone_the_record_still_says_it(machine: Machine) -> None:
    _write(machine.home / "payload", 33)
    machine.shut_down()
    machine.boot()
    old = machine.told()["recall"]
    machine.town.write('["projects"]')
    top = machine.town.base / "top"
    top.mkdir()
    subprocess.run(["mount", "-o", "subvolid=5", machine.town.device, str(top)], check=True)
    key = old.partition("@")[2]
    for path in ("ada", "vox", ""):
        subprocess.run(
            ["btrfs", "subvolume", "delete", str(top / "@agents-old" / key / path)], check=True, capture_output=True
        )
    subprocess.run(["umount", str(top)], check=True)
    said = machine.last()
    assert said.status == 0
    assert "payload  33 B, 1 file" in said.out
    assert "that home is not kept any more" in said.err
    assert machine.told()["recall"] is None


def test_a_record_of_this_very_boot_is_not_the_last(machine: Machine) -> None:
    _write(machine.home / "before", 1)
    machine.shut_down()
    machine.boot()
    _write(machine.home / "now", 2)
    machine.shut_down()  # somebody stopped the unit
    assert _folded(machine.told()) == [("before", 1)]


def test_at_the_first_boot_there_is_nothing_to_tell_and_it_says_so(machine: Machine) -> None:
    said = machine.last()
    assert said.status == 1
    assert "persist: error: nothing is known of what ada lost at the last reboot" in said.err
    assert json.loads(machine.last("--json").out) == {"agents": []}


def test_a_record_that_is_damaged_is_none(machine: Machine) -> None:
    _write(machine.home / "payload", 33)
    machine.shut_down()
    (file,) = machine.records.glob("*/ada.json")
    whole = file.read_text()
    machine.boot()
    damaged = ["", "{}", "[]", whole[:-40], "[" * 100_000, whole.replace('"version": 1', '"version": 2')]
    damaged += [whole.replace('"base64": "', '"base64": "!'), whole.replace('"files": 1', '"files": "many"')]
    for text in damaged:
        file.write_text(text)
        agent = machine.told()
        assert (agent["recorded"], _folded(agent)) == (False, [("payload", 33)])
    file.write_text(whole)
    assert machine.told()["recorded"] is True


def test_as_a_tree_it_is_read_from_the_old_home(machine: Machine) -> None:
    _write(machine.home / "a/b/x", 10)
    _write(machine.home / "a/y", 5)
    machine.shut_down()
    machine.boot()
    assert machine.last("--tree").out.splitlines()[1:] == [
        "  a/  15 B, 2 files",
        "    *  5 B, 1 file",
        "    b/  10 B, 1 file",
    ]


def test_only_the_newest_boots_are_remembered(machine: Machine) -> None:
    for number in range(7):
        _write(machine.home / f"n{number}")
        machine.shut_down()
        time.sleep(1.01)  # their names are times, in whole seconds
        machine.boot()
    assert len(list(machine.records.iterdir())) == 5
    assert _folded(machine.told()) == [("n6", 1)]


def test_git_work_trees_that_went_are_told(machine: Machine) -> None:
    git = ["git", "-c", "init.defaultBranch=main", "init", "-q", str(machine.home / "tool")]
    subprocess.run(git, check=True)
    _write(machine.home / "tool/main.c")
    _write(machine.home / "TODO.md", 3)
    machine.shut_down()
    machine.boot()
    said = machine.last()
    assert "  git: tool: never pushed, 1 untracked" in said.out.splitlines()
    assert said.out.splitlines()[-1] == 'persist = ["tool", { path = "TODO.md", type = "file" }]'


def test_a_record_of_before_proposals_had_a_type_is_read(machine: Machine) -> None:
    _write(machine.home / "diary/today.md")
    machine.shut_down()
    (file,) = machine.records.glob("*/ada.json")
    tree = json.loads(file.read_text())
    assert tree["persist"][0].pop("type") == "directory"
    file.write_text(json.dumps(tree))
    machine.boot()
    assert machine.told()["recorded"] is True
    assert machine.last().out.splitlines()[-1] == 'persist = ["diary"]'


def test_the_hint_comes_after_the_listing_in_one_pipe(machine: Machine) -> None:
    _write(machine.home / "diary/today.md", 10)
    machine.shut_down()
    machine.boot()
    argv = [sys.executable, "-m", "persist.cli", "--spec", str(machine.town.file), "lost", "ada", "--last"]
    checkout = Path(__file__).parents[2]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, cwd=checkout)
    wanted = ("ada: 10 B, ", "  diary/", "ada: worth keeping", "persist = ", "persist: hint: ")
    assert [line.startswith(begin) for line, begin in zip(done.stdout.splitlines(), wanted, strict=True)] == [True] * 5


def test_a_home_that_takes_too_long_is_written_down_as_far_as_it_was_seen(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2000):
        (machine.home / f"f{number}").touch()
    monkeypatch.setattr("persist.last.SECONDS", 0.0)
    monkeypatch.setattr("persist.last._LEAST", 0.0)
    assert machine.shut_down().status == 0
    machine.boot()
    agent = machine.told()
    assert agent["whole"] is False
    assert "at least" in machine.last().out


def test_a_record_that_is_killed_is_whole_or_not_there(machine: Machine) -> None:
    for number in range(300):
        _write(machine.home / f"d{number}/f")
    command = [PYTHON, "-m", "persist.cli", "--spec", str(machine.town.file), "lost", "--record"]
    for number in range(times(4)):
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
        time.sleep(0.1 + 0.08 * number)
        child.send_signal(signal.SIGKILL)
        child.wait()
        for file in machine.records.glob("*/ada.json"):
            assert json.loads(file.read_text())["files"] == 300
    assert machine.shut_down().status == 0
    machine.boot()
    assert machine.told()["files"] == 300


def test_what_is_found_at_once_is_written_of_everybody_before_any_git_is_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One agent's repositories, made to take long, must not cost another its record."""
    _write(machine.home / "mine")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lost, "judged", killed)
    assert machine.shut_down().status != 0
    assert {path.name for path in machine.records.glob("*/*.json")} == {"ada.json", "vox.json"}


def test_without_btrfs_it_is_written_down_and_told_too(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUKETOWN_BOOT_ID", uuid4().hex)
    towns.undo(town.agents)
    town.write("[]", btrfs_device="")
    town.persist("restore", "ada")
    _write(town.agents / "ada/payload", 44)
    assert town.persist("lost", "ada", "--record").status == 0
    monkeypatch.setenv("NUKETOWN_BOOT_ID", uuid4().hex)
    (Path(os.fspath(town.base)) / "run/homes/ada").unlink(missing_ok=True)
    town.persist("restore", "ada")
    said = town.persist("lost", "ada", "--last")
    assert said.status == 0, said
    assert "payload  44 B, 1 file" in said.out
