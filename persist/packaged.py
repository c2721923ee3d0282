"""`persist units --package`: the units of a town as files below one directory, for a configuration that takes them so.

Made by whoever builds it, without root, for a machine that is not this one: the spec is at its default place there, and
nothing of this machine is looked at. NixOS takes no `.wants` directory of a package, so what one unit of ours is to
another stands in drop-ins; what targets of the system want of ours is left to the configuration (units.links names it).
"""

import os
from collections.abc import Iterator

from persist import pam, units
from town import cli, files
from town.failure import DONE, WrongUsage
from town.spec import Spec

UNITS = "lib/systemd/system"
LINKS = "nuketown-links.conf"
_HEAD = f"{units.MARK.decode()} when this machine's configuration was built: change that."
_KEYS = {"wants": "Wants", "requires": "Requires"}


def write(town: Spec, folder: str, *, initrd: str | None, program: str | None) -> int:
    """Write everything below `folder`, which is made. Raises WrongUsage, files.Unwritable or OSError."""
    if initrd is None or program is None:
        raise WrongUsage(
            "a package is for another machine: what runs the hook there, and where persist is, has to be said",
            hint="add --initrd dracut (an initrd runs the hook) or --initrd none, and --program PATH",
        )
    made = units.render(town, program=program, file=str(cli.DEFAULT_SPEC), in_initrd=initrd != "none")
    for name, text in sorted(_files(town, made)):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_whole(path, _headed(text).encode())
        print(path)
    return DONE


def _files(town: Spec, made: tuple[units.Unit, ...]) -> Iterator[tuple[str, str]]:
    for unit in (*made, *links(made)):
        yield f"{UNITS}/{unit.name}", unit.text
    yield "etc/nuketown/agents", pam.agents_file(agent.name for agent in town.agents).data.decode()
    if town.town.btrfs is not None:
        yield "etc/nuketown/rollback.conf", units.environment(town.town.btrfs)


def _headed(text: str) -> str:
    """Without the line that tells a person what to do with a file of `persist install`."""
    first, _, rest = text.partition("\n")
    return f"{_HEAD}\n{rest}" if first.encode().startswith(units.MARK) else text


def links(made: tuple[units.Unit, ...]) -> Iterator[units.Unit]:
    """The links between units of `made`, as a drop-in for each unit that has some: its name and text."""
    found: dict[str, list[str]] = {}
    for unit in made:
        for link in unit.links:
            folder, _, name = link.partition("/")
            target, _, kind = folder.rpartition(".")
            if _ours(target, made):
                found.setdefault(target, []).append(f"{_KEYS[kind]}={name}\n")
    for target, lines in found.items():
        yield units.Unit(f"{target}.d/{LINKS}", f"{_HEAD}\n[Unit]\n{''.join(sorted(lines))}")


def _ours(target: str, made: tuple[units.Unit, ...]) -> bool:
    """Whether a unit, or the template that it is made from, is one of `made`."""
    head, at, tail = target.partition("@")
    template = f"{head}@.{tail.rpartition('.')[2]}" if at else target
    return any(unit.name == template for unit in made)
