"""`identity secret set`: one value of `secrets.extra`, from standard input into the SOPS file."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from identity import gen, journal, places, vouching
from identity.found import Found
from identity.vault import vaults
from town import cli, trust
from town import spec as specs
from town.failure import DONE, WrongUsage
from town.spec import Agent
from town.terminal import shown

_LIMIT = 1 << 20  # bytes


def command(arguments: argparse.Namespace) -> int:
    """`identity secret set AGENT NAME`. It replaces a value that is there: that is what it is for."""
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse_as_root(spec)
    agent = spec.agent(arguments.agent)
    path = _path(agent, arguments.name)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    gen.no_core_dump()
    value = _value(agent, arguments.name)
    gen.refuse_unnamed(spec, (), where)
    with gen.locked(where):
        journal.finish(where)
        found = Found(*vaults(spec, where.root), gen.read_lock(where), {})
        vault = found.secrets
        vault.added[path] = value
        fresh = vouching.contradicted(spec, found)  # somebody else's file: they have its data key
        text = vault.sealed(gen.everybody(spec, where), datetime.now(UTC), fresh=fresh)
        write = journal.write(where, vault.name, text)
        if write.changes and not arguments.dry_run:
            journal.commit(where, [write])
    print(shown(vault.name) if write.changes else "nothing to do")
    if not vault.proven:
        cli.advise("identity", gen.unproven(vault))
    return DONE


def _path(agent: Agent, name: str) -> str:
    known = dict(agent.secrets.extra)
    if name not in known:
        raise WrongUsage(
            f"{agent.name} has no secret {shown(name)} in the spec",
            hint=f"it has {', '.join(known)}" if known else f"add it to agents.{agent.name}.secrets.extra",
        )
    return known[name]


def _value(agent: Agent, name: str) -> str:
    """What stands on standard input. One line loses its line break; several lines (a key, say) are kept as they are."""
    if sys.stdin is None:
        raise WrongUsage("standard input is closed", hint=f"identity secret set {agent.name} {name} <FILE")
    if sys.stdin.isatty():
        import getpass

        data = getpass.getpass("value: ").encode()
    else:
        data = sys.stdin.buffer.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise WrongUsage(f"the value is larger than the {_LIMIT:,} bytes that a secret may have")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise WrongUsage("the value is no UTF-8 text", hint="encode it first, for example with base64") from None
    if text.count("\n") == 1:
        text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        cure = f"it is read from standard input: identity secret set {agent.name} {name} <FILE"
        raise WrongUsage("the value is empty", hint=cure)
    if "\0" in text:
        raise WrongUsage("the value holds a NUL byte", hint="encode it first, for example with base64")
    return text
