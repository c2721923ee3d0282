"""`persist check`: is the spec right, and with --machine does it fit this machine."""

import argparse
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from persist import device, elsewhere, fstab, ground, quota, startup
from town import accounts, btrfs, cli, files, machine, settings, trust
from town.failure import ATTENTION, DONE, BadSpec, Failure, Problem, Unsafe
from town.spec import Agent, Persist, Spec, load
from town.terminal import say, shell_word, shown

_KEPT = (("both", "here and in the store"), ("store", "in the store"), ("bind", "here"))


def command(arguments: argparse.Namespace) -> int:
    """Status 0, or 3 with warnings; notes change neither.

    Raises BadSpec (78) with every problem, after the JSON document if due.
    """
    file = cli.spec_file(arguments)
    try:
        spec = load(file)
        if arguments.machine:
            machine.refuse_conflicts(spec)
            _refuse_elsewhere(spec)
            _refuse_quotas(spec)
    except BadSpec as bad:
        if arguments.json:
            cli.put_json({"ok": False, "problems": _plain(bad.problems), "warnings": []})
        raise
    said = (*_file(spec), *startup.warnings(spec), *settings.doubts(spec.agents))
    warnings = (*said, *(_machine(spec) if arguments.machine else ()))
    # What the machine is like is a reason for warnings where that was asked for; this one nobody should miss.
    noted = (*notes(spec), *(() if arguments.machine else quota.unlimited(spec)))
    if arguments.json:
        agents = [{"name": agent.name, "uid": agent.uid, "gid": agent.gid} for agent in spec.agents]
        cli.put_json(
            {"ok": True, "problems": [], "warnings": _plain(warnings), "notes": _plain(noted), "agents": agents}
        )
    else:
        print("\n".join(_summary(spec)))
    for warning in warnings:
        cli.warn("persist", f"{shown(str(file))}: {warning}", warning.cure)
    for note in noted:
        say(f"persist: note: {note}")
    return ATTENTION if warnings else DONE


def notes(spec: Spec) -> Iterator[Problem]:
    """What the spec says and this version only reads, and what a person may not expect of it."""
    town = spec.town
    if town.btrfs is None:
        yield Problem("town.btrfs", "is left out: no boot rolls homes back, the first restore of each sets them aside")
    for agent in spec.agents:
        if agent.sudo:
            yield Problem(f"agents.{agent.name}.sudo", "goes into the agent's documents only: it gives no right")
        if agent.devices:
            yield Problem(f"agents.{agent.name}.devices", "go into its documents; only NixOS has udev rules of them")


def _plain(problems: tuple[Problem, ...]) -> list[dict[str, str]]:
    return [{"where": problem.where, "what": problem.what, "cure": problem.cure} for problem in problems]


def _summary(spec: Spec) -> Iterator[str]:
    town = spec.town
    kept = f"data in {shown(str(town.persist_dir))}" if town.persist_dir else "no persist_dir"
    # Only the place: options of the URL say nothing about where data goes.
    store = f"store {shown(town.store.partition('?')[0])}" if town.store else "no store"
    count = f"{len(spec.agents)} agent{'s' if len(spec.agents) != 1 else ''}"
    yield f"{shown(str(spec.file))} is right: {count}, homes in {shown(str(town.agents_dir))}, {kept}, {store}"
    width = max(len(agent.name) for agent in spec.agents)
    for agent in spec.agents:
        yield f"  {agent.name:{width}}  uid {agent.uid}  {_declared(agent)}"


def _declared(agent: Agent) -> str:
    groups = [(where, [entry for entry in agent.persist if entry.via == via]) for via, where in _KEPT]
    said = [f"{where}: {', '.join(map(_entry, entries))}" for where, entries in groups if entries]
    return "; ".join(said) or "keeps nothing"


def _entry(entry: Persist) -> str:
    words = ", ".join((*([entry.class_] if entry.class_ != "data" else []), *(["a file"] if entry.copied else [])))
    return f"{shown(str(entry.path))}{f' ({words})' if words else ''}"


def _file(spec: Spec) -> Iterator[Problem]:
    """What `trust.refuse` would refuse: verbs that act as root do."""
    for path, reason in trust.doubts(spec):
        cure = f"chown and chmod it: root or the human owns it, and nobody else writes {shown(str(path))}"
        yield Problem("", f"{shown(str(path))} {reason}", cure)


def _machine(spec: Spec) -> Iterator[Problem]:
    yield from _directories(spec)
    yield from _fstab(spec)
    yield from _keys(spec)
    human = spec.town.human
    if human is not None and accounts.by_name(human.user) is None:
        what = f"this machine has no account {human.user}"
        yield Problem("town.human.user", what, "make it, or name the person who uses this machine")


