"""`persist sync`: what each agent declared `store` or `both` goes to the store, as one commit that names a whole state.

Packs first, each durable before the next; then the commit, one small object. A sync that is cut off anywhere leaves
the state of before; nothing that was ever synced is removed by a sync.
"""

import argparse
import platform
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from persist import ground
from persist.bucket import commits
from persist.bucket.blobs import Writer
from persist.bucket.commits import Commit, Top
from persist.bucket.keys import AgentKeys
from persist.bucket.opening import Bucket, open_bucket
from persist.bucket.packs import Pack, PackReader
from persist.ground import WrongOwner
from persist.restore.found import InTheWay
from persist.store import StoreDamaged
from persist.sync import history, local, sources
from persist.sync.history import Head
from persist.sync.local import LastSync
from persist.sync.scan import KeepsMoving, Scanner, SourceUnreadable
from persist.sync.sources import SourceGone, Sources
from town import cli, presets, terminal
from town import spec as specs
from town.failure import DONE, FAILED, TRY_LATER, Failure, Unsafe
from town.spec import Agent, Persist, Spec
from town.terminal import shown

__all__ = ["LastSync", "Options", "Summary", "command", "last", "sync"]
_WORST_LAST = (DONE, TRY_LATER, FAILED)
# What keeps one declared directory from being synced, and no other.
_TROUBLE = (SourceGone, SourceUnreadable, KeepsMoving, Unsafe, InTheWay, WrongOwner)


