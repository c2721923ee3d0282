"""The end of a sync that has something for the store: the packs are durable, and one commit names the state."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from persist.bucket.commits import Commit, Top
from persist.bucket.packs import Pack
from persist.sync import carried, declared, history, local
from persist.sync.index import Index
from persist.sync.look import Look
from persist.sync.rows import Rows
from persist.sync.session import Session
from persist.sync.summary import Options
from town.spec import Agent, Spec


@dataclass(frozen=True, slots=True)
class Done:
    """The newest state after it: the commit's name (empty: there is none), whether it is new, what was sent."""

    name: str
    new: bool
    time: datetime
    files: int
    bytes: int
    new_bytes: int
    packs: int


class Ending:
    """Writes what a look found."""

    def __init__(self, spec: Spec, agent: Agent, index: Index, session: Session, options: Options, found: Look) -> None:
        self._spec, self._agent, self._index, self._session = spec, agent, index, session
        self._options, self._found, self._head = options, found, session.head

    def run(self, now: datetime, machine: str) -> Done:
        """Commit where the state is a new one. Raises Tombed, LeaseLost and what the store raises."""
        session = self._session
        tops, kept = self._root()
        placed = session.finish()
        sent = [each.pack for each in placed]
        commit = Commit(
            agent=self._agent.name,
            time=now,
            host=platform.node(),
            machine=machine,
            generation=1,
            parent=None,
            root=tuple(tops),
            packs=tuple(sorted(self._packs(kept, sent))),
            uid=self._agent.uid,
            gid=self._agent.gid,
        )
        new = self._is_new(commit, sent)
        if session.lost is not None:
            self._keep_aside(commit, new=new)
        if self._options.dry_run:
            return self._done(str(self._head.name) if self._head else "", new, commit, sent)
        name = ""
        if new:
            made = history.commit(self._spec, self._agent, session.bucket, session.state, commit, self._index.builds_on)
            name = str(made)
        elif self._head is not None:
            name, commit = str(self._head.name), self._head.commit
        self._index.place(placed)
        self._learn(name, commit)
        return self._done(name, new, commit, sent)

    def _done(self, name: str, new: bool, commit: Commit, sent: list[Pack]) -> Done:
        time = commit.time if new or self._head is None else self._head.commit.time
        return Done(name, new, time, commit.files, commit.bytes, sum(pack.size for pack in sent), len(sent))

    def _keep_aside(self, commit: Commit, *, new: bool) -> None:
        """Another machine took the lease: what lies here is kept as a branch."""
        session = self._session
        assert session.lost is not None
        if new and not self._options.dry_run:
            history.branch(self._spec, self._agent, session.bucket, session.state, commit)
        raise session.lost

    def _root(self) -> tuple[list[Top], list[Top]]:
        """The paths of the commit; and those among them that are taken from the head without being read here."""
        tops = [result.top for result in self._found.results]
        if self._head is None:
            return tops, []
        before = self._head.commit
        stopped = [top for top in before.root if str(top.path) in self._found.stopped]
        paths = [entry.path for entry in declared.entries(self._agent)]
        staying, giving_way = carried.undeclared(before, paths, [*tops, *stopped])
        self._tell(staying, giving_way)
        kept = [*stopped, *staying]
        if self._head.keys.epoch != self._session.keys.epoch:  # every id is another one now
            kept = [carried.copied(top, self._head, self._session) for top in kept]
        order = {path: at for at, path in enumerate(paths)}
        return sorted([*tops, *kept], key=lambda top: order.get(top.path, len(order))), kept

    def _tell(self, staying: Iterable[Top], giving_way: Iterable[Top]) -> None:
        known = local.record(self._spec, self._agent).known
        assert self._head is not None
        self._session.quiet()
        for top in staying:
            if str(top.path) in known:  # until the end of the first sync that is not a dry run
                history.tell_undeclared(self._agent, self._head, top.path, stays=True)
        for top in giving_way:
            history.tell_undeclared(self._agent, self._head, top.path, stays=False)

    def _packs(self, kept: list[Top], sent: Iterable[Pack]) -> set[Pack]:
        """The packs that the commit names: those of its parent too, unless everything was read now."""
        session, known = self._session, self._index.packs()
        # Packs that this sync built on and its parent does not name: of a sync that was cut off, or went round again.
        used = {known[id_] for id_ in self._index.used_packs()}
        for result in self._found.results:
            if not result.fresh:  # what was not read again lies where the state that it is of has it
                used |= set(session.packs_of(result.state))
        if not all(result.fresh for result in self._found.results):
            lacking = frozenset() if kept else session.broken
            return {*sent, *(pack for pack in {*used, *session.packs} if pack.id not in lacking)}
        if kept and self._head is not None and session.packs:
            before = replace(self._head.commit, packs=session.packs)
            used |= carried.packs(kept, before, session.bucket.store, session.keys)
        return {*sent, *used}

    def _is_new(self, commit: Commit, sent: list[Pack]) -> bool:
        if self._head is None:
            return bool(commit.root)
        other = self._head.keys.epoch != self._session.keys.epoch
        # The same state, and pieces of it that the head's packs do not hold whole: they must be named.
        mended = bool(sent) and bool(self._session.broken)
        return mended or other or _state(self._head.commit) != _state(commit)

    def _learn(self, name: str, commit: Commit) -> None:
        if not name:
            return
        self._index.saw(name, commit)
        for result in self._found.results:
            Rows(self._index, result.number).set_state(name)


def _state(commit: Commit) -> tuple[object, ...]:
    """What makes two commits name the same state; the numbers count because ACLs hold them."""
    return (sorted(commit.root, key=lambda top: top.path), commit.uid, commit.gid)
