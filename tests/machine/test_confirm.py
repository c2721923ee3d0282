"""`persist rollback --confirm`: what the hook left is held against the disk, once; a real hook, btrfs and /run."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import initrd
from demo import loopback
from persist import cli, proof
from tests.machine import rollbackdisk as disk
from tests.machine.towns import Said
from town import btrfs, kernel, process

pytestmark = pytest.mark.root

RUN = Path("/run/nuketown")  # of this test worker alone
SPEC = """\
[town]
agents_dir = "{base}/agents"
persist_dir = "{base}/persist"
[town.btrfs]
device = "{device}"
{more}
[agents.ada]
uid = 51100
"""


@dataclass(frozen=True)
class Host:
    """A machine whose initrd ran the hook, or not yet."""

    file: Path
    device: str
    top: int
    capsys: pytest.CaptureFixture[str]

    def hook(self, **told: str) -> process.Done:
        """What the initrd does."""
        return process.run(["sh", initrd.hook()], env={"NUKETOWN_DEVICE": self.device} | told, check=False)

    def persist(self, *words: str) -> Said:
        self.capsys.readouterr()
        status = cli.main(["--spec", str(self.file), *words])
        said = self.capsys.readouterr()
        return Said(status, said.out, said.err)

    def confirm(self, *words: str) -> Said:
        return self.persist("rollback", "--confirm", *words)

    def write(self, device: str, more: str = 'wait = "0s"') -> None:
        self.file.write_text(SPEC.format(base=self.file.parent, device=device, more=more))


@pytest.fixture
def host(btrfs_device: str, btrfs_top: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Host]:
    """A machine that just booted: the hook ran, a home was set aside."""
    shutil.rmtree(RUN, ignore_errors=True)
    (tmp_path / "agents").mkdir()
    host = Host(tmp_path / "town.toml", btrfs_device, btrfs_top, capsys)
    host.write(btrfs_device)
    disk.lay_out(btrfs_top)
    disk.put(btrfs_top, "@agents/payload", b"old")
    done = host.hook()
    assert done.status == 0, done.err
    yield host
    shutil.rmtree(RUN, ignore_errors=True)


def text() -> str:
    return (RUN / "rollback").read_text()


def refused(host: Host, says: str) -> Said:
    """The check fails, says why on standard error and in /run, and leaves nothing that could be mounted."""
    said = host.confirm()
    assert said.status != 0
    assert said.out == ""
    assert says in said.err
    hint = said.err.splitlines()[-1]
    assert hint.startswith("persist: hint: ")
    assert not (RUN / "device").is_symlink()
    return said


def test_a_proof_that_fits_is_confirmed_once_and_the_device_can_be_mounted(host: Host) -> None:
    uuid = str(disk.info(host.top, "@agents").uuid)
    said = host.confirm()
    assert (said.status, said.err) == (0, "")
    assert uuid in said.out
    assert (RUN / "device").readlink() == Path(host.device)
    used = RUN / "rollback.used"
    assert used.read_text() == f"boot_id={proof.boot_id()}\nuuid={uuid}\n"
    assert (used.stat().st_uid, used.stat().st_mode & 0o7777) == (0, 0o644)
    assert not (RUN / "rollback.failed").exists()


def test_a_proof_that_was_used_is_refused_as_after_a_soft_reboot(host: Host) -> None:
    assert host.confirm().status == 0
    refused(host, "the proof of the rollback was used up by an earlier start")
    left = (RUN / "rollback.failed").read_text()
    assert left.startswith("error: the proof of the rollback was used up by an earlier start")
    assert "\nhint: reboot, or stop the agents, then: " in left
    status = host.persist("status")
    assert status.status == 4
    assert "used up by an earlier start" in status.out.splitlines()[0]


@pytest.fixture
def used(host: Host) -> Iterator[Host]:
    """A healthy machine: the proof was taken, the homes are mounted and made."""
    assert host.confirm().status == 0
    agents = host.file.parent / "agents"
    (host.file.parent / "persist").mkdir(0o755)
    kernel.mount(host.device, str(agents), "btrfs", 0, "subvol=@agents")
    assert host.persist("restore").status == 0
    yield host
    kernel.umount(str(agents), kernel.MNT_DETACH)


def left() -> dict[str, str | bytes]:
    """What is in /run/nuketown: links and files."""
    paths = [path for path in RUN.iterdir() if not path.is_dir()]
    return {path.name: str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in paths}


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_check_typed_where_the_homes_are_in_use_says_so_and_changes_nothing(used: Host, words: tuple[str]) -> None:
    before = left()
    assert "device" in before
    said = used.confirm(*words)
    assert (said.status, said.out) == (1, "")
    assert f"confirmed already, and its homes are in use at {used.file.parent}/agents" in said.err
    assert left() == before
    assert used.persist("status").status == 0
    assert used.persist("restore").status == 0


def _of_another_boot(host: Host) -> None:
    uuid = disk.info(host.top, "@agents").uuid
    (RUN / "rollback.used").write_text(f"boot_id=00000000-edd7-4c7a-a748-ce7563c808be\nuuid={uuid}\n")


def _of_another_subvolume(_: Host) -> None:
    (RUN / "rollback.used").write_text(f"boot_id={proof.boot_id()}\nuuid=f3399a8a-3ddc-964e-8fae-3b9172eed7f9\n")


def _of_somebody_else(_: Host) -> None:
    os.chown(RUN / "rollback.used", 51100, 51100)


def _elsewhere(host: Host) -> None:
    agents = str(host.file.parent / "agents")
    kernel.umount(agents)
    kernel.mount(host.device, agents, "btrfs", 0, "subvol=@agents-blank")


@pytest.mark.parametrize("change", [_of_another_boot, _of_another_subvolume, _of_somebody_else, _elsewhere])
def test_a_mark_that_is_not_of_the_homes_in_use_is_refused_as_after_a_soft_reboot(
    used: Host, change: Callable[[Host], None]
) -> None:
    change(used)
    refused(used, "used up by an earlier start")
    assert (RUN / "rollback.failed").exists()


def test_a_start_by_systemd_is_refused_also_where_an_agent_kept_the_homes_mounted(
    used: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    refused(used, "used up by an earlier start")
    assert used.persist("restore").status == 1


def test_a_new_rollback_makes_a_proof_that_can_be_used_again(host: Host) -> None:
    assert host.confirm().status == 0
    refused(host, "used up")
    assert host.persist("rollback").status == 0
    assert host.confirm().status == 0


def test_a_ballast_that_the_hook_gave_up_is_made_anew_before_any_agent_starts(host: Host) -> None:
    host.hook()
    assert not disk.exists(host.top, "@agents-ballast")
    assert host.confirm("--dry-run").status == 0
    assert not disk.exists(host.top, "@agents-ballast")
    assert host.confirm().status == 0
    with disk.subvolume(host.top, "@agents-ballast") as made:
        assert len(os.listxattr(made)) * 16384 == 16 << 20


def test_a_dry_run_checks_and_uses_nothing_up(host: Host) -> None:
    before = sorted(RUN.iterdir())
    assert host.confirm("--dry-run").status == 0
    (RUN / "rollback").unlink()
    assert host.confirm("--dry-run").status == 1
    assert sorted(RUN.iterdir()) == [path for path in before if path.name != "rollback"]


@pytest.mark.parametrize("there", [True, False])
def test_a_boot_without_the_hook_is_refused(host: Host, there: bool) -> None:
    """A missing hook, an initrd for rescue: no proof; or not even the directory."""
    shutil.rmtree(RUN)
    if there:
        RUN.mkdir(0o755)
    refused(host, "this boot left no proof in /run/nuketown/rollback")
    assert (RUN / "rollback.failed").read_text().startswith("error: this boot left no proof")


def test_the_hooks_own_reason_is_told_and_stays(host: Host) -> None:
    os.rename("@agents-blank", "@elsewhere", src_dir_fd=host.top, dst_dir_fd=host.top)
    assert host.hook().status == 1
    before = (RUN / "rollback.failed").read_bytes()
    refused(host, "the rollback of this boot failed: the blank subvolume @agents-blank is missing")
    assert (RUN / "rollback.failed").read_bytes() == before


def test_an_initrd_that_is_stale_rolled_another_subvolume_back(host: Host) -> None:
    host.write(host.device, 'wait = "0s"\nsubvolume = "@homes"')
    refused(host, "it is of the subvolume @agents, the spec says @homes")


def test_agents_that_was_replaced_after_the_hook_is_refused(host: Host) -> None:
    os.rename("@agents", "@agents-old/mine", src_dir_fd=host.top, dst_dir_fd=host.top)
    with disk.subvolume(host.top, "@agents-blank") as blank:
        os.close(btrfs.snapshot(blank, host.top, "@agents", read_only=False))
    refused(host, "the disk shows ")


@pytest.mark.parametrize("plain", [True, False])
def test_agents_that_is_gone_or_no_subvolume_is_refused(host: Host, plain: bool) -> None:
    os.rename("@agents", "@agents-old/mine", src_dir_fd=host.top, dst_dir_fd=host.top)
    if plain:
        os.mkdir("@agents", 0o755, dir_fd=host.top)
    refused(host, "@agents is a plain directory" if plain else "@agents is no subvolume of this disk any more")


def test_agents_that_was_used_since_is_refused(host: Host) -> None:
    """A proof that nobody took, and homes that were made all the same: after a soft-reboot they are not new."""
    with disk.subvolume(host.top, "@agents") as homes:
        os.close(btrfs.create(homes, "ada"))
    refused(host, "@agents is not empty any more")


def test_agents_that_others_may_write_to_is_refused(host: Host) -> None:
    with disk.subvolume(host.top, "@agents") as homes:
        os.fchmod(homes, 0o777)
    refused(host, "@agents is not root:root 0755 any more")


def _owned(path: Path) -> None:
    os.chown(path, 51100, 0)


def _open(path: Path) -> None:
    path.chmod(0o666)


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _huge(path: Path) -> None:
    with path.open("a") as file:
        file.write("old=x\n" * 20_000)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o644)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_owned, "may be changed by others than root (owner uid 51100"),
        (_open, "may be changed by others than root (owner uid 0, mode 0666)"),
        (_linked, "goes through a symlink"),
        (_huge, "is larger than"),
        (_fifo, "is not a regular file"),
    ],
)
def test_a_proof_that_is_not_roots_own_plain_file_is_refused(
    host: Host, change: Callable[[Path], None], says: str
) -> None:
    change(RUN / "rollback")
    refused(host, says)


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_run_directory_that_others_may_write_to_is_refused(host: Host, mode: int) -> None:
    RUN.chmod(mode)
    refused(host, "/run/nuketown may be changed by others than root")


def test_a_run_directory_of_somebody_else_is_refused(host: Host) -> None:
    os.chown(RUN, 51100, 51100)
    refused(host, "/run/nuketown may be changed by others than root (owner uid 51100")


WRONG = {
    "cut off": lambda text: text[:-5],
    "is cut off": lambda text: text.partition("id=")[0] + "id",
    "it is empty": lambda _: "",
    "a line of it is not key=value": lambda text: text + "nonsense\n",
    "its version is 2": lambda text: text.replace("version=1", "version=2"),
    "its version is 1, 1": lambda text: "version=1\n" + text,
    "it is of boot ": lambda text: text.replace("boot_id=", "boot_id=0"),
    "it is of boot missing": lambda text: text.replace("boot_id=", "boot="),
    "it is of uuid missing": lambda text: text.replace("uuid=", "u="),
    "it is of uuid f": lambda text: text.replace("uuid=", "uuid=f"),
    "it is of id ": lambda text: text.replace("\nid=", "\nid=1"),
    "it is of id missing": lambda text: text.replace("\nid=", "\ni="),
    "it is of the subvolume @agents, @agents": lambda text: text + "subvolume=@agents\n",
}


@pytest.mark.parametrize("says", WRONG)
def test_a_proof_of_something_else_or_half_of_one_is_refused(host: Host, says: str) -> None:
    (RUN / "rollback").write_text(WRONG[says](text()))
    refused(host, says)


@pytest.mark.parametrize("key", ["version", "boot_id", "subvolume", "uuid", "id"])
def test_a_proof_that_says_a_thing_twice_is_refused_also_when_both_agree(host: Host, key: str) -> None:
    line = next(line for line in text().splitlines() if line.startswith(f"{key}="))
    (RUN / "rollback").write_text(f"{text()}{line}\n")
    refused(host, "does not fit")


def test_keys_that_nobody_knows_change_nothing(host: Host) -> None:
    (RUN / "rollback").write_text(text() + "later=x\nold=\x1b[2J\n")
    assert host.confirm().status == 0


def test_a_check_that_failed_can_be_done_again_while_the_proof_was_not_used(host: Host) -> None:
    host.write("/dev/does-not-exist")
    said = refused(host, "/dev/does-not-exist is not there")
    assert said.status == 75
    assert (RUN / "rollback.failed").exists()
    host.write(host.device)
    assert host.confirm().status == 0
    assert not (RUN / "rollback.failed").exists()


def test_a_device_that_comes_late_is_waited_for(host: Host, tmp_path: Path) -> None:
    link = tmp_path / "late"
    host.write(str(link), 'wait = "20s"')
    later = threading.Timer(0.6, lambda: link.symlink_to(host.device))
    later.start()
    begun = time.monotonic()
    assert host.confirm().status == 0
    assert 0.5 < time.monotonic() - begun < 10
    later.join()


@pytest.mark.parametrize("words", [(), ("--confirm",)])
def test_a_device_that_never_comes_is_waited_for_as_long_as_the_spec_says_and_no_longer(
    host: Host, words: tuple[str, ...]
) -> None:
    host.write("/dev/does-not-exist", 'wait = "1s"')
    begun = time.monotonic()
    said = host.persist("rollback", *words)
    assert said.status == 75
    assert 1 <= time.monotonic() - begun < 4
    assert "does-not-exist" in (RUN / "rollback.failed").read_text()


def test_a_rollback_waits_for_its_device_too(host: Host, tmp_path: Path) -> None:
    link = tmp_path / "late"
    host.write(str(link), 'wait = "20s"')
    later = threading.Timer(0.6, lambda: link.symlink_to(host.device))
    later.start()
    assert host.persist("rollback").status == 0
    later.join()
    assert host.confirm().status == 0


def test_a_rollback_that_is_refused_before_the_hook_leaves_its_reason_where_there_is_no_proof(host: Host) -> None:
    agents = host.file.parent / "agents"
    kernel.mount(host.device, str(agents), "btrfs", 0, "subvol=@agents")
    try:
        assert host.persist("rollback").status == 75
        assert not (RUN / "rollback.failed").exists()  # this boot has its proof: nothing is wrong
        (RUN / "rollback").unlink()
        assert host.persist("rollback").status == 75
        assert (RUN / "rollback.failed").read_text().startswith("error: homes are in use")
    finally:
        kernel.umount(str(agents))


def test_a_filesystem_that_is_not_the_one_of_the_proof_is_refused(host: Host, tmp_path: Path) -> None:
    image = tmp_path / "other.img"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    process.run(["mkfs.btrfs", "--quiet", image])
    with loopback.attached(image) as other:
        host.write(other)
        refused(host, "@agents is no subvolume of this disk any more")
        with btrfs.top_level(other) as top:
            disk.lay_out(top)
        refused(host, "does not fit: it is of uuid ")


def test_a_device_that_holds_no_btrfs_is_refused(host: Host, tmp_path: Path) -> None:
    image = tmp_path / "none.img"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    with loopback.attached(image) as other:
        host.write(other)
        said = host.confirm()
        assert said.status == 1
        assert other in (RUN / "rollback.failed").read_text()


def test_the_check_and_a_rollback_do_not_run_at_one_time(host: Host) -> None:
    holder = process.run  # the lock is held by another process for a moment
    before = sorted(RUN.iterdir())
    argv = ["flock", RUN / "rollback.lock", sys.executable, "-m", "persist.cli", "--spec", host.file, "rollback",
            "--confirm"]  # fmt: skip
    (RUN / "rollback.lock").touch()
    done = holder(argv, cwd=initrd.hook().parent.parent, check=False)
    assert done.status == 75
    assert b"another rollback is running" in done.err
    assert sorted(path for path in RUN.iterdir() if path.name != "rollback.lock") == before
    assert host.confirm().status == 0


def test_the_check_imports_nothing_heavy(host: Host) -> None:
    argv = [sys.executable, "-X", "importtime", "-m", "persist.cli", "--spec", host.file, "rollback", "--confirm"]
    done = process.run(argv, cwd=initrd.hook().parent.parent)
    loaded = {line.rpartition(b"|")[2].strip().decode() for line in done.err.splitlines() if b"|" in line}
    assert "persist.confirm" in loaded
    heavy = {"boto3", "rich", "gnupg", "tomlkit", "cryptography", "ruamel", "zstandard", "pyrage", "blake3",
             "pyfastcdc", "persist.sync", "persist.restore", "persist.bucket", "asyncio", "ssl", "http"}  # fmt: skip
    assert loaded & heavy == set()


def test_only_root_may_check(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 51100)
    said = host.confirm()
    assert said.status == 1
    assert "needs root" in said.err
