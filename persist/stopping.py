"""An agent is stopped and started again: its account, its processes, and the units of systemd's that belong to it.

What ran is noted before it is stopped, so that the same is started again. Where systemd runs and has the agent's
target, that is stopped as a person would: the account is closed, the last sync is made, what the agent's services need
ends in order. What is left then, or where there is no systemd, is ended by signals (`persist.running`).
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from persist import account, running, units
from persist.running import Process
from town import cli, process, standing
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shell_word

_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
_WAIT = 300.0  # seconds for systemd to stop or start all of an agent: the last sync alone has 90
_OURS = "nuketown-"


class Runs(Failure):
    """The agent has running processes, and nobody said that they may be ended. Nothing was changed."""


class Within(Failure):
    """This very command runs in a session of the agent, and would be ended with it. Nothing was changed."""


class NotStarted(Failure):
    """The agent's home is in place and whole, and what ran before could not be started again."""


@dataclass(frozen=True, slots=True)
class Stood:
    """What there was of an agent before it was stopped, and shall be again."""

    target: bool = False  # its systemd target was active
    units: tuple[str, ...] = ()  # others that belong to it and were
    opened: bool = False  # it could log in
    installed: bool = False  # its keys and documents were put into its home at this boot


def stood(agent: Agent) -> Stood:
    """What there is of the agent now."""
    opened, installed = agent.name in account.names(), standing.noted(standing.INSTALLED, agent.name)
    if not _SYSTEMD.is_dir():
        return Stood(False, (), opened, installed)
    target = _state(_target(agent)) in ("active", "activating")
    found = dict.fromkeys([*_requiring(agent), *_services_of(agent)])
    found[f"user@{agent.uid}.service"] = None  # sessions that it also ran for do not come back
    return Stood(target, tuple(unit for unit in found if _state(unit) == "active"), opened, installed)


def refuse(agent: Agent, verb: str, *, stop: bool) -> None:
    """Raises Runs, naming the processes, where they may not be ended; Within, where that would end this command."""
    if stop:
        if running.within(os.getpid(), agent.uid):
            raise Within(
                f"this command runs in a session of {agent.name}, and would end itself",
                hint="run it from a login of your own",
            )
        return
    if found := running.of(agent.uid):
        raise Runs(f"{agent.name} has running processes: {running.named(found)}", hint=f"{verb} --stop ends them first")


def stop(town: Spec, agent: Agent, before: Stood, verb: str, *, end: bool) -> list[Process]:
    """Close the account and, with `end`, end everything of the agent's; its processes as they were.

    `before`: what `stood` said. Raises running.NotEnded, and Runs where there is somebody who is not to be ended.
    """
    found = running.of(agent.uid)
    if before.opened or os.path.exists(account.OPEN):
        account.change(town, agent, opened=False)
    refuse(agent, verb, stop=end)  # who logged in meanwhile
    if _SYSTEMD.is_dir():
        # The last sync may go on after the target is down: it is waited for, since it reads the home.
        slices = (f"user-{agent.uid}.slice", f"user@{agent.uid}.service") if found else ()
        _systemctl("stop", _known((_target(agent), f"{_OURS}leave@{agent.name}.service", *before.units, *slices)))
    if end:
        running.end(agent.uid)
    return found


def again(agent: Agent, before: Stood) -> list[str]:
    """What `start` will do, in words."""
    own = [_target(agent)] if before.target else [
        *([f"identity install {agent.name}"] if before.installed else []),
        *([f"persist account open {agent.name}"] if before.opened else []),
    ]  # fmt: skip
    return [*own, *before.units]


def start(town: Spec, agent: Agent, before: Stood) -> list[str]:
    """Start what there was, and say what. Raises NotStarted and what opening an account raises."""
    if before.target:
        _started(agent, (_target(agent),))
    else:
        if before.installed:
            _install(town, agent)
        if before.opened:
            account.open_(town, agent)
    if before.units:
        _started(agent, before.units)
    return again(agent, before)


def _install(town: Spec, agent: Agent) -> None:
    """Keys, documents and secrets, by the program that knows them."""
    program = units.identity_of(units.own_program())
    done = process.run([program, "--spec", str(town.file), "install", agent.name], check=False, timeout=_WAIT)
    if done.status:
        raise NotStarted(
            f"keys and documents of {agent.name} were not installed: {process.last_words(done.err)}",
            hint=f"identity install {agent.name} && persist account open {agent.name}",
        )


def _started(agent: Agent, names: Iterable[str]) -> None:
    wanted = list(names)
    try:
        done = process.run(["systemctl", "start", *wanted], check=False, timeout=_WAIT)
        failed = done.status and process.last_words(done.err)
    except Failure as failure:
        failed = failure.what
    if failed:
        words = " ".join(map(shell_word, wanted))
        raise NotStarted(
            f"{agent.name} was not started again: {failed}",
            hint=f"systemctl status {shell_word(f'{_OURS}*@{agent.name}*')}; then: systemctl start {words}",
        )


# ---- systemd's units


def _target(agent: Agent) -> str:
    return f"{_OURS}agent@{agent.name}.target"


def _systemctl(verb: str, names: Iterable[str]) -> None:
    wanted = list(names)
    if not wanted:
        return
    try:
        done = process.run(["systemctl", verb, *wanted], check=False, timeout=_WAIT)
        words = process.last_words(done.err) if done.status else ""
    except Failure as failure:
        words = failure.what
    if words:  # what goes on all the same is ended by signals
        cli.warn("persist", f"systemctl {verb}: {words}")


def _known(names: Iterable[str]) -> list[str]:
    """Those that systemd has: to stop another is a failure."""
    return [name for name in names if _shown(name, "LoadState").get("LoadState") == "loaded"]


def _state(unit: str) -> str:
    return _shown(unit, "ActiveState").get("ActiveState", "")


def _shown(unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit; nothing where systemd does not answer."""
    with suppress(Failure):
        said = process.run(["systemctl", "show", f"--property={','.join(properties)}", "--", unit], check=False).out
        pairs = (line.partition("=") for line in said.decode("utf-8", "replace").splitlines())
        return {key: value for key, _, value in pairs}
    return {}


def _requiring(agent: Agent) -> list[str]:
    """The human's own units that need the agent's target, and stop with it."""
    said = _shown(_target(agent), "RequiredBy", "BoundBy", "ConsistsOf", "RequisiteOf")
    names = [name for value in said.values() for name in value.split()]
    own = (f"user@{agent.uid}.service", f"user-{agent.uid}.slice")
    return [name for name in names if not name.startswith(_OURS) and name not in own and not name.endswith(".slice")]


def _services_of(agent: Agent) -> list[str]:
    """Services of the machine's systemd that run as the agent."""
    found = dict.fromkeys(running.system_units(agent.uid))
    return [unit for unit in found if _shown(unit, "User").get("User") in (agent.name, str(agent.uid))]
