"""The host's units, booted: /agents is mounted after a good proof and never else; the human logs in every time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from persist import cli, units
from tests.boot import image, nspawn
from tests.machine import rollbackdisk as disk
from town import btrfs, files, process
from town.spec import Btrfs

pytestmark = pytest.mark.root

TOLD = "nuketown-failed@nuketown-rollback.service.service"
LATE = (
    f"{TOLD} nuketown-rollback.service nuketown-mount.service nuketown-homes.service ada.service nuketown-tidy.service "
    "nuketown-sweep.service nuketown-identity@ada.service nuketown-open@ada.service nuketown-agent@ada.target"
)
ODD = '/dev/a b; #$(x)$y`z`%n"ä'
HOOK = "set -a; . /etc/nuketown/rollback.conf; sh /usr/lib/nuketown/rollback.sh"
STATE = """
for unit in multi-user.target nuketown-rollback.service nuketown-mount.service ada.service nuketown-tidy.service; do
    echo "$unit $(systemctl show --property=ActiveState --value $unit)"
done
echo "mounted $(findmnt --noheadings --output OPTIONS,SOURCE /agents | tail -1)"
echo "entries $(ls -A /agents | wc -l) $(stat -c %U:%a /agents)"
echo "reasons"
cat /run/nuketown/rollback.failed
journalctl --boot --no-pager --output=cat --unit=nuketown-*
"""


@pytest.fixture(scope="module")
def layers(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The Debian tree, and over it this checkout with what it needs."""
    at = tmp_path_factory.mktemp("installed")
    with nspawn.overlay([debian], at) as tree:
        image.install(tree)
    return [at / "upper", debian]


@dataclass(frozen=True)
class Machine:
    """A machine that was set up, before its boot."""

    tree: Path
    at: Path
    device: str
    top: int

    def install(self, initrd: str, *, wait: str = "1s", device: str = "") -> None:
        """The spec and `persist install`."""
        file = self.tree / "etc/nuketown/town.toml"
        file.parent.mkdir(exist_ok=True)
        for name in ("agents", "persist"):  # as persist init makes them
            (self.tree / name).mkdir(mode=0o755)
        device = device or process.run(["blkid", "-p", "-s", "UUID", "-o", "value", self.device]).out.decode().strip()
        on_disk = f'[town.btrfs]\ndevice = "{device}"\nwait = "{wait}"\nkeep = {{ homes = 1 }}\n'
        file.write_text(f"{on_disk}[agents.ada]\nuid = 51100\n")
        assert cli.main(["--spec", str(file), "install", "--root", str(self.tree), "--initrd", initrd]) == 0

    def agent(self) -> None:
        """A service of an agent that needs /agents, and that multi-user.target therefore waits for."""
        nspawn.unit(
            self.tree,
            "ada.service",
            "[Unit]\nRequires=nuketown-mount.service\nAfter=nuketown-mount.service\n"
            "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
        )

    def initrd(self, does: str) -> None:
        """What the initrd did before the host started: a unit that runs first of all, as there is no initrd here."""
        nspawn.unit(
            self.tree,
            "initrd.service",
            "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n[Service]\nType=oneshot\n"
            f"ExecStart=/bin/sh -c '{does}'\n[Install]\nWantedBy=sysinit.target\n",
        )

    def boot(self, script: str = STATE, after: str = LATE) -> nspawn.Booted:
        """Boot, and run the script when the units in `after` are done: started, or failed."""
        return nspawn.boot(self.tree, script, self.at, after=after, devices={self.device: self.device})


def kept_too_long(top: int) -> None:
    """An old home with a subvolume in it that is read-only and holds another: tidy deletes it."""
    with disk.subvolume(top, "@agents-old") as old:
        old_home = btrfs.create(old, "20200101T000000Z-0")
    with files.opened(old_home), files.opened(btrfs.create(old_home, "a")) as inner:
        os.mkdir("deep", dir_fd=inner)
        with files.opened(files.enter(inner, "deep")) as deep:
            os.close(btrfs.create(deep, "b"))
        btrfs.set_read_only(inner, True)


