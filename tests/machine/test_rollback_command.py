"""`persist rollback`: the very same hook on a live system, never under homes that are in use."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import initrd as source
from demo import loopback
from persist import device, rollback
from tests.machine import rollbackdisk as disk
from town import btrfs, files, process, spec
from town.failure import Failure

pytestmark = pytest.mark.root

SPEC = """\
[town]
domain = "example.test"
agents_dir = "{agents}"
persist_dir = "{persist}"
human = {{ user = "root", name = "Jo", email = "jo@example.test" }}
{btrfs}
[agents.ada]
uid = 51100
"""


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    """Where homes would be mounted."""
    made = tmp_path / "agents"
    made.mkdir()
    return made


@pytest.fixture
def town_file(tmp_path: Path, agents: Path, btrfs_device: str) -> Path:
    """A spec whose filesystem is the test's."""
    file = tmp_path / "town.toml"
    table = f'[town.btrfs]\ndevice = "{btrfs_device}"'
    file.write_text(SPEC.format(agents=agents, persist=tmp_path / "persist", btrfs=table))
    return file


def persist(file: Path, *words: str, before: str = "true") -> process.Done:
    """`persist` in a mount namespace of its own, with its own /run; `before` is run there first."""
    run = file.parent / "run"
    run.mkdir(exist_ok=True)
    inside = f'mount --bind "$1" /run && {before} && shift && exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh", str(run)]
    root = str(source.hook().parent.parent)
    told = [sys.executable, "-m", "persist.cli", "--spec", str(file), *words]
    return process.run([*argv, *told], cwd=root, check=False)


def test_a_live_rollback_sets_the_homes_aside_and_leaves_the_hooks_proof(town_file: Path, btrfs_top: int) -> None:
    disk.lay_out(btrfs_top)
    disk.put(btrfs_top, "@agents/payload", b"what was there")
    done = persist(town_file, "rollback")
    assert done.status == 0, done.err
    assert b"@agents is blank and durable" in done.err
    assert disk.is_blank(btrfs_top)
    assert disk.payloads(btrfs_top) == [b"what was there"]
    proof = (town_file.parent / "run/nuketown/rollback").read_text()
    assert f"uuid={disk.info(btrfs_top, '@agents').uuid}\n" in proof
    uuid = disk.info(btrfs_top, "@agents").uuid
    assert persist(town_file, "rollback").status == 0
    assert disk.info(btrfs_top, "@agents").uuid == uuid


