"""Whether a machine is one that `persist install` can set up, and what a person should know of it."""

import os
from pathlib import Path

import initrd
from persist import fstab, program
from town.failure import Failure
from town.spec import Spec
from town.terminal import say, shown

_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")


class CannotInstall(Failure):
    """This machine is not one that this verb can set up. Trying again does not help."""


class BootWouldDepend(Failure):
    """fstab makes the human's boot depend on the agents' homes: with our unit in its place, a failure would hold it."""


def refuse_machine(root: Path) -> None:
    """Raises CannotInstall where units do not belong, or nothing would read them."""
    if (root / "etc/NIXOS").exists():
        raise CannotInstall(
            "this is NixOS: its units come from its configuration",
            hint="import this project's NixOS module (docs/nixos.md); without it, persist units --write DIR writes the "
            f"units, and the initrd has to run {initrd.hook()}, as {initrd.unit()} does",
        )
    if not any(os.path.lexists(f"{root}{path}") for path in _SYSTEMD):
        raise CannotInstall(
            f"there is no systemd in {shown(str(root))}",
            hint="without systemd, run at boot: persist rollback && persist rollback --confirm, then mount and restore",
        )


def refuse_fstab(town: Spec, root: Path) -> None:
    """Raises BootWouldDepend. Without [town.btrfs] a line for agents_dir is the machine's own affair."""
    path = town.town.agents_dir
    for line in fstab.lines(path, root / "etc/fstab") if town.town.btrfs is not None else ():
        if line.holds_boot:
            raise BootWouldDepend(
                f"{line} at {shown(str(path))}: a failed rollback would stop this machine's own boot",
                hint=f"remove line {line.number} of {shown(str(line.table))}: the unit does what it did",
            )


def look_at(programs: tuple[str, ...], root: Path, *, here: bool) -> None:
    """A tree's programs may be missing still, and are looked at where the tree is a machine. Raises as `program`."""
    for called in programs:
        if here:
            program.refuse(called)
        elif not os.path.lexists(f"{root}{called}"):
            say(f"persist: note: {shown(f'{root}{called}')}, which the units call, is not there yet")


def tell_program(called: str, *, here: bool) -> None:
    """From where the units run it."""
    stays = ""
    if here and (place := program.environment(called)) is not None:
        stays = f": {shown(str(place))}, and a checkout that it lies in, must stay there"
    say(f"persist: note: the units run {shown(called)} from where it lies{stays}")
