"""`persist init`: makes what is missing, touches nothing that is there, and a second run changes nothing."""

import argparse
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import loopback
from persist import ballast, cli, device, init, layout, rollback
from tests import reach
from tests.machine import killing
from tests.machine import rollbackdisk as disk
from tests.scale import SEED, times
from town import btrfs, files, kernel, process, spec
from town.spec import Btrfs, Spec

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


def _names(town: Spec) -> Btrfs:
    assert town.town.btrfs is not None
    return town.town.btrfs


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
    with disk.subvolume(btrfs_top, "@agents-ballast") as fd:
        assert btrfs.is_subvolume(fd)
        assert os.fstat(fd).st_mode & 0o7777 == 0o700
        assert sum(len(os.getxattr(fd, name)) for name in os.listxattr(fd)) > 15 << 20
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
    assert said[-1] == "make      @agents-ballast, a subvolume of 16 MiB of metadata, for a disk that is full"
    assert len(said) == 9


def test_an_init_in_the_middle_of_a_rollback_waits_for_another_time(town: Spec, btrfs_top: int) -> None:
    with rollback.alone(), pytest.raises(rollback.Running):
        init.prepare(town)
    assert files.names(btrfs_top) == []
    with rollback.alone():
        assert init.prepare(town, dry_run=True) == 0
    assert init.prepare(town) == 0


def test_without_btrfs_only_the_directories_are_made(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=""))
    assert init.prepare(spec.load(file)) == 0
    assert _facts(tmp_path / "deep/persist/agents") == (0, 0, 0o711)
    assert layout.plan(spec.load(file)).actions == ()


def _clear(town: Spec, top: int) -> None:
    for name in map(os.fsdecode, files.names(top)):
        if os.stat(name, dir_fd=top).st_ino == 256:
            btrfs.delete(top, name)
        else:
            os.rmdir(name, dir_fd=top)
    for path in (town.town.agents_dir, town.town.agents_dir.parent / "deep"):
        shutil.rmtree(path, ignore_errors=True)


def test_an_init_that_ended_after_any_action_is_finished(town: Spec, btrfs_top: int) -> None:
    actions = layout.plan(town).actions
    assert isinstance(actions[-1], layout.actions.MakeBallast)
    for number in range(len(actions)):
        list(layout.apply(town, actions[: number + 1]))
        assert layout.plan(town).actions == actions[number + 1 :]
        _clear(town, btrfs_top)


def test_an_init_killed_at_any_moment_is_finished_by_the_next(
    town: Spec, btrfs_device: str, btrfs_top: int, tmp_path: Path
) -> None:
    def run() -> object:
        return init.prepare(town)

    calls = killing.count(run)
    assert calls > 60
    _clear(town, btrfs_top)
    for moment in random.Random(SEED).sample(range(calls), min(times(12), calls)):
        killing.killed(run, moment)
        init.prepare(town)
        assert disk.is_blank(btrfs_top)
        assert disk.info(btrfs_top, "@agents-blank").read_only
        assert layout.plan(town).actions == ()
        assert not ballast.missing(btrfs_top, _names(town))
        whole = {b"@agents", b"@agents-ballast", b"@agents-blank", b"@agents-old", b"@agents-snapshots"}
        left = set(files.names(btrfs_top)) - whole
        assert all(name.startswith(b".@agents-") and name.endswith(b".new") for name in left), left
        _clear(town, btrfs_top)


def test_a_blank_that_is_writable_but_empty_is_made_read_only_with_a_warning(
    town: Spec, btrfs_top: int, capsys: pytest.CaptureFixture[str]
) -> None:
    os.close(btrfs.create(btrfs_top, "@agents-blank"))
    with disk.subvolume(btrfs_top, "@agents-blank") as blank:
        os.fchmod(blank, 0o755)
    assert layout.actions.SetReadOnly("@agents-blank") in layout.plan(town).actions
    init.prepare(town)
    warning, hint = capsys.readouterr().err.splitlines()
    assert warning == "persist: warning: @agents-blank is empty but writable: so far nothing kept things out of it"
    assert hint == "persist: hint: nothing to do: init makes it read-only"
    assert disk.info(btrfs_top, "@agents-blank").read_only


def _blank_with_content(top: int) -> None:
    os.close(btrfs.create(top, "@agents-blank"))
    disk.put(top, "@agents-blank/x", b"x")
    with disk.subvolume(top, "@agents-blank") as blank:
        os.fchmod(blank, 0o755)


def _blank_of_another(top: int) -> None:
    with files.opened(btrfs.create(top, "@agents-blank")) as blank:
        os.fchown(blank, 51100, 51100)
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


def _ballast_directory(top: int) -> None:
    os.mkdir("@agents-ballast", 0o700, dir_fd=top)


