"""`persist units`, `install` and `uninstall`: what makes a machine with systemd run nuketown at its boot.

What was installed is recorded in /etc/nuketown/installed.json, so that uninstall undoes exactly that, and a second
install knows what is its own. docs/formats/disk.md has the names and the format.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import initrd
from persist import fstab, ground, installed, placing, units
from persist.installed import RECORD, Record
from persist.placing import Action, File, Link, Remove, RemoveFolder, Tree, Write
from town import cli, process, spec
from town.failure import DONE, Failure, WrongUsage
from town.spec import Spec
from town.terminal import say, shell_word, shown

UNITS, CONF = "/etc/systemd/system", "/etc/nuketown/rollback.conf"
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")


class CannotInstall(Failure):
    """This machine is not one that this verb can set up. Trying again does not help."""


class BootWouldDepend(Failure):
    """fstab makes the human's boot depend on the agents' homes: with our unit in its place, a failure would hold it."""


# ---- the verbs


def write_units(arguments: argparse.Namespace) -> int:
    """Print the units, or with --write put them into a directory."""
    town = spec.load(cli.spec_file(arguments))
    root = Path("/")
    kind = arguments.initrd or _kind_of(root)
    made = _rendered(town, root, kind, arguments.program)
    if arguments.write is None:
        print("\n".join(f"# ---- {unit.name}\n{unit.text}" for unit in made), end="")
        return DONE
    ground.require_root("units --write", "the units are root's")
    folder = os.path.abspath(arguments.write)
    with placing.tree(root) as there:
        wanted = [File(f"{folder}/{unit.name}", unit.text.encode()) for unit in made]
        actions = list(placing.plan(there, wanted, (), _marked))
        _carry_out(there, actions, dry_run=False)
    return DONE


def install(arguments: argparse.Namespace) -> int:
    """Units, their links, rollback.conf and what the initrd needs: onto this machine, or below --root."""
    town = spec.load(cli.spec_file(arguments))
    ground.require_root("install", "units and the initrd are root's")
    root = Path(os.path.realpath(arguments.root))
    _refuse_machine(root)
    _refuse_fstab(town, root)
    kind = arguments.initrd or _kind_of(root)
    with placing.tree(root) as there:
        _install(town, there, root, kind, arguments)
    return DONE


def uninstall(arguments: argparse.Namespace) -> int:
    """Remove what `install` put there and nobody changed since."""
    ground.require_root("uninstall", "units and the initrd are root's")
    root = Path(os.path.realpath(arguments.root))
    with placing.tree(root) as there:
        old = installed.read(there)
        if old is None:
            print("nothing to do: nothing is installed")
            return DONE
        actions = list(_removals(there, old, Record()))
        actions += [Remove(RECORD), *map(RemoveFolder, reversed(old.folders))]
        _carry_out(there, actions, dry_run=arguments.dry_run)
    if not arguments.dry_run:
        _reload(root)
        _tell_initrd(old.initrd, "it still rolls back at every boot until the initrd is made anew")
    return DONE


# ---- what there is, what there should be


def _install(town: Spec, there: Tree, root: Path, kind: str, arguments: argparse.Namespace) -> None:
    old = installed.read(there) or Record()
    wanted, links = _wanted(town, root, kind, arguments.program)
    actions = list(placing.plan(there, wanted, links, lambda path, data: path in old.files or _marked(path, data)))
    new = Record(
        {file.path: installed.digest(file.data) for file in wanted},
        {link.path: link.target for link in links},
        [*old.folders, *placing.folders(there, actions)],
        kind,
    )
    actions += _removals(there, old, new)
    if not actions and new.data() == old.data():
        print("nothing to do: everything is there and as it should be")
        return
    if not arguments.dry_run:  # both, before the first change: what is cut off can be undone
        both = Record(old.files | new.files, old.links | new.links, new.folders, kind)
        there.do(Write(File(RECORD, both.data()), None))
    _carry_out(there, actions, dry_run=arguments.dry_run)
    if not arguments.dry_run:
        there.do(Write(File(RECORD, new.data()), None))
        _reload(root)
        _tell(kind)


def _wanted(town: Spec, root: Path, kind: str, program: str | None) -> tuple[list[File], list[Link]]:
    made = _rendered(town, root, kind, program)
    assert town.town.btrfs is not None
    wanted = [File(f"{UNITS}/{unit.name}", unit.text.encode()) for unit in made]
    wanted.append(File(CONF, units.environment(town.town.btrfs).encode()))
    if kind in get_args(initrd.Kind):
        glue = initrd.glue("dracut" if kind == "dracut" else "initramfs-tools")
        wanted += [File(placed.target, placed.source.read_bytes(), placed.mode) for placed in glue]
    return wanted, [Link(f"{UNITS}/{link}", f"{UNITS}/{name}") for link, name in units.links(made)]


def _rendered(town: Spec, root: Path, kind: str, program: str | None) -> tuple[units.Unit, ...]:
    file = Path(os.path.realpath(town.file))
    inside = f"/{file.relative_to(root)}" if file.is_relative_to(root) else str(file)
    own = "/usr/bin/persist" if root != Path("/") else units.own_program()
    return units.render(town, program=program or own, file=inside, in_initrd=kind != "none")


def _removals(there: Tree, old: Record, new: Record) -> Iterator[Action]:
    """What an earlier install put there and the new one does not want; what somebody changed since stays."""
    for path, target in old.links.items():
        if path not in new.links and there.entry(path) is not None:
            if os.path.islink(f"/proc/self/fd/{there.fd}{path}") and there.readlink(path) == target:
                yield Remove(path)
            else:
                say(f"persist: note: {shown(path)} stays: it is not the link that was made")
    for path, sum_ in old.files.items():
        if path not in new.files and there.entry(path) is not None:
            if installed.digest(there.read(path)) == sum_:
                yield Remove(path)
            else:
                say(f"persist: note: {shown(path)} stays: it was changed since it was installed")


def _carry_out(there: Tree, actions: list[Action], *, dry_run: bool) -> None:
    for action in actions:
        if not dry_run:
            there.do(action)
        print(action)
    if not actions:
        print("nothing to do: everything is there and as it should be")


def _marked(_: str, data: bytes) -> bool:
    return data.startswith(units.MARK)


# ---- the machine


def _refuse_machine(root: Path) -> None:
    if (root / "etc/NIXOS").exists():
        raise CannotInstall("this is NixOS: its units come from its configuration", hint="use the NixOS module")
    if not any(os.path.lexists(f"{root}{path}") for path in _SYSTEMD):
        raise CannotInstall(
            f"there is no systemd in {shown(str(root))}",
            hint="without systemd, run at boot: persist rollback && persist rollback --confirm, then mount and restore",
        )


def _refuse_fstab(town: Spec, root: Path) -> None:
    path = town.town.agents_dir
    for line in fstab.lines(path, root / "etc/fstab"):
        if line.holds_boot:
            raise BootWouldDepend(
                f"{line} at {shown(str(path))}: a failed rollback would stop this machine's own boot",
                hint=f"remove line {line.number} of {root / 'etc/fstab'}: the unit does what it did",
            )


def _kind_of(root: Path) -> str:
    """Which initrds a machine makes: by who is called for a new kernel, else by the program that is there."""
    kinds = [kind for kind in initrd.KINDS if any((root / place / initrd.maker(kind)).exists() for place in _BIN)]
    called = [kind for kind in kinds if (root / "etc/kernel/postinst.d" / kind).exists()]
    found = called if len(called) == 1 else kinds
    if len(found) > 1:
        raise WrongUsage("this machine has more than one maker of initrds", hint=f"say --initrd {' or '.join(found)}")
    return found[0] if found else "none"


_BIN = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "bin", "sbin")


def _reload(root: Path) -> None:
    if root == Path("/") and Path("/run/systemd/system").is_dir():
        process.run(["systemctl", "daemon-reload"])


def _tell(kind: str) -> None:
    if kind == "none":
        say("persist: note: no initrd runs the hook: nuketown-rollback.service rolls back at boot, before the homes")
    _tell_initrd(kind, "the hook runs from the next boot on, once the initrd is made anew")


def _tell_initrd(kind: str, what: str) -> None:
    if kind != "none":
        command = initrd.rebuild("dracut" if kind == "dracut" else "initramfs-tools")
        say(f"persist: note: {what}")
        say(f"persist: hint: {' '.join(map(shell_word, command))}")
