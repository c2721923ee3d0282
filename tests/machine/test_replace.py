"""`persist recall --replace`: an old home in the present one's place, and back, on real btrfs with real processes."""

import json
import os
from pathlib import Path

import pytest

from persist import ballast
from tests.machine import resets, towns
from tests.machine.resets import AS_ADA, UID, home, kept, ok, runs, say, still
from tests.machine.towns import Town, as_agent, is_subvolume, town
from town import btrfs, files, kernel, mounts, standing

__all__ = ["still", "town"]
pytestmark = pytest.mark.root


@pytest.fixture
def two(still: Town) -> tuple[Town, str]:
    """A home that was set aside, with `then`, and the present one, with `now`; the name of the first."""
    say(still, then="1", **{"projects/p": "bound", ".profile": "declared then"})
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    say(still, now="2", **{".profile": "declared now"})
    return still, name


def _replace(town: Town, name: str, *words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(ok(town, "recall", name, "--replace", "--json", *words).out)
    return found


def _snapshot(town: Town, name: object, path: str) -> str:
    agent, _, key = str(name).partition("@")
    where = f"@agents-snapshots/{agent}/{key}/home"
    with btrfs.top_level(town.device) as top, files.opened(files.open_beneath(top, where)) as fd:
        assert btrfs.info(fd).read_only
        return Path(f"/proc/self/fd/{fd}/{path}").read_text()


def _scratch(town: Town) -> dict[str, str]:
    """The files right in the home that nothing declares."""
    return {path.name: path.read_text() for path in home(town).iterdir() if path.is_file() and path.name[0] != "."}


def test_the_old_home_is_there_what_is_declared_stays_and_the_present_one_is_kept(two: tuple[Town, str]) -> None:
    town, name = two
    said = _replace(town, name)
    assert _scratch(town) == {"then": "1"}
    assert (home(town) / "projects/p").read_text() == "bound"
    assert (home(town) / ".profile").read_text() == "declared now", "what is declared is the present state"
    assert said["declared_stays"] == ["projects", "notes/deep", ".profile"]
    assert said["older"] == [".profile"]
    assert _snapshot(town, said["kept"], "now") == "2"
    entry = home(town).stat()
    assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o7777) == (UID, UID, 0o700)
    assert kept(town, name, "then") == "1", "the kept home stays as it is"
    as_agent(AS_ADA, home(town), "open('then', 'w').write('changed')")
    assert kept(town, name, "then") == "1"
    assert not resets.unfinished(town)


def test_the_same_command_with_the_name_that_was_said_undoes_it(two: tuple[Town, str]) -> None:
    town, name = two
    told = town.persist("recall", name, "--replace")
    back = told.out.strip()
    assert f"to have it back: persist recall {back} --replace\n" in told.err
    before = {path: facts for path, *facts in towns.facts(home(town))}
    again = _replace(town, back)
    assert _scratch(town) == {"now": "2"}
    forth = _replace(town, str(again["kept"]))
    assert _scratch(town) == {"then": "1"}
    assert {path: facts[1:3] for path, facts in before.items()} == {
        path: facts[1:3] for path, *facts in towns.facts(home(town))
    }
    assert forth["kept"] != again["kept"]


def test_a_running_agent_is_refused_and_named_or_stopped(two: tuple[Town, str]) -> None:
    town, name = two
    with runs(town) as there:
        said = town.persist("recall", name, "--replace")
        assert there.poll() is None
        assert said.status == 1
        assert f"{there.pid} (" in said.err
        assert f"{name} --replace --stop ends them first" in said.err
        assert _scratch(town) == {"now": "2"}
        done = _replace(town, name, "--stop")
        assert there.wait(5) != 0
    assert [one["pid"] for one in done["ended"]] == [there.pid]  # type: ignore[attr-defined,index]


