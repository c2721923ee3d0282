"""The hook killed at every step and at any moment, and the power cut right after it: the next run finishes."""

import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from demo import loopback
from tests.machine import rollbackdisk as disk
from tests.scale import SEED, times
from town import btrfs, files, process

pytestmark = pytest.mark.root

# Runs the real program, and at the wanted call ends the whole process group by SIGKILL: before it, or after it.
# The two of a pipe run at once: the lock gives each a number of its own.
WRAPPER = """#!/bin/sh
exec 9>{state}/lock
{flock} 9
printf x >>{state}/calls
calls=$({stat} -c %s {state}/calls)
exec 9>&-
read -r wanted <{state}/wanted
[ "$calls.before" = "$wanted" ] && kill -KILL 0
{program} "$@"
status=$?
[ "$calls.after" = "$wanted" ] && kill -KILL 0
exit $status
"""


def _wrapped(initrd: disk.Initrd, at: Path) -> disk.Initrd:
    """The same initrd; each program counts its calls and can end the hook."""
    path = at / "wrapped"
    path.mkdir()
    outside = {name: shutil.which(name) for name in ("flock", "stat")}  # by path: PATH leads back here
    for name in disk.PROGRAMS:
        program = path / name
        program.write_text(WRAPPER.format(state=at, program=initrd.path / name, **outside))
        program.chmod(0o755)
    return disk.Initrd(initrd.shell, path, initrd.run)


