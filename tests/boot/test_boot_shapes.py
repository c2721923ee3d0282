"""Real boots of machines of another shape: one in a small run, all of them in a full one."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot import agentsdisk, flavours, guest, qemu, story
from town import btrfs, files, kernel

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


def a_stale_initrd_has_no_hook_and_locks_the_agents_out(folder: Path) -> None:
    flavour = story.Flavour(flavours.kind("stale"), "plain", folder)
    with flavour.boot({"usr/lib/nuketown/boot.sh": (0o755, b"exit 0\n")}) as machine:
        story.settle(machine)
        assert machine.sh("systemctl is-active multi-user.target").strip() == "active"
        assert machine.sh("findmnt -no SOURCE /agents", check=False) == "tmpfs\n"  # the cover
        assert "nuketown-rollback.service" in machine.sh("systemctl --failed --no-legend --plain")


def an_initrd_without_configuration_locks_the_agents_out_and_says_so(folder: Path) -> None:
    flavour = story.Flavour(flavours.kind("no conf"), "plain", folder)
    with flavour.boot({"etc/nuketown/rollback.conf": (0o644, b"")}) as machine:
        story.locked_out(machine, "this initrd was made without /etc/nuketown/rollback.conf")


def a_btrfs_of_two_disks_is_rolled_back(folder: Path) -> None:
    flavour = story.Flavour(flavours.kind("two disks"), "plain", folder)
    second = folder / "second.img"
    with second.open("wb") as file:
        file.truncate(agentsdisk.SIZE)
    with agentsdisk.attached(flavour.disk, second) as (device, other):
        target = folder / "top"
        target.mkdir()
        kernel.mount(device, str(target), "btrfs", 0, "subvolid=5")
        try:
            subprocess.run(["btrfs", "-q", "device", "add", "-f", other, str(target)], check=True)
        finally:
            kernel.umount(str(target))
    with flavour.boot(disks=[qemu.Disk("agents", flavour.disk), qemu.Disk("second", second)]) as machine:
        story.proven(machine)


def agents_on_the_root_device_are_rolled_back_before_it_is_mounted(folder: Path) -> None:
    flavour = story.Flavour(flavours.kind("one disk"), "plain", folder)
    root = root_and_agents(folder)
    append = f"root=UUID={agentsdisk.UUID} rootfstype=btrfs rootflags=subvol=@root"
    with flavour.boot(append=append, disks=[qemu.Disk("root", root)]) as machine:
        story.proven(machine)
        assert machine.sh("findmnt -no FSROOT /").strip() == "/@root"


def dracut_without_systemd_rolls_back_too(folder: Path) -> None:
    flavour = story.Flavour("dracut", "plain", folder)
    made = folder / "no-systemd.img"
    with guest.tree("dracut") as root:
        version = next((root / "lib/modules").iterdir()).name
        drivers = ("--drivers", " ".join(guest.DRIVERS))
        guest.within(
            *(root, "dracut", "-q", "-f", "-N", "--no-compress", "--omit", "systemd", *drivers),
            *("/boot/made.img", version),
        )
        shutil.copyfile(root / "boot/made.img", made)
    disks = [qemu.Disk("root", guest.root_disk(), volatile=True), qemu.Disk("agents", flavour.disk)]
    append = guest.arguments("dracut", "plain")
    with qemu.boot(folder, guest.kernel(), made, append=append, disks=disks) as machine:
        story.proven(machine)


SHAPES: list[Callable[[Path], None]] = [
    a_stale_initrd_has_no_hook_and_locks_the_agents_out,
    an_initrd_without_configuration_locks_the_agents_out_and_says_so,
    a_btrfs_of_two_disks_is_rolled_back,
    agents_on_the_root_device_are_rolled_back_before_it_is_mounted,
    dracut_without_systemd_rolls_back_too,
]


@pytest.mark.parametrize("shape", flavours.some("shapes", SHAPES), ids=lambda shape: shape.__name__)
def test_a_machine_of_another_shape(shape: Callable[[Path], None], tmp_path: Path, debian: Path) -> None:
    shape(tmp_path)


def root_and_agents(folder: Path) -> Path:
    """One btrfs with the root in @root and the agents beside it."""
    disk = folder / "one.img"
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    agentsdisk.format_(disk)
    with agentsdisk.mounted(disk) as top, guest.tree() as tree:
        agentsdisk.lay_out(top)
        fstab = tree / "etc/fstab"
        fstab.write_text(f"UUID={agentsdisk.UUID} / btrfs rw,noatime,subvol=@root 0 0\n")
        with files.opened(btrfs.create(top, "@root")) as root:
            subprocess.run(["cp", "-a", f"{tree}/.", f"/proc/self/fd/{root}/"], check=True, pass_fds=[root])
            os.fchmod(root, 0o755)
    return disk
