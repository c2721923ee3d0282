"""`persist units`, `install` and `uninstall`: what makes a machine with systemd run nuketown at its boot.

What was installed is recorded in /etc/nuketown/installed.json, so that uninstall undoes exactly that, and a second
install knows what is its own and what was asked for. docs/formats/disk.md has the names and the format.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import initrd
from persist import elsewhere, fit, ground, installed, lines, makers, pam, placing, units
from persist.installed import RECORD, Record
from persist.placing import Action, File, Link, Remove, RemoveFolder, Tree, Write
from town import cli, process, spec, trust
from town.failure import DONE, WrongUsage
from town.spec import Spec
from town.terminal import say, shown

UNITS, CONF = "/etc/systemd/system", "/etc/nuketown/rollback.conf"
THIS = Path("/")  # this machine
_NO_LINES = lines.Placed({}, ())
_NOTHING = "nothing to do: everything is there and as it should be"


# ---- the verbs


def write_units(arguments: argparse.Namespace) -> int:
    """Print the units, or with --write put them into a directory, with the links that enable them."""
    town = spec.load(cli.spec_file(arguments))
    named = _named(arguments)
    if arguments.package is not None:
        from persist import packaged

        return packaged.write(town, arguments.package, initrd=arguments.initrd, program=named)
    with placing.tree(THIS) as there:
        old = installed.read(there)
        kind = makers.choose(THIS, arguments.initrd, old).kind
        made = _rendered(town, THIS, kind, _program(THIS, named or (old.program if old else None)))
        if arguments.write is None:
            print("\n".join(f"# ---- {unit.name}\n{unit.text}" for unit in made), end="")
            return DONE
        ground.require_root("units --write", "the units are root's")
        trust.refuse(town)
        folder = os.path.abspath(arguments.write)
        wanted = [File(f"{folder}/{unit.name}", unit.text.encode()) for unit in made]
        # Relative: the directory may become one of a machine, or of a package, under another name.
        links = [Link(f"{folder}/{link}", f"../{name}") for link, name in units.links(made)]
        _carry_out(there, list(placing.plan(there, wanted, links, _marked)), dry_run=False)
    return DONE


def install(arguments: argparse.Namespace) -> int:
    """Units, their links, rollback.conf and what the initrd needs: onto this machine, or below --root."""
    town = spec.load(cli.spec_file(arguments))
    root, named = _root(arguments), _named(arguments)
    ground.require_root("install", "units and the initrd are root's")
    trust.refuse(town)
    elsewhere.refuse(town, root)
    fit.refuse_machine(root)
    fit.refuse_fstab(town, root)
    with placing.tree(root) as there:
        old = installed.read(there)
        named = named or (old.program if old else None)
        choice = makers.choose(root, arguments.initrd if town.town.btrfs else makers.NONE, old)
        called = _program(root, named)
        made = _rendered(town, root, choice.kind, called)
        fit.look_at((called, units.identity_of(called)), root, here=root == THIS)
        ours = lines.plan(
            there, pam.wanted(there, _names(town)), lines.Placed(old.lines, old.made) if old else _NO_LINES
        )
        new = Record(initrd=choice.kind, program=named)
        wanted = [*_wanted(town, choice.kind, made), pam.agents_file(_names(town))]
        _install(there, wanted, _links(made), ours, old or Record(), new, dry_run=arguments.dry_run)
        _tell_logins(there, town)
    fit.tell_program(called, here=root == THIS)
    if town.town.btrfs is not None:
        makers.tell(choice, root)
    if choice.kind == makers.NONE and old is not None:
        makers.tell_left(old.initrd, root)
    return DONE


def uninstall(arguments: argparse.Namespace) -> int:
    """Remove what `install` put there and nobody changed since."""
    root = _root(arguments)
    ground.require_root("uninstall", "units and the initrd are root's")
    with placing.tree(root) as there:
        old = installed.read(there)
        if old is None:
            print("nothing to do: nothing is installed")
            return DONE
        actions = [*_removals(there, old, Record()), *lines.removals(there, lines.Placed(old.lines, old.made))]
        actions += [Remove(RECORD), *map(RemoveFolder, reversed(old.folders))]
        _carry_out(there, actions, dry_run=arguments.dry_run)
    if not arguments.dry_run:
        _reload(root)
    makers.tell_left(old.initrd, root)
    return DONE


# ---- what was said


def _root(arguments: argparse.Namespace) -> Path:
    root = "/" + os.path.realpath(arguments.root).lstrip("/")
    if not arguments.root or not os.path.isdir(root):
        raise WrongUsage(
            f"--root {shown(arguments.root)}: there is no such directory",
            hint="name the root directory of a tree that will be a machine; without --root it is this machine",
        )
    return Path(root)


def _named(arguments: argparse.Namespace) -> str | None:
    """What --program says. Raises WrongUsage."""
    named: str | None = arguments.program
    if named is not None and (wrong := units.wrong_in(named)):
        raise WrongUsage(
            f"--program {shown(named)}: {wrong}",
            hint="name persist by an absolute path that is plain; a link in /usr/local/bin may lead to it",
        )
    return named


def _program(root: Path, named: str | None) -> str:
    return named or (units.own_program() if root == THIS else "/usr/bin/persist")


# ---- what there is, what there should be


def _install(
    there: Tree, wanted: list[File], links: list[Link], ours: tuple[list[Action], lines.Placed], old: Record,
    new: Record, *, dry_run: bool,
) -> None:  # fmt: skip
    actions = list(placing.plan(there, wanted, links, lambda path, data: path in old.files or _marked(path, data)))
    actions += ours[0]
    new.files = {file.path: installed.digest(file.data) for file in wanted}
    new.links = {link.path: link.target for link in links}
    new.folders = [*old.folders, *placing.folders(there, actions)]
    new.lines, new.made = {path: list(said) for path, said in ours[1].lines.items()}, list(ours[1].made)
    actions += _removals(there, old, new)
    same = not actions and new.data() == old.data()
    if not dry_run and not same:  # both, before the first change: what is cut off can be undone
        there.do(Write(File(RECORD, _both(old, new).data()), None))
    _carry_out(there, actions, dry_run=dry_run)
    if not dry_run and not same:
        there.do(Write(File(RECORD, new.data()), None))
        _reload(Path(there.name("/")))


def _both(old: Record, new: Record) -> Record:
    """What an install that is cut off may leave."""
    said = {path: list(dict.fromkeys([*old.lines.get(path, []), *new.lines.get(path, [])]))
            for path in (*old.lines, *new.lines)}  # fmt: skip
    made = list(dict.fromkeys([*old.made, *new.made]))
    return Record(
        old.files | new.files, old.links | new.links, new.folders, new.initrd, new.program, lines=said, made=made
    )


def _names(town: Spec) -> list[str]:
    return [agent.name for agent in town.agents]


def _tell_logins(there: Tree, town: Spec) -> None:
    """What keeps an agent's account from being closed here."""
    if there.entry(pam.COMMON) is None:
        what = f"{shown(there.name(pam.COMMON))} is not there: no rule of PAM keeps agents out that are not ready"
        cli.warn("persist", what, "put the two rules of docs/boot.md into what every login's account stack includes")
    for path in pam.allowed(there, _names(town)):
        cli.warn("persist", f"{shown(there.name(path))} lets an agent in", "take the agents' names out of it")


