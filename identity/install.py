"""`identity install`: an agent's keys, documents and secrets into its fresh home, at boot, as root.

Everything is made from the spec and the secrets file; nothing that lies in the home is believed. Each piece stands for
itself: one that fails is named, the others are installed, and the command ends with the worst status of any of them.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path, PurePosixPath

from identity import gen, guard, installed, places, runtime, tenant
from identity.alone import alone
from identity.delivery import Delivery, delivery
from identity.halves import BadKey
from identity.installed import Record
from identity.lock import Lock
from identity.pieces import Order, Piece, below
from identity.places import Places
from identity.sources import Source
from identity.teller import Teller
from town import again, cli, machine, standing, trust
from town import spec as specs
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shown

_KEYRING = ".gnupg"


class NotRoot(Failure):
    """Only root may work as the agents."""


class NotInstalled(Failure):
    """The system refused a step outside the homes."""


def command(arguments: argparse.Namespace) -> int:
    """`identity install [AGENT…]`."""
    spec = specs.load(cli.spec_file(arguments))
    agents = tuple(dict.fromkeys(map(spec.agent, arguments.agents))) or spec.agents
    if os.geteuid() != 0:
        what = "install works in homes as their agents, so it needs root"
        raise NotRoot(what, hint=again.as_root("identity", "install"))
    trust.refuse(spec)
    guard.no_core_dump()
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    lock = gen.read_lock(where)
    source, told = Source.of(spec, where, known=bool(lock)), Teller(arguments.dry_run)
    for agent in agents:
        _one(spec, agent, source, lock, told)
    if not arguments.agents:
        for piece in runtime.forget(spec.agents, dry=told.dry):
            told.gone(piece)
    _advise(where, told)
    return told.end()


def _advise(where: Places, told: Teller) -> None:
    if told.failed and os.path.lexists(where.path(places.JOURNAL)):
        cli.advise("identity", "a run of identity was interrupted here; it is finished by: identity gen --all")


def _one(spec: Spec, agent: Agent, source: Source, lock: Lock, told: Teller) -> None:
    try:
        machine.refuse_conflicts(spec, (agent,))
        if not told.dry:
            standing.forget(standing.INSTALLED, agent.name)
        with nullcontext() if told.dry else alone(agent):
            _install(spec, agent, delivery(spec, agent, source, lock, told), told)
    except Failure as failure:
        told.failure(agent, failure)
    except OSError as error:
        told.failure(agent, NotInstalled(_words(error), hint="run it again; the other agents do not depend on it"))


def _words(error: OSError) -> str:
    named = f"{shown(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{named}{error.strerror or error}"


def _install(spec: Spec, agent: Agent, wanted: Delivery, told: Teller) -> None:
    _into_home(spec, agent, wanted, told)
    for piece in runtime.deliver(agent, dict(wanted.secrets), dry=told.dry):
        told.piece(agent, piece)
    if not told.dry and agent.name not in told.failed:
        standing.note(standing.INSTALLED, agent.name)  # what lets the agent's account be opened


def _into_home(spec: Spec, agent: Agent, wanted: Delivery, told: Teller) -> None:
    before, done = installed.known(spec, agent), list[Piece]()
    order = _order(agent, wanted, before, whole=agent.name not in told.failed)
    try:
        for piece in tenant.install(spec.home(agent), agent.person, order, dry=told.dry):
            told.home(agent, piece, before.files)
            done.append(piece)
    except Failure as failure:
        told.failure(agent, failure)  # the secrets in /run do not depend on it
    finally:
        if not told.dry:
            _record(spec, agent, _after(before, order, done))


def _order(agent: Agent, wanted: Delivery, before: Record, *, whole: bool) -> Order:
    """What the home shall have. Where not all of it could be had nothing is taken away: it may be what is missing."""
    paths = {str(file.path) for file in wanted.files}
    signing = wanted.keyring and wanted.keyring.signing
    gone = ((path, digest) for path, digest in before.files.items() if path not in paths)
    keeps = not whole or below(PurePosixPath(_KEYRING), agent.delivered)
    return Order(
        files=wanted.files,
        keyring=wanted.keyring,
        published=wanted.published,
        gone=tuple(
            (path, digest) for path, digest in gone if whole and not below(PurePosixPath(path), agent.delivered)
        ),
        dropped=() if keeps else tuple(one for one in before.gpg if one != signing),
        left=agent.delivered,
    )


def _after(before: Record, order: Order, done: list[Piece]) -> Record:
    """What lies in the home by our hand now: what was before, but for what is told of."""
    wanted = {str(file.path): installed.digest(file.data) for file in order.files if not file.seed}
    files = {path: digest for path, digest in before.files.items() if not below(PurePosixPath(path), order.left)}
    subkeys, keys = set(before.gpg), set(before.keys)
    brought = before.brought | {str(file.path): installed.digest(file.data) for file in order.files if file.seed}
    for piece in done:
        if piece.path == _KEYRING and piece.what != "failed":
            subkeys = (subkeys - set(order.dropped)) | ({order.keyring.signing} if order.keyring else set())
            keys = set(_primaries(order))
            brought = {path: digest for path, digest in brought.items() if not path.startswith(f"{_KEYRING}/")}
            brought |= dict(piece.keys)
        elif piece.what in ("removed", "absent", "left"):
            files.pop(piece.path, None)
        elif piece.what != "failed" and piece.path in wanted:
            files[piece.path] = wanted[piece.path]
    return Record(files, tuple(sorted(subkeys)), brought, tuple(sorted(keys)))


def _primaries(order: Order) -> Iterator[str]:
    """Whose public keys the keyring has by our hand."""
    from identity.keys import openpgp

    if order.keyring is not None:
        yield order.keyring.primary
    if order.published:
        with suppress(BadKey):
            yield from (key[0].fingerprint for key in openpgp.keys(order.published.decode("latin-1"), "gpg.asc"))


def _record(spec: Spec, agent: Agent, now: Record) -> None:
    if not spec.state_dir.parent.is_dir():  # a town without its disk: what was changed cannot be told from what was not
        return
    try:
        installed.record(spec, agent, now)
    except (Failure, OSError) as error:
        what = error.what if isinstance(error, Failure) else _words(error)
        cli.warn("identity", f"{agent.name}: what was installed could not be recorded: {what}")