def _ballast_with_content(top: int) -> None:
    os.close(btrfs.create(top, "@agents-ballast"))
    disk.put(top, "@agents-ballast/x", b"somebody's")


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
        (_ballast_directory, "@agents-ballast is not a subvolume"),
        (_ballast_with_content, "@agents-ballast holds files"),
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
    assert layout.plan(town).actions[0] == layout.actions.MakeDirectory(tmp_path / "agents", 0o755)
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


def _on(tmp_path: Path, told: str) -> Spec:
    file = tmp_path / "other.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=f'[town.btrfs]\ndevice = "{told}"'))
    return spec.load(file)


def _image(at: Path, megabytes: int, *words: str) -> Path:
    with at.open("wb") as file:
        file.truncate(megabytes << 20)
    if words:
        process.run([*words, at])
    return at


def test_a_disk_without_room_for_the_ballast_gets_all_else_and_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = _image(tmp_path / "small", 40, "mkfs.btrfs", "--quiet", "--mixed")
    with loopback.attached(image) as small, btrfs.top_level(small) as top:
        disk.put(top, "data", os.urandom(24 << 20))
        btrfs.commit(top)
        town = _on(tmp_path, small)
        with pytest.raises(layout.doing.LayoutFailed) as failure:
            init.prepare(town)
        assert "there is no room for @agents-ballast" in failure.value.what
        assert failure.value.hint.startswith("everything else is in its place; ")
        assert ballast.missing(top, _names(town))
        assert disk.is_blank(top)
        assert [type(action) for action in layout.plan(town).actions] == [layout.actions.MakeBallast]
        assert len(capsys.readouterr().out.splitlines()) == 8
        os.unlink("data", dir_fd=top)
        btrfs.commit(top)
        init.prepare(town)
        assert not ballast.missing(top, _names(town))


def test_a_device_that_holds_no_btrfs_or_may_not_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    for number, words in enumerate(((), ("mkfs.ext4", "-q"))):
        with loopback.attached(_image(tmp_path / f"no{number}", 16, *words)) as path:
            with pytest.raises(btrfs.BtrfsFailed, match="it is no btrfs") as failure:
                init.prepare(_on(tmp_path, path))
            assert f"lsblk -f {path}" in failure.value.hint
    with loopback.attached(_image(tmp_path / "yes", 128, "mkfs.btrfs", "--quiet")) as path:
        process.run(["blockdev", "--setro", path])
        try:
            with pytest.raises(btrfs.BtrfsFailed, match="the device is read-only"):
                init.prepare(_on(tmp_path, path))
        finally:
            process.run(["blockdev", "--setrw", path])  # the device would keep it for its next image
    assert not (tmp_path / "agents").exists()


def test_a_device_that_is_missing_or_one_of_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(device.DeviceMissing):
        init.prepare(_on(tmp_path, f"{tmp_path}/none"))
    label = f"init {os.getpid()}"
    one, two = (_image(tmp_path / name, 128, "mkfs.btrfs", "--quiet", "--label", label) for name in ("1", "2"))
    with loopback.attached(one), loopback.attached(two), pytest.raises(device.DeviceAmbiguous):
        init.prepare(_on(tmp_path, f"LABEL={label}"))
    assert not (tmp_path / "agents").exists()


def test_a_filesystem_on_two_devices_is_prepared_and_without_one_of_them_is_refused(tmp_path: Path) -> None:
    images = [_image(tmp_path / name, 128) for name in ("1", "2")]
    with loopback.attached(images[0]) as one:
        with loopback.attached(images[1]) as two:
            process.run(["mkfs.btrfs", "--quiet", one, two])
            assert init.prepare(_on(tmp_path, one)) == 0
            with btrfs.top_level(two) as top:
                assert disk.is_blank(top)
            for path in (one, two):
                process.run(["btrfs", "device", "scan", "--forget", path])
        with pytest.raises(btrfs.BtrfsFailed, match="devices of it are missing") as failure:
            init.prepare(_on(tmp_path, one))
        assert "btrfs device scan" in failure.value.hint
        process.run(["btrfs", "device", "scan", "--forget", one], check=False)


def test_a_directory_on_a_read_only_filesystem_is_refused_with_the_cure(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=""))
    (tmp_path / "deep").mkdir()
    kernel.mount("none", str(tmp_path / "deep"), "tmpfs", kernel.MOUNT_RDONLY)
    try:
        with pytest.raises(layout.doing.LayoutFailed, match="Read-only file system") as failure:
            init.prepare(spec.load(file))
    finally:
        kernel.umount(str(tmp_path / "deep"))
    assert failure.value.hint.startswith("mount it writable; ")


def test_what_init_made_before_a_power_cut_is_there_after_it(
    town: Spec, btrfs_image: Path, btrfs_top: int, tmp_path: Path
) -> None:
    """The filesystem stays mounted all the while: nothing but init's own commit can have written the disk."""
    actions = [action for action in layout.plan(town).actions if not isinstance(action, layout.actions.MakeBallast)]
    list(layout.apply(town, actions))  # the ballast, which commits by itself, would hide a commit that is missing
    copy = tmp_path / "after the cut.img"
    process.run(["cp", "--sparse=always", btrfs_image, copy])
    process.run(["btrfstune", "-m", "-f", copy])
    with loopback.attached(copy) as path, btrfs.top_level(path) as top:
        assert files.names(top) == files.names(btrfs_top)
        assert disk.is_blank(top)


