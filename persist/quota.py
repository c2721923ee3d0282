"""How much an agent may hold: its home and what it persists count together, for a group 1/UID of simple quotas.

The group, its limit and its members are held against the spec and set right by `settle`, which a restore calls at its
beginning and its end. Until the account opens there is no limit, where something keeps accounts closed: what an agent
filled must not keep its keys out of its next home, which would keep it out for good.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from persist import belonging, entering, ground
from persist.belonging import Members
from persist.ground import Ground
from persist.quotasteps import Action, Disk, Expel, Join, Leave, Limit, Make, TurnOn, do
from town import btrfs, cli, mounts, quotas, subvolumes
from town.failure import BAD_CONFIG, Failure, Problem
from town.spec import Agent, Spec
from town.terminal import counted, shown, size

_ROUNDS = 5
_NEAR = 0.95  # of the limit: from there on a person should know
_WORTH_SAYING = 1 << 20  # bytes


class NoQuota(Failure):
    """The spec gives an agent a quota that this machine cannot hold it to. Trying again does not help."""

    status = BAD_CONFIG


class Standing(NamedTuple):
    """How a quota stands on one filesystem, in bytes; `limit`: what is in force, None: nothing."""

    path: Path
    used: int
    limit: int | None
    apart: int = 0  # subvolumes of the agent's that are not counted
    plain: bool = False  # what it persists lies in no subvolume of its own
    foreign: int = 0  # subvolumes that count and were never the agent's
    before: int = 0  # of what is used: what homes wrote that it had before, and its present one shows, or did


When = Literal["look", "now", "as it is"]


def settle(spec: Spec, agent: Agent, here: Ground, when: When = "look") -> list[str]:
    """Set the agent's quota right; a line for each thing that was done.

    `when` the limit is to be in force: now; or with the account, where that is closed and nothing of the agent's runs;
    or whatever it is, then only what counts is looked after. Raises NoQuota, BtrfsFailed, OSError, and what `entering`
    raises.
    """
    done: list[str] = []
    # Turned on, then made, then looked at: each is seen only when what comes before it is done. An agent that goes on
    # making subvolumes meanwhile is not waited for.
    for _ in range(_ROUNDS):
        actions, own = _looked(spec, agent, here, when)
        _record(spec, agent, own)
        if any(isinstance(action, Expel) for action in actions):
            _count_for_others(spec, agent, here)
        for action in actions:
            do(action)
            done.append(str(action))
        if not actions:
            break
    return done


def plan(spec: Spec, agent: Agent, here: Ground, when: When = "look") -> list[Action]:
    """What is to be done now; nothing where all is as the spec says. Raises as `settle` does."""
    return _looked(spec, agent, here, when)[0]


def _looked(spec: Spec, agent: Agent, here: Ground, when: When) -> tuple[list[Action], dict[str, frozenset[int]]]:
    """The same, and what is to be on record as the agent's."""
    if agent.quota is not None and (lack := _lack(spec, agent, here)):
        raise NoQuota(f"{agent.name} has a quota of {agent.quota}: {lack}", hint="leave quota out, or cure that")
    lifted = agent.quota is not None and when == "look" and _kept_out(agent)
    actions, own = list[Action](), dict[str, frozenset[int]]()
    for disk in _disks(spec, agent, here):
        members = _members(agent, disk)
        actions += _planned(agent, disk, members, lifted=lifted)
        if members is not None:
            own[disk.name] = members.own
    return [action for action in actions if when != "as it is" or not isinstance(action, Limit)], own


def _record(spec: Spec, agent: Agent, own: belonging.Known) -> None:
    """Before anything leaves the group: what was deleted is known as the agent's by its record alone."""
    try:
        belonging.keep(spec, agent, own)
    except (Failure, OSError) as error:  # on a full disk an agent is not kept from its home for that
        what = error.what if isinstance(error, Failure) else cli.unexpected(error)
        cli.warn("persist", f"{agent.name}: what counts for its quota cannot be noted: {what}")


def _count_for_others(spec: Spec, agent: Agent, here: Ground) -> None:
    """What is no more counted for this agent counts for the one whose it is. Theirs are looked at whole later."""
    for other in spec.agents:
        if other.quota is None or other.name == agent.name:
            continue
        with suppress(Failure, OSError):
            actions, own = _looked(spec, other, here, "as it is")
            _record(spec, other, own)
            for action in actions:
                if isinstance(action, Join):
                    do(action)