@pytest.fixture
def machine(layers: list[Path], btrfs_device: str, btrfs_top: int, tmp_path: Path) -> Iterator[Machine]:
    """A Debian with its btrfs, whose homes are of the last boot."""
    os.mkdir("@agents-old", 0o700, dir_fd=btrfs_top)
    kept_too_long(btrfs_top)
    disk.lay_out(btrfs_top)
    disk.put(btrfs_top, "@agents/payload", b"old")
    with nspawn.overlay(layers, tmp_path / "overlay") as tree:
        yield Machine(tree, tmp_path, btrfs_device, btrfs_top)


def facts(booted: nspawn.Booted) -> dict[str, str]:
    """The lines `name value` of STATE, by name."""
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in booted.said.splitlines()}


def covered(found: dict[str, str]) -> None:
    """Nothing can be made or read below /agents."""
    options, _, source = found["mounted"].rpartition(" ")
    assert (source, {"ro", "nosuid", "nodev", "noexec"} - set(options.split(","))) == ("tmpfs", set())
    assert found["entries"] == "0 root:0"


def human_is_in_and_agents_are_out(machine: Machine, booted: nspawn.Booted, says: str) -> None:
    """The promise of every failure."""
    found = facts(booted)
    assert found["multi-user.target"] == "active", booted.said
    assert found["nuketown-rollback.service"] == "failed", booted.said
    assert (found["nuketown-mount.service"], found["ada.service"]) == ("inactive", "inactive"), booted.said
    covered(found)
    assert says in booted.said.partition("reasons")[2]  # rollback.failed and the journal
    assert f"persist: error: {says}" in booted.console
    told = "nuketown: no agent starts: nobody can say that their homes were made blank (nuketown-rollback.service: "
    assert f"{told}{says}" in booted.console
    assert "; next: persist status; more: journalctl -b -u nuketown-rollback.service" in booted.console
    assert "[FAILED] Failed to start nuketown" in booted.console  # the line is cut at the width of the screen


def test_after_a_good_proof_agents_is_mounted_once_and_a_second_start_is_refused(machine: Machine) -> None:
    machine.install("initramfs-tools")
    machine.agent()
    machine.initrd(HOOK)
    (machine.tree / "etc/odd.conf").write_text(units.environment(Btrfs(ODD)))
    booted = machine.boot(
        f"""{STATE}
        echo "tidy $(systemctl show --property=Result --value nuketown-tidy.service)"
        systemctl stop nuketown-rollback.service
        echo "stopped $(systemctl is-active nuketown-mount.service) $(systemctl is-active ada.service)"
        systemctl start nuketown-mount.service
        echo "again $? $(systemctl is-active nuketown-mount.service) $(systemctl is-failed nuketown-rollback.service)"
        persist status | sed "s/^/status /"
        persist rollback && systemctl start nuketown-mount.service
        echo "cured $? $(systemctl is-active nuketown-mount.service)"
        systemctl restart nuketown-mount.service
        echo "twice $? $(findmnt --noheadings --output FSTYPE /agents | tr "\n" " ")"
        umount /agents
        systemctl stop nuketown-mount.service
        echo "unmounted $? $(findmnt --noheadings --output FSTYPE /agents)"
        systemctl start nuketown-mount.service
        persist restore ada
        echo "restored $?"
        systemd-run --quiet --wait --pipe --property=EnvironmentFile=/etc/odd.conf env | grep ^NUKETOWN_
        """
    )
    found = facts(booted)
    active = ("multi-user.target", "nuketown-rollback.service", "nuketown-mount.service", "ada.service")
    assert [found[unit] for unit in active] == ["active"] * 4, booted.said
    options, _, source = found["mounted"].rpartition(" ")
    assert {"rw", "nosuid", "nodev", "noatime", "subvol=/@agents"} <= set(options.split(","))
    assert source.startswith(machine.device)
    assert found["entries"] == "1 root:755"  # ada's home
    assert found["tidy"] == "success", booted.said
    assert found["stopped"] == "inactive inactive"
    assert found["again"] == "1 inactive failed", booted.said
    assert "status rollback: FAILED: error: the proof of the rollback was used up by an earlier start" in booted.said
    assert found["cured"] == "0 active", booted.said
    assert found["twice"] == "0 tmpfs btrfs ", "below the homes lies the cover, before and after"
    assert found["unmounted"] == "0 tmpfs", "the cover stays where somebody unmounted the homes by hand"
    assert "restored 0" in booted.said
    assert f"NUKETOWN_DEVICE={ODD}\nNUKETOWN_SUBVOLUME=@agents\n" in booted.said  # as systemd reads them
    assert disk.payloads(machine.top).count(b"old") == 1, "what identity installed lies in the living home"
    assert len(disk.old_homes(machine.top)) == 2  # that of the last boot, and what was there before `persist rollback`


