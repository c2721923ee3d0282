"""`persist snapshot`: keep an agent's home, and what it persists, as they are in this moment, on purpose."""

import argparse
import time
from datetime import UTC, datetime

from persist import device, entering, ground, kept, places, shelving, taking
from persist.about import About
from persist.alone import alone
from persist.kept import Kept
from town import btrfs, cli, spec, trust
from town.failure import DONE, WrongUsage
from town.spec import Agent, Spec
from town.terminal import say, shown

_LONGEST = 1000  # characters of a message


def command(arguments: argparse.Namespace) -> int:
    """Keep one agent's home, and print the name that it has."""
    town = spec.load(cli.spec_file(arguments))
    agent, name, message = town.agent(arguments.agent), arguments.name, arguments.message or ""
    if name is not None:
        kept.refuse_name(name)
    if len(message) > _LONGEST:
        raise WrongUsage(f"-m: {len(message):,} characters, more than {_LONGEST:,}", hint="say it shorter")
    ground.require_root("snapshot")
    trust.refuse(town)
    now = datetime.fromtimestamp(time.time(), UTC)
    if arguments.dry_run:
        lines = plan(town, agent, name or kept.stamp(now))
        if arguments.json:
            cli.put_json({"dry_run": True, "actions": lines})
        else:
            print("\n".join(lines))
        return DONE
    with device.top(town) as top, alone(town, agent):
        made = taking.take(town, agent, top, name=name, message=message, now=now)
    _tell(made)
    if arguments.json:
        cli.put_json({"dry_run": False, **as_json(made)})
    else:
        print(made.name)
    return DONE


def plan(town: Spec, agent: Agent, name: str) -> list[str]:
    """What a snapshot would take, a line for each thing; refuses what it would refuse, and makes nothing."""
    with device.top(town) as top, ground.opened(town) as here, taking.living(town, agent, here) as home:
        if any(one.key == name.encode() for one in kept.of(kept.every(town, top, here.agents), agent)):
            raise shelving.NameTaken(f"{agent.name}@{name} is there already", hint="give it another --name")
        lines = [f"snapshot  {shown(str(town.home(agent)))} -> {agent.name}@{name}, read-only"]
        with entering.maybe_persisted(town, agent, here) as persisted:
            if persisted is not None:
                how, when = _how(home, persisted)
                paths, below = taking.persisted_paths(town, agent, persisted), places.persisted(town, agent)
                lines += [f"{how}  {shown(str(below / path))}, {when}" for path in paths]
    return lines


def _how(home: int, persisted: int) -> tuple[str, str]:
    """What is done with persisted directories, and when."""
    if not btrfs.is_btrfs(persisted):
        return "copy    ", "file by file, after it"
    return "snapshot", "a moment later" if taking.is_elsewhere(home, persisted) else "in the same moment"


def _tell(made: Kept) -> None:
    about = made.about
    what = f" and {_directories(len(about.paths))}" if about.paths else ""
    if one_moment(about):
        say(f"kept: the home{what}, as of transaction {about.transids['home']} of the filesystem: one point in time")
    else:
        say(f"kept: the home{what}")
    for note in about.notes:
        say(f"note: {note}")


def _directories(number: int) -> str:
    return "1 persisted directory" if number == 1 else f"{number:,} persisted directories"


def one_moment(about: About) -> bool:
    """Whether all of a snapshot is of one transaction."""
    return not about.notes and len(set(about.transids.values())) == 1


def as_json(made: Kept) -> dict[str, object]:
    """A snapshot, for --json."""
    about = made.about
    return {
        "name": made.name,
        "agent": cli.named(made.agent),
        "home": cli.named(made.key),
        "time": None if made.time is None else made.time.isoformat(),
        "message": about.message,
        "boot": about.boot,
        "persisted": [str(path) for path in about.paths],
        "transids": dict(about.transids),
        "one_moment": one_moment(about),
        "notes": list(about.notes),
    }
