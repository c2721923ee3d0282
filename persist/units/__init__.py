"""The units of a town, rendered from the spec. The templates lie beside this module: units but for their @words@.

A unit's links are those that `systemctl enable` makes from its [Install] section, of a template for each of its agents.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persist.units import agents, words
from persist.units.words import CannotBeWritten, wrong_in
from town import grammar, strays, unitname
from town.spec import Btrfs, Spec

__all__ = ["CannotBeWritten", "Unit", "environment", "links", "own_program", "render", "wrong_in"]
SERVICE, MOUNT, TIDY = "nuketown-rollback.service", "nuketown-mount.service", "nuketown-tidy.service"
MARK = b"# Written by nuketown"
_HERE = Path(__file__).parent
_CHECK = 90  # seconds for a check, once the device is there
_HOOK = 600  # and for a rollback: a disk full of unwritten data is flushed first
_INSTALL = {"WantedBy": "wants", "RequiredBy": "requires"}
_SPREAD = 0.1  # of the time between two syncs: machines of one store do not all come at once
_SHORT = ":/run/nuketown/home"  # where the home of the one agent that a unit is for appears, too
_HOMES = ("/home", "/root", "/run/user")
_ALWAYS = (
    "nuketown-homes.service", "nuketown-sweep.service", "nuketown-lost.service", TIDY, "nuketown-failed@.service",
)  # fmt: skip
_EACH = (
    "nuketown-agent@.target",
    "nuketown-identity@.service",
    "nuketown-open@.service",
    "nuketown-close@.service",
)
_SYNCED = ("nuketown-restore@.service", "nuketown-bind@.service", "nuketown-leave@.service", "nuketown-sync@.service")
_SYNC = ("nuketown-sync.timer", "nuketown-sync.target")


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit file or drop-in, by its path in the directory of units. `agents`: those that a template is for.

    `links`: the names, relative to that directory, of the links that enable it.
    """

    name: str
    text: str
    agents: tuple[str, ...] = ()

    @property
    def links(self) -> tuple[str, ...]:
        found = re.findall(r"(?m)^(WantedBy|RequiredBy)=(.*)$", self.text.partition("\n[Install]\n")[2])
        pairs = [(f"{by}.{_INSTALL[key]}", self.name) for key, units in found for by in units.split()]
        if "@." not in self.name:
            return tuple("/".join(pair) for pair in pairs)
        return tuple(
            f"{folder.replace('%i', agent)}/{name.replace('@.', f'@{agent}.')}"
            for agent in self.agents
            for folder, name in pairs
        )


def render(spec: Spec, *, program: str, file: str, in_initrd: bool) -> tuple[Unit, ...]:
    """The units of a town. `program` is the command `persist` and `file` the spec, both by absolute path.

    `in_initrd`: the hook ran before the host started; else it is run by the unit itself. Both say nothing in a town
    without [town.btrfs]: it has no rollback. Raises CannotBeWritten or unitname.NameTooLong.
    """
    said = _words(spec, program, file)
    if spec.town.btrfs is not None:
        said |= _rollback(spec, spec.town.btrfs, said["persist"], in_initrd=in_initrd)
    synced = tuple(agent.name for agent in spec.agents if agents.synced(agent))
    every = tuple(agent.name for agent in spec.agents)
    return (
        *((_unit(name, said) for name in (SERVICE, MOUNT)) if spec.town.btrfs else ()),
        *((_unit("agents.mount", said, said["mount"].replace("%%", "%")),) if spec.town.btrfs else ()),
        *(_unit(name, said) for name in (*_ALWAYS, *(_SYNC if synced else ()))),
        *(_unit(name, said, agents=every) for name in _EACH),
        *(_unit(name, said, agents=synced) for name in (_SYNCED if synced else ())),
        *(Unit(name, text) for name, text in agents.drop_ins(spec)),
    )


def _unit(template: str, said: dict[str, str], name: str = "", *, agents: tuple[str, ...] = ()) -> Unit:
    return Unit(name or template, _filled((_HERE / template).read_text(), said), agents)


def environment(names: Btrfs) -> str:
    """/etc/nuketown/rollback.conf: read by systemd as EnvironmentFile= and by a shell. Raises CannotBeWritten."""
    said = {
        "DEVICE": names.device,
        "SUBVOLUME": names.subvolume,
        "BLANK": names.blank,
        "WAIT": str(names.wait_seconds),
    }
    return "# Written by nuketown from the spec: persist install writes it again.\n" + "".join(
        f"NUKETOWN_{key}='{words.shell_quotable(value, key)}'\n" for key, value in said.items()
    )


def identity_of(program: str) -> str:
    """The command `identity` that belongs to a command `persist`: beside it."""
    return str(Path(program).with_name("identity"))


