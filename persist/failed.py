"""`persist failed UNIT`: one line that says which agent a failed unit leaves where, and what to type next.

Called by OnFailure= of every unit of nuketown's, for the journal and the console. What the unit itself said stands in
its own journal.
"""

import argparse
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from town import again, process
from town.failure import BAD_CONFIG, DONE, TRY_LATER, Failure, WrongUsage
from town.terminal import shell_word, shown

_UNIT = re.compile(r"nuketown-([a-z]+)(?:@([a-z][a-z0-9-]{0,30}))?\.service")
_LONGEST = 400  # characters of what the unit said last


class Meaning(NamedTuple):
    """What it means that a unit failed, and the next command; `AGENT` in both stands for the agent's name."""

    what: str
    cure: str


_ALL = {
    "rollback": Meaning("no agent starts: nobody can say that their homes were made blank", "persist status"),
    "mount": Meaning("no agent starts: their homes are not mounted", "persist status"),
    "homes": Meaning("agents without a home or a directory of theirs stay out, the others start", "persist restore"),
    "sweep": Meaning("agents of which something was left outside their homes stay out", "persist sweep --missing"),
    "tidy": Meaning("old homes stay on the disk", "persist tidy"),
    "lost": Meaning("what went with the homes is not written down; they are set aside all the same", "persist homes"),
}
_ONE = {
    "restore": Meaning("AGENT stays out: what it keeps in the store was not fetched", "persist restore AGENT"),
    "bind": Meaning("AGENT stays out: what it declared is not in its place", "persist restore AGENT"),
    "identity": Meaning("AGENT stays out: its keys and settings are not installed", "identity install AGENT"),
    "open": Meaning("AGENT stays out: something that it must have is missing", "persist status AGENT"),
    "close": Meaning("the account of AGENT is not closed, or not open, as it should be", "persist account"),
    "sync": Meaning("AGENT works; what it wrote since its last sync is on this machine only", "persist sync AGENT"),
    "leave": Meaning("AGENT left without a last sync; what it wrote is on this machine only", "persist sync AGENT"),
}
# Verbs, the spec, options without values, one agent each: nothing that an agent could have put into a message.
_COMMAND = r"(?:persist|identity) [a-z]+(?: --spec /[A-Za-z0-9_./-]+)?(?: --[a-z-]+)*(?: [a-z][a-z0-9-]{0,30})?"
_STARTING = r"systemctl start '?nuketown-agent@[a-z][a-z0-9-]{0,30}\.target'?"
_COMMANDS = re.compile(f"{_COMMAND}(?: && {_COMMAND})*(?: && {_STARTING})?")
_FIRST = ("homes", "open")  # of all that is not started when a disk is missing, these say it
_THEN_ALL = ("homes", "sweep")  # after these all of them
_STARTS = ("restore", "bind", "identity", "open")  # after the cure the agent has to be started


def command(arguments: argparse.Namespace) -> int:
    """Print the line; nothing for a unit that never ran, as what it requires failed and was told. No spec is needed."""
    found = _UNIT.fullmatch(arguments.unit)
    table = {} if found is None else _ALL if found[2] is None else _ONE
    if found is None or found[1] not in table:
        raise WrongUsage(
            f"{shown(arguments.unit[:200])} is no unit of nuketown's that can fail",
            hint="name it as systemctl --failed does: nuketown-restore@ada.service",
        )
    meaning, kind, agent = table[found[1]], found[1], found[2] or ""
    if "INVOCATION_ID" in os.environ and os.environ.get("MONITOR_SERVICE_RESULT", "success") == "success":
        if kind in _FIRST and (needed := _failed_below(arguments.unit)):
            print(_unstarted(arguments.unit, meaning, agent, needed))
        return DONE
    print(line(arguments.unit, meaning, kind, agent, os.environ))
    return DONE


def line(unit: str, meaning: Meaning, kind: str, agent: str, environment: Mapping[str, str]) -> str:
    """The agent first, what happened, why, the next command, and where to read more."""
    why, hint = _why(environment)
    # The unit's own hint knows more, where it is nothing but commands.
    known = _COMMANDS.fullmatch(hint) is not None
    cure = hint if known else meaning.cure.replace("AGENT", agent)
    cure = cure if " --spec " in cure else again.with_spec(cure)
    if kind in _STARTS and "systemctl start" not in cure:
        # What only looks ends with a status of its own, so the next command does not hang on it.
        cure = f"{cure}{' &&' if known or not meaning.cure.startswith('persist status') else ';'} {_starting(agent)}"
    elif kind in _THEN_ALL:
        cure = f"{cure} && systemctl start 'nuketown-agent@*.target' --all"
    return _told(unit, meaning, agent, (why, cure, unit))


def _unstarted(unit: str, meaning: Meaning, agent: str, needed: str) -> str:
    """The same of a unit that was never started, as one of the machine's own failed: a disk is not there."""
    starting = f"systemctl start {shell_word(needed)} && {_starting(agent) if agent else f'systemctl start {unit}'}"
    return _told(unit, meaning, agent, (f"not started, as {shown(needed)} failed", starting, needed))


def _told(unit: str, meaning: Meaning, agent: str, said: tuple[str, str, str]) -> str:
    why, cure, more = said
    what = meaning.what.replace("AGENT", agent)
    return f"nuketown: {what} ({unit}: {why}); next: {cure}; more: journalctl -b -u {shell_word(more)}"


def _starting(agent: str) -> str:
    return f"systemctl start {shell_word(f'nuketown-agent@{agent}.target')}"


def _failed_below(unit: str) -> str:
    """A unit of others that this one requires and that failed; empty when there is none. Those of ours tell it."""
    try:
        required = _ask("--property=Requires", "--value", unit).split()
        facts = _ask("--property=Id,ActiveState", *required) if required else ""
    except Failure:
        return ""
    found = re.findall(r"(?m)^Id=(.+)\nActiveState=failed$", facts)
    return next((name for name in found if not name.startswith("nuketown-")), "")


def _ask(*words: str) -> str:
    return process.run(["systemctl", "show", *words], timeout=20, check=False).out.decode("utf-8", "replace")


def _why(environment: Mapping[str, str]) -> tuple[str, str]:
    """The unit's own last error and its hint, else how it ended: systemd.exec(5), MONITOR_SERVICE_RESULT and others."""
    error, hint = _last_error(environment.get("MONITOR_INVOCATION_ID", ""))
    if error:
        return error, hint
    status = environment.get("MONITOR_EXIT_STATUS", "")
    known = {str(TRY_LATER): "not now, a later try may do", str(BAD_CONFIG): "the spec is wrong: persist check"}
    if environment.get("MONITOR_SERVICE_RESULT") == "timeout":
        return "it did not end in time", ""
    return known.get(status) or (f"it ended with {shown(status)}" if status else "it failed"), ""


def _last_error(run: str) -> tuple[str, str]:
    """The last line `persist: error: …` in the journal of one run of a unit, and the hint after it; or nothing."""
    if not re.fullmatch("[0-9a-f]{32}", run):
        return "", ""
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=50", f"_SYSTEMD_INVOCATION_ID={run}"]
    try:
        text = process.run(argv, timeout=20, check=False).out.decode("utf-8", "replace")
    except Failure:
        return "", ""
    errors = re.findall(r"(?m)^(?:persist|identity): error: (.*)(?:\n(?:persist|identity): hint: (.*))?$", text)
    return (shown(errors[-1][0])[:_LONGEST], errors[-1][1]) if errors else ("", "")