def _directories(spec: Spec) -> Iterator[Problem]:
    for key, path in (("agents_dir", spec.town.agents_dir), ("persist_dir", spec.town.persist_dir)):
        if path is None:
            continue
        named = shown(str(path))
        if not _is_dir(path):
            yield Problem(f"town.{key}", f"{named} is not there", f"mount it or make it: mkdir -m 0755 {named}")
        for above in reversed(trust.way(path)):
            if reason := trust.changeable(spec, above) or (_not_roots(path) if above == path else ""):
                yield Problem(f"town.{key}", f"{shown(str(above))} {reason}", "chown it to root, mode 0755 or less")
    yield from _kept(spec)
    yield from quota.unlimited(spec)
    yield from _btrfs(spec)


def _is_dir(path: Path) -> bool:
    """Whether a directory is there; where this user may not look, nothing is said against it."""
    try:
        return path.is_dir()
    except PermissionError:
        return True


def _not_roots(path: Path) -> str:
    """Why `ground` would refuse the directory; empty when it would not, or when it is missing."""
    try:
        with files.opened(files.open_dir(path)) as fd:
            ground.refuse_others(fd, path)
    except Unsafe as error:
        return error.what.removeprefix(f"{shown(str(path))} ")
    except Failure:
        return ""
    return ""


def _kept(spec: Spec) -> Iterator[Problem]:
    """persist_dir/agents: missing, it may be that the disk is not mounted."""
    if spec.town.persist_dir is None or not _is_dir(spec.town.persist_dir):
        return
    path = spec.town.persist_dir / "agents"
    if not _is_dir(path):
        cure = "if a disk belongs there, mount it; where there never was one: persist init"
        yield Problem("town.persist_dir", f"{shown(str(path))} is not there: nothing is kept yet", cure)
    elif reason := _not_roots(path):
        cure = f"chown root:root {shell_word(str(path))} && chmod go-w {shell_word(str(path))}, after a look"
        yield Problem("town.persist_dir", f"{shown(str(path))} {reason}", cure)


def _refuse_elsewhere(spec: Spec) -> None:
    """Raises BadSpec when the spec names what is mounted elsewhere. Only root can ask."""
    if os.geteuid() == 0:
        with suppress(device.DeviceAmbiguous, btrfs.BtrfsFailed):  # a warning of `_btrfs`, or of the next rollback
            elsewhere.refuse(spec)


def _refuse_quotas(spec: Spec) -> None:
    """Raises BadSpec with the agents that this machine cannot hold to their quota."""
    if problems := tuple(quota.refused(spec)):
        raise BadSpec(shown(str(spec.file)), problems)


def _btrfs(spec: Spec) -> Iterator[Problem]:
    if spec.town.btrfs is None:
        return
    try:
        # blkid tells an ordinary user nothing about tags, which is not the same as nothing there.
        if os.geteuid() == 0 or spec.town.btrfs.device.startswith("/"):
            device.resolve(spec.town.btrfs.device)
    except Failure as failure:
        yield Problem("town.btrfs.device", failure.what, failure.hint)
    try:
        with files.opened(files.open_dir(spec.town.agents_dir)) as fd:
            ground.refuse_wrong_mount(spec, fd)
    except ground.NotMounted as failure:
        yield Problem("town.btrfs", failure.what, failure.hint)
    except Failure:
        return  # agents_dir is missing, which is said already


def _fstab(spec: Spec) -> Iterator[Problem]:
    """A line that makes the human's boot depend on the agents' homes."""
    if spec.town.btrfs is None:
        return
    try:
        lines = fstab.lines(spec.town.agents_dir)
    except files.Unreadable:
        return
    for line in lines:
        if line.holds_boot:
            what = f"{line} there without nofail: when that fails, this machine's own boot stops"
            yield Problem("town.agents_dir", what, "remove the line: persist install writes a unit that does it safely")


def _keys(spec: Spec) -> Iterator[Problem]:
    host, credentials = spec.town.host_key, spec.town.store_credentials
    if not any(path.exists() for path in host if path is not None):
        what = f"neither {shown(str(host.age))} nor {shown(str(host.ssh))} is there: this machine opens no secret"
        yield Problem("town.host_key", what, "make one as root: identity host init")
    for key, path in (("host_key.age", host.age), ("host_key.ssh", host.ssh), ("store_credentials", credentials)):
        if path is not None and (reason := _exposed(path)):
            yield Problem(f"town.{key}", f"{shown(str(path))} {reason}", "make it root's own: chown root, chmod 0400")
    if credentials is not None and not credentials.exists():
        what = f"{shown(str(credentials))} is not there"
        yield Problem(
            "town.store_credentials", what, "put the store's key there: an AWS credentials file, root's, 0400"
        )


def _exposed(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return ""
    if found.st_uid != 0:
        return f"belongs to uid {found.st_uid}"
    return "can be read or written by others than root" if found.st_mode & 0o077 else ""