def _run_in_a_group(argv: list[str], kill_after: float = 20) -> int:
    """The status of the hook; after `kill_after` seconds it and all that it started get SIGKILL."""
    running = subprocess.Popen(argv, start_new_session=True, stdin=-3, stdout=-3, stderr=-3)
    try:
        return running.wait(kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        return running.wait()


@pytest.mark.parametrize(("shell", "when"), [("dash", "after"), ("busybox", "before")])
def test_a_hook_killed_at_any_step_loses_nothing_and_the_next_run_finishes(
    btrfs_device: str, btrfs_top: int, tmp_path: Path, shell: str, when: str
) -> None:
    disk.lay_out(btrfs_top)
    whole = disk.make_initrd(tmp_path / "initrd", shell)
    cut = _wrapped(whole, tmp_path)
    steps, ended = 0, False
    while not ended:
        steps += 1
        (tmp_path / "calls").write_bytes(b"")
        (tmp_path / "wanted").write_text(f"{steps}.{when}\n")
        disk.put(btrfs_top, "@agents/payload", b"%d" % steps)
        before = disk.payloads(btrfs_top)
        status = _run_in_a_group(cut.argv(btrfs_device))
        ended = (tmp_path / "calls").stat().st_size < steps
        assert status in ((0,) if ended else (-signal.SIGKILL,))
        assert disk.payloads(btrfs_top) == before
        proof = whole.proof()
        assert proof is None or (disk.is_blank(btrfs_top) and proof["id"] == str(disk.info(btrfs_top, "@agents").id))
        done = whole(btrfs_device)
        assert done.status == 0, done.err
        assert disk.is_blank(btrfs_top)
        assert disk.payloads(btrfs_top) == before
        assert set(files.names(btrfs_top)) == {b"@agents", b"@agents-blank", b"@agents-old"}
    assert steps > (9 if shell == "dash" else 6)  # each program was one of them; busybox runs some without a process


def test_a_hook_killed_at_any_moment_loses_nothing_and_the_next_run_finishes(
    btrfs_device: str, btrfs_top: int, tmp_path: Path
) -> None:
    disk.lay_out(btrfs_top)
    initrd = disk.make_initrd(tmp_path / "initrd", "dash")
    moments = random.Random(SEED)
    for number in range(times(20)):
        disk.put(btrfs_top, "@agents/payload", b"home %d" % number)
        before = disk.payloads(btrfs_top)
        _run_in_a_group(initrd.argv(btrfs_device), moments.uniform(0.005, 0.05))
        assert disk.payloads(btrfs_top) == before
        done = initrd(btrfs_device)
        assert done.status == 0, done.err
        assert disk.is_blank(btrfs_top)
        assert disk.payloads(btrfs_top) == before


def test_a_hook_that_is_told_to_stop_says_so_and_leaves_no_mount(
    btrfs_device: str, btrfs_top: int, tmp_path: Path
) -> None:
    disk.lay_out(btrfs_top)
    disk.put(btrfs_top, "@agents/payload", b"x")
    whole = disk.make_initrd(tmp_path / "initrd", "dash")
    cut = _wrapped(whole, tmp_path)
    sync = cut.path / "btrfs"  # asks the hook, which waits for it, to stop
    sync.write_text(f'#!/bin/sh\nkill -TERM "$PPID"\nexec {whole.path}/btrfs "$@"\n')
    (tmp_path / "calls").write_bytes(b"")
    (tmp_path / "wanted").write_text("none\n")
    done = cut(btrfs_device)
    assert done.status == 1
    assert b"nuketown: error: the rollback was interrupted" in done.err
    assert "interrupted" in (whole.reason() or "")
    assert sorted(os.listdir(whole.run / "nuketown")) == [".clock", ".words", "rollback.failed", "top"]
    assert whole(btrfs_device).status == 0
    assert disk.payloads(btrfs_top) == [b"x"]


@pytest.mark.parametrize("shell", disk.SHELLS)
def test_what_a_power_cut_right_after_the_hook_leaves_is_blank(
    btrfs_image: Path, btrfs_device: str, btrfs_top: int, tmp_path: Path, shell: str
) -> None:
    """The filesystem stays mounted all the while: nothing but the hook's own commit can have written the disk."""
    disk.lay_out(btrfs_top)
    disk.put(btrfs_top, "@agents/payload", b"what was there")
    btrfs.commit(btrfs_top)
    initrd = disk.make_initrd(tmp_path / "initrd", shell)
    assert initrd(btrfs_device).status == 0
    copy = tmp_path / "after the cut.img"
    _copy(btrfs_image, copy)
    uuid = disk.info(btrfs_top, "@agents").uuid
    with loopback.attached(copy) as device, btrfs.top_level(device) as top:
        assert disk.info(top, "@agents").uuid == uuid
        assert disk.is_blank(top)
        assert disk.payloads(top) == [b"what was there"]
        assert len(disk.old_homes(top)) == 1


def _copy(image: Path, copy: Path) -> None:
    """What the disk holds at this moment, whatever is mounted from it.

    Two filesystems with one UUID cannot both be mounted: the copy gets another, in its superblock alone (-m).
    """
    process.run(["cp", "--sparse=always", image, copy])
    process.run(["btrfstune", "-m", "-f", copy])


def test_the_power_cut_is_told_apart_from_no_commit(
    btrfs_image: Path, btrfs_device: str, btrfs_top: int, tmp_path: Path
) -> None:
    """The test above can fail: a rename without a commit is not on the copy."""
    disk.lay_out(btrfs_top)
    os.rename("@agents", "@elsewhere", src_dir_fd=btrfs_top, dst_dir_fd=btrfs_top)
    copy = tmp_path / "copy.img"
    _copy(btrfs_image, copy)
    with loopback.attached(copy) as device, btrfs.top_level(device) as top:
        assert b"@agents" in files.names(top)


def _labelled(image: Path, label: str) -> Path:
    with image.open("wb") as file:
        file.truncate(128 << 20)
    process.run(["mkfs.btrfs", "--quiet", "--label", label, image])
    return image


@pytest.mark.parametrize("shell", disk.SHELLS)
def test_the_device_is_found_by_path_uuid_and_label_and_two_of_one_label_are_refused(
    tmp_path: Path, shell: str
) -> None:
    label = f"town {os.getpid()} {shell}"
    initrd = disk.make_initrd(tmp_path / "initrd", shell)
    with loopback.attached(_labelled(tmp_path / "one", label)) as device:
        with btrfs.top_level(device) as top:
            disk.lay_out(top)
        uuid = process.run(["btrfs", "filesystem", "show", device]).out.split(b"uuid: ")[1].split()[0].decode()
        link = tmp_path / "link to the device"
        link.symlink_to(device)
        for told in (device, str(link), f"UUID={uuid}", uuid, f"LABEL={label}"):
            done = initrd(told)
            assert done.status == 0, (told, done.err)
        with loopback.attached(_labelled(tmp_path / "two", label)):
            done = initrd(f"LABEL={label}")
            assert done.status == 1
            assert b"more than one btrfs has the label" in done.err