def test_nested_subvolumes_come_along_and_are_kept_also_read_only_ones(two: tuple[Town, str]) -> None:
    town, name = two
    make = (
        "import subprocess, os; os.makedirs('a/b')\n"
        "for name in ('a/b/one', 'a/b/one/two'):\n"
        "    subprocess.run(['btrfs','subvolume','create',name], check=True, stdout=subprocess.DEVNULL)\n"
        "open('a/b/one/two/f', 'w').write('deep')\n"
        "subprocess.run(['btrfs','property','set','-ts','a/b/one/two','ro','true'], check=True)"
    )
    as_agent(AS_ADA, home(town), make)
    said = _replace(town, name)
    assert _snapshot(town, said["kept"], "a/b/one/two/f") == "deep"
    _replace(town, str(said["kept"]))
    assert (home(town) / "a/b/one/two/f").read_text() == "deep"
    as_agent(AS_ADA, home(town), "open('a/b/one/two/f', 'w').write('written')")


@pytest.mark.parametrize("which", ["the present", "the old"])
def test_a_read_only_home_gives_way_and_comes_back_writable(two: tuple[Town, str], which: str) -> None:
    town, name = two
    read_only = "import subprocess; subprocess.run(['btrfs','property','set','-ts','.','ro','true'], check=True)"
    if which == "the old":
        _replace(town, name)
    as_agent(AS_ADA, home(town), read_only)
    said = _replace(town, name)
    _replace(town, str(said["kept"]))
    say(town, new="x")
    assert (home(town) / "new").read_text() == "x"


def test_a_snapshot_that_was_taken_on_purpose_is_put_in_place(still: Town) -> None:
    say(still, then="1")
    ok(still, "snapshot", "ada", "--name", "good")
    as_agent(AS_ADA, home(still), "import os; os.unlink('then')")
    say(still, now="2")
    _replace(still, "ada@good")
    assert _scratch(still) == {"then": "1"}
    assert "ada@good" in ok(still, "homes", "ada").out


def test_a_recalled_copy_that_a_person_changed_is_put_in_place(two: tuple[Town, str]) -> None:
    town, name = two
    made = json.loads(ok(town, "recall", name, "--json").out)
    Path(made["path"]["text"], "then").write_text("repaired")
    _replace(town, made["name"])
    assert _scratch(town) == {"then": "repaired"}
    assert home(town).stat().st_uid == UID
    ok(town, "recall", made["name"], "--end")


def test_an_old_home_with_data_where_a_mount_belongs_has_it_under_another_name(still: Town) -> None:
    resets.write(still, "[]")
    ok(still, "release", "ada")
    say(still, **{"projects/own": "plain"})
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    resets.write(still)
    ok(still, "restore", "ada")
    said = _replace(still, name)
    (moved,) = said["moved"]  # type: ignore[misc]
    assert (home(still) / moved / "own").read_text() == "plain"
    assert (home(still) / "projects").is_mount()


def test_keys_and_logins_are_pointed_out_or_left_out(two: tuple[Town, str]) -> None:
    town, _ = two
    say(town, **{".ssh/id_ed25519": "key", ".netrc": "login", "deep/er/.env": "TOKEN=1", "kept": "x"})
    say(town, **{"srv.pem": "-----BEGIN PRIVATE KEY-----", "ca.pem": "-----BEGIN CERTIFICATE-----"})
    name = json.loads(ok(town, "reset", "ada", "--json").out)["kept"]
    said = town.persist("recall", name, "--replace")
    for path in (".ssh", ".netrc", "deep/er/.env", "srv.pem"):
        assert path in said.err
    assert "ca.pem" not in said.err
    assert (home(town) / ".netrc").read_text() == "login"
    done = _replace(town, name, "--without-secrets")
    assert done["secrets"]["left_out"] is True  # type: ignore[index]
    there = {str(path.relative_to(home(town))) for path in home(town).rglob("*") if path.is_file()}
    assert there >= {"kept", "ca.pem"}
    assert not there & {".ssh/id_ed25519", ".netrc", "deep/er/.env", "srv.pem"}
    assert kept(town, name, ".netrc") == "login", "only the copy is without"


