"""One sync of one agent, from what the filesystem says has changed to the record of what was done.

First nobody asks the store: the index is brought up to date with the disk, and where that finds nothing to send and
nothing is due, that was all. The first piece that has to go opens the store; where that shows that the look began with
wrong ideas of it, the look is taken again (`Restart`). What the index learns is one transaction, kept after the commit.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from persist import degraded
from persist.progress import Progress
from persist.sync import declared, local, rows, schema, sources, standing
from persist.sync.index import Index, Seen
from persist.sync.local import LastSync, Record
from persist.sync.look import TROUBLE, Look, Restart, look
from persist.sync.readers import Readers
from persist.sync.summary import Options, Summary
from persist.sync.tree import Work
from town import cli, files, terminal
from town.failure import Failure, TryLater, worst
from town.spec import Agent, Spec
from town.terminal import shown

if TYPE_CHECKING:
    from persist.bucket.blobs import Writer
    from persist.bucket.opening import Bucket
    from persist.sync.session import Session

__all__ = ["Options", "Summary", "once"]
_ROUNDS = 5
_LOCK = Path("identities/store.lock.toml")  # persist.bucket.lock, which is not loaded for this
LISTED = 24 * 3600.0  # seconds between two looks at all packs


def once(spec: Spec, agent: Agent, opener: "Callable[[], Bucket]", options: Options, *, now: datetime) -> Summary:
    """Sync one agent, whose lock is held. An index that turns out to be damaged is thrown away and made anew."""
    try:
        return _Run(spec, agent, opener, options, now).run()
    except sqlite3.OperationalError as error:
        raise schema.failed(spec, agent, error) from error
    except sqlite3.DatabaseError as error:
        if not options.dry_run:
            schema.thrown_away(spec, agent, f"is damaged ({shown(str(error))})")
            return _Run(spec, agent, opener, options, now).run()
        raise


class KeepsPruning(TryLater):
    """Each time that the sync was about to commit, a prune had taken something from under it. Trying again may help."""


class _Run:
    def __init__(
        self, spec: Spec, agent: Agent, opener: "Callable[[], Bucket]", options: Options, now: datetime
    ) -> None:
        self._spec, self._agent, self._opener, self._options, self._now = spec, agent, opener, options, now
        self._machine = local.machine(spec, make=not options.dry_run)
        self._session: Session | None = None
        sends = options.limited and not options.dry_run
        self._progress = Progress(f"persist: {agent.name}: sync", rates_sent=sends)
        self._began = time.monotonic()
        self._requests = 0
        self._followed = False  # whether the lineage knows what lies at the declared paths

    @property
    def opened(self) -> bool:
        """Whether the store is open."""
        return self._session is not None

    @property
    def writer(self) -> "Writer":
        """What takes pieces: it opens the store."""
        return self._asked().writer

    @property
    def seed(self) -> int:
        """What moves the boundaries of chunks."""
        return self._asked().seed

    def learn(self) -> None:
        """Tell the index again what the store said, where it was asked."""
        if self._session is not None:
            self._session.learn()

    def _asked(self) -> "Session":
        if self._session is not None:
            return self._session
        try:
            session = self._open()
        except TROUBLE as failure:  # not this directory's
            raise Restart from failure
        seen, head = self._index.state, session.head
        if session.cleared or head is None or seen is None or str(head.name) != seen.name:
            raise Restart
        return session

    def run(self) -> Summary:
        readers, machine = Readers(), "" if self._options.dry_run else self._machine
        with ExitStack() as stack:
            stack.enter_context(self._progress)
            stack.callback(readers.close)
            self._index = stack.enter_context(Index.opened(self._spec, self._agent, copy=self._options.dry_run))
            opened = stack.enter_context(sources.opened(self._spec, self._agent, machine=machine))
            stack.callback(self._stop)
            try:
                if self._due():
                    self._open()
                return self._rounds(Work(self._index, opened, self, self._agent.person, readers, self._progress.add))
            except Exception:
                self._follow_unread(opened)
                raise

    def _rounds(self, work: Work) -> Summary:
        for _ in range(_ROUNDS):
            self._expect()
            try:
                with self._index.writing():
                    found = look(self._agent, work, self._options, self._before())
                    if not self._options.dry_run:
                        standing.follow(self._spec, self._agent, work.sources, found)
                        self._followed = True
                    summary, note = self._rested(found) if self._rests(found) else self._ended(found)
            except Restart:
                if self._session is None:
                    self._open()
                else:
                    self._session.learn()
            except Exception as error:
                if self._session is None or not self._session.again(error):
                    raise
                self._open()
            else:
                self._remember(note)
                self._stands(work, found)
                return summary
        raise KeepsPruning(
            "packs that this sync builds on are about to be deleted, however often it begins anew",
            hint=f"let no prune run beside it, then: persist sync {self._agent.name}",
        )

    def _expect(self) -> None:
        """Where all is read, about as much as the newest state holds is to come; else nobody knows what has changed."""
        head = None if self._session is None else self._session.head
        if head is None or any(True for _ in rows.trees(self._index)):
            self._progress.expect(None, None)
        else:
            self._progress.expect(head.commit.files, head.commit.bytes)

    # Whether the store has to be asked.

    def _due(self) -> bool:
        """Whether something else than a change asks for the store."""
        from persist.sync.marker import interrupted

        index, record, seen = self._index, local.record(self._spec, self._agent), self._index.state
        listed = index.get("listed")
        return (
            self._options.take_over  # what another machine wrote is no change here
            or seen is None
            or seen.name != record.head
            or record.intended not in ("", record.written)
            or bool(record.branch)
            or (record.lease is None and not self._options.dry_run)
            or not set(record.known) <= {str(entry.path) for entry in declared.entries(self._agent)}
            or seen.numbers != [self._agent.uid, self._agent.gid]
            or index.get("where") != _where(self._spec)
            or not listed
            or not 0 <= time.time() - float(listed) < LISTED
            or degraded.there(self._spec, self._agent)  # what was used without the store's word
            or interrupted(self._spec, self._agent)
        )

    def _before(self) -> dict[str, int]:
        """Files of every declared path in the newest state."""
        if self._session is not None:
            head = self._session.head
            return {str(top.path): top.files for top in head.commit.root} if head else {}
        seen = self._index.state
        return seen.tops if seen else {}

    def _rests(self, found: Look) -> bool:
        """Whether the newest state is what lies here, but for what cannot be synced."""
        seen = self._index.state
        if self._session is not None:
            return False
        assert seen is not None, "else it was due"
        lost = set(found.missing) & set(seen.tops)
        return not lost and all(result.same and result.state == seen.name for result in found.results)

    def _open(self) -> "Session":
        from persist.sync.session import Session

        self._stop()
        bucket = self._opener()
        if self._session is None:
            self._requests = bucket.store.requests
        self._session = Session(
            self._spec, self._agent, bucket, self._options, index=self._index, machine=self._machine,
            progress=self._progress,
        )  # fmt: skip
        return self._session

    def _stop(self) -> None:
        """End the threads of a writer that is of no more use."""
        if self._session is not None:
            self._session.writer.__exit__(None, None, None)

    # What comes of it.

    def _rested(self, found: Look) -> tuple[Summary, Callable[[Record], Record]]:
        """Nothing was to be sent, and nothing asked; the lease is renewed when half of its time is gone."""
        seen, sent = self._index.state, 0
        assert seen is not None
        if not self._options.dry_run and local.lease_due(local.record(self._spec, self._agent), time.time()):
            sent = self._renew()
        self._tell(found)
        summary = Summary(
            self._agent.name, datetime.fromisoformat(seen.time), seen.name[-64:][:12], seen.files, seen.bytes, 0,
            committed=False, stopped=found.stopped, status=worst(found.statuses), requests=sent,
            store=self._spec.town.store or "", seconds=time.monotonic() - self._began,
        )  # fmt: skip
        return summary, self._note(seen, found)

    def _renew(self) -> int:
        from persist.sync import history

        bucket = self._opener()
        before = bucket.store.requests
        history.renew(self._spec, self._agent, bucket, self._machine)
        return bucket.store.requests - before

    def _ended(self, found: Look) -> tuple[Summary, Callable[[Record], Record]]:
        """What was found goes to the store, as a commit where it differs from the newest state."""
        from persist.sync.ending import Ending

        session = self._asked()
        ending = Ending(self._spec, self._agent, self._index, session, self._options, found)
        done = ending.run(self._now, self._machine)
        self._tell(found)
        if not self._options.dry_run:
            self._index.set("where", _where(self._spec))
        seen = self._index.state
        summary = Summary(
            self._agent.name, done.time, done.name[-64:][:12], done.files, done.bytes, done.new_bytes,
            committed=done.new and not self._options.dry_run, would_commit=done.new and self._options.dry_run,
            stopped=found.stopped, status=worst(found.statuses), read_files=found.read[0], read_bytes=found.read[1],
            packs=done.packs, requests=session.bucket.store.requests - self._requests,
            store=self._spec.town.store or "", seconds=time.monotonic() - self._began,
        )  # fmt: skip
        return summary, self._note(seen, found)

    def _tell(self, found: Look) -> None:
        self._progress.hide()
        for line in found.notes:
            terminal.say(f"persist: {self._agent.name}: {line}")
        for path, failure in found.failures:
            cli.tell("persist", failure, about=f"{self._agent.name}: {shown(path)}")

    def _note(self, seen: Seen | None, found: Look) -> Callable[[Record], Record]:
        """What the record says of the newest state after this sync."""
        if seen is None:
            return lambda record: record
        held = LastSync(self._now, seen.name[-64:][:12], seen.files, seen.bytes)
        declared_ = {str(entry.path) for entry in declared.entries(self._agent)}
        read = dict.fromkeys(declared_ & set(seen.tops) - set(found.stopped), seen.name)

        def noted(record: Record) -> Record:
            kept = {path: before for path, before in record.known.items() if path in declared_}
            generation = max(record.generation, int(seen.name.split("-")[1], 16))
            return record._replace(generation=generation, head=seen.name, known=kept | read, last=held, branch="")

        return noted

    def _remember(self, note: Callable[[Record], Record]) -> None:
        from persist.sync.marker import unmark

        if not self._options.dry_run:
            local.change(self._spec, self._agent, note)
            unmark(self._spec, self._agent)

    def _follow_unread(self, opened: sources.Sources) -> None:
        """What failed is what is told: no trouble with the lineage takes its place."""
        if not self._followed and not self._options.dry_run:
            with suppress(OSError, Failure):
                standing.follow_unread(self._spec, self._agent, opened)

    def _stands(self, work: Work, found: Look) -> None:
        seen = self._index.state
        if seen is not None and not self._options.dry_run:
            asked = self._session is not None
            standing.stands(self._spec, self._agent, work.sources, found, seen.name, asked=asked)


def _where(spec: Spec) -> str:
    """Which store this is, as the spec and the lock beside it say: of another one nothing is known."""
    path = spec.beside(_LOCK)
    said = files.read_bounded(path, 1 << 20).decode("latin-1") if os.path.lexists(path) else ""
    return f"{spec.town.store}\n{said}"
