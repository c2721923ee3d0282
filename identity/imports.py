"""`identity import`: keys that exist already become an agent's, in place of those that gen would make.

Looked at, then planned, then taken apart in memory, then written as one step. A key that is there is never replaced.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from identity import gen, journal, places
from identity.brought import Action, TakeGpg, TakeSsh, is_new, look
from identity.found import Found, find
from identity.keys import gpg, openpgp, whole
from identity.making import Made, keep
from identity.places import Places
from identity.texts import public_texts, sealed
from town import cli, trust
from town import spec as specs
from town.failure import DONE, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shell_word, shown


def command(arguments: argparse.Namespace) -> int:
    """`identity import AGENT --ssh FILE --gpg FILE`."""
    named = {"--ssh": arguments.ssh, "--gpg": arguments.gpg}
    if not any(named.values()) or list(named.values()).count("-") > 1:
        what = "import needs --ssh FILE, --gpg FILE or both" if not any(named.values()) else "both cannot be `-`"
        raise WrongUsage(what, hint=f"identity import {shown(arguments.agent)} --ssh id_ed25519 --gpg secret.asc")
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse_as_root(spec)
    agent, now = spec.agent(arguments.agent), datetime.now(UTC)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    gen.no_core_dump()
    brought = look(agent, arguments.ssh, arguments.gpg, now)
    gen.refuse_unnamed(spec, (agent,) if arguments.gpg else (), where)
    if arguments.dry_run:
        if not gen.interrupted(where):
            _dry_run(spec, agent, brought, where, now)
        return DONE
    with gen.locked(where):
        writes = journal.finish(where)
        _, more, hints = _prepare(spec, agent, brought, where, now)
        if more:
            journal.commit(where, more)
    _tell([shown(one.name) for one in (*writes, *more)], hints)
    for file in filter(None, (arguments.ssh, arguments.gpg)):
        if file != "-":
            cli.advise("identity", f"the private key is still in {shown(file)}: {_what_now(file)}")
    return DONE


def _dry_run(spec: Spec, agent: Agent, brought: list[Action], where: Places, now: datetime) -> None:
    actions, writes, hints = _prepare(spec, agent, brought, where, now)
    _tell([*(shown(str(one)) for one in actions), *(f"write   {shown(one.name)}" for one in writes)], hints)


def _tell(lines: list[str], hints: list[str]) -> None:
    for line in lines or ["nothing to do"]:
        print(line)
    for hint in hints:
        cli.advise("identity", hint)


def _what_now(file: str) -> str:
    others = " (others than its owner may read it)" if os.stat(file).st_mode & 0o077 else ""
    return f"once what was written is committed, shred -u {shell_word(file)}{others}"


def _prepare(
    spec: Spec, agent: Agent, brought: list[Action], where: Places, now: datetime
) -> tuple[list[Action], list[journal.Write], list[str]]:
    """What is taken, everything that is to be written, in order, and hints for the person. Writes nothing."""
    found = find(spec, (agent,), where)
    actions = [one for one in brought if is_new(one, found)]
    if not actions:
        return [], [], []
    made, hints = _apply(actions, found, now)
    texts = [*sealed(spec, where, found, now), *public_texts(spec, (agent,), found, made)]
    writes = [journal.write(where, name, text) for name, text in texts]
    return actions, [one for one in writes if one.changes], [*hints, *_unproven(found), *_missing(agent, found)]


def _unproven(found: Found) -> Iterator[str]:
    yield from (gen.unproven(vault) for vault in (found.recovery, found.secrets) if not vault.proven)


def _missing(agent: Agent, found: Found) -> Iterator[str]:
    there = {*found.secrets.names, *found.secrets.added}
    if {path for path in (agent.secrets.ssh_key, agent.secrets.gpg_key) if path} - there:
        yield f"identity gen {agent.name} makes the key that is still missing"


def _apply(actions: list[Action], found: Found, now: datetime) -> tuple[Made, list[str]]:
    """The keys apart. Private halves go into the vaults' additions and nowhere else."""
    made, hints = Made(), []
    with ExitStack() as stack:
        for action in actions:
            match action:
                case TakeSsh(agent, private, key):
                    found.secrets.added[agent.secrets.ssh_key] = private
                    made.ssh[agent.name] = key
                case TakeGpg():
                    hints += _take_gpg(action, stack.enter_context(gpg.throw_away_home()), found, made, now)
                case _:
                    assert_never(action)
    return made, hints


def _take_gpg(action: TakeGpg, home: Path, found: Found, made: Made, now: datetime) -> list[str]:
    agent, published = action.agent, found.public[action.agent.name].armored
    if published is not None:
        gpg.take(home, published, str(places.gpg_public(agent)))  # what it has besides is not lost
    key = whole.taken(home, action.key, now, encryption=agent.secrets.gpg_encryption)
    keep(agent, key, found, made)
    made.older[agent.name] = openpgp.older(key.public, made.gpg[agent.name])
    if published is not None:
        others = [one[0].fingerprint for one in openpgp.keys(published, "gpg.asc")]
        made.armored[agent.name] = gpg.export(home, "--export", *dict.fromkeys([*others, action.key.primary]))
    if any(f"<{agent.git.email}>" in one or one == agent.git.email for one in whole.user_ids(home, action.key.primary)):
        return []
    return [f"the key does not name {shown(agent.git.email)}: a forge may show what it signs as unverified"]
