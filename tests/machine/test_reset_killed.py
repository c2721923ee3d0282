"""Reset and `recall --replace`, killed at any moment: one home in place, nothing lost, and the same command ends it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from persist import account, cli, swapping
from tests.machine import killing, resets
from tests.machine.resets import AS_ADA, UID, home, ok, say, still
from tests.machine.towns import Town, as_agent, is_subvolume, town
from tests.scale import times
from town import btrfs, files, mounts

__all__ = ["still", "town"]
pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


def _command(town: Town, *words: str) -> Callable[[], None]:
    def run() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        assert cli.main(["--spec", str(town.file), *words]) == 0

    return run


def _everywhere(town: Town) -> list[str]:
    """What `mark` holds in each home that there is, living or kept."""
    found = [home(town) / "mark"]
    with btrfs.top_level(town.device) as top:
        base = Path(f"/proc/self/fd/{top}")
        found += [*base.glob("@agents-old/*/ada/mark"), *base.glob("@agents-snapshots/ada/*/*/mark")]
        return [path.read_text() for path in found if path.exists()]


def _kept(town: Town) -> list[str]:
    return [home["name"] for home in json.loads(ok(town, "homes", "ada", "--json").out)["homes"]]


def _said_by_status(town: Town, begun: bool, command: str) -> None:
    """What was begun needs attention, and the next command is the one that ends it."""
    (agent,) = json.loads(town.persist("status", "ada", "--json").out)["agents"]
    found = [trouble for trouble in agent["troubles"] if "was begun and has not ended" in trouble["what"]]
    assert [trouble["what"] for trouble in found] == [f"{command} was begun and has not ended"] * begun
    assert [trouble["next"].replace(f" --spec {town.file}", "") for trouble in found] == [command] * begun
    assert agent["level"] >= 3 * begun


def _one_home(town: Town) -> None:
    entry = home(town).stat()
    assert (entry.st_uid, entry.st_mode & 0o7777) == (UID, 0o700)
    assert is_subvolume(home(town))


def _moments(run: Callable[[], None], kills: int) -> list[int]:
    calls = killing.count(run)
    chosen = Random(7)
    return sorted(chosen.sample(range(calls), min(calls, kills)))


def test_a_reset_that_is_killed_anywhere_is_finished_by_the_same_command(still: Town) -> None:
    run, agent = _command(still, "reset", "ada"), still.spec.agent("ada")
    for moment in _moments(run, times(8)):
        say(still, mark=str(moment), **{"projects/p": str(moment)})
        account.change(still.spec, agent, opened=False)
        came = killing.tried(run, moment)
        _one_home(still)
        assert str(moment) in _everywhere(still), (moment, "lost")
        underway = resets.unfinished(still)
        _said_by_status(still, underway, "persist reset ada")
        before = _kept(still)
        said = ok(still, "reset", "ada")
        assert said.out.strip() in _kept(still), "the name of the old home, also by who only ends it"
        assert underway or said.out.strip() not in before
        assert f"the home that ada had is {said.out.strip()}: " in said.err
        _one_home(still)
        assert not (home(still) / "mark").exists(), moment
        assert str(moment) in _everywhere(still), (moment, "lost")
        assert (home(still) / "projects/p").read_text() == str(moment)
        assert len(mounts.below(home(still))) == 2
        assert not resets.unfinished(still)
        assert [name for name in os.listdir(still.agents) if name.startswith(".nuketown")] == []
        assert came or not underway


def test_who_only_ends_a_reset_says_where_the_old_home_is(still: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    say(still, mark="x")
    with monkeypatch.context() as patch:
        patch.setattr(swapping, "settle", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        killing.killed(_command(still, "reset", "ada"), -1)
    assert resets.unfinished(still)
    _said_by_status(still, True, "persist reset ada")
    said = ok(still, "reset", "ada")
    assert resets.kept(still, said.out.strip(), "mark") == "x"
    assert f"the home that ada had is {said.out.strip()}: persist recall shows it" in said.err
    assert not resets.unfinished(still)


def test_a_replacement_that_is_killed_anywhere_is_finished_by_the_same_command(still: Town) -> None:
    say(still, then="then")
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    run = _command(still, "recall", name, "--replace")
    for moment in _moments(run, times(5)):
        nested = "import subprocess; subprocess.run(['btrfs','subvolume','create','n'], stdout=subprocess.DEVNULL)"
        as_agent(AS_ADA, home(still), nested)
        say(still, mark=str(moment), **{"n/deep": str(moment), "projects/p": str(moment)})
        killing.tried(run, moment)
        _one_home(still)
        assert str(moment) in _everywhere(still), (moment, "lost")
        _said_by_status(still, resets.unfinished(still), f"persist recall {name} --replace")
        ok(still, "recall", name, "--replace")
        _one_home(still)
        assert (home(still) / "then").read_text() == "then"
        assert not (home(still) / "mark").exists(), moment
        assert str(moment) in _everywhere(still), (moment, "lost")
        assert str(moment) in _nested(still), (moment, "what was nested is lost")
        assert (home(still) / "projects/p").read_text() == str(moment)
        assert len(mounts.below(home(still))) == 2
        assert not resets.unfinished(still)
        _clear(still)


def _nested(town: Town) -> list[str]:
    with btrfs.top_level(town.device) as top:
        base = Path(f"/proc/self/fd/{top}/@agents-snapshots/ada")
        return [path.read_text() for path in base.glob("*/home/n/deep")]


def _clear(town: Town) -> None:
    """The disk is small."""
    with btrfs.top_level(town.device) as top, files.opened(files.open_beneath(top, "@agents-snapshots/ada")) as above:
        for name in files.names(above):
            inside = {path.decode() for path in _of(above, name)}
            assert inside <= {"home", "persisted", "about.json"}, inside
    for one in json.loads(ok(town, "homes", "ada", "--json").out)["homes"]:
        if one["kind"] == "snapshot":
            ok(town, "homes", "--delete", one["name"])


def _of(above: int, name: bytes) -> list[bytes]:
    with files.opened(files.enter(above, name)) as entry:
        return files.names(entry)


def test_another_command_than_the_one_that_was_killed_says_which_ends_it(still: Town) -> None:
    say(still, mark="x")
    ok(still, "snapshot", "ada", "--name", "good")
    run = _command(still, "reset", "ada")
    calls = killing.count(run)
    for moment in range(calls // 4, calls, max(1, calls // 20)):
        killing.tried(run, moment)
        if resets.unfinished(still):
            said = still.persist("recall", "ada@good", "--replace")
            assert said.status == 1
            assert "persist reset ada was interrupted" in said.err
            ok(still, "reset", "ada")
            ok(still, "recall", "ada@good", "--replace")
            return
    raise AssertionError("no kill came in between")
