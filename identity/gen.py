"""`identity gen`: makes what is missing, never replaces a key. Plan, make in memory, prove, then write as one step."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from identity import held, journal, lost, places
from identity.audience import NoRecipients, everybody, humans, refuse_unnamed
from identity.found import Found, find, read_lock
from identity.guard import NotWritable, locked, no_core_dump
from identity.keys import gpg
from identity.making import apply
from identity.places import Places
from identity.plan import plan, with_primary
from identity.texts import public_texts, sealed, ssh_line
from identity.vault import Vault
from town import cli, settings, trust
from town import spec as specs
from town.failure import DONE, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

__all__ = [
    "NoRecipients", "NotWritable", "command", "everybody", "find", "humans", "interrupted", "locked", "no_core_dump",
    "no_recovery", "prepare", "read_lock", "refuse_unnamed", "ssh_line", "unproven",
]  # fmt: skip


def command(arguments: argparse.Namespace) -> int:
    """`identity gen AGENT…|--all`."""
    if arguments.all == bool(arguments.agents):
        raise WrongUsage("gen needs either agents or --all", hint="identity gen ada, or identity gen --all")
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse_as_root(spec)
    agents = spec.agents if arguments.all else tuple(dict.fromkeys(map(spec.agent, arguments.agents)))
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    now = datetime.now(UTC)
    no_core_dump()
    if arguments.dry_run:
        return _dry_run(spec, agents, where, now)
    refuse_unnamed(spec, agents, where)
    with locked(where):
        writes = journal.finish(where)
        more, hints = prepare(spec, agents, where, now)
        if more:
            journal.commit(where, more)
    for one in [*writes, *more]:
        print(shown(one.name))
    if not writes and not more:
        print("nothing to do")
    for hint in hints:
        cli.advise("identity", hint)
    for doubt in settings.doubts(agents):
        cli.warn("identity", f"{shown(str(spec.file))}: {doubt}", doubt.cure)
    return DONE


def _dry_run(spec: Spec, agents: tuple[Agent, ...], where: Places, now: datetime) -> int:
    if interrupted(where):
        return DONE
    refuse_unnamed(spec, agents, where)
    for action in plan(agents, find(spec, agents, where)):
        print(shown(str(action)))
    writes, hints = prepare(spec, agents, where, now)
    for one in writes:
        print(f"write   {shown(one.name)}")
    if not writes:
        print("nothing to do")
    for hint in hints:
        cli.advise("identity", hint)
    return DONE


def interrupted(where: Places) -> bool:
    """For a dry run: whether a run that died must be finished first; prints what that would write."""
    left = journal.pending(where)
    for one in left:
        print(f"finish  {shown(one.name)}")
    if left:
        cli.advise("identity", "a run was interrupted; what comes after it is planned when it is finished")
    return bool(left)


def prepare(
    spec: Spec, agents: tuple[Agent, ...], where: Places, now: datetime
) -> tuple[list[journal.Write], list[str]]:
    """Everything that is to be written, in order, and hints for the person. Makes keys in memory; writes nothing."""
    for agent in agents:
        gpg.user_id_is_plain(agent.git.name, agent.git.email)
    found = find(spec, agents, where)
    actions = plan(agents, found)
    held.compare(agents, found)
    made = apply(actions, found)
    texts = [*sealed(spec, where, found, now), *public_texts(spec, agents, found, made)]
    writes = [journal.write(where, name, text) for name, text in texts]
    hints = [
        unproven(vault)
        for vault in (found.recovery, found.secrets) if not vault.proven
    ]  # fmt: skip
    return [one for one in writes if one.changes], [*hints, *no_recovery(found)]


def unproven(vault: Vault) -> str:
    """What is said when a new file could not be decrypted again."""
    return f"that {shown(vault.name)} decrypts was not proven here: no private key at hand opens it"


def no_recovery(found: Found) -> list[str]:
    """What is said when keys exist whose recovery file does not."""
    if found.recovery.data is not None or found.recovery.added or not (names := with_primary(found.lock)):
        return []
    return [f"{shown(found.recovery.name)} is not there: {lost.recovery(found.recovery.name, names)}"]