class SyncFailed(Failure):
    """The system refused something that has nothing to do with the data; its own word is in the message."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `take_over`: go on over what another machine wrote."""

    dry_run: bool = False
    accept_loss: bool = False
    take_over: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What one sync of one agent did. `new_bytes` went to the store; `snapshot` is empty when it holds none yet."""

    agent: str
    time: datetime
    snapshot: str
    files: int
    bytes: int
    new_bytes: int
    committed: bool
    stopped: tuple[str, ...] = ()
    status: int = DONE

    def __str__(self) -> str:
        if not self.snapshot and not self.committed:
            return f"{self.agent}: nothing to sync yet"
        new = f"{terminal.size(self.new_bytes)} new" if self.committed else "nothing new"
        when = self.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        held = f"{self.files:,} files, {terminal.size(self.bytes)}"
        return f"{self.agent}: {held}; {new}; snapshot {self.snapshot or '(none yet)'} {when}"


def command(arguments: argparse.Namespace) -> int:
    """Sync the agents that were named, or all that declare something for the store. The worst status of any."""
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.chosen(arguments.agents)
    options = Options(arguments.dry_run, arguments.accept_loss, arguments.take_over)
    ground.require_root("sync")
    bucket = open_bucket(spec)
    summaries, statuses = [], [DONE]
    for agent in agents:
        try:
            summaries.append(sync(spec, agent, bucket, options, now=datetime.now(UTC)))
            statuses.append(summaries[-1].status)
        except (Failure, OSError) as error:
            failure = error if isinstance(error, Failure) else SyncFailed(_words(error))
            cli.tell("persist", failure, about=agent.name)
            statuses.append(failure.status if failure.status in _WORST_LAST else FAILED)
        else:
            if not arguments.json:
                print(f"{summaries[-1]}{' (a dry run: nothing was sent)' if options.dry_run else ''}", flush=True)
    if arguments.json:
        cli.put_json([asdict(summary) | {"time": summary.time.isoformat()} for summary in summaries])
    return max(statuses, key=_WORST_LAST.index)


def last(spec: Spec, agent: Agent) -> LastSync | None:
    """The agent's last sync from this machine that ended well, from root's own records; the store is not asked."""
    return local.record(spec, agent).last


def sync(spec: Spec, agent: Agent, bucket: Bucket, options: Options, *, now: datetime) -> Summary:
    """Sync one agent. A directory that cannot be synced keeps its last state in the commit, is said, and `stopped`.

    Raises Busy, WrittenElsewhere, StoreOlder, StoreDamaged, StoreFull, StoreUnreachable, Unsafe and others.
    """
    if not _entries(agent):
        return Summary(agent.name, now, "", 0, 0, 0, committed=False)
    if options.dry_run:
        return _Sync(spec, agent, bucket, options, now=now).run()
    with local.alone(spec, agent):
        return _Sync(spec, agent, bucket, options, now=now).run()


class _Sync:
    """One sync of one agent, from the listing of the store to the record of what was done."""

    def __init__(self, spec: Spec, agent: Agent, bucket: Bucket, options: Options, *, now: datetime) -> None:
        self._spec, self._agent, self._bucket, self._options, self._now = spec, agent, bucket, options, now
        self._keys: AgentKeys = bucket.keys(agent.name)
        self._entries = _entries(agent)
        self._machine = local.machine(spec, make=not options.dry_run)
        self._stopped: list[str] = []
        self._statuses = [DONE]

    def run(self) -> Summary:
        head = history.head(self._spec, self._agent, self._bucket, remember=not self._options.dry_run)
        if not self._options.take_over:
            paths = [entry.path for entry in self._entries]
            record = local.record(self._spec, self._agent)
            history.refuse_foreign(self._agent, head, paths, record, machine=self._machine)
        store = None if self._options.dry_run else self._bucket.store
        writer = Writer(store, self._keys, self._known(head))
        root = self._read(head, writer)
        return self._end(head, writer, root)

    def _known(self, head: Head | None) -> dict[bytes, Pack]:
        """Which pack of the newest state holds which piece. A pack that is missing or short counts for nothing."""
        known: dict[bytes, Pack] = {}
        for pack in head.commit.packs if head else ():
            try:
                frames = PackReader(self._bucket.store, self._keys, pack).frames()
            except StoreDamaged as damaged:
                cli.warn("persist", f"{self._agent.name}: {damaged.what}; what is still here is sent again")
                continue
            known |= {id_: pack for frame in frames for id_, _ in frame.blobs if id_ not in known}
        return known

    def _read(self, head: Head | None, writer: Writer) -> tuple[Top, ...]:
        tops = []
        machine = "" if self._options.dry_run else self._machine
        with sources.opened(self._spec, self._agent, machine=machine) as opened:
            for entry in self._entries:
                before = head.commit.top(entry.path) if head else None
                try:
                    top = self._top(entry, opened, writer, before)
                except _TROUBLE as failure:
                    # One directory's trouble stops no other: the commit keeps the last state of it.
                    self._stop(entry, failure)
                    top = before
                if top is not None:
                    tops.append(top)
        return tuple(tops)

    def _top(self, entry: Persist, opened: Sources, writer: Writer, before: Top | None) -> Top | None:
        scanner = Scanner(writer, self._keys, self._agent.person)
        with opened.source(entry) as source:
            if source is None:
                if before is None or self._options.accept_loss:
                    return None
                raise sources.gone(self._agent, entry)
            found = scanner.scan(entry.path.name.encode(), source, _left_out(entry))
        for line in scanner.notes.lines():
            terminal.say(f"persist: {self._agent.name}: {shown(str(entry.path))}/{line}")
        if before is not None and found.files * 2 < before.files and not self._options.accept_loss:
            raise SourceGone(
                f"{shown(str(entry.path))} lost {before.files - found.files:,} of its {before.files:,} files since the "
                "last sync, so the store keeps what it has of it",
                hint=f"if they were removed on purpose: persist sync --accept-loss {self._agent.name}",
            )
        return Top(entry.path, found.entry, found.files, found.bytes)

    def _stop(self, entry: Persist, failure: Failure) -> None:
        self._stopped.append(str(entry.path))
        self._statuses.append(failure.status)
        cli.tell("persist", failure, about=f"{self._agent.name}: {shown(str(entry.path))}")

    def _end(self, head: Head | None, writer: Writer, root: tuple[Top, ...]) -> Summary:
        sent = writer.finish()
        packs = {*writer.used, *sent}
        if head is not None and self._stopped:
            packs |= set(head.commit.packs)  # what was not read now may lie in any of them
        commit = Commit(
            agent=self._agent.name,
            time=self._now,
            host=platform.node(),
            machine=self._machine,
            generation=head.name.generation + 1 if head else 1,
            parent=str(head.name) if head else None,
            root=root,
            packs=tuple(sorted(packs)),
            uid=self._agent.uid,
            gid=self._agent.gid,
        )
        new = bool(root) if head is None else bool(sent) or _state(head.commit) != _state(commit)
        name = str(head.name) if head else ""
        if new and not self._options.dry_run:
            name = str(commits.write(self._bucket.store, self._keys, commit))
        if not self._options.dry_run:
            self._remember(name, commit)
        return Summary(
            agent=self._agent.name,
            time=self._now if new or head is None else head.commit.time,
            snapshot=name[-64:][:12],
            files=commit.files,
            bytes=commit.bytes,
            new_bytes=sum(pack.size for pack in sent),
            committed=new,
            stopped=tuple(self._stopped),
            status=max(self._statuses, key=_WORST_LAST.index),
        )

    def _remember(self, name: str, commit: Commit) -> None:
        if not name:
            return
        held = LastSync(self._now, name[-64:][:12], commit.files, commit.bytes)
        read = {str(top.path): name for top in commit.root if str(top.path) not in self._stopped}
        generation = int(name[:16], 16)
        local.change(
            self._spec,
            self._agent,
            lambda record: replace(record, generation=generation, head=name, known={**record.known, **read}, last=held),
        )


def _entries(agent: Agent) -> list[Persist]:
    """What the agent declares for the store. Caches and credentials never go there, whatever the spec says."""
    return [entry for entry in agent.persist if entry.synced and entry.class_ == "data"]


def _words(error: OSError) -> str:
    named = isinstance(error.filename, (str, bytes))
    return f"{shown(error.filename)}: {error.strerror}" if named else str(error.strerror or error)


def _state(commit: Commit) -> tuple[object, ...]:
    """What makes two commits name the same state; the numbers count because ACLs hold them."""
    return (commit.root, commit.uid, commit.gid)


def _left_out(entry: Persist) -> frozenset[PurePosixPath]:
    """What the preset of a declared path says is no data: one live copy, made anew, or written from the spec."""
    if entry.preset is None:
        return frozenset()
    preset = presets.preset(entry.preset)
    return frozenset((*preset.credential, *preset.cache, *preset.regenerated))