def test_a_boot_without_the_hook_keeps_the_agents_out(machine: Machine) -> None:
    machine.install("dracut")
    machine.agent()
    booted = machine.boot()
    human_is_in_and_agents_are_out(machine, booted, "this boot left no proof")
    assert disk.payloads(machine.top) == [b"old"]


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (
            f"{HOOK}; sed -i s/^uuid=.*/uuid=11111111-2222-3333-4444-555555555555/ /run/nuketown/rollback",
            "the proof of the rollback does not fit",
        ),
        (f"{HOOK}; echo boot_id=x >/run/nuketown/rollback.used", "the proof of the rollback was used up"),
        ("NUKETOWN_DEVICE=/dev/none sh /usr/lib/nuketown/rollback.sh; true", "the rollback of this boot failed"),
    ],
)
def test_a_proof_that_is_bad_used_or_missing_keeps_the_agents_out(machine: Machine, does: str, says: str) -> None:
    machine.install("initramfs-tools")
    machine.agent()
    machine.initrd(does)
    human_is_in_and_agents_are_out(machine, machine.boot(), says)


def test_without_a_hook_in_the_initrd_the_unit_rolls_back_itself(machine: Machine) -> None:
    machine.install("none")
    machine.agent()
    found = facts(booted := machine.boot())
    assert (found["nuketown-rollback.service"], found["nuketown-mount.service"]) == ("active", "active"), booted.said
    assert (found["multi-user.target"], found["entries"]) == ("active", "1 root:755")
    assert len(disk.old_homes(machine.top)) == 1


def test_nobody_waits_for_a_disk_that_is_not_there(machine: Machine) -> None:
    machine.install("none", wait="5min", device="UUID=11111111-2222-3333-4444-555555555555")
    found = facts(booted := machine.boot(after=""))
    assert found["multi-user.target"] == "active", booted.said
    assert found["nuketown-rollback.service"] == "activating", booted.said
    assert found["nuketown-mount.service"] == "inactive"
    covered(found)


def test_a_disk_that_never_comes_keeps_the_agents_out_when_the_wait_is_over(machine: Machine) -> None:
    machine.install("none", wait="1s", device="UUID=11111111-2222-3333-4444-555555555555")
    machine.agent()
    human_is_in_and_agents_are_out(machine, machine.boot(), "no filesystem on this machine has UUID=11111111")


def test_homes_that_are_not_blank_are_never_mounted_whatever_starts_the_mount(machine: Machine) -> None:
    """Even without the check, masked or taken out of the way: there is nothing that the mount unit could mount."""
    machine.install("dracut")
    machine.agent()
    (machine.tree / "etc/systemd/system/nuketown-mount.service.requires/nuketown-rollback.service").unlink()
    mount = machine.tree / "etc/systemd/system/nuketown-mount.service"
    mount.write_text(mount.read_text().replace("Requires=nuketown-rollback.service\n", ""))
    found = facts(booted := machine.boot())
    assert found["nuketown-mount.service"] == "failed", booted.said
    covered(found)
