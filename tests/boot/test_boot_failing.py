"""Real boots in which the rollback fails: the human comes up, the agents stay out, everybody is told why."""

import os
import re
from pathlib import Path

import pytest

import initrd
from tests.boot import agentsdisk, flavours, guest, qemu, story
from town import btrfs, files

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

TOP = f"mount -o subvolid=5 UUID={agentsdisk.UUID} /mnt"
SLACK = 12  # s: an emulated processor beside other tests; the wait itself is counted by the machine's own clock


def no_blank(top: int) -> None:
    with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
        btrfs.set_read_only(blank, False)
    btrfs.delete(top, "@agents-blank")


def a_file_in_blank(top: int) -> None:
    with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
        btrfs.set_read_only(blank, False)
        os.mkdir("ada", dir_fd=blank)


def a_blank_of_somebody(top: int) -> None:
    with files.opened(files.open_beneath(top, "@agents-blank")) as blank:
        btrfs.set_read_only(blank, False)
        os.fchown(blank, guest.ADA, guest.ADA)


FAILURES = {
    "the blank subvolume @agents-blank is missing": no_blank,
    "@agents-blank is not empty": a_file_in_blank,
    "@agents-blank is not root:root 0755": a_blank_of_somebody,
}


@pytest.mark.parametrize("reason", flavours.some("failing", list(FAILURES)))
def test_without_a_good_blank_the_human_comes_up_and_the_agents_do_not(
    reason: str, tmp_path: Path, debian: Path
) -> None:
    flavour = story.Flavour(flavours.kind(f"failing {reason}"), "plain", tmp_path)
    with flavour.top() as top:
        with files.opened(files.open_beneath(top, "@agents")) as agents:
            os.mkdir("of-yesterday", dir_fd=agents)
        FAILURES[reason](top)
    with flavour.boot() as machine:
        story.locked_out(machine, reason)
        assert reason in machine.sh("persist status", check=False)
        assert machine.sh(f"{TOP}; ls /mnt/@agents; umount /mnt") == "of-yesterday\n"
        repair(machine)


def repair(machine: qemu.Machine) -> None:
    """As docs/boot.md tells a person to do it, without a reboot."""
    machine.sh(f"{TOP}; [ ! -e /mnt/@agents-blank ] || btrfs subvolume delete /mnt/@agents-blank; umount /mnt")
    machine.sh("persist init && persist rollback && systemctl start nuketown-mount.service")
    assert machine.sh("findmnt -no FSROOT /agents | tail -1; ls -A /agents") == "/@agents\n"


@pytest.mark.parametrize("kind", flavours.other_kind("failing", list(FAILURES)))
def test_a_disk_that_never_comes_delays_the_human_by_the_wait_at_most(
    kind: initrd.Kind, tmp_path: Path, debian: Path
) -> None:
    flavour = story.Flavour(kind, "plain", tmp_path)
    with flavour.boot(disks=[]) as machine:
        machine.wait_for("nuketown: error: ")
        story.locked_out(machine, "cannot be mounted as btrfs")
        if kind == "dracut":
            assert waited(machine.sh("journalctl -b -o short-monotonic --no-pager")) <= guest.WAIT + SLACK


def waited(journal: str) -> float:
    """Seconds from the start of the unit in the initrd to its end."""
    start, end = (
        float(found)
        for found in re.findall(r"(?m)^\[ *([0-9.]+)\].*(?:Starting|Failed to start) nuketown-initrd-rollback", journal)
    )
    return end - start