@pytest.mark.parametrize(
    ("where", "cure"),
    [
        (["subvol=@agents {device} {agents}"], "umount -R {agents}"),
        (["subvol=@agents/ada {device} {agents}/ada"], "umount {agents}/ada"),
        (["subvol=@agents {device} {elsewhere}"], "umount {elsewhere}"),
        (
            ["subvol=@agents {device} {agents}", "subvol=@agents/ada {device} {agents}/ada",
             "subvol=@agents/ada {device} {elsewhere}"],
            "umount -R {agents} && umount {elsewhere}",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_homes_that_are_mounted_are_not_rolled_back_and_the_hint_unmounts_them(
    town_file: Path, agents: Path, btrfs_device: str, btrfs_top: int, where: list[str], cure: str, dry: list[str]
) -> None:
    disk.lay_out(btrfs_top)
    with disk.subvolume(btrfs_top, "@agents") as homes:
        os.close(btrfs.create(homes, "ada"))
    (agents / "ada").mkdir()
    elsewhere = town_file.parent / "elsewhere"
    elsewhere.mkdir()
    uuid = disk.info(btrfs_top, "@agents").uuid
    named = {"device": btrfs_device, "agents": str(agents), "elsewhere": str(elsewhere)}
    mount = " && ".join("mount -o " + one.format(**named) for one in where)
    done = persist(town_file, "rollback", *dry, before=mount)
    assert (done.status, done.out) == (75, b"")
    assert b"persist: error: homes are in use: mounted at " in done.err
    hint = f"hint: stop the agents, then: {cure.format(**named)}\n"
    assert done.err.endswith(hint.encode())
    assert disk.info(btrfs_top, "@agents").uuid == uuid
    assert persist(town_file, "rollback", *dry, before=f"{mount} && {cure.format(**named)}").status == 0


def test_another_mount_of_the_same_filesystem_is_no_home(town_file: Path, btrfs_device: str, btrfs_top: int) -> None:
    disk.lay_out(btrfs_top)
    os.close(btrfs.create(btrfs_top, "@agents-data"))
    disk.put(btrfs_top, "@agents/payload", b"x")
    (town_file.parent / "data").mkdir()
    done = persist(town_file, "rollback", before=f"mount -o subvol=@agents-data {btrfs_device} {town_file.parent}/data")
    assert done.status == 0, done.err


def test_the_hooks_reason_and_cure_are_passed_on(town_file: Path, btrfs_top: int) -> None:
    disk.lay_out(btrfs_top)
    os.rename("@agents-blank", "@elsewhere", src_dir_fd=btrfs_top, dst_dir_fd=btrfs_top)
    done = persist(town_file, "rollback")
    assert done.status == 1
    assert b"persist: error: the blank subvolume @agents-blank is missing\npersist: hint: make it anew" in done.err


def _written(top: int) -> None:
    disk.put(top, "@agents/x", b"x")


def _left(top: int) -> None:
    with disk.subvolume(top, "@agents-blank") as blank:
        os.close(btrfs.snapshot(blank, top, "@agents.new", read_only=False))


def _missing(top: int) -> None:
    btrfs.delete(top, "@agents")


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        (lambda _: None, ["keep      @agents: it is blank and was never written to"]),
        (_written, ["set aside @agents as @agents-old/…", "snapshot  @agents-blank as @agents"]),
        (
            _left,
            ["delete    @agents.new: it is blank and was never written to",
             "keep      @agents: it is blank and was never written to"],
        ),
        (_missing, ["snapshot  @agents-blank as @agents"]),
    ],
)  # fmt: skip
def test_a_dry_run_says_what_would_be_set_aside_and_changes_nothing(
    town_file: Path, btrfs_top: int, scenario: Callable[[int], None], says: list[str]
) -> None:
    disk.lay_out(btrfs_top)
    scenario(btrfs_top)
    names, before = files.names(btrfs_top), disk.payloads(btrfs_top)
    done = persist(town_file, "rollback", "--dry-run")
    assert (done.status, done.out.decode().splitlines()) == (0, says), done.err
    assert (files.names(btrfs_top), disk.payloads(btrfs_top)) == (names, before)


def _blank_missing(top: int) -> None:
    os.rename("@agents-blank", "@elsewhere", src_dir_fd=top, dst_dir_fd=top)


def _blank_link(top: int) -> None:
    _blank_missing(top)
    os.symlink("@elsewhere", "@agents-blank", dir_fd=top)


def _blank_directory(top: int) -> None:
    _blank_missing(top)
    os.mkdir("@agents-blank", 0o755, dir_fd=top)


@contextmanager
def _blank(top: int) -> Iterator[int]:
    with disk.subvolume(top, "@agents-blank") as blank:
        btrfs.set_read_only(blank, False)
        yield blank
        btrfs.set_read_only(blank, True)


def _blank_filled(top: int) -> None:
    with _blank(top) as blank:
        files.write_beneath(blank, ".hidden", b"x")


def _blank_of_an_agent(top: int) -> None:
    with _blank(top) as blank:
        os.fchown(blank, 51100, 0)


def _blank_open(top: int) -> None:
    with _blank(top) as blank:
        os.fchmod(blank, 0o1777)


def _blank_open_and_filled(top: int) -> None:
    _blank_open(top)
    _blank_filled(top)


def _old_subvolume(top: int) -> None:
    os.close(btrfs.create(top, "@agents-old"))


def _old_open(top: int) -> None:
    os.mkdir("@agents-old", 0o755, dir_fd=top)


def _old_of_an_agent(top: int) -> None:
    os.mkdir("@agents-old", 0o700, dir_fd=top)
    os.chown("@agents-old", 51100, 51100, dir_fd=top)


def _old_file(top: int) -> None:
    disk.put(top, "@agents-old", b"")


def _old_link(top: int) -> None:
    os.symlink("@agents", "@agents-old", dir_fd=top)


@pytest.mark.parametrize(
    "scenario",
    [_blank_missing, _blank_link, _blank_directory, _blank_filled, _blank_of_an_agent, _blank_open,
     _blank_open_and_filled, _old_subvolume, _old_open, _old_of_an_agent, _old_file, _old_link],
)  # fmt: skip
def test_a_dry_run_refuses_what_the_hook_refuses_in_the_same_words(
    town_file: Path, btrfs_top: int, scenario: Callable[[int], None]
) -> None:
    disk.lay_out(btrfs_top)
    scenario(btrfs_top)
    before = files.names(btrfs_top)
    dry = persist(town_file, "rollback", "--dry-run")
    assert (dry.status, dry.out) == (1, b"")
    assert dry.err.startswith(b"persist: error: ")
    real = persist(town_file, "rollback")
    assert (real.status, real.err) == (1, dry.err)
    assert files.names(btrfs_top) == before


def test_a_dry_run_says_that_a_writable_blank_would_be_set_read_only_and_leaves_it(
    town_file: Path, btrfs_top: int
) -> None:
    disk.lay_out(btrfs_top)
    with disk.subvolume(btrfs_top, "@agents-blank") as blank:
        btrfs.set_read_only(blank, False)
    done = persist(town_file, "rollback", "--dry-run")
    assert done.status == 0, done.err
    assert done.out.startswith(b"set read-only @agents-blank: it is empty, and writable\n")
    assert len(done.out.splitlines()) == 2
    assert not disk.info(btrfs_top, "@agents-blank").read_only
    assert persist(town_file, "rollback").status == 0
    assert disk.info(btrfs_top, "@agents-blank").read_only


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_one_rollback_at_a_time(town_file: Path, dry: list[str]) -> None:
    before = "mkdir -p /run/nuketown && { flock /run/nuketown/rollback.lock sleep 1 & sleep 0.2; }"
    done = persist(town_file, "rollback", *dry, before=before)
    assert done.status == 75
    assert b"another rollback is running" in done.err


# ---- the device


def test_a_device_is_resolved_from_path_link_uuid_and_label(tmp_path: Path) -> None:
    label, image = f"nuketown {os.getpid()}", tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    process.run(["mkfs.btrfs", "--quiet", "--label", label, image])
    with loopback.attached(image) as here:
        uuid = process.run(["blkid", "-p", "-s", "UUID", "-o", "value", here]).out.strip().decode()
        link = tmp_path / "link"
        link.symlink_to(here)
        assert {device.resolve(name) for name in (here, str(link), f"UUID={uuid}", f"LABEL={label}")} == {here}
        other = tmp_path / "other"
        with other.open("wb") as file:
            file.truncate(128 << 20)
        process.run(["mkfs.btrfs", "--quiet", "--label", label, other])
        with loopback.attached(other), pytest.raises(device.DeviceAmbiguous):
            device.resolve(f"LABEL={label}")


@pytest.mark.parametrize("name", ["/dev/does-not-exist", "/dev/null", "/etc/passwd", "LABEL=no such label at all",
                                  "UUID=11111111-2222-3333-4444-555555555555"])  # fmt: skip
def test_a_device_that_is_not_there_may_come_later(name: str) -> None:
    with pytest.raises(device.DeviceMissing) as failure:
        device.resolve(name)
    assert failure.value.status == 75
    assert failure.value.hint


def test_the_device_of_a_mount_is_known(btrfs_dir: Path, btrfs_device: str, tmp_path: Path) -> None:
    assert device.of_mount(btrfs_dir) == btrfs_device
    assert device.of_mount(tmp_path) is None
    assert device.of_mount(Path("/proc")) is None


def test_the_top_level_is_opened_and_a_town_without_btrfs_is_told_so(
    town_file: Path, btrfs_top: int, tmp_path: Path
) -> None:
    disk.lay_out(btrfs_top)
    with device.top(spec.load(town_file)) as top:
        assert files.names(top) == [b"@agents", b"@agents-blank"]
    plain = tmp_path / "plain.toml"
    plain.write_text(SPEC.format(agents=tmp_path / "a", persist=tmp_path / "p", btrfs=""))
    with pytest.raises(device.NoBtrfs), device.top(spec.load(plain)):
        pass
    with pytest.raises(device.NoBtrfs):
        rollback.plan(spec.load(plain))


def test_a_device_that_holds_something_else_is_a_failure_with_a_name(tmp_path: Path) -> None:
    image = tmp_path / "nothing"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    with loopback.attached(image) as here:
        town = tmp_path / "town.toml"
        table = f'[town.btrfs]\ndevice = "{here}"'
        town.write_text(SPEC.format(agents=tmp_path / "a", persist=tmp_path / "p", btrfs=table))
        with pytest.raises(Failure, match=here), device.top(spec.load(town)):
            pass