def test_json_names_what_was_done_and_what_is_wrong(
    town: Spec, btrfs_top: int, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkdir("@agents-blank", dir_fd=btrfs_top)
    words = ["--spec", str(town.file), "init", "--json"]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    problem = {"what": "@agents-blank is not a subvolume", "cure": "move @agents-blank away"}
    assert json.loads(said.out) == {"ok": False, "problems": [problem]}
    assert "error: @agents-blank is not a subvolume" in said.err
    os.rmdir("@agents-blank", dir_fd=btrfs_top)
    assert cli.main([*words, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert files.names(btrfs_top) == []
    assert cli.main(words) == 0
    done = json.loads(capsys.readouterr().out)
    assert (planned.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert planned == done
    assert done["actions"][0]["action"] == "MakeBlank"


def test_each_thing_that_is_wrong_is_told_with_its_own_cure(
    town: Spec, btrfs_top: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _homes_directory(btrfs_top)
    _old_open(btrfs_top)
    assert cli.main(["--spec", str(town.file), "init"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in lines] == [" error", " hint", " error", " hint"]
    assert lines[0] == "persist: error: @agents is not a subvolume"
    for hint in (lines[1], lines[3]):
        adopting = f"where something else made this layout: persist init --spec {town.file} --adopt --dry-run"
        assert hint.startswith(f"persist: hint: {adopting}")


def _blank_closed(top: int) -> None:
    with files.opened(btrfs.create(top, "@agents-blank")) as blank:
        os.fchmod(blank, 0o700)


@pytest.mark.parametrize("scenario", [_blank_closed, _homes_directory, _homes_of_another, _old_open])
def test_what_adoption_would_take_over_is_said_to_be_adopted_and_is(
    town: Spec, btrfs_top: int, scenario: Callable[[int], None]
) -> None:
    scenario(btrfs_top)
    with pytest.raises(layout.NotAsItShouldBe) as failure:
        init.prepare(town)
    assert failure.value.hint.startswith("where something else made this layout: persist init --adopt --dry-run")
    assert init.prepare(town, dry_run=True, adopt=True) == 0


def test_data_on_its_way_that_an_agent_owns_is_said_to_be_adopted(town: Spec, tmp_path: Path) -> None:
    agents = tmp_path / "deep/persist/agents"
    agents.mkdir(0o755, parents=True)
    os.chown(agents, 51100, 51100)
    with pytest.raises(layout.NotAsItShouldBe) as failure:
        init.prepare(town)
    ((what, cure),) = failure.value.wrong
    assert what == f"{agents} belongs to uid 51100, not to root"
    assert cure.startswith("where something else made this layout: persist init --adopt --dry-run; else look whose it")
    assert init.prepare(town, adopt=True) == 0


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize("scenario", [_blank_with_content, _blank_of_another])
def test_the_commands_that_a_hint_gives_delete_a_blank_that_nobody_trusts(
    town: Spec, btrfs_top: int, scenario: Callable[[int], None], adopt: bool
) -> None:
    scenario(btrfs_top)
    with pytest.raises(layout.NotAsItShouldBe) as failure:
        init.prepare(town, adopt=adopt)
    begin, _, commands = failure.value.hint.partition("; then: ")
    assert begin == "find out who changed it"
    delete, _, again = commands.rpartition(" && ")
    assert again == ("persist init --adopt" if adopt else "persist init")
    process.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", delete])
    assert not disk.exists(btrfs_top, "@agents-blank")
    assert init.prepare(town, adopt=adopt) == 0


@pytest.mark.parametrize("words", [["--json"], ["--json", "--dry-run"], ["--adopt"], ["--adopt", "--json"]])
def test_init_store_goes_with_neither_json_nor_adopt_and_the_hint_is_to_the_point(
    town: Spec, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert cli.main(["--spec", str(town.file), "init", "--store", *words]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert words[0] in error
    assert ("--adopt" in hint) == ("--adopt" in words)
    assert ("leave --json out" in hint) == ("--adopt" not in words)


def test_init_store_is_the_store_makers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys
    from types import ModuleType

    file = tmp_path / "town.toml"
    file.write_text(SPEC.format(at=tmp_path, btrfs=""))
    maker, called = ModuleType("persist.makestore"), []
    maker.make = lambda town, dry_run: called.append((town, dry_run)) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "persist.makestore", maker)
    arguments = argparse.Namespace(spec=str(file), store=True, dry_run=True, adopt=False, json=False)
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
    assert hint.startswith("persist: hint: sudo ")
    assert hint.endswith(f" --spec /proc/self/fd/{fd} {' '.join(words)}")
