"""Runs of gen that are cut off, that meet, that have no room, and one that is large: nothing is lost or made twice."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from identity import gen, places
from identity.keys import openpgp
from tests.machine import gentown, killing
from tests.machine.gentown import Town
from tests.scale import times
from town import sops, spec
from town.process import run

pytestmark = pytest.mark.root
town, nothing_is_left = gentown.town, gentown.nothing_is_left
Fresh = Callable[[object], Town]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fresh:
    """Makes another copy of one new town, with the same keys of its human and its host."""
    (tmp_path / "first").mkdir()
    first = Town(tmp_path / "first")

    def another(name: object) -> Town:
        copied = first.copied(tmp_path / str(name))
        monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(copied.human))
        return copied

    return another


def _whole(town: Town, agents: tuple[str, ...] = ("ada", "vox")) -> None:
    """Every key is there once, its halves belong together, and nothing else is left."""
    secrets, recovery = town.opened("secrets/agents.yaml"), town.opened("secrets/recovery.yaml")
    assert tuple(secrets.tree) == agents
    whole = openpgp.facts(recovery.get("ada/gpg-primary-key") or "", "recovery")
    assert whole == openpgp.facts(secrets.get("ada/gpg-key") or "", "secrets")
    assert whole == openpgp.facts((town.root / "identities/ada/gpg.asc").read_text(), "public")
    assert not list(town.root.rglob(".*"))
    before = town.bytes()
    assert town.identity("gen", "--all") == 0  # it holds every private half against its public one
    assert town.bytes() == before


def _moments(ran: Callable[[], object], count: int) -> range:
    """Moments over a whole run: where a call leaves for the kernel. More of them in a full run of the tests."""
    calls = killing.count(ran)
    return range(0, calls, max(1, calls // times(count)))


def test_a_run_that_is_killed_anywhere_is_finished_by_the_next(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, begun = fresh("counted"), 0
    for moment in _moments(lambda: counted.identity("gen", "--all"), 10):
        town = fresh(moment)
        killing.tried(lambda town=town: town.identity("gen", "--all"), moment)  # type: ignore[misc]
        before = {name: digest for name, digest in town.bytes().items() if not Path(name).name.startswith(".")}
        with monkeypatch.context() as now:
            if (town.root / "identities/.gen.journal").exists():
                begun += 1  # then no key is needed
                now.delenv("SOPS_AGE_KEY_FILE")
                now.setattr(sops.Keys, "of_host", lambda _: sops.Keys())
            assert town.identity("gen", "--all") == 0
        after = town.bytes()
        assert {name: after[name] for name in before} == before
        _whole(town)
    assert begun > 1


def test_a_second_agent_added_by_a_run_that_is_killed_leaves_the_first_as_it_was(fresh: Fresh) -> None:
    first = fresh("first-agent")
    assert first.identity("gen", "ada") == 0
    public = ("identities/ada/ssh.pub", "identities/ada/gpg.asc")
    ada = {name: digest for name, digest in first.bytes().items() if name in public}
    counted = first.copied(first.root.parent / "counted")
    for moment in _moments(lambda: counted.identity("gen", "--all"), 4):
        town = first.copied(first.root.parent / str(moment))
        killing.tried(lambda town=town: town.identity("gen", "--all"), moment)  # type: ignore[misc]
        assert town.identity("gen", "--all") == 0
        after = town.bytes()
        assert {name: after[name] for name in ada} == ada
        _whole(town)


def test_what_somebody_changed_after_a_kill_is_not_written_over(
    fresh: Fresh, capsys: pytest.CaptureFixture[str]
) -> None:
    counted, seen = fresh("counted"), 0
    for moment in reversed(_moments(lambda: counted.identity("gen", "--all"), 24)):
        town = fresh(moment)
        killing.tried(lambda town=town: town.identity("gen", "--all"), moment)  # type: ignore[misc]
        if not (town.root / "identities/.gen.journal").exists():
            continue
        (town.root / "secrets/agents.yaml").write_text("mine")
        assert town.identity("gen", "--all") == 1
        assert "was changed after an interrupted run" in capsys.readouterr().err
        assert (town.root / "secrets/agents.yaml").read_text() == "mine"
        seen += 1
        if seen == 2:
            return
    raise AssertionError("no run was killed after its journal was written")


def test_a_run_killed_by_the_clock_is_finished_by_the_next(fresh: Fresh) -> None:
    for number, delay in enumerate((0.2, 0.3, 0.4)):
        town = fresh(number)
        process = _started(town)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert town.identity("gen", "--all") == 0
        _whole(town)


def _started(town: Town, *words: str) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "identity.cli", "--spec", str(town.spec), *(words or ("gen", "--all"))]
    return subprocess.Popen(argv, env=town.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_while_one_run_works_another_is_told_to_try_again_later(town: Town) -> None:
    with gen.locked(places.places(spec.load(town.spec))):
        assert town.identity("gen", "--all") == 75
        assert town.identity("import", "ada", "--ssh", str(town.human)) == 1  # looked at before anything is locked
    assert town.identity("gen", "--all") == 0


def test_runs_that_start_together_make_every_key_once(town: Town) -> None:
    started = [_started(town, "gen", name) for name in ("ada", "vox", "ada", "vox")]
    statuses = [one.wait() for one in started]
    assert set(statuses) <= {0, 75}
    assert 0 in statuses
    assert town.identity("gen", "--all") == 0
    secrets = town.opened("secrets/agents.yaml")
    assert sorted(secrets.tree) == ["ada", "vox"]
    _whole(town, tuple(secrets.tree))


@contextmanager
def _disk(at: Path, size: int) -> Iterator[None]:
    at.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "nuketown-test", at])
    try:
        yield
    finally:
        run(["umount", "--lazy", at])


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    fresh: Fresh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, refused = 4096, set()
    for pages in range(4, 44, max(1, 40 // times(6))):
        at, model = tmp_path / f"disk-{pages}", fresh(f"model-{pages}")
        with _disk(at, pages * page):
            town = model.copied(at)
            status = town.identity("gen", "--all")
            if status != 0:
                assert status == 1
                assert f"there is no room left to write in {at}: No space left on device" in capsys.readouterr().err
                refused.add((at / "identities/.gen.journal").exists())
                run(["mount", "-o", "remount,size=4m", at])
                assert town.identity("gen", "--all") == 0
            _whole(town)
    assert refused == {True, False}  # before the journal, and in the middle of what it says


def test_fifty_agents_take_less_than_twenty_seconds_and_a_check_of_them_two(tmp_path: Path) -> None:
    town = Town(tmp_path, {f"a{number:02}": f"uid = {41000 + number}" for number in range(50)})
    begun = time.monotonic()
    assert _started(town).wait() == 0
    assert time.monotonic() - begun < 20
    assert len(town.opened("secrets/agents.yaml").tree) == 50
    # Of the processor, so that what else this machine does is not counted.
    before = _used()
    assert _started(town, "check").wait() == 0
    assert _used() - before < 2


def _used() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime
