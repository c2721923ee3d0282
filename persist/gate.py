"""Whether an agent may start: its home is of this boot, all it declared is in place, what others do for it is done."""

from collections.abc import Iterator
from typing import NamedTuple

from persist import ground, proof, swept
from persist.ground import Ground
from town import btrfs, standing
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shell_word, shown


class Lack(NamedTuple):
    """One thing that is missing, as a clause; and the command that brings it."""

    what: str
    cure: str


def lacks(spec: Spec, agent: Agent) -> list[Lack]:
    """Everything that keeps the agent out; empty when it may start. Looks by descriptors; raises nothing."""
    try:
        with ground.opened(spec) as here:
            _refuse_old(spec, here)
            return [*_home(spec, agent, here), *_done(agent)]
    except Failure as failure:
        return [Lack(failure.what, failure.hint)]
    except OSError as error:
        return [Lack(f"its home cannot be looked at: {error.strerror}", f"persist restore {agent.name}")]


def _refuse_old(spec: Spec, here: Ground) -> None:
    """Raises proof.Unproven when nobody can say that the homes of this town were made blank at this boot."""
    if spec.town.btrfs is not None:
        rollback = proof.read()
        proof.refuse(proof.doubt_of_boot(spec, rollback))
        where = shown(str(spec.town.agents_dir))
        proof.refuse(proof.doubt_of_homes(spec, rollback, btrfs.info(here.agents), where))


def _home(spec: Spec, agent: Agent, here: Ground) -> Iterator[Lack]:
    from persist.restore import found

    again = f"persist restore {agent.name}"
    # Where nothing rolls back, the first restore of a boot sets the old home aside, and notes the new one.
    if spec.town.btrfs is None and not standing.noted(standing.HOMES, agent.name):
        yield Lack(f"{shown(str(spec.home(agent)))} is no home of this boot", again)
        return
    there = found.look(spec, agent, here)
    if not there.home:
        yield Lack(f"{shown(str(spec.home(agent)))}, its home, is not there", again)
        return
    for directory in there.directories:
        entry = directory.entry
        if entry.required and directory.target != "bound" and (entry.bound or directory.target == "missing"):
            yield Lack(f"{shown(str(entry.path))} is not in its place", again)


def _done(agent: Agent) -> Iterator[Lack]:
    if left := swept.missing(agent):
        yield Lack(left, f"persist sweep {agent.name}")
    if not standing.noted(standing.INSTALLED, agent.name):
        yield Lack("its identity was not installed at this boot", f"identity install {agent.name}")


def told(agent: Agent, found: list[Lack]) -> tuple[str, str]:
    """What is missing as one sentence, and what to type, in that order."""
    cures = dict.fromkeys(lack.cure for lack in found if lack.cure)
    commands = " && ".join(cures) if all(map(_is_command, cures)) else next(iter(cures))
    opening = f"systemctl start {shell_word(f'nuketown-agent@{agent.name}.target')}"
    return "; ".join(lack.what for lack in found), f"{commands} && {opening}" if commands else opening


def _is_command(cure: str) -> bool:
    return cure.startswith(("persist ", "identity ", "systemctl "))
