"""`persist account`: which agents may log in. PAM lets an agent pass whose name is in /run/nuketown/open.

The rule itself is in `persist.pam`. A name gets there when all that the agent needs is in place (`persist.gate`), and
goes when it leaves; a reboot begins with nobody. The file is root's, 0644, one name a line, written whole.
"""

import argparse
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from persist import gate, ground
from town import cli, files, spec, trust
from town.failure import DONE, Failure, TryLater, WrongUsage
from town.spec import Agent, Spec
from town.terminal import say, shown

OPEN = Path("/run/nuketown/open")
_LIMIT = 1 << 20
_PATIENCE = 30.0  # seconds: 200 agents open theirs at the same time, in milliseconds each
_PAUSE = 0.01
_ROOT = (0, 0)


class NotReady(Failure):
    """The agent's account stays closed: something that the agent must have is missing."""


class Busy(TryLater):
    """Other accounts are being opened or closed, for a long time. Trying again may help."""


def command(arguments: argparse.Namespace) -> int:
    """List the agents with their accounts, or open or close one."""
    town = spec.load(cli.spec_file(arguments))
    if arguments.do == "list":
        return _list(town, arguments)
    if arguments.agent is None:
        raise WrongUsage(f"account {arguments.do} needs an agent", hint=f"persist account {arguments.do} AGENT")
    agent = town.agent(arguments.agent)
    ground.require_root("account", "it says who may log in")
    trust.refuse(town)
    if arguments.do == "close":
        change(town, agent, opened=False)
    else:
        open_(town, agent, force=arguments.force)
    if arguments.json:
        cli.put_json({"name": agent.name, "open": arguments.do == "open"})
    return DONE


def open_(town: Spec, agent: Agent, *, force: bool = False) -> None:
    """Let the agent log in when it has all that it needs, or in any case with `force`. Raises NotReady, Busy."""
    lacking = gate.lacks(town, agent)
    if lacking and not force:
        change(town, agent, opened=False)
        what, hint = gate.told(agent, lacking)
        raise NotReady(f"{agent.name} stays out: {what}", hint=hint)
    for lack in lacking:
        cli.warn("persist", f"{agent.name}: opened all the same: {lack.what}", lack.cure)
    _limit(town, agent, force=force)
    change(town, agent, opened=True)


def _limit(town: Spec, agent: Agent, *, force: bool) -> None:
    """The quota, which nothing holds the agent to while its account is closed. Raises Failure unless `force`."""
    if agent.quota is None:
        return
    from persist import quota

    try:
        with ground.opened(town) as here:
            quota.settle(town, agent, here, "now")
    except Failure as failure:
        if not force:
            raise
        cli.warn("persist", f"{agent.name}: opened all the same: {failure.what}", failure.hint)


def names() -> tuple[str, ...]:
    """Who may log in. Empty too when the file is not there, or is not root's word."""
    try:
        with files.opened(files.open_dir(OPEN.parent)) as directory:
            ground.refuse_others(directory, OPEN.parent)
            return _read(directory)
    except (Failure, OSError):
        return ()


def change(town: Spec, agent: Agent, *, opened: bool) -> None:
    """Write the file anew, with or without the agent; names that the spec does not have go. Raises Busy, Unsafe."""
    with files.opened(files.open_dir(OPEN.parent.parent)) as above:
        fd = files.make_dirs(above, PurePosixPath(OPEN.parent.name), mode=0o755, owner=_ROOT)
    with files.opened(fd):
        ground.refuse_others(fd, OPEN.parent)
        with _alone(fd):
            before = _read(fd)
            known = {each.name for each in town.agents}
            others = {name for name in before if name in known and name != agent.name}
            after = sorted(others | {agent.name} if opened else others)
            if list(before) != after or not _there(fd):
                files.write_beneath(fd, OPEN.name, "".join(f"{name}\n" for name in after).encode(), owner=_ROOT)


def _there(directory: int) -> bool:
    try:
        found = os.stat(OPEN.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_uid, found.st_mode & 0o7777) == (0, 0o644)


def _read(directory: int) -> tuple[str, ...]:
    try:
        with files.opened(files.open_beneath(directory, OPEN.name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            ground.refuse_others(fd, OPEN)
            text = files.read_fd(fd, _LIMIT, str(OPEN)).decode("utf-8", "replace")
    except FileNotFoundError:
        return ()
    return tuple(line for line in text.split("\n") if line)


@contextmanager
def _alone(directory: int) -> Iterator[None]:
    with files.opened(files.open_beneath(directory, "open.lock", os.O_RDWR | os.O_CREAT, 0o600)) as lock:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise Busy("other accounts are being opened or closed", hint="try again") from error
            time.sleep(_PAUSE)
        yield


def _list(town: Spec, arguments: argparse.Namespace) -> int:
    from persist import pam

    found, ruled = names(), pam.ruled(Path("/"))
    agents = town.agents if arguments.agent is None else (town.agent(arguments.agent),)
    if arguments.json:
        listed = [{"name": agent.name, "open": agent.name in found} for agent in agents]
        cli.put_json({"rule": ruled, "agents": listed})
    else:
        width = max(len(agent.name) for agent in agents)
        for agent in agents:
            print(f"{agent.name:{width}}  {'open' if agent.name in found else 'closed'}")
    if not ruled:
        how = "nixos-rebuild, with this project's module," if os.path.exists("/etc/NIXOS") else "persist install"
        say(f"persist: note: PAM does not ask who is open on this machine: {how} sets that up")
    for name in sorted(set(found) - {agent.name for agent in town.agents}):
        say(f"persist: note: {shown(name)} is open and no agent of the spec")
    return DONE
