"""How much an agent may hold: its home and what it persists count together, for a group 1/UID of simple quotas.

The group, its limit and its members are held against the spec and set right by `settle`, which a restore calls at its
beginning and its end. Until the account opens there is no limit, where something keeps accounts closed: what an agent
filled must not keep its keys out of its next home, which would keep it out for good.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, assert_never

from persist import entering, ground
from persist.ground import Ground
from town import btrfs, mounts, quotas, subvolumes
from town.failure import BAD_CONFIG, Failure, Problem
from town.spec import Agent, Spec
from town.terminal import counted, shown

_ROUNDS = 5
_NEAR = 0.95  # of the limit: from there on a person should know


class NoQuota(Failure):
    """The spec gives an agent a quota that this machine cannot hold it to. Trying again does not help."""

    status = BAD_CONFIG


class Disk(NamedTuple):
    """A btrfs that holds something of an agent's: its place, a descriptor on it, the agent's subvolumes right there."""

    path: Path
    fd: int
    tops: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TurnOn:
    """Turn simple quotas on."""

    disk: Disk

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: simple ones turned on (from now on only Linux 6.7 and later mounts it)"


@dataclass(frozen=True, slots=True)
class Make:
    """Make the agent's group."""

    disk: Disk
    group: int

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: a group {_named(self.group)}"


@dataclass(frozen=True, slots=True)
class Limit:
    """Say how much the group may hold; None: as much as there is."""

    disk: Disk
    group: int
    most: int | None
    why: str

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: {self.why}"


@dataclass(frozen=True, slots=True)
class Join:
    """Count what these subvolumes hold."""

    disk: Disk
    group: int
    subvolumes: tuple[int, ...]

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: {counted(len(self.subvolumes), 'subvolume')} more counted"


@dataclass(frozen=True, slots=True)
class Leave:
    """Count what these subvolumes hold no more: they were set aside."""

    disk: Disk
    group: int
    subvolumes: tuple[int, ...]

    def __str__(self) -> str:
        return f"quotas  {_at(self.disk)}: {counted(len(self.subvolumes), 'subvolume')} no more counted"


Action = TurnOn | Make | Limit | Join | Leave


class Standing(NamedTuple):
    """How a quota stands on one filesystem, in bytes; `limit`: what is in force, None: nothing."""

    path: Path
    used: int
    limit: int | None
    apart: int = 0  # subvolumes of the agent's that are not counted
    plain: bool = False  # what it persists lies in no subvolume of its own


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
        actions = plan(spec, agent, here, when)
        for action in actions:
            _do(action)
            done.append(str(action))
        if not actions:
            break
    return done


def plan(spec: Spec, agent: Agent, here: Ground, when: When = "look") -> list[Action]:
    """What is to be done now; nothing where all is as the spec says. Raises as `settle` does."""
    if agent.quota is not None and (lack := _lack(spec, agent, here)):
        raise NoQuota(f"{agent.name} has a quota of {agent.quota}: {lack}", hint="leave quota out, or cure that")
    lifted = agent.quota is not None and when == "look" and _kept_out(agent)
    actions = (action for disk in _disks(spec, agent, here) for action in _planned(agent, disk, lifted=lifted))
    return [action for action in actions if when != "as it is" or not isinstance(action, Limit)]


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
        found: dict[bytes, Disk] = {}
        opened = {here.agents: home, here.persist: persisted}
        for path, fd in _places(spec, agent, here):
            if not btrfs.is_btrfs(fd):
                continue
            top = opened[fd]
            tops = () if top is None or not btrfs.is_subvolume(top) else (btrfs.number(top),)
            before = found.get(disk := quotas.filesystem(fd))
            found[disk] = Disk(path, fd, tops) if before is None else before._replace(tops=before.tops + tops)
        return list(found.values())


def _planned(agent: Agent, disk: Disk, *, lifted: bool) -> Iterator[Action]:
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
    if agent.quota is not None:
        yield from _membership(disk, group)
    if use.limit != most:
        yield Limit(disk, group, most, _why(agent, most))


def _membership(disk: Disk, group: int) -> Iterator[Action]:
    wanted, there = frozenset(_counted(disk)), quotas.members(disk.fd, group)
    # What an old home wrote may be shown elsewhere, by a clone (FICLONE). It counts again when that home is deleted.
    gone = {number for number in quotas.members(disk.fd, _left(group)) if subvolumes.place(disk.fd, number) is None}
    if more := (wanted | gone) - there:
        yield Join(disk, group, tuple(sorted(more)))
    # What is deleted still counts while something holds what it wrote; its group goes with the last of that.
    if less := [number for number in sorted(there - wanted) if subvolumes.place(disk.fd, number) is not None]:
        yield Leave(disk, group, tuple(less))


def _left(group: int) -> int:
    """The group, without a limit, of subvolumes that were the agent's and were set aside."""
    return group | 1 << 32


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


def _do(action: Action) -> None:
    match action:
        case TurnOn(disk):
            quotas.turn_on(disk.fd)
        case Make(disk, group):
            quotas.make(disk.fd, _left(group))
            quotas.make(disk.fd, group)
        case Limit(disk, group, most):
            quotas.limit(disk.fd, group, most)
        case Join(disk, group, numbers):
            for number in numbers:
                quotas.join(disk.fd, number, group)
        case Leave(disk, group, numbers):
            for number in numbers:
                quotas.join(disk.fd, number, _left(group))
                quotas.leave(disk.fd, number, group)
        case _:
            assert_never(action)


def _at(disk: Disk) -> str:
    return shown(str(disk.path))


def _named(group: int) -> str:
    return f"{group >> 48}/{group & ((1 << 48) - 1)}"


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
    apart = len(frozenset(_counted(disk)) - quotas.members(disk.fd, group))
    return Standing(disk.path, use.used, use.limit, apart, plain)


def troubles(agent: Agent, found: Standing) -> Iterator[tuple[str, str]]:
    """What a person should know of a quota: what it is, and the next command."""
    where, again = shown(str(found.path)), f"persist restore {agent.name}"
    if found.limit != agent.quota_bytes and not _kept_out(agent):
        yield f"its quota of {agent.quota} is not in force on {where}", again
    if found.apart:
        yield f"{counted(found.apart, 'subvolume')} of its on {where} not counted for its quota", again
    if found.plain:
        what = "what it persists does not count for its quota: it lies in a plain directory, not in a subvolume"
        yield what, "docs/formats/disk.md, Quotas, says how it becomes one"
    if found.limit is not None and found.used >= _NEAR * found.limit:
        yield f"its quota of {agent.quota} is used up, or nearly", f"persist lost {agent.name}; or a larger quota"


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
