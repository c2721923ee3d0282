"""Three boots: an agent writes, the power fails in the middle of the next rollback, the boot after that is whole."""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import initrd
from tests.boot import agentsdisk, cpio, guest, image, qemu

# Where in the hook the power fails: which program runs, and whether before or after it.
CUTS = (
    ("before", "mv *@agents-old/*"),
    ("after", "mv *@agents-old/*"),
    ("before", "btrfs subvolume snapshot *"),
    ("after", "btrfs subvolume snapshot *"),
    ("before", "btrfs property set *"),
    ("after", "btrfs property set *"),
    ("before", "btrfs inspect-internal rootid *"),
)
# Stands in for a program of the hook's and stops at one moment for good.
_STOPS = """#!/bin/sh
case "{name} $*" in
{pattern})
    {first}
    echo "TEST: stopped {moment}" >/dev/console
    sleep 1000 ;;
esac
exec {real} "$@"
"""

Over = dict[str, tuple[int, bytes]]  # path in the initrd: mode and content


class Flavour:
    """One kind of machine: who makes its initrd, how its disk is, and the folder where its files lie."""

    def __init__(self, kind: initrd.Kind, crypt: guest.Crypt, folder: Path) -> None:
        self.kind, self.crypt, self.folder = kind, crypt, folder
        self.disk = agentsdisk.fresh(folder)
        if crypt == "luks":
            agentsdisk.encrypt(self.disk)
        self.boots = 0

    def boot(
        self, over: Over | None = None, *, append: str = "", disks: list[qemu.Disk] | None = None
    ) -> "AbstractContextManager[qemu.Machine]":
        """One boot, with `over` laid over its initrd. Its console is in folder/boot-<number>.log.

        `disks` come beside the root; one that is called root comes in its place.
        """
        self.boots += 1
        label = f"boot-{self.boots}"
        made = guest.initramfs(self.kind, self.crypt)
        if over:
            made = cpio.appended(made, over, self.folder / f"{label}.initrd")
        if disks is None:
            disks = [qemu.Disk("agents", self.disk)]
        if not any(disk.name == "root" for disk in disks):
            disks = [qemu.Disk("root", guest.root_disk(), volatile=True), *disks]
        return qemu.boot(
            self.folder,
            guest.kernel(),
            made,
            append=f"{guest.arguments(self.kind, self.crypt)} {append}",
            disks=disks,
            label=label,
        )

    @contextmanager
    def top(self) -> Iterator[int]:
        """The top level of the disk, on this machine, while no guest runs."""
        plain = agentsdisk.decrypt(self.disk) if self.crypt == "luks" else self.disk
        with agentsdisk.mounted(plain) as top:
            yield top


def stop(moment: str, command: str) -> Over:
    """What makes the hook stop `moment` (before or after) it runs `command`, a shell pattern."""
    name = command.split(maxsplit=1)[0]
    where = "usr/lib/nuketown/bin"
    real = {"btrfs": "/usr/bin/btrfs", "mv": f"/{where}/.real/mv"}[name]
    first = f'{real} "$@"' if moment == "after" else ":"
    pattern = command.replace(" ", "\\ ")
    text = _STOPS.format(name=name, pattern=pattern, first=first, real=real, moment=f"{moment} {name}")
    over = {f"{where}/{name}": (0o755, text.encode())}
    if name == "mv":
        over[f"{where}/.real/mv"] = (0o755, (image.root() / "usr/bin/mv").read_bytes())
    return over


def settle(machine: qemu.Machine) -> None:
    """Until nothing is being started any more."""
    machine.login()
    machine.sh("systemctl is-system-running --wait", check=False)


def three_boots(flavour: Flavour, cut: tuple[str, str]) -> None:
    """An agent writes; the power fails in the middle of the rollback; the boot after that is as every other."""
    with flavour.boot() as machine:
        proven(machine)
        live(machine, "first")
    with flavour.boot(stop(*cut)) as machine:
        machine.wait_for("TEST: stopped")
        machine.kill()
    with flavour.boot() as machine:
        proven(machine)
        live(machine, "second")
    with flavour.top() as top:
        second, first = kept(top)
    assert second == ("@agents", "second")
    assert first[0].startswith("@agents-old/"), first
    assert first[1] == "first"


def proven(machine: qemu.Machine) -> None:
    """The host found the proof good and mounted a blank @agents, and everything else is up too."""
    settle(machine)
    units = "multi-user.target nuketown-rollback.service nuketown-mount.service"
    state = machine.sh(f"systemctl is-active {units}", check=False)
    assert state.split() == ["active"] * 3, f"{state}\n{machine.sh('journalctl -b -u nuketown*', check=False)}"
    assert machine.sh("findmnt -no FSROOT /agents | tail -1").strip() == "/@agents"
    assert machine.sh("ls -A /agents") == ""
    assert machine.console().count("is blank and durable") == 1, "the hook ran once"
    assert machine.sh("systemctl --failed --no-legend --plain") == ""


def locked_out(machine: qemu.Machine, reason: str) -> None:
    """The human is in, the agents are not, and console and journal say why."""
    settle(machine)
    assert machine.sh("systemctl is-active multi-user.target").strip() == "active"
    assert machine.sh("findmnt -no SOURCE /agents", check=False) == "tmpfs\n"  # the cover
    assert "nuketown-rollback.service" in machine.sh("systemctl --failed --no-legend --plain")
    assert re.search(rf"nuketown: error: .*{re.escape(reason)}[^\n]*\n.*nuketown: hint: ", machine.console())
    assert reason in machine.sh("journalctl -b -u nuketown-rollback.service --no-pager")
    assert reason in machine.sh("cat /run/nuketown/rollback.failed")


def live(machine: qemu.Machine, text: str) -> None:
    """The agent's day: a home of its own, a file, and subvolumes to stop the next rollback with; all of it durable."""
    machine.sh("btrfs subvolume create /agents/ada >/dev/null && chown ada:ada /agents/ada && chmod 700 /agents/ada")
    as_ada = (
        f"cd /agents/ada && echo {text} >mine && btrfs subvolume create x >/dev/null && btrfs property set x ro true"
    )
    machine.sh(f"setpriv --reuid=ada --regid=ada --clear-groups sh -c {shlex.quote(as_ada)}")
    machine.sh("sync")


def kept(top: int) -> list[tuple[str, str]]:
    """Each place at the top level that holds what ada wrote, and what it says."""
    found = []
    base = f"/proc/self/fd/{top}"
    places = [name for name in sorted(os.listdir(base)) if name != "@agents-old"]
    places += [f"@agents-old/{name}" for name in sorted(os.listdir(f"{base}/@agents-old"))]
    for place in places:
        file = Path(f"{base}/{place}/ada/mine")
        if file.exists():
            found.append((place, file.read_text().strip()))
    return found
