"""`persist restore` on real btrfs, with real mounts and uids that no passwd knows."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persist.restore import found
from tests import reach
from tests.machine import towns
from tests.machine.towns import ADA, AS_ADA, VOX, Town, as_agent, town
from town import files, kernel, mounts, process

__all__ = ["town"]
pytestmark = pytest.mark.root
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096  # mount(2)


def _owner_mode(path: Path) -> tuple[int, int]:
    entry = path.lstat()
    return entry.st_uid, stat.S_IMODE(entry.st_mode)


def test_a_first_restore_makes_homes_and_binds_what_was_declared(town: Town) -> None:
    town.write('["projects", "scratch/results"]', '["notes"]')
    said = town.persist("restore")
    assert (said.status, said.err) == (0, "")
    ada = town.agents / "ada"
    assert towns.is_subvolume(ada)
    assert _owner_mode(ada) == (ADA, 0o700)
    assert _owner_mode(ada / "scratch") == (ADA, 0o700)
    assert _owner_mode(ada / "scratch/results") == (ADA, 0o700)
    mount = mounts.at(ada / "projects")
    assert mount is not None
    assert {"nosuid", "nodev"} <= mount.options
    as_agent(AS_ADA, ada, "open('projects/x', 'w').write('kept')")
    assert (town.persisted / "agents/ada/projects/x").read_text() == "kept"
    assert _owner_mode(town.agents / "vox/notes") == (VOX, 0o700)
    assert "ada: projects: bound, made here" in said.out


def test_parents_under_persist_dir_are_roots_and_the_leaf_is_the_agents(town: Town) -> None:
    town.write('["scratch/deep/results"]')
    assert town.persist("restore", "ada").status == 0
    above = town.persisted / "agents"
    assert towns.is_subvolume(above / "ada")
    for path in (above, above / "ada", above / "ada/scratch", above / "ada/scratch/deep"):
        assert _owner_mode(path) == (0, 0o711)
    assert _owner_mode(above / "ada/scratch/deep/results") == (ADA, 0o700)


def test_a_second_run_changes_no_byte(town: Town) -> None:
    town.write('["projects", "a/b"]')
    town.persist("restore")
    before = towns.facts(town.agents), towns.facts(town.persisted), len(mounts.table())
    said = town.persist("restore")
    assert (said.status, said.out, said.err) == (0, "ada: nothing to do\nvox: nothing to do\n", "")
    assert (towns.facts(town.agents), towns.facts(town.persisted), len(mounts.table())) == before


def test_a_dry_run_prints_the_plan_and_changes_nothing(town: Town) -> None:
    before = towns.facts(town.agents), towns.facts(town.persisted)
    said = town.persist("restore", "ada", "--dry-run")
    assert said.status == 0
    assert [line.split()[1] for line in said.out.splitlines()] == ["make", "make", "make", "bind"]
    assert (towns.facts(town.agents), towns.facts(town.persisted)) == before


def test_what_was_kept_is_back_after_the_next_boot(town: Town) -> None:
    town.persist("restore")
    as_agent(AS_ADA, town.agents / "ada", "open('projects/x', 'w').write('kept'); open('payload', 'w')")
    town.boot("20261121T101500Z-4f")
    said = town.persist("restore")
    assert said.status == 0
    assert os.listdir(town.agents / "ada") == ["projects"]
    assert (town.agents / "ada/projects/x").read_text() == "kept"
    assert "ada: projects: bound" in said.out


def test_an_agents_dir_that_is_not_mounted_gets_no_home(town: Town) -> None:
    towns.undo(town.agents)
    said = town.persist("restore")
    assert said.status == 1
    assert os.listdir(town.agents) == []
    assert f"hint: mount -t btrfs -o subvol=@agents,nosuid,nodev,noatime {town.device} {town.agents}" in said.err


def _cure(said: towns.Said) -> None:
    """Do, in a shell, what the hint says to do."""
    (hint,) = [line for line in said.err.splitlines() if line.startswith("persist: hint: ")]
    process.run(["sh", "-ec", hint.removeprefix("persist: hint: ")])


def test_the_mount_of_another_subvolume_gets_no_home(town: Town) -> None:
    towns.undo(town.agents)
    kernel.mount(town.device, str(town.agents), "btrfs", 0, "subvol=@agents-blank")
    said = town.persist("restore")
    assert said.status == 1
    assert "/@agents-blank" in said.err
    assert os.listdir(town.agents) == []
    _cure(said)
    assert town.persist("restore").status == 0


def _no_proof(town: Town) -> None:
    town.proof.unlink()


def _failed_hook(town: Town) -> None:
    town.proof.with_name("rollback.failed").write_text("error: no disk\nhint: persist rollback && mount -t btrfs\n")


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_no_proof, "this boot left no proof"),
        (_failed_hook, "the rollback of this boot failed: no disk"),
        (lambda town: town.prove(boot_id="another"), "the proof of the rollback does not fit: it is of boot another"),
        (lambda town: town.prove(uuid=""), "the proof of the rollback does not fit: it is of uuid missing"),
        (lambda town: town.prove(id="7"), "the proof of the rollback does not fit: it is of id 7"),
        (lambda town: os.chown(town.proof, ADA, 0), "the proof of the rollback cannot be read: "),
    ],
)
def test_no_home_is_made_on_agents_without_a_proof_that_fits(
    town: Town, dry: list[str], change: Callable[[Town], None], says: str
) -> None:
    change(town)
    said = town.persist("restore", *dry)
    error, hint = said.err.splitlines()
    assert (said.status, said.out) == (1, "")
    assert error.startswith(f"persist: error: {says}")
    assert f"persist rollback --spec {town.file} && mount -t btrfs" in hint
    assert os.listdir(town.agents) == os.listdir(town.persisted) == []


def test_an_agents_that_was_put_in_place_after_the_proof_gets_no_home(town: Town) -> None:
    before = town.proof.read_bytes()
    town.boot("20261121T101500Z-4f")
    town.proof.write_bytes(before)
    said = town.persist("restore")
    assert said.status == 1
    assert "the proof of the rollback does not fit: it is of uuid " in said.err
    assert os.listdir(town.agents) == []


def test_without_a_proof_nobody_is_told_to_mount_what_was_not_made_blank(town: Town) -> None:
    town.proof.unlink()
    towns.undo(town.agents)
    said = town.persist("restore")
    assert said.status == 1
    assert "left no proof" in said.err
    assert said.err.index("persist rollback ") < said.err.index("mount -t btrfs")


def test_a_persist_dir_that_is_not_mounted_is_warned_of_and_used(town: Town) -> None:
    towns.undo(town.persisted)
    place = town.persisted
    for words in (["--dry-run"], []):
        said = town.persist("restore", *words)
        assert said.status == 0
        assert said.err.splitlines() == [
            f"persist: warning: persist_dir holds nothing yet: {place} is no mount point, and agents start empty",
            "persist: hint: if a disk belongs there, mount it before agents write",
        ]
    assert mounts.at(town.agents / "ada/projects") is not None
    assert town.persist("restore").err == ""


def test_a_town_that_binds_nothing_is_not_warned_of_an_empty_persist_dir(town: Town) -> None:
    towns.undo(town.persisted)
    town.write("[]")
    assert town.persist("restore").err == ""


def test_agents_that_are_mounted_read_only_are_named_with_the_cure(town: Town) -> None:
    kernel.mount("none", str(town.agents), None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert f"{town.agents} is mounted read-only" in said.err
    assert f"mount -o remount,rw {town.agents}" in said.err
    kernel.mount("none", str(town.agents), None, MS_REMOUNT | MS_BIND)
    assert town.persist("restore", "ada").status == 0


def test_a_persist_dir_that_is_mounted_read_only_is_named_with_the_cure(town: Town) -> None:
    kernel.mount("none", str(town.persisted), None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert f"{town.persisted}/.nuketown is mounted read-only" in said.err
    towns.undo(town.persisted)
    kernel.mount(town.device, str(town.persisted), "btrfs", 0, "subvol=@persist")
    town.persist("restore", "vox")
    kernel.mount("none", str(town.persisted), None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert "is mounted read-only" in said.err
    assert "persist: hint: findmnt -T" in said.err


def test_agents_that_are_full_are_named_with_the_cure(town: Town) -> None:
    towns.undo(town.agents)
    kernel.mount("tmpfs", str(town.agents), "tmpfs", 0, "mode=0755,nr_inodes=2")
    (town.agents / "one").touch()
    town.write('["projects"]', btrfs_device="")
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert f"{town.agents} is full" in said.err
    assert f"persist: hint: df {town.agents}" in said.err


@pytest.mark.parametrize(("owner", "mode"), [(ADA, 0o755), (0, 0o777), (0, 0o775)])
def test_an_agents_dir_that_others_can_change_is_refused(town: Town, owner: int, mode: int) -> None:
    os.chown(town.agents, owner, owner)
    town.agents.chmod(mode)
    said = town.persist("restore")
    assert said.status == 1
    assert "may be changed by others" in said.err
    assert os.listdir(town.agents) == []


def test_without_btrfs_in_the_spec_a_plain_directory_will_do(town: Town) -> None:
    towns.undo(town.agents)
    town.write('["projects"]', btrfs_device="")
    said = town.persist("restore")
    assert (said.status, said.err) == (0, "")
    assert _owner_mode(town.agents / "ada") == (ADA, 0o700)
    assert not towns.is_subvolume(town.agents / "ada")
    assert mounts.at(town.agents / "ada/projects") is not None


def test_a_leaf_of_a_stranger_stops_that_agent_and_no_other(town: Town) -> None:
    town.write('["projects", "notes"]', '["notes"]')
    town.persist("restore")
    town.boot("20261121T101500Z-4f")
    leaf = town.persisted / "agents/ada/projects"
    os.chown(leaf, 5555, 5555)
    said = town.persist("restore")
    assert said.status == 1
    assert f"ada: {leaf} belongs to uid 5555, expected uid {ADA}" in said.err
    assert os.listdir(town.agents) == ["vox"]
    assert mounts.at(town.agents / "vox/notes") is not None


def test_a_leaf_of_roots_is_used_as_it_is(town: Town) -> None:
    town.persist("restore")
    town.boot("20261121T101500Z-4f")
    leaf = town.persisted / "agents/ada/projects"
    os.chown(leaf, 0, 0)
    leaf.chmod(0o755)
    assert town.persist("restore").status == 0
    assert _owner_mode(town.agents / "ada/projects") == (0, 0o755)


def test_a_parent_that_the_agent_owns_is_refused(town: Town) -> None:
    town.write('["scratch/results"]')
    town.persist("restore")
    town.boot("20261121T101500Z-4f")
    os.chown(town.persisted / "agents/ada/scratch", ADA, ADA)
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert "may be changed by others" in said.err


@pytest.mark.parametrize("where", ["projects", "a"])
def test_a_symlink_where_a_directory_belongs_is_refused(town: Town, where: str) -> None:
    town.write("[]")
    town.persist("restore")
    secret = town.base / "secret"
    secret.mkdir()
    (town.agents / "ada" / where).symlink_to(secret)
    town.write('["projects", "a/b"]')
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert "symbolic link" in said.err
    assert os.listdir(secret) == []
    assert mounts.below(town.agents) == []


def test_a_symlink_for_a_home_is_refused(town: Town) -> None:
    (town.agents / "ada").symlink_to(town.base)
    said = town.persist("restore")
    assert said.status == 1
    assert "symbolic link" in said.err
    assert (town.agents / "vox").is_dir()


def test_a_home_of_somebody_else_is_refused(town: Town) -> None:
    (town.agents / "ada").mkdir()
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert f"belongs to uid 0, expected uid {ADA}" in said.err


def test_data_that_a_mount_would_hide_stops_the_agent(town: Town) -> None:
    town.write("[]")
    town.persist("restore")
    (town.agents / "ada/projects").mkdir()
    (town.agents / "ada/projects/new").write_text("not yet persisted")
    town.write('["notes", "projects"]', '["notes"]')
    said = town.persist("restore")
    assert said.status == 1
    assert "which a mount would hide" in said.err
    assert (town.agents / "ada/projects/new").read_text() == "not yet persisted"
    assert mounts.at(town.agents / "ada/notes") is None
    assert mounts.at(town.agents / "vox/notes") is not None


def test_data_that_a_mount_would_hide_is_a_warning_where_the_entry_is_not_required(town: Town) -> None:
    town.write("[]")
    town.persist("restore")
    (town.agents / "ada/projects").mkdir()
    (town.agents / "ada/projects/new").write_text("x")
    town.write('[{ path = "projects", required = false }, "notes"]')
    said = town.persist("restore", "ada")
    assert said.status == 0
    assert "warning: ada: projects" in said.err
    assert mounts.at(town.agents / "ada/notes") is not None


def test_another_mount_in_the_place_is_not_taken_for_ours(town: Town) -> None:
    town.persist("restore")
    kernel.mount("tmpfs", str(town.agents / "ada/projects"), "tmpfs", 0, "")
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert "something else is mounted at" in said.err


def test_a_source_that_was_replaced_under_its_mount_is_noticed(town: Town) -> None:
    town.persist("restore")
    leaf = town.persisted / "agents/ada/projects"
    leaf.rename(leaf.with_name("old"))
    leaf.mkdir(0o700)
    os.chown(leaf, ADA, ADA)
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert "something else is mounted at" in said.err


def test_a_target_that_is_moved_away_at_the_last_moment_gets_no_mount(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.write('["work/place"]')
    placed = mounts.placed

    def late(source: int, target: int) -> int:
        as_agent(AS_ADA, town.agents / "ada", "import os; os.rename('work', 'moved'); os.makedirs('work/place')")
        return placed(source, target)

    monkeypatch.setattr(mounts, "placed", late)
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert "work/place was moved away while it was being bound" in said.err
    assert mounts.below(town.agents) == []
    monkeypatch.undo()
    assert town.persist("restore", "ada").status == 0
    assert mounts.at(town.agents / "ada/work/place") is not None


def test_data_that_comes_at_the_last_moment_is_not_hidden(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.write("[]")
    town.persist("restore")
    (town.agents / "ada/projects").mkdir()
    look = found.look

    def then_filled(*words: Any) -> Any:
        seen = look(*words)
        (town.agents / "ada/projects/new").touch()
        return seen

    town.write('["projects"]')
    monkeypatch.setattr(found, "look", then_filled)
    said = town.persist("restore", "ada")
    assert said.status == 1
    assert "got data while it was being bound" in said.err
    assert mounts.below(town.agents) == []


def test_leftovers_of_an_interrupted_restore_are_removed(town: Town) -> None:
    town.persist("restore")
    token = ".nuketown-0123456789ab"
    for path in (town.agents / f"{token}-ada", town.agents / "ada" / token, town.persisted / "agents/ada" / token):
        (path / "whole/half").mkdir(parents=True)
    theirs = town.agents / "ada/.nuketown-ba9876543210"
    theirs.mkdir()
    os.chown(theirs, ADA, ADA)
    said = town.persist("restore")
    assert said.status == 0
    assert said.out.count("remove") == 3
    assert sorted(os.listdir(town.agents)) == ["ada", "vox"]
    assert sorted(os.listdir(town.agents / "ada")) == [theirs.name, "projects"]
    assert os.listdir(town.persisted / "agents/ada") == ["projects"]
    assert town.persist("restore").out == "ada: nothing to do\nvox: nothing to do\n"


def test_a_uid_of_somebody_else_gets_no_home(town: Town) -> None:
    text = town.file.read_text().replace(f"uid = {ADA}", "uid = 65534").replace("65534", "60000")
    town.file.write_text(text.replace("[agents.ada]", "[agents.daemon]"))
    said = town.persist("restore")
    assert said.status == 78
    assert os.listdir(town.agents) == ["vox"]


def test_one_restore_of_an_agent_at_a_time(town: Town) -> None:
    from persist import restore

    town.persist("restore")
    spec = town.spec
    with restore._alone(spec, spec.agent("ada")):
        said = town.persist("restore")
    assert said.status == 75
    assert "ada: another restore" in said.err
    assert "vox: nothing to do" in said.out


def test_without_root_it_says_so(town: Town) -> None:
    town.file.chmod(0o644)
    # The directory above the spec is the test's alone, so it is given open.
    with files.opened(os.open(town.file, os.O_RDONLY)) as fd, reach.checkout() as (place, packages):
        argv = [reach.PYTHON, "-m", "persist.cli", "--spec", f"/proc/self/fd/{fd}", "restore"]
        done = process.run(argv, person=AS_ADA, env=packages, cwd=place, check=False, fds=(fd,))
    assert done.status == 1
    assert done.err.startswith(b"persist: error: persist restore needs root")