def _lack(spec: Spec, agent: Agent, here: Ground) -> str:
    """Why the agent cannot be held to a quota here; empty when it can."""
    for path, fd in _places(spec, agent, here):
        if not btrfs.is_btrfs(fd):
            return f"{shown(str(path))} lies on no btrfs"
        if quotas.mode(fd) == "full":
            return (
                f"the filesystem of {shown(str(path))} has full quotas, which cost much more and count otherwise: "
                f"btrfs quota disable {shown(str(path))}"
            )
    return _too_old()


def _places(spec: Spec, agent: Agent, here: Ground) -> Iterator[tuple[Path, int]]:
    yield spec.town.agents_dir, here.agents
    if here.persist is not None and spec.town.persist_dir is not None and any(entry.apart for entry in agent.persist):
        yield spec.town.persist_dir, here.persist


def _disks(spec: Spec, agent: Agent, here: Ground) -> list[Disk]:
    """Each btrfs once, with the home and the agent's directory under persist_dir where they are subvolumes."""
    with entering.maybe_home(spec, agent, here) as home, entering.maybe_persisted(spec, agent, here) as persisted:
        found, known = dict[bytes, Disk](), belonging.known(spec, agent)
        opened = {here.agents: home, here.persist: persisted}
        for path, fd in _places(spec, agent, here):
            if not btrfs.is_btrfs(fd):
                continue
            top = opened[fd]
            tops = () if top is None or not btrfs.is_subvolume(top) else (btrfs.number(top),)
            disk = quotas.filesystem(fd)
            if (before := found.get(disk)) is not None:
                found[disk] = before._replace(tops=before.tops + tops)
                continue
            found[disk] = Disk(path, fd, tops, disk.hex(), known.get(disk.hex()))
        return list(found.values())


def _members(agent: Agent, disk: Disk) -> Members | None:
    """What is to count; None where there is no group yet, or no quota."""
    if agent.quota is None or quotas.mode(disk.fd) != "simple" or quotas.use(disk.fd, quotas.group(agent.uid)) is None:
        return None
    return belonging.look(disk.fd, agent, frozenset(_counted(disk)), disk.known)


def _planned(agent: Agent, disk: Disk, members: Members | None, *, lifted: bool) -> Iterator[Action]:
    group = quotas.group(agent.uid)
    if quotas.mode(disk.fd) != "simple":
        if agent.quota is not None:
            yield TurnOn(disk)
        return
    use = quotas.use(disk.fd, group)
    if use is None:
        if agent.quota is not None:
            yield Make(disk, group)
        return
    most = None if lifted else agent.quota_bytes
    if members is not None:
        yield from _membership(disk, group, members)
    if use.limit != most:
        yield Limit(disk, group, most, _why(agent, most))


def _membership(disk: Disk, group: int, members: Members) -> Iterator[Action]:
    # What an old home wrote may be shown elsewhere, by a clone (FICLONE). It counts again when that home is deleted.
    # What is deleted still counts while something holds what it wrote; its group goes with the last of that.
    if more := (members.wanted | members.back) - members.there:
        yield Join(disk, group, tuple(sorted(more)))
    if members.aside:
        yield Leave(disk, group, tuple(sorted(members.aside)))
    if members.foreign:
        yield Expel(disk, group, tuple(sorted(members.foreign)))


def _counted(disk: Disk) -> Iterator[int]:
    """The agent's subvolumes: home, persisted data, what is nested in them, and what any is a snapshot of.

    What a snapshot shows was written in another: as long as that is there too, it counts for it.
    """
    seen, waiting = set[int](), list(disk.tops)
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        yield number
        waiting += [below for below, _ in subvolumes.within(disk.fd, number)]
        origin = subvolumes.origin(disk.fd, number)
        while origin is not None and origin not in seen:
            seen.add(origin)
            yield origin
            origin = subvolumes.origin(disk.fd, origin)


def _kept_out(agent: Agent) -> bool:
    """Whether something keeps the agent out until its account opens, and nothing of its runs."""
    from persist import account, pam, running

    return agent.name not in account.names() and pam.ruled(Path("/")) and not running.of(agent.uid)


def _why(agent: Agent, most: int | None) -> str:
    if most is not None:
        return f"{agent.name} may hold {agent.quota}"
    return f"no limit for {agent.name}{' until its account opens' if agent.quota is not None else ''}"


