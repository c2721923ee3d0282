"""`persist reset`: one agent's boot without a boot, on real btrfs with real processes."""

import json
import os
import subprocess
import time
from datetime import datetime, timedelta

import pytest

from persist import account, ballast, underway
from persist.stopping import Stood
from persist.underway import Underway
from tests.machine import homes, resets, towns
from tests.machine.resets import AS_ADA, AS_VOX, UID, home, kept, ok, old, runs, say, still
from tests.machine.towns import Town, as_agent, is_subvolume, town
from town import btrfs, files, kernel, mounts, standing

__all__ = ["homes", "still", "town"]
pytestmark = pytest.mark.root


def test_the_home_is_fresh_what_was_declared_is_back_and_the_old_one_is_kept_whole(still: Town) -> None:
    say(still, scratch="gone", **{"projects/p": "bound", ".profile": "declared"})
    as_agent(AS_VOX, still.agents / "vox", "open('x', 'w').write('vox')")
    said = json.loads(ok(still, "reset", "ada", "--json").out)
    assert said["agent"] == "ada"
    assert sorted(os.listdir(home(still))) == [".profile", "notes", "projects"]
    assert (home(still) / "projects/p").read_text() == "bound"
    assert (home(still) / ".profile").read_text() == "declared"
    assert is_subvolume(home(still))
    entry = home(still).stat()
    assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o7777) == (UID, UID, 0o700)
    assert kept(still, said["kept"], "scratch") == "gone"
    assert (still.agents / "vox/x").read_text() == "vox", "nobody else's home changed"
    assert said["kept"] in ok(still, "homes", "ada").out
    assert not resets.unfinished(still)


def test_the_old_home_is_recalled_by_the_name_that_was_said(still: Town) -> None:
    say(still, scratch="gone")
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    look = still.base / "look"
    ok(still, "recall", name, "--to", str(look))
    assert (look / "scratch").read_text() == "gone"


def test_a_running_agent_is_refused_and_its_processes_are_named(still: Town) -> None:
    say(still, scratch="stays")
    with runs(still) as there:
        said = still.persist("reset", "ada")
        assert there.poll() is None
        dry = still.persist("reset", "ada", "--dry-run")
    assert (said.status, dry.status) == (1, 1)
    assert f"{there.pid} (" in said.err
    assert "ada --stop ends them first" in said.err
    assert (home(still) / "scratch").read_text() == "stays"
    assert len(mounts.below(home(still))) == 2
    assert old(still) == []


def test_stop_ends_what_the_agent_runs_and_says_so(still: Town) -> None:
    with runs(still) as there:
        said = json.loads(ok(still, "reset", "ada", "--stop", "--json").out)
        assert there.wait(5) != 0
    assert [one["pid"] for one in said["ended"]] == [there.pid]


def test_what_somebody_else_has_open_in_the_home_is_refused_and_named(still: Town) -> None:
    with runs(still, uid=0, cwd=home(still)) as there:
        said = still.persist("reset", "ada", "--stop")
        assert there.poll() is None
    assert said.status == 75
    assert f"somebody else has {home(still)} in use: {there.pid} (" in said.err
    ok(still, "reset", "ada")


