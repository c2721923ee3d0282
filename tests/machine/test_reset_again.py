"""Reset and `recall --replace` of homes that are plain directories, and after kills: nothing is lost."""

import json
import os
import signal
from pathlib import Path
from random import Random

import pytest

from persist import cli, swapping
from tests.machine import killing, resets
from tests.machine.resets import AS_ADA, UID, home, kept, ok, old, say, still
from tests.machine.towns import Town, as_agent, town
from tests.scale import times
from town import btrfs, files, subvolumes

__all__ = ["still", "town"]
pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def _everywhere(town: Town, name: str) -> list[str]:
    """What files of that name hold, in every home that there is, living or kept."""
    with btrfs.top_level(town.device) as top:
        base = Path(f"/proc/self/fd/{top}")
        found = [
            home(town) / name,
            *base.glob(f"@agents-old/*/ada/{name}"),
            *base.glob(f"@agents-snapshots/ada/*/*/{name}"),
        ]
        return [path.read_text() for path in found if path.exists()]


# ---- homes that are plain directories

_NESTED = (
    "import subprocess, os; os.makedirs('a')\n"
    "for name in ('work', 'a/b', 'a/b/inner'):\n"
    "    subprocess.run(['btrfs','subvolume','create',name], check=True, stdout=subprocess.DEVNULL)\n"
    "open('work/thesis', 'w').write('thesis'); open('a/b/inner/deep', 'w').write('deep')"
)


@pytest.fixture
def plain(still: Town) -> Town:
    """ada's home is a plain directory, with subvolumes in it."""
    ok(still, "snapshot", "ada", "--name", "one")
    _make_plain(still)
    return still


def _make_plain(town: Town) -> None:
    ok(town, "release", "ada")
    with files.opened(files.open_dir(town.agents)) as agents:
        subvolumes.remove(agents, "ada")
    home(town).mkdir(0o700)
    os.chown(home(town), UID, UID)
    ok(town, "restore", "ada")
    say(town, top="top", **{".profile": "declared"})
    as_agent(AS_ADA, home(town), _NESTED)


def _shows(town: Town, name: str) -> None:
    """A kept home has all of it, and recall says so."""
    look = town.base / "look"
    ok(town, "recall", name, "--to", str(look))
    for path in ("top", "work/thesis", "a/b/inner/deep"):
        assert (look / path).read_text() == path.rpartition("/")[2], path
    ok(town, "recall", "--end", name)


def test_a_plain_home_is_set_aside_with_what_is_nested_in_it(plain: Town) -> None:
    as_agent(resets.AS_VOX, plain.agents / "vox", "open('x', 'w').write('vox')")
    name = json.loads(ok(plain, "reset", "ada", "--json").out)["kept"]
    assert kept(plain, name, "work/thesis") == "thesis"
    _shows(plain, name)
    assert (plain.agents / "vox/x").read_text() == "vox"
    assert (home(plain) / ".profile").read_text() == "declared"
    ok(plain, "homes", "--delete", name)
    assert name not in ok(plain, "homes", "ada").out


def test_a_plain_home_that_is_replaced_is_kept_with_what_is_nested_in_it(plain: Town) -> None:
    name = json.loads(ok(plain, "recall", "ada@one", "--replace", "--json").out)["kept"]
    assert not (home(plain) / "top").exists()
    assert (home(plain) / ".profile").read_text() == "declared"
    _shows(plain, name)
    with btrfs.top_level(plain.device) as top:
        entry = Path(f"/proc/self/fd/{top}/@agents-snapshots/ada", name.partition("@")[2])
        assert {path.name for path in entry.iterdir()} <= {"home", "persisted", "about.json"}
        with files.opened(os.open(entry / "home", os.O_RDONLY)) as fd:
            assert btrfs.info(fd).read_only
    ok(plain, "recall", name, "--replace")
    assert (home(plain) / "work/thesis").read_text() == "thesis"


def test_more_nested_subvolumes_than_can_be_kept_are_refused_before_anything_changes(
    plain: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persist.plain._MOST", 2)
    for words in (["reset", "ada"], ["recall", "ada@one", "--replace"]):
        said = plain.persist(*words)
        assert said.status == 1, words
        assert "nested in its home could not be kept" in said.err
        assert (home(plain) / "work/thesis").read_text() == "thesis"
        assert (home(plain) / "projects").is_mount()
        assert old(plain) == []


@pytest.mark.parametrize("words", [["reset", "ada"], ["recall", "ada@one", "--replace"]])
def test_a_plain_home_is_lost_at_no_kill(plain: Town, words: list[str]) -> None:
    def run() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        assert cli.main(["--spec", str(plain.file), *words]) == 0

    calls = killing.count(run)
    for moment in Random(7).sample(range(calls), times(4)):
        _make_plain(plain)
        say(plain, mark=str(moment))
        killing.tried(run, moment)
        assert str(moment) in _everywhere(plain, "mark")
        had_ended = not resets.unfinished(plain) and not (home(plain) / "mark").exists()
        name = ok(plain, *words).out.strip()
        assert not resets.unfinished(plain)
        assert [left for left in os.listdir(plain.agents) if left.startswith(".nuketown")] == []
        if not had_ended:
            _shows(plain, name)
        assert str(moment) in _everywhere(plain, "mark")
        assert (home(plain) / ".profile").read_text() == "declared"


# ---- runs that were killed


def _killed(town: Town, step: str) -> None:
    """`recall ada@one --replace`, killed at a step of persist.swapping."""
    if (child := os.fork()) == 0:
        setattr(swapping, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        cli.main(["--spec", str(town.file), "recall", "ada@one", "--replace"])
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert resets.unfinished(town)


def test_what_a_killed_replacement_had_kept_is_kept_anew_by_the_next(still: Town) -> None:
    say(still, mark="then")
    ok(still, "snapshot", "ada", "--name", "one")
    before = len(json.loads(ok(still, "homes", "ada", "--json").out)["homes"])
    _killed(still, "exchange")
    ok(still, "restore", "ada")
    say(still, mark="later", **{"projects/p": "later"})
    name = json.loads(ok(still, "recall", "ada@one", "--replace", "--json").out)["kept"]
    assert sorted(_everywhere(still, "mark")) == ["later", "then", "then"]
    agent, _, key = name.partition("@")
    with btrfs.top_level(still.device) as top:
        entry = Path(f"/proc/self/fd/{top}/@agents-snapshots", agent, key)
        assert (entry / "home/mark").read_text() == "later"
        assert (entry / "persisted/projects/p").read_text() == "later", "of the same moment as the home"
    assert len(json.loads(ok(still, "homes", "ada", "--json").out)["homes"]) == before + 1


def test_a_plain_home_that_changed_after_a_kill_is_kept_as_it_was_last(plain: Town) -> None:
    _killed(plain, "exchange")
    say(plain, newer="newer")
    name = json.loads(ok(plain, "recall", "ada@one", "--replace", "--json").out)["kept"]
    assert _everywhere(plain, "newer") == ["newer"]
    _shows(plain, name)


@pytest.fixture
def stuck(still: Town) -> Town:
    """Two snapshots, one and two, and a replacement by the first that was killed before the exchange."""
    for name in ("one", "two"):
        say(still, mark=name)
        ok(still, "snapshot", "ada", "--name", name)
    say(still, mark="now")
    _killed(still, "exchange")
    return still


def test_what_a_killed_replacement_needs_is_not_deleted_by_name(stuck: Town) -> None:
    said = stuck.persist("homes", "--delete", "ada@one")
    assert said.status == 1
    assert "ada@one stays: persist recall ada@one --replace was interrupted" in said.err
    assert "first let it end: persist recall " in said.err
    ok(stuck, "recall", "ada@one", "--replace")
    ok(stuck, "homes", "--delete", "ada@one")
    assert (home(stuck) / "mark").read_text() == "one"


def _delete_by_hand(town: Town) -> None:
    with btrfs.top_level(town.device) as top, files.opened(files.open_beneath(top, "@agents-snapshots/ada")) as above:
        subvolumes.remove(above, "one")


@pytest.mark.parametrize("words", [["reset", "ada"], ["recall", "ada@two", "--replace"]])
def test_where_that_home_is_gone_all_the_same_another_command_goes_on(stuck: Town, words: list[str]) -> None:
    _delete_by_hand(stuck)
    ok(stuck, *words)
    assert "now" in _everywhere(stuck, "mark")
    assert (home(stuck) / "mark").exists() == (words[0] == "recall")
    assert not resets.unfinished(stuck)
    left = [one["name"] for one in json.loads(ok(stuck, "homes", "ada", "--json").out)["homes"]]
    assert len(left) == 2, "nothing of the first attempt stays"


def test_the_same_command_says_that_it_is_gone_and_ends_what_it_began(stuck: Town) -> None:
    _delete_by_hand(stuck)
    said = stuck.persist("recall", "ada@one", "--replace")
    assert said.status == 1
    assert "ada@one is gone; the home is as it was" in said.err
    assert (home(stuck) / "mark").read_text() == "now"
    assert (home(stuck) / "projects").is_mount()
    assert not resets.unfinished(stuck)
    assert stuck.persist("recall", "ada@one", "--replace").status == 1
    ok(stuck, "reset", "ada")


def test_a_replacement_that_was_killed_after_the_exchange_ends_without_the_home_it_came_from(still: Town) -> None:
    say(still, mark="one")
    ok(still, "snapshot", "ada", "--name", "one")
    say(still, mark="now")
    _killed(still, "settle")
    assert still.persist("homes", "--delete", "ada@one").status == 1
    _delete_by_hand(still)
    said = still.persist("reset", "ada")
    assert "first let it end: persist recall " in said.err
    name = json.loads(ok(still, "recall", "ada@one", "--replace", "--json").out)["kept"]
    assert (home(still) / "mark").read_text() == "one"
    assert _everywhere(still, "mark") == ["one", "now"]
    assert name in ok(still, "homes", "ada").out
    ok(still, "reset", "ada")