def _wanted(town: Spec, kind: str, made: tuple[units.Unit, ...]) -> list[File]:
    wanted = [File(f"{UNITS}/{unit.name}", unit.text.encode()) for unit in made]
    if town.town.btrfs is not None:
        wanted.append(File(CONF, units.environment(town.town.btrfs).encode()))
    if kind in get_args(initrd.Kind):
        glue = initrd.glue("dracut" if kind == "dracut" else "initramfs-tools")
        wanted += [File(placed.target, placed.source.read_bytes(), placed.mode) for placed in glue]
    return wanted


def _links(made: tuple[units.Unit, ...]) -> list[Link]:
    return [Link(f"{UNITS}/{link}", f"{UNITS}/{name}") for link, name in units.links(made)]


def _rendered(town: Spec, root: Path, kind: str, called: str) -> tuple[units.Unit, ...]:
    file = Path(os.path.realpath(town.file))
    inside = f"/{file.relative_to(root)}" if file.is_relative_to(root) else str(file)
    return units.render(town, program=called, file=inside, in_initrd=kind != makers.NONE)


def _removals(there: Tree, old: Record, new: Record) -> Iterator[Action]:
    """What an earlier install put there and the new one does not want; what somebody changed since stays."""
    for path, target in old.links.items():
        if path not in new.links and there.entry(path) is not None:
            if os.path.islink(f"/proc/self/fd/{there.fd}{path}") and there.readlink(path) == target:
                yield Remove(path)
            else:
                say(f"persist: note: {shown(there.name(path))} stays: it is not the link that was made")
    for path, sum_ in old.files.items():
        if path not in new.files and there.entry(path) is not None:
            if installed.digest(there.read(path)) == sum_:
                yield Remove(path)
            else:
                say(f"persist: note: {shown(there.name(path))} stays: it was changed since it was installed")


def _carry_out(there: Tree, actions: list[Action], *, dry_run: bool) -> None:
    for action in actions:
        if not dry_run:
            there.do(action)
        print(action.line(there.root))
    if not actions:
        print(_NOTHING)


def _marked(_: str, data: bytes) -> bool:
    return data.startswith(units.MARK)


# ---- the machine


def _reload(root: Path) -> None:
    if root == THIS and Path("/run/systemd/system").is_dir():
        process.run(["systemctl", "daemon-reload"])
