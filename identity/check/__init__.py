"""`identity check`: read-only. Everything that gen makes, held against the spec, the lock and itself.

What needs a private key is checked as far as the keys at hand allow. What could not be checked is said, and is no
finding: continuous integration has no keys and must be able to pass.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from identity import found as finds
from identity import guard, places
from identity.check import clear, drift, locked, openers, private, public, sopsnix
from identity.finding import Finding, caught
from identity.found import Found
from identity.lock import Lock
from identity.places import Places
from identity.vault import vaults
from town import again, cli, settings
from town import spec as specs
from town.failure import ATTENTION, BROKEN, DONE, Failure
from town.spec import Agent, Spec


def command(arguments: argparse.Namespace) -> int:
    """`identity check [AGENT…]`: 0 clean, 3 warnings, 4 errors."""
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.chosen(arguments.agents)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    guard.no_core_dump()
    said = list(dict.fromkeys(findings(spec, agents, where, datetime.now(UTC))))
    status = _status(said)
    if arguments.json:
        cli.put_json({"status": status, "findings": [_tree(one) for one in said]})
        return status
    for one in said:
        one.tell()
    if status == DONE:
        print("everything is as the spec says")
    return status


def _tree(one: Finding) -> dict[str, str]:
    return asdict(one) | {"cure": again.with_spec(one.cure)}


def _status(said: list[Finding]) -> int:
    levels = {one.level for one in said}
    return BROKEN if "error" in levels else ATTENTION if "warning" in levels else DONE


def findings(spec: Spec, agents: tuple[Agent, ...], where: Places, now: datetime) -> Iterator[Finding]:
    """Everything that is to be said, files first; what is wrong with a file is said once."""
    secrets, recovery = vaults(spec, where.root)
    lock, broken = _lock(where)
    found = Found(secrets, recovery, lock, {})
    yield from caught(str(places.JOURNAL), lambda: drift.unfinished(where))
    yield from broken
    yield from openers.findings(spec, where, lock, secrets, recovery)
    if private.readable(secrets):
        yield from caught(secrets.name, lambda: sopsnix.findings(secrets, agents))
    if not broken:
        yield from caught(str(places.LOCK), lambda: drift.town(spec, where, lock))
        yield from caught(str(places.LOCK), lambda: locked.findings(spec, lock, now))
        yield from caught(str(places.IDENTITIES), lambda: drift.leftovers(spec, where, lock))
        if private.readable(secrets):
            yield from drift.private_halves(spec, secrets, lock)
    for doubt in settings.doubts(agents):
        yield Finding("warning", doubt.where, doubt.what, doubt.cure)
    for agent in agents:
        yield from _agent(spec, agent, where, found, now, broken=bool(broken))
    yield from private.findings(agents, found)
    yield from caught(str(spec.file), lambda: clear.findings(spec, where, lock, private.values(agents, secrets)))


def _lock(where: Places) -> tuple[Lock, list[Finding]]:
    """The lock, and what keeps it from being read: then the keys are held against nothing."""
    try:
        lost = [] if where.path(places.LOCK).exists() else list(drift.lost_lock(where))
        return finds.read_lock(where), lost
    except Failure as failure:
        return {}, [Finding("error", str(places.LOCK), failure.what, failure.hint)]


def _agent(spec: Spec, agent: Agent, where: Places, found: Found, now: datetime, *, broken: bool) -> Iterator[Finding]:
    """One agent: what the secrets file lacks, its public halves, its documents."""
    if private.readable(found.secrets):
        yield from public.missing_values(agent, where, found.lock, found.secrets)
    if broken:
        return
    yield from caught(agent.name, lambda: _public(agent, where, found, now))
    if agent.name in found.lock:
        yield from caught(agent.name, lambda: drift.agent(spec, agent, where, found.lock))


def _public(agent: Agent, where: Places, found: Found, now: datetime) -> Iterator[Finding]:
    found.public[agent.name] = finds.public(where, agent)
    yield from public.findings(agent, where, found.lock, found.public[agent.name], now)
