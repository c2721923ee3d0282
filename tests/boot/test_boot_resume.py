"""A machine that hibernates and resumes: nothing is rolled back under the processes that go on."""

import subprocess
from pathlib import Path

import pytest

import initrd
from tests.boot import flavours, guest, qemu, story

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]
# The resume takes its time: a hook that is not ordered after it would be first.
SLOW = {
    "usr/lib/systemd/system/systemd-hibernate-resume@.service.d/slow.conf": (
        0o644,
        b"[Service]\nExecStartPre=/usr/lib/nuketown/slow.sh\n",
    ),
    "usr/lib/nuketown/slow.sh": (0o755, b"#!/bin/sh\nsleep 8\n"),
}
SWAP = "0c6c6e1c-1f0b-4b36-8d57-0d4a8e8b5d11"


@pytest.mark.parametrize("kind", flavours.some("resume", list(initrd.KINDS)))
def test_a_resume_does_not_roll_back(kind: initrd.Kind, tmp_path: Path, debian: Path) -> None:
    flavour = story.Flavour(kind, "plain", tmp_path)
    # The root stays as it is between the two: what a resumed kernel remembers of it must be true.
    root = tmp_path / "root.img"
    subprocess.run(["cp", "--sparse=always", str(guest.root_disk()), str(root)], check=True)
    disks = [qemu.Disk("root", root), qemu.Disk("agents", flavour.disk), qemu.Disk("swap", swap(tmp_path))]
    with flavour.boot(append=f"resume=UUID={SWAP}", disks=disks) as machine:
        story.proven(machine)
        story.live(machine, "before")
        boot_id = machine.sh("cat /proc/sys/kernel/random/boot_id; echo remembered >/run/marker")
        machine.sh(f"swapon UUID={SWAP} && echo shutdown >/sys/power/disk")
        machine.hibernate()
    with flavour.boot(SLOW, append=f"resume=UUID={SWAP}", disks=disks) as machine:
        machine.resumed()
        assert machine.sh("cat /proc/sys/kernel/random/boot_id; cat /run/marker") == f"{boot_id}remembered\n"
        assert machine.sh("cat /agents/ada/mine") == "before\n"
        assert "nuketown" not in machine.console(), "the hook did not run"
        machine.sh("echo after >/agents/ada/mine && sync")
        machine.kill()
    with flavour.top() as top:
        assert story.kept(top) == [("@agents", "after")]


def swap(folder: Path) -> Path:
    image = folder / "swap.img"
    with image.open("wb") as file:
        file.truncate(640 << 20)
    subprocess.run(["mkswap", "-q", "-U", SWAP, str(image)], check=True)
    return image