def standing(spec: Spec, agent: Agent, here: Ground) -> tuple[Standing, ...]:
    """How the agent's quota stands on each filesystem; nothing where it has none. Raises as `settle` does."""
    if agent.quota is None:
        return ()
    if lack := _lack(spec, agent, here):
        raise NoQuota(f"its quota of {agent.quota} is not in force: {lack}", hint="leave quota out, or cure that")
    with entering.maybe_persisted(spec, agent, here) as persisted:
        plain = persisted is not None and not btrfs.is_subvolume(persisted)
    return tuple(_standing(agent, disk, plain=plain) for disk in _disks(spec, agent, here))


def _standing(agent: Agent, disk: Disk, *, plain: bool) -> Standing:
    group = quotas.group(agent.uid)
    use = quotas.use(disk.fd, group)
    if use is None:
        return Standing(disk.path, 0, None, plain=plain)
    found, here = belonging.look(disk.fd, agent, frozenset(_counted(disk)), disk.known), frozenset(_here(disk))
    held = (quotas.use(disk.fd, number) for number in found.there - found.foreign - here)
    before = sum(one.used for one in held if one is not None)
    return Standing(disk.path, use.used, use.limit, len(found.wanted - found.there), plain, len(found.foreign), before)


def _here(disk: Disk) -> Iterator[int]:
    """The home, persisted data, and what is nested in them."""
    waiting = list(disk.tops)
    while waiting:
        number = waiting.pop()
        yield number
        waiting += [below for below, _ in subvolumes.within(disk.fd, number)]


def troubles(agent: Agent, found: Standing) -> Iterator[tuple[str, str]]:
    """What a person should know of a quota: what it is, and the next command."""
    where, again = shown(str(found.path)), f"persist restore {agent.name}"
    if found.limit != agent.quota_bytes and not _kept_out(agent):
        yield f"its quota of {agent.quota} is not in force on {where}", again
    if found.apart:
        yield f"{counted(found.apart, 'subvolume')} of its on {where} not counted for its quota", again
    if found.foreign:
        yield f"{counted(found.foreign, 'subvolume')} on {where}, not of its own, counted for its quota", again
    if found.plain:
        what = "what it persists does not count for its quota: it lies in a plain directory, not in a subvolume"
        yield what, "docs/formats/disk.md, Quotas, says how it becomes one"
    if found.limit is not None and found.used >= _NEAR * found.limit:
        old = f": {size(found.before)} of it by homes that it had before" if found.before >= _WORTH_SAYING else ""
        cure = f"persist lost {agent.name}; persist homes {agent.name} (what is kept holds what was deleted since)"
        yield f"its quota of {agent.quota} is used up, or nearly{old}", f"{cure}; or a larger quota"


def refused(spec: Spec) -> Iterator[Problem]:
    """Quotas of the spec that this machine cannot hold agents to. Where it cannot be looked, nothing is said."""
    limited = [agent for agent in spec.agents if agent.quota is not None]
    if not limited:
        return
    try:
        with ground.opened(spec) as here:
            found = [(agent, _lack(spec, agent, here)) for agent in limited]
    except (Failure, OSError):
        found = [(agent, _too_old()) for agent in limited]
    for agent, lack in found:
        if lack:
            yield Problem(f"agents.{agent.name}.quota", lack, "leave quota out, or cure that")


def _too_old() -> str:
    return "" if quotas.known() else f"this Linux, {os.uname().release}, has no simple quotas: they came with 6.7"


def unlimited(spec: Spec) -> Iterator[Problem]:
    """Agents that can fill the disk of this machine itself: persist_dir lies on it, and they have no quota."""
    path, free = spec.town.persist_dir, [agent.name for agent in spec.agents if agent.quota is None]
    if path is None or not free or not os.path.isdir(path):  # false too where this user may not look
        return
    there, root = mounts.holding(path), mounts.holding(Path("/"))
    if there is None or root is None or there.device != root.device:
        return
    what = f"{shown(str(path))} lies on the filesystem of /, which an agent can fill: no quota for {', '.join(free)}"
    cure = f'agents.{free[0]}.quota = "20G"' if there.kind == "btrfs" else "mount a disk of its own there, best a btrfs"
    yield Problem("town.persist_dir", what, cure)
