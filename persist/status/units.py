"""What systemd says of nuketown's units: one question for all of them, none where systemd does not run."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from persist.proof import Trouble
from persist.status.report import Unit
from town import process
from town.failure import ATTENTION, BROKEN, Failure
from town.terminal import shell_word, shown

BOOTED = "/run/systemd/system"  # sd_booted(3)
_AGENT = re.compile(r"nuketown-([a-z]+)@(.+)\.(?:service|target)")
_ASIDE = ("tidy", "sync", "leave", "lost")  # what fails in these keeps no agent from its work
_WAIT = 5.0  # seconds for the answer


def loaded() -> tuple[Unit, ...]:
    """Every unit of nuketown's that systemd knows. Never raises: a manager that does not answer knows none."""
    if not os.path.isdir(BOOTED):
        return ()
    try:
        words = ["systemctl", "show", "--no-pager", "--property=Id,LoadState,ActiveState,Result", "--", "nuketown-*"]
        said = process.run(words, timeout=_WAIT, check=False).out
    except Failure:
        return ()
    return tuple(parsed(said.decode("utf-8", "replace")))


def parsed(text: str) -> Iterator[Unit]:
    """The units that `systemctl show` tells of: blocks of key=value, a blank line between two."""
    for block in text.split("\n\n"):
        said = dict(line.partition("=")[::2] for line in block.splitlines())
        name = said.get("Id", "")
        if not name.startswith("nuketown-") or name.startswith("nuketown-failed@") or said.get("LoadState") != "loaded":
            continue
        of = _AGENT.fullmatch(name)
        yield Unit(name, said.get("ActiveState", ""), said.get("Result", ""), of[2] if of else "")


def of_agent(units: Iterable[Unit], agent: str) -> tuple[Unit, ...]:
    """Those of one agent."""
    return tuple(unit for unit in units if unit.agent == agent)


def of_town(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Those of all agents."""
    return tuple(unit for unit in units if not unit.agent)


def troubles(units: Sequence[Unit]) -> Iterator[Trouble]:
    """What failed, what is still tried, and a target that was not reached; with the command that helps."""
    target = next((unit for unit in units if unit.name.startswith("nuketown-agent@")), None)
    failed = [unit for unit in units if unit.failed]
    trying = [unit for unit in units if unit.active == "activating"]
    for unit in failed:
        level = ATTENTION if _kind(unit) in _ASIDE else BROKEN
        why = f" ({shown(unit.result)})" if unit.result not in ("", "success") else ""
        yield Trouble(level, f"{shown(unit.name)} failed{why}", _cure(unit, target))
    for unit in trying:
        if unit is not target:
            what = f"{shown(unit.name)} is not done yet, and what comes after it waits"
            yield Trouble(ATTENTION, what, f"journalctl -b -u {shell_word(unit.name)} says what it waits for")
    if target is not None and target.active == "inactive" and not failed and not trying:
        what = f"{shown(target.name)} is not reached: the account is closed"
        yield Trouble(ATTENTION, what, f"systemctl start {shell_word(target.name)}")


def _kind(unit: Unit) -> str:
    return unit.name.removeprefix("nuketown-").partition("@")[0].partition(".")[0]


def _cure(unit: Unit, target: Unit | None) -> str:
    again = unit.name if target is None or _kind(unit) in _ASIDE else target.name
    return f"journalctl -b -u {shell_word(unit.name)} says why; then: systemctl start {shell_word(again)}"