def test_the_account_is_closed_meanwhile_and_stays_closed_where_the_gate_lacks_something(
    still: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.change(still.spec, still.spec.agent("ada"), opened=True)
    seen = []
    monkeypatch.setattr(
        "persist.release.release", lambda *_words, **_named: seen.append(account.names()) or [], raising=True
    )
    monkeypatch.setattr("persist.gate.lacks", lambda *_words: [])
    for mount in mounts.below(home(still)):
        kernel.umount(os.fsdecode(mount.target), kernel.MNT_DETACH)
    ok(still, "reset", "ada")
    assert seen == [()]
    assert account.names() == ("ada",), "and open again"


def test_identity_is_installed_again_where_it_was_by_the_program_that_does_it(
    still: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = still.base / "bin/persist"
    program.parent.mkdir()
    told = program.with_name("identity")
    told.write_text(f'#!/bin/sh\necho "$@" >{still.base}/told\n')
    told.chmod(0o755)
    monkeypatch.setattr("persist.units.own_program", lambda: str(program))
    standing.note(standing.INSTALLED, "ada")
    ok(still, "reset", "ada")
    assert (still.base / "told").read_text() == f"--spec {still.file} install ada\n"
    told.write_text("#!/bin/sh\necho no key >&2; exit 1\n")
    standing.note(standing.INSTALLED, "ada")
    said = still.persist("reset", "ada")
    assert said.status == 1
    assert "keys and documents of ada were not installed: no key" in said.err
    assert "hint: identity install" in said.err


def test_nothing_was_installed_so_nothing_counts_as_installed(still: Town) -> None:
    standing.note(standing.INSTALLED, "vox")
    ok(still, "reset", "ada")
    assert not standing.noted(standing.INSTALLED, "ada")
    assert standing.noted(standing.INSTALLED, "vox")


@pytest.mark.parametrize("kind", ["read-only", "nested", "deep", "plain", "none"])
def test_a_home_of_any_kind_gives_way_whole(still: Town, kind: str) -> None:
    at = home(still)
    say(still, scratch="x")
    match kind:
        case "read-only":
            as_agent(
                AS_ADA,
                at,
                "import subprocess; subprocess.run(['btrfs','property','set','-ts','.','ro','true'], check=True)",
            )
        case "nested":
            as_agent(
                AS_ADA, at,
                "import subprocess, os; os.makedirs('a/b')\n"
                "for name in ('a/b/one', 'a/b/one/two', 'n\\nl'):\n"
                "    subprocess.run(['btrfs','subvolume','create',name], check=True, stdout=subprocess.DEVNULL)\n"
                "open('a/b/one/two/f', 'w').write('deep')\n"
                "subprocess.run(['btrfs','property','set','-ts','a/b/one/two','ro','true'], check=True)",
            )  # fmt: skip
        case "deep":
            as_agent(AS_ADA, at, "import os\nfor _ in range(10000):\n    os.mkdir('d')\n    os.chdir('d')")
        case "plain":
            ok(still, "release", "ada")
            with files.opened(files.open_dir(still.agents)) as agents:
                btrfs.delete(agents, "ada")
            at.mkdir(0o700)
            os.chown(at, UID, UID)
            ok(still, "restore", "ada")
            say(still, scratch="x")
        case _:
            ok(still, "release", "ada")
            with files.opened(files.open_dir(still.agents)) as agents:
                btrfs.delete(agents, "ada")
    said = json.loads(ok(still, "reset", "ada", "--json").out)
    assert sorted(os.listdir(at)) == ["notes", "projects"]
    assert is_subvolume(at)
    assert len(mounts.below(at)) == 2
    if kind == "none":
        assert said["kept"] is None
        return
    assert kept(still, said["kept"], "scratch") == "x"
    if kind == "nested":
        assert kept(still, said["kept"], "a/b/one/two/f") == "deep"
    assert [name for name in os.listdir(still.agents) if name.startswith(".nuketown")] == []


def test_a_mount_in_the_home_that_is_nobody_s_own_is_refused_and_named(still: Town) -> None:
    (home(still) / "m").mkdir()
    kernel.mount("tmpfs", str(home(still) / "m"), "tmpfs", 0)
    said = still.persist("reset", "ada")
    assert said.status == 1
    assert f"something else is mounted at {home(still)}/m (tmpfs), in the home" in said.err
    assert (home(still) / "m").is_mount()
    assert len(mounts.below(home(still))) == 3, "what was bound is bound"
    assert old(still) == []
    kernel.umount(str(home(still) / "m"), kernel.MNT_DETACH)
    ok(still, "reset", "ada")


def test_a_full_disk_stops_no_reset(still: Town) -> None:
    say(still, scratch="x")
    resets.write(still, '["projects"]')
    with btrfs.top_level(still.device) as top:
        ballast.make(top, still.spec.town.btrfs)
    resets.fill(still)
    said = json.loads(ok(still, "reset", "ada", "--json").out)
    assert kept(still, said["kept"], "scratch") == "x"


def test_where_there_is_no_room_at_all_the_home_stays_as_it_was_and_bound(still: Town) -> None:
    say(still, scratch="x")
    resets.write(still, '["projects"]')
    resets.fill(still)
    said = still.persist("reset", "ada")
    assert said.status == 1
    assert f"{home(still)} was not replaced, and is as it was" in said.err
    assert "No space left on device" in said.err
    assert (home(still) / "scratch").read_text() == "x"
    assert (home(still) / "projects").is_mount()
    assert old(still) == []
    assert not resets.unfinished(still)


def test_a_declared_file_that_finds_no_room_is_said_and_the_agent_stays_out(still: Town) -> None:
    say(still, **{".profile": "declared", "scratch": "x"})
    account.change(still.spec, still.spec.agent("ada"), opened=True)
    with btrfs.top_level(still.device) as top:
        ballast.make(top, still.spec.town.btrfs)
    resets.fill(still)
    said = still.persist("reset", "ada")
    assert said.status == 1
    assert "No space left on device" in said.err
    assert "ada: not all that it declared is in its place, so it was not started" in said.err
    assert "hint: persist restore" in said.err
    assert account.names() == ()
    (entry,) = old(still)
    assert kept(still, f"ada@{entry}", "scratch") == "x"
    assert os.listdir(home(still)) != []


def test_a_second_command_on_the_same_agent_is_told_which_one_is_at_work(still: Town) -> None:
    from persist.alone import alone

    with alone(still.spec, still.spec.agent("ada")):
        for words in (["reset", "ada"], ["restore", "ada"], ["snapshot", "ada"], ["release", "ada"]):
            said = still.persist(*words)
            assert said.status == 75, words
            assert f": {os.getpid()} (" in said.err, "the process that holds it, with its command line"
        ok(still, "reset", "vox")


def test_resets_of_one_boot_count_as_one_for_tidy(still: Town) -> None:
    text = still.file.read_text().replace('device = "', 'keep = { homes = 1, free = "1K" }\ndevice = "')
    still.file.write_text(text)
    names = [json.loads(ok(still, "reset", "ada", "--json").out)["kept"] for _ in range(3)]
    assert len(set(names)) == 3
    ok(still, "tidy")
    assert len(old(still)) == 3


def test_status_tells_a_reset_that_is_at_work_from_one_that_was_killed(still: Town) -> None:
    from persist.alone import alone

    agent = still.spec.agent("ada")
    underway.write(agent, Underway("reset ada", "", "x", Stood()))
    with alone(still.spec, agent):
        said = still.persist("status", "ada")
    assert said.status == 3
    assert f"note:  persist reset ada is at work: {os.getpid()} (" in said.out
    assert "next:  wait until it has ended" in said.out
    said = still.persist("status", "ada")
    assert said.status == 3
    assert "note:  persist reset ada was begun and has not ended\n    next:  persist reset --spec" in said.out
    underway.forget(agent)
    assert "reset ada" not in still.persist("status", "ada").out


def test_a_dry_run_says_what_a_reset_would_do_and_does_nothing(still: Town) -> None:
    with runs(still) as there:
        before = towns.facts(still.agents), len(mounts.table()), old(still)
        said = ok(still, "reset", "ada", "--stop", "--dry-run")
        assert there.poll() is None
    assert said.out.splitlines()[0].startswith(f"end       {there.pid} (")
    assert said.out.splitlines()[1:] == [
        f"move      {home(still)} into @agents-old",
        f"make      {home(still)} (the home, a subvolume), and restore into it",
    ]
    assert (towns.facts(still.agents), len(mounts.table()), old(still)) == before


def test_it_takes_under_a_second_apart_from_stopping_and_starting(still: Town) -> None:
    as_agent(AS_ADA, home(still), "import os\nfor n in range(3000):\n    open(f'f{n}', 'w').write('x')")
    took = [json.loads(ok(still, "reset", "ada", "--json").out)["seconds"] for _ in range(3)]
    began = time.monotonic()
    ok(still, "reset", "ada")
    assert min(took) < 1
    assert time.monotonic() - began < 5


def test_an_agent_that_the_spec_does_not_have_is_wrong_usage(still: Town) -> None:
    assert still.persist("reset", "zed").status == 2


def test_only_root_resets(still: Town) -> None:
    done = subprocess.run(
        [towns.PYTHON, "-m", "persist.cli", "--spec", still.file, "reset", "ada"], user=UID, group=UID, check=False,
        capture_output=True, text=True, cwd="/", env={"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode != 0
    assert (home(still) / "projects").is_dir()


@pytest.fixture
def bare(still: Town) -> Town:
    """The same without [town.btrfs]."""
    text = still.file.read_text()
    still.file.write_text(text[: text.index("[town.btrfs]")] + text[text.index("[agents.ada]") :])
    ok(still, "release", "ada")
    towns.undo(still.agents)
    ok(still, "restore", "ada")
    return still


def test_without_btrfs_the_home_goes_beside_what_the_first_restore_of_a_boot_sets_aside(bare: Town) -> None:
    still = bare
    say(still, scratch="x", **{"projects/p": "kept", ".profile": "declared"})
    reset = still.persist("reset", "ada", "--json")
    said = json.loads(reset.out)
    assert said["kept"] in reset.err
    assert "--replace" not in reset.err, "it is refused here"
    assert not is_subvolume(home(still))
    assert sorted(os.listdir(home(still))) == [".profile", "notes", "projects"]
    assert (home(still) / "projects/p").read_text() == "kept"
    assert (home(still) / ".profile").read_text() == "declared"
    agent, _, key = said["kept"].partition("@")
    assert (still.agents / ".old" / key / agent / "scratch").read_text() == "x"
    assert f"it lies in {still.agents}/.old/{key}/{agent}, " in reset.err
    with runs(still):
        assert still.persist("reset", "ada").status == 1


def test_without_btrfs_each_reset_has_its_own_name_and_time_and_all_count_as_one(bare: Town) -> None:
    bare.file.write_text(bare.file.read_text().replace("[town]\n", '[town]\nkeep = { homes = 1, free = "1K" }\n'))
    names = list[str]()
    for _ in range(2):
        names.append(json.loads(ok(bare, "reset", "ada", "--json").out)["kept"])
        time.sleep(1.1)
    assert [name.partition("@")[0] for name in names] == ["ada", "ada"]
    homes = {home["name"]: home for home in json.loads(ok(bare, "homes", "ada", "--json").out)["homes"]}
    assert list(homes) == names
    first, second = (datetime.fromisoformat(homes[name]["time"]) for name in names)
    assert second - first >= timedelta(seconds=1)
    ok(bare, "tidy")
    assert len(list((bare.agents / ".old").iterdir())) == 2
    ok(bare, "recall", names[0], "--to", str(bare.base / "look"))


def test_without_btrfs_no_reset_lets_the_home_that_the_last_boot_took_go(bare: Town) -> None:
    bare.file.write_text(bare.file.read_text().replace("[town]\n", '[town]\nkeep = { homes = 1, free = "1T" }\n'))
    say(bare, scratch="x")
    ok(bare, "release", "ada")
    standing.forget(standing.HOMES, "ada")  # as a boot begins
    ok(bare, "restore", "ada")
    ok(bare, "reset", "ada")
    ok(bare, "tidy")
    assert len(list(bare.agents.glob(".old/*/ada"))) == 2
    assert len(list(bare.agents.glob(".old/*/ada/scratch"))) == 1


def test_a_reset_is_no_reboot_for_lost(still: Town) -> None:
    say(still, scratch="x")
    ok(still, "reset", "ada")
    said = still.persist("lost", "ada", "--last")
    assert (said.status, said.out) == (1, "")
    assert "nothing is known of what ada lost at the last reboot" in said.err


def test_a_reset_is_no_reboot_for_lost_without_btrfs_either(bare: Town) -> None:
    say(bare, scratch="x")
    ok(bare, "reset", "ada")
    said = bare.persist("lost", "ada", "--last")
    assert (said.status, said.out) == (1, "")
    assert "nothing is known of what ada lost at the last reboot" in said.err