def _words(spec: Spec, program: str, file: str) -> dict[str, str]:
    town, every = spec.town, grammar.seconds(spec.town.sync.every)
    kept = town.persist_dir if town.persist_dir is not None else spec.state_dir.parent
    store, gnupg = _directory_store(spec), town.host_key.gnupg
    said = {
        "persist": f"{words.program(program)} --spec {words.argument(file)}",
        "identity": f"{words.program(identity_of(program))} --spec {words.argument(file)}",
        "spec": words.quoted(file),
        "agents": words.argument(str(town.agents_dir)),
        "places": words.paths([file, town.agents_dir, kept]),
        # gpg-agent makes its sockets in the GnuPG home.
        "write": words.paths(["/run", town.agents_dir, kept, *store, *filter(None, [gnupg])], before="-"),
        "store": words.paths(store),
        "shorthome": words.quoted(f"-{town.agents_dir}/AGENT{_SHORT}").replace(f"AGENT{_SHORT}", f"%i{_SHORT}"),
        "strays": words.paths((place.path for place in strays.places()), before="-"),
        "home": "read-only" if any(map(_in_a_home, _read(spec, program, file, [kept, *store]))) else "yes",
        "mounted": f"Requires={MOUNT}\nAfter={MOUNT}" if town.btrfs else "# There is nothing to mount in this town.",
        "online": _ONLINE if not store else "# The store is a directory: no network is waited for.",
        "addresses": _NO_ADDRESSES if store else _ADDRESSES,
        "targets": " ".join(f"nuketown-agent@{agent.name}.target" for agent in spec.agents),
        "every": f"{max(1, math.ceil(every))}s",
        "spread": f"{math.ceil(every * _SPREAD)}s",
    }
    said |= {name: _filled((_HERE / f"{name}.conf").read_text().rstrip("\n"), said)
             for name in ("hardening", "mounting", "inside", "network")}  # fmt: skip
    return said


_ONLINE = "Wants=network-online.target\nAfter=network-online.target nss-lookup.target"
# A store is one host, and so is who knows its name: nothing is sent to groups. All but 224.0.0.0/3 and ff00::/8 (IANA
# IPv4 Multicast Address Space Registry, RFC 4291 section 2.7).
_HOSTS = "0.0.0.0/1 128.0.0.0/2 192.0.0.0/3 ::/1 8000::/2 c000::/3 e000::/4 f000::/5 f800::/6 fc00::/7 fe00::/8"
_ADDRESSES = f"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nIPAddressDeny=any\nIPAddressAllow={_HOSTS}"
_NO_ADDRESSES = "PrivateNetwork=yes\nIPAddressDeny=any\nRestrictAddressFamilies=none"


def _directory_store(spec: Spec) -> list[str]:
    """The directory of a store that is one."""
    from town import store_url

    if spec.town.store is None:
        return []
    parsed = store_url.parse(spec.town.store)
    return [str(parsed.path)] if isinstance(parsed, store_url.Directory) else []


def _read(spec: Spec, program: str, file: str, more: list[Path | str]) -> Iterator[Path | str]:
    """All paths of a town that what has the network may have to read."""
    town = spec.town
    yield from (program, file, _HERE, town.agents_dir, town.host_key.age, town.host_key.ssh, *more)
    others = (town.sops_file, town.store_credentials, town.host_key.gnupg)
    yield from (found for found in others if found is not None)


def _in_a_home(path: Path | str) -> bool:
    """Whether a path lies where ProtectHome=yes would hide it."""
    return any(Path(os.path.realpath(path)).is_relative_to(home) for home in _HOMES)


def _rollback(spec: Spec, names: Btrfs, persist: str, *, in_initrd: bool) -> dict[str, str]:
    confirm, wait = f"ExecStart={persist} rollback --confirm", names.wait_seconds
    return {
        "mount": words.literal(unitname.mount(spec.town.agents_dir)),
        "where": words.where(spec.town.agents_dir),
        "subvolume": names.subvolume,
        "what": "Check that this boot began with blank homes" if in_initrd else "Give this boot blank homes",
        "commands": confirm if in_initrd else f"ExecStart={persist} rollback\n{confirm}",
        "timeout": f"{wait + _CHECK}s" if in_initrd else f"{wait + _HOOK + _CHECK}s",
    }


def _filled(template: str, said: dict[str, str]) -> str:
    # One pass: what a value holds is never taken for a word.
    return re.sub(r"@([a-z]+)@", lambda found: said[found[1]], template)


def links(units: tuple[Unit, ...]) -> Iterator[tuple[str, str]]:
    """Every link that enables one of the units, relative to their directory, and the name that it leads to."""
    for unit in units:
        for link in unit.links:
            yield link, unit.name


def own_program() -> str:
    """The command `persist` of this installation, by absolute path: beside the interpreter, else on PATH."""
    import shutil
    import sys

    beside = Path(sys.executable).with_name("persist")
    return str(beside) if beside.exists() else os.path.abspath(shutil.which("persist") or "/usr/bin/persist")