def test_nothing_counts_as_installed_in_the_other_home(two: tuple[Town, str], monkeypatch: pytest.MonkeyPatch) -> None:
    town, name = two
    program = town.base / "bin/persist"
    program.parent.mkdir()
    told = program.with_name("identity")
    told.write_text(f'#!/bin/sh\necho "$@" >{town.base}/told\n')
    told.chmod(0o755)
    monkeypatch.setattr("persist.units.own_program", lambda: str(program))
    standing.note(standing.INSTALLED, "ada")
    done = _replace(town, name)
    assert done["started"] == ["identity install ada"]
    assert not standing.noted(standing.INSTALLED, "ada"), "only identity itself says so"
    assert (town.base / "told").read_text().endswith("install ada\n")


def test_a_full_disk_is_said_and_leaves_the_present_home_or_the_ballast_gives_way(two: tuple[Town, str]) -> None:
    town, name = two
    with btrfs.top_level(town.device) as top:
        ballast.make(top, town.spec.town.btrfs)
    resets.write(town, '["projects"]')
    resets.fill(town)
    said = town.persist("recall", name, "--replace")
    if said.status:
        assert _scratch(town)["now"] == "2"
        assert (home(town) / "projects").is_mount()
        assert "No space" in said.err
    else:
        assert _scratch(town) == {"then": "1"}
    assert not resets.unfinished(town)


def test_an_unknown_home_or_agent_changes_nothing(two: tuple[Town, str]) -> None:
    town, name = two
    assert town.persist("recall", "ada@nothing", "--replace").status == 1
    assert town.persist("recall", name.replace("ada", "zed"), "--replace").status == 2
    for more in (["--to", "/srv/x"], ["--as", "root"], ["--exec"], ["--end"]):
        assert town.persist("recall", name, "--replace", *more).status == 2, more
    assert town.persist("recall", name, "--stop").status == 2
    assert _scratch(town) == {"now": "2"}


def test_a_dry_run_says_what_would_be_done_and_does_nothing(two: tuple[Town, str]) -> None:
    town, name = two
    before = towns.facts(town.agents), len(mounts.table())
    said = ok(town, "recall", name, "--replace", "--dry-run").out.splitlines()
    assert said[0].startswith(f"snapshot  {home(town)} -> ada@")
    assert said[1:] == [
        f"snapshot  {name}", f"exchange  that and {home(town)}, and restore into it what is declared, as it is now",
    ]  # fmt: skip
    assert (towns.facts(town.agents), len(mounts.table())) == before


def test_without_btrfs_it_is_refused_by_name(still: Town) -> None:
    text = still.file.read_text()
    still.file.write_text(text[: text.index("[town.btrfs]")] + text[text.index("[agents.ada]") :])
    assert still.persist("recall", "ada@x", "--replace").status == 78


def test_a_home_that_was_a_plain_directory_becomes_a_subvolume(still: Town) -> None:
    ok(still, "release", "ada")
    with files.opened(files.open_dir(still.agents)) as agents:
        btrfs.delete(agents, "ada")
    home(still).mkdir(0o700)
    os.chown(home(still), UID, UID)
    ok(still, "restore", "ada")
    say(still, then="plain")
    said = json.loads(ok(still, "reset", "ada", "--json").out)
    _replace(still, said["kept"])
    assert _scratch(still) == {"then": "plain"}
    assert is_subvolume(home(still))
    assert len(mounts.below(home(still))) == 2


def test_where_no_home_is_in_place_the_old_one_is_put_there(two: tuple[Town, str]) -> None:
    town, name = two
    ok(town, "release", "ada")
    with files.opened(files.open_dir(town.agents)) as agents:
        btrfs.delete(agents, "ada")
    assert _replace(town, name)["kept"] is None
    assert _scratch(town) == {"then": "1"}


def test_a_swap_under_a_mount_of_somebody_else_is_refused(two: tuple[Town, str]) -> None:
    town, name = two
    (home(town) / "m").mkdir()
    kernel.mount("tmpfs", str(home(town) / "m"), "tmpfs", 0)
    said = town.persist("recall", name, "--replace")
    assert said.status == 1
    assert "something else is mounted" in said.err
    assert _scratch(town) == {"now": "2"}
