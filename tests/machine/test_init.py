"""`persist init`: makes what is missing, touches nothing that is there, and a second run changes nothing."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from persist import init, layout
from tests import reach
from tests.machine import rollbackdisk as disk
from town import btrfs, files, process, spec
from town.spec import Spec

pytestmark = pytest.mark.root

SPEC = """\
[town]
domain = "example.test"
agents_dir = "{at}/agents"
persist_dir = "{at}/deep/persist"
human = {{ user = "root", name = "Jo", email = "jo@example.test" }}
{btrfs}
[agents.ada]
uid = 51100
"""


@pytest.fixture
def town(tmp_path: Path, btrfs_device: str) -> Spec:
    """A town on the test's filesystem."""
    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=f'[town.btrfs]\ndevice = "{btrfs_device}"'))
    return spec.load(file)


def _facts(path: Path) -> tuple[int, int, int]:
    found = os.lstat(path)
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def _state(top: int) -> list[object]:
    """Everything that a change would show in: names, modes, owners, and each subvolume's generation."""
    btrfs.commit(top)
    found: list[object] = []
    for name in map(os.fsdecode, files.names(top)):
        entry = os.stat(name, dir_fd=top, follow_symlinks=False)
        generation = disk.info(top, name).generation if entry.st_ino == 256 else None
        found.append((name, entry.st_mode, entry.st_uid, entry.st_gid, entry.st_ino, generation))
    return found


def test_init_makes_the_layout_and_the_hook_accepts_it(
    town: Spec, btrfs_device: str, btrfs_top: int, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        assert init.prepare(town) == 0
    finally:
        os.umask(before)
    assert disk.is_blank(btrfs_top)
    blank = disk.info(btrfs_top, "@agents-blank")
    assert blank.read_only
    for name, mode in (("@agents-blank", 0o755), ("@agents-old", 0o700), ("@agents-snapshots", 0o700)):
        entry = os.stat(name, dir_fd=btrfs_top, follow_symlinks=False)
        assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o7777) == (0, 0, mode)
    assert _facts(tmp_path / "agents") == (0, 0, 0o755)
    assert _facts(tmp_path / "deep") == (0, 0, 0o755)
    assert _facts(tmp_path / "deep/persist") == (0, 0, 0o711)
    assert _facts(tmp_path / "deep/persist/agents") == (0, 0, 0o711)
    assert _facts(town.state_dir) == (0, 0, 0o700)
    done = disk.make_initrd(tmp_path / "initrd", "dash")(btrfs_device)
    assert done.status == 0, done.err


def test_a_second_init_changes_nothing_and_says_so(
    town: Spec, btrfs_top: int, capsys: pytest.CaptureFixture[str]
) -> None:
    init.prepare(town)
    disk.put(btrfs_top, "@agents/payload", b"homes in use")
    before = _state(btrfs_top)
    capsys.readouterr()
    assert init.prepare(town) == 0
    assert capsys.readouterr().out == "nothing to do: everything is there and as it should be\n"
    assert _state(btrfs_top) == before


def test_a_dry_run_prints_the_plan_and_makes_nothing(
    town: Spec, btrfs_top: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir(tmp_path))
    assert init.prepare(town, dry_run=True) == 0
    said = capsys.readouterr().out.splitlines()
    assert files.names(btrfs_top) == []
    assert sorted(os.listdir(tmp_path)) == before
    init.prepare(town)
    assert capsys.readouterr().out.splitlines() == said
    assert said[0] == "make      @agents-blank, a subvolume, empty, root:root 0755, read-only"
    assert len(said) == 8


def test_without_btrfs_only_the_directories_are_made(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=""))
    assert init.prepare(spec.load(file)) == 0
    assert _facts(tmp_path / "deep/persist/agents") == (0, 0, 0o711)
    assert layout.plan(spec.load(file)) == ()


def test_an_init_that_was_cut_off_is_finished(town: Spec, btrfs_top: int) -> None:
    actions = layout.plan(town)
    for number in range(len(actions)):
        doing = layout.apply(town, actions[: number + 1])
        list(doing)
        actions_left = layout.plan(town)
        assert actions_left == actions[number + 1 :]
        for name in map(os.fsdecode, files.names(btrfs_top)):
            if os.stat(name, dir_fd=btrfs_top).st_ino == 256:
                btrfs.delete(btrfs_top, name)
            else:
                os.rmdir(name, dir_fd=btrfs_top)
        for path in (town.state_dir, town.town.persist_dir / "agents", town.town.persist_dir, town.town.agents_dir):  # type: ignore[operator]
            if path is not None and path.exists():
                path.rmdir()


