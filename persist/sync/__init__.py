"""`persist sync`: what each agent declared `store` or `both` goes to the store, as one commit that names a whole state.

Packs first, each durable before the next; then the commit, one small object. A sync that is cut off anywhere leaves
the state of before; nothing that was ever synced is removed by a sync. What changed is asked of the filesystem and
compared with the local index; where nothing did, the store is asked nothing.
"""

import argparse
import gc
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from persist import copies, ground, transactions
from persist.store import checked_url
from persist.sync import declared, local, run
from persist.sync.local import LastSync
from persist.sync.summary import Options, Summary
from town import btrfs, cli, files, trust
from town import spec as specs
from town.failure import DONE, Failure, status_of, worst
from town.spec import Agent, Spec
from town.terminal import shown

if TYPE_CHECKING:
    from persist.bucket.opening import Bucket

__all__ = ["LastSync", "Options", "Summary", "command", "last", "lost", "sync"]
_GARBAGE = 20_000  # objects that were made and not thrown away, until it is looked for
_DISK = "dmesg tells of a disk that fails, df of one that is full; nothing that was synced is lost, so sync again then"
_REPORT = "if it is not plain what to do, report it with what it says"


class SyncFailed(Failure):
    """The system refused something that has nothing to do with the data; its own word is in the message."""


class _Opener:
    """The town's store, opened when the first agent needs it; a store that cannot be opened fails for all."""

    def __init__(self, spec: Spec, rate: float | None, *, remember: bool) -> None:
        self._spec, self._rate, self._remember = spec, rate, remember
        self._bucket: Bucket | None = None
        self.failure: Failure | None = None

    def __call__(self) -> "Bucket":
        from persist.bucket.opening import open_bucket

        if self._bucket is None:
            try:
                bucket = open_bucket(self._spec, remember=self._remember)
            except Failure as failure:
                self.failure = failure
                raise
            self._bucket = bucket.at_rate(self._rate)
        return self._bucket


def command(arguments: argparse.Namespace) -> int:
    """Sync the agents that were named, or all that declare something for the store. The worst status of any."""
    # Modules and rows are many objects, nearly all of which stay: to look for garbage among them often costs 15 ms.
    gc.set_threshold(_GARBAGE)
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.chosen(arguments.agents)
    rate = cli.rate(arguments.limit_rate)
    options = Options(arguments.dry_run, arguments.accept_loss, arguments.take_over, limited=rate is not None)
    opener = _Opener(spec, rate, remember=not arguments.dry_run)
    ground.require_root("sync")
    trust.refuse(spec)
    if not any(map(copies.declared, agents)):  # files are also copied out of homes where there is no store
        checked_url(spec)
    summaries, statuses = [], [DONE]
    for agent in agents:
        if agent.quota is not None and not options.dry_run:
            _counted(spec, agent)
        try:
            summaries.append(sync(spec, agent, opener, options, now=datetime.now(UTC)))
            statuses.append(summaries[-1].status)
            if not arguments.json:  # before the lease is given back: what is in the store is said in any case
                print(f"{summaries[-1]}{' (a dry run: nothing was sent)' if options.dry_run else ''}", flush=True)
            if arguments.release and not options.dry_run:
                _release(spec, agent, opener)
        except Exception as error:  # what one agent's files bring about stops no other agent
            if error is opener.failure:
                raise
            statuses.append(_told(agent, error))
    if not options.dry_run:
        _note_time(spec)
    if arguments.json:
        cli.put_json([summary._asdict() | {"time": summary.time.isoformat()} for summary in summaries])
    return worst(statuses)


def _note_time(spec: Spec) -> None:
    """Note which transaction had ended by now: from then on `persist lost --since` is quick. A sync comes often."""
    with suppress(Failure, OSError), files.opened(files.open_dir(spec.town.agents_dir)) as agents:
        if btrfs.is_btrfs(agents):
            transactions.commit(agents)


def _counted(spec: Spec, agent: Agent) -> None:
    """Count what the agent made since without its being counted. A sync comes often, and nothing else does."""
    from persist import quota

    try:
        with ground.opened(spec) as here:
            quota.settle(spec, agent, here, "as it is")
    except (Failure, OSError) as error:
        what, hint = (error.what, error.hint) if isinstance(error, Failure) else (cli.unexpected(error), "")
        cli.warn("persist", f"{agent.name}: its quota could not be looked after: {what}", hint)


def _told(agent: Agent, error: Exception) -> int:
    """Say why an agent could not be synced; its status. Nothing keeps the error: what its frames hold goes with it."""
    hint = _DISK if isinstance(error, OSError) else _REPORT
    failure = error if isinstance(error, Failure) else SyncFailed(cli.unexpected(error), hint=hint)
    cli.tell("persist", failure, about=agent.name)
    return status_of(failure)


def _release(spec: Spec, agent: Agent, opener: _Opener) -> None:
    """Give the lease back, if this machine holds it: the next machine needs neither wait nor `--take-over`."""
    from persist.sync import history

    if local.record(spec, agent).lease is not None:
        history.release(spec, agent, opener(), local.machine(spec))


def last(spec: Spec, agent: Agent) -> LastSync | None:
    """The agent's last sync from this machine that ended well, from root's own records; the store is not asked."""
    return local.record(spec, agent).last


def lost(spec: Spec, agent: Agent) -> str:
    """The short id of the branch that holds what lay here when another machine took the lease; empty: none did."""
    return local.record(spec, agent).branch[-64:][:12]


def sync(
    spec: Spec, agent: Agent, bucket: "Bucket | Callable[[], Bucket]", options: Options, *, now: datetime
) -> Summary:
    """Sync one agent. A directory that cannot be synced keeps its last state in the commit, is said, and `stopped`.

    `bucket` may be a function: it is called when the store is needed. Raises Busy, LeaseHeld, LeaseLost,
    WrittenElsewhere, StoreOlder, StoreDamaged, StoreFull, StoreUnreachable, Unsafe and others.
    """
    opener: Callable[[], Bucket] = bucket if callable(bucket) else lambda: bucket
    if options.dry_run:
        return _once(spec, agent, opener, options, now)
    failures = copies.take(spec, agent)  # before a snapshot is taken of where they are kept
    for path, failure in failures:
        cli.tell("persist", failure, about=f"{agent.name}: {shown(str(path))}")
    if declared.entries(agent):
        with local.alone(spec, agent):
            summary = _once(spec, agent, opener, options, now)
    else:
        summary = _once(spec, agent, opener, options, now)
    stopped = dict.fromkeys([*summary.stopped, *(str(path) for path, _ in failures)])
    status = worst([summary.status, *(status_of(failure) for _, failure in failures)])
    return summary._replace(stopped=tuple(stopped), status=status)


def _once(spec: Spec, agent: Agent, opener: "Callable[[], Bucket]", options: Options, now: datetime) -> Summary:
    if not declared.entries(agent):
        return Summary(agent.name, now, "", 0, 0, 0, committed=False)
    return run.once(spec, agent, opener, options, now=now)
