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
from persist.sync import carried, history, local, sources
from persist.sync.history import Head
from persist.sync.local import LastSync, Record
from persist.sync.scan import KeepsMoving, Scanner, SourceUnreadable
from persist.sync.sources import SourceGone, Sources
from town import cli, presets, terminal, trust
from town import spec as specs
from town.failure import DONE, Failure, Unsafe, status_of, worst
from town.persist_table import KEYS
from town.spec import Agent, Persist, Spec
from town.terminal import shown

__all__ = ["LastSync", "Options", "Summary", "command", "last", "sync"]
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
    would_commit: bool = False  # a dry run, after which a sync would commit
    stopped: tuple[str, ...] = ()
    status: int = DONE

    def __str__(self) -> str:
        differs = self.committed or self.would_commit
        if not self.snapshot and not differs:
            return f"{self.agent}: nothing to sync yet"
        new = f"{terminal.size(self.new_bytes)} new" if differs else "nothing new"
        when = self.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        held = f"{terminal.counted(self.files, 'file')}, {terminal.size(self.bytes)}"
        return f"{self.agent}: {held}; {new}; snapshot {self.snapshot or '(none yet)'} {when}"


def command(arguments: argparse.Namespace) -> int:
    """Sync the agents that were named, or all that declare something for the store. The worst status of any."""
    spec = specs.load(cli.spec_file(arguments))
    agents = spec.chosen(arguments.agents)
    options = Options(arguments.dry_run, arguments.accept_loss, arguments.take_over)
    ground.require_root("sync")
    trust.refuse(spec)
    bucket = open_bucket(spec)
    summaries, statuses = [], [DONE]
    for agent in agents:
        try:
            summaries.append(sync(spec, agent, bucket, options, now=datetime.now(UTC)))
            statuses.append(summaries[-1].status)
        except Exception as error:  # what one agent's files bring about stops no other agent
            failure = error if isinstance(error, Failure) else SyncFailed(cli.unexpected(error), hint=_REPORT)
            cli.tell("persist", failure, about=agent.name)
            statuses.append(status_of(failure))
        else:
            if not arguments.json:
                print(f"{summaries[-1]}{' (a dry run: nothing was sent)' if options.dry_run else ''}", flush=True)
    if arguments.json:
        cli.put_json([asdict(summary) | {"time": summary.time.isoformat()} for summary in summaries])
    return worst(statuses)


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
        self._kept: list[Top] = []  # of the head, not read here
        self._statuses = [DONE]

    def run(self) -> Summary:
        head = history.head(self._spec, self._agent, self._bucket, remember=not self._options.dry_run)
        if not self._options.take_over:
            history.refuse_foreign(self._spec, self._agent, head, self._entries, machine=self._machine)
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
                    self._kept += [before] if before else []
                if top is not None:
                    tops.append(top)
        return (*tops, *(self._carried(head, tops) if head else ()))

    def _carried(self, head: Head, tops: list[Top]) -> tuple[Top, ...]:
        """What the head holds and nobody declares: it stays. What a declared path took the place of is told of."""
        staying, giving_way = carried.undeclared(head.commit, [entry.path for entry in self._entries], tops)
        self._kept += staying
        known = local.record(self._spec, self._agent).known
        for top in staying:
            if str(top.path) in known:  # until the end of the first sync that is not a dry run
                history.tell_undeclared(self._agent, head, top.path, stays=True)
        for top in giving_way:
            history.tell_undeclared(self._agent, head, top.path, stays=False)
        return staying

    def _top(self, entry: Persist, opened: Sources, writer: Writer, before: Top | None) -> Top | None:
        scanner = Scanner(writer, self._keys, self._agent.person)
        with opened.source(entry) as source:
            if source is None:
                if before is None or self._options.accept_loss:
                    return None
                raise sources.gone(self._agent)
            found = scanner.scan(entry.path.name.encode(), source, _left_out(entry))
        for line in scanner.notes.lines():
            terminal.say(f"persist: {self._agent.name}: {shown(str(entry.path))}/{line}")
        if before is not None and found.files * 2 < before.files and not self._options.accept_loss:
            raise sources.shrunk(self._agent, before.files, found.files)
        return Top(entry.path, found.entry, found.files, found.bytes)

    def _stop(self, entry: Persist, failure: Failure) -> None:
        self._stopped.append(str(entry.path))
        self._statuses.append(failure.status)
        cli.tell("persist", failure, about=f"{self._agent.name}: {shown(str(entry.path))}")

    def _end(self, head: Head | None, writer: Writer, root: tuple[Top, ...]) -> Summary:
        sent = writer.finish()
        packs = {*writer.used, *sent}
        if head is not None and self._kept:
            packs |= carried.packs(self._kept, head.commit, self._bucket.store, self._keys)
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
            committed=new and not self._options.dry_run,
            would_commit=new and self._options.dry_run,
            stopped=tuple(self._stopped),
            status=worst(self._statuses),
        )

    def _remember(self, name: str, commit: Commit) -> None:
        if not name:
            return
        held = LastSync(self._now, name[-64:][:12], commit.files, commit.bytes)
        declared = [str(entry.path) for entry in self._entries]
        there = {str(top.path) for top in commit.root} - set(self._stopped)
        read = {path: name for path in declared if path in there}

        def synced(record: Record) -> Record:
            kept = {path: before for path, before in record.known.items() if path in declared}
            return replace(record, generation=int(name[:16], 16), head=name, known=kept | read, last=held)

        local.change(self._spec, self._agent, synced)


def _entries(agent: Agent) -> list[Persist]:
    """What the agent declares for the store. Caches and credentials never go there, whatever the spec says."""
    return [entry for entry in agent.persist if entry.synced and entry.class_ == "data"]


_REPORT = "if it is not plain what to do, report it with what it says"


def _state(commit: Commit) -> tuple[object, ...]:
    """What makes two commits name the same state; the numbers count because ACLs hold them."""
    return (sorted(commit.root, key=lambda top: top.path), commit.uid, commit.gid)


def _left_out(entry: Persist) -> frozenset[PurePosixPath]:
    """What is no data in a declared path: installed keys, and what its preset calls one live copy, cache or remade."""
    keys = frozenset(key.relative_to(entry.path) for key in KEYS if key.is_relative_to(entry.path))
    if entry.preset is None:
        return keys
    preset = presets.preset(entry.preset)
    return keys | {*preset.credential, *preset.cache, *preset.regenerated}