def test_a_blank_that_is_writable_but_empty_is_made_read_only(town: Spec, btrfs_top: int) -> None:
    os.close(btrfs.create(btrfs_top, "@agents-blank"))
    with disk.subvolume(btrfs_top, "@agents-blank") as blank:
        os.fchmod(blank, 0o755)
    assert layout.SetReadOnly("@agents-blank") in layout.plan(town)
    init.prepare(town)
    assert disk.info(btrfs_top, "@agents-blank").read_only


def _blank_with_content(top: int) -> None:
    os.close(btrfs.create(top, "@agents-blank"))
    disk.put(top, "@agents-blank/x", b"x")
    with disk.subvolume(top, "@agents-blank") as blank:
        os.fchmod(blank, 0o755)


def _blank_open(top: int) -> None:
    with files.opened(btrfs.create(top, "@agents-blank")) as blank:
        os.fchmod(blank, 0o777)


def _blank_link(top: int) -> None:
    os.symlink("elsewhere", "@agents-blank", dir_fd=top)


def _homes_directory(top: int) -> None:
    os.mkdir("@agents", 0o755, dir_fd=top)


def _homes_of_another(top: int) -> None:
    with files.opened(btrfs.create(top, "@agents")) as fd:
        os.fchown(fd, 1100, 1100)


def _old_open(top: int) -> None:
    os.mkdir("@agents-old", 0o755, dir_fd=top)


def _snapshots_link(top: int) -> None:
    os.symlink("/etc", "@agents-snapshots", dir_fd=top)


@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        (_blank_with_content, "@agents-blank is not empty"),
        (_blank_open, "@agents-blank is not root:root 0755"),
        (_blank_link, "@agents-blank is not a subvolume"),
        (_homes_directory, "@agents is not a subvolume"),
        (_homes_of_another, "@agents is not root:root 0755"),
        (_old_open, "@agents-old is not root:root 0700"),
        (_snapshots_link, "@agents-snapshots is not a plain directory"),
    ],
)
def test_what_is_there_and_not_as_it_should_be_is_named_and_nothing_is_made(
    town: Spec, btrfs_top: int, tmp_path: Path, scenario: Callable[[int], None], names: str
) -> None:
    scenario(btrfs_top)
    before = _state(btrfs_top)
    with pytest.raises(layout.NotAsItShouldBe) as failure:
        init.prepare(town)
    assert names in failure.value.what
    assert failure.value.hint
    assert _state(btrfs_top) == before
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.chmod(0o777), "writable for others"),
        (lambda path: path.chmod(0o700), "cannot be entered by the agents"),
        (lambda path: os.chown(path, 1100, 1100), "belongs to uid 1100"),
        (lambda path: (path.rmdir(), path.symlink_to("/etc")), "goes through a symlink"),
        (lambda path: (path.rmdir(), path.write_text("x")), "goes through something that is not a directory"),
    ],
)
def test_a_directory_that_an_agent_could_lead_astray_is_refused(
    tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=""))
    town = spec.load(file)
    persist = tmp_path / "deep/persist"
    persist.mkdir(parents=True, mode=0o755)
    assert layout.plan(town)[0] == layout.MakeDirectory(tmp_path / "agents", 0o755)
    change(persist)
    with pytest.raises(layout.NotAsItShouldBe, match=says):
        init.prepare(town)
    assert not (tmp_path / "agents").exists()


def test_records_of_roots_that_others_can_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=""))
    town = spec.load(file)
    init.prepare(town)
    town.state_dir.chmod(0o755)
    with pytest.raises(layout.NotAsItShouldBe, match="open to others than root"):
        layout.plan(town)


def test_init_store_is_the_store_makers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys
    from types import ModuleType

    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=""))
    maker, called = ModuleType("persist.makestore"), []
    maker.make = lambda town, dry_run: called.append((town, dry_run)) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "persist.makestore", maker)
    arguments = argparse.Namespace(spec=str(file), store=True, dry_run=True)
    assert init.command(arguments) == 7
    assert called == [(spec.load(file), True)]
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("words", [["init"], ["init", "--store"], ["init", "--store", "--dry-run"]])
def test_without_root_it_says_so_and_how(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "town.toml"
    store = f'store = "file://{tmp_path}/store"\n'
    file.write_text(SPEC.format(at=tmp_path, btrfs="").replace("[town]\n", f"[town]\n{store}"))
    with files.opened(os.open(file, os.O_RDONLY)) as fd, reach.checkout() as (place, packages):
        argv = [reach.PYTHON, "-m", "persist.cli", "--spec", f"/proc/self/fd/{fd}", *words]
        done = process.run(argv, person=process.Person(51100, 51100), env=packages, cwd=place, check=False, fds=(fd,))
    named = " ".join(word for word in words if word != "--dry-run")
    error, hint = done.err.decode().splitlines()
    assert done.status == 1
    assert error.startswith(f"persist: error: persist {named} needs root: ")
    assert hint == f"persist: hint: sudo persist {named}"
