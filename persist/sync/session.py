"""One sync's dealings with the store: what it holds, whether this machine may write, what takes pieces.

What the index believes of packs is brought up to date here: packs of the head that it does not know are read (their
directories), packs under a tomb are forgotten, and once a day, and after a sync that did not end, all are listed.
"""

import time
from collections.abc import Collection
from contextlib import suppress
from typing import Protocol

from persist import degraded
from persist.bucket import streaming
from persist.bucket.blobs import Placed, Reader, Writer
from persist.bucket.opening import Bucket
from persist.bucket.packs import Pack
from persist.progress import Progress
from persist.store import Found, StoreDamaged
from persist.sync import damaged, history, rows
from persist.sync.history import LeaseLost, Tombed
from persist.sync.index import Index
from persist.sync.marker import interrupted, mark, unmark
from town import cli
from town.spec import Agent, Spec

LISTED = 24 * 3600.0  # seconds between two looks at all packs
_OURS = (
    3 * 24 * 3600.0
)  # seconds for which a pack that nothing names is taken for this sync's, cut off: prune waits 7 days


class Wishes(Protocol):
    """What the command line says."""

    @property
    def dry_run(self) -> bool:
        """Nothing is written."""
        ...

    @property
    def take_over(self) -> bool:
        """Go on over what another machine wrote."""
        ...


class Session:
    """The store, asked. Raises what `history.ask` and `history.hold` raise, except LeaseLost, which is in `lost`."""

    def __init__(
        self,
        spec: Spec,
        agent: Agent,
        bucket: Bucket,
        wishes: Wishes,
        *,
        index: Index,
        machine: str,
        progress: Progress,
    ) -> None:
        self._spec, self._agent, self._index, self._progress = spec, agent, index, progress
        self.bucket, self.keys = bucket, bucket.keys(agent.name)
        self.lost: LeaseLost | None = None
        self._dry = wishes.dry_run
        self.state = history.ask(spec, agent, bucket, remember=not wishes.dry_run)
        try:
            if wishes.dry_run:
                history.may_write(spec, agent, self.state, machine, wishes)
            else:
                self.state = history.hold(spec, agent, bucket, self.state, machine, wishes)
        except LeaseLost as lost:
            self.lost = lost
        if not wishes.dry_run:  # it was reached; where it will not have this, nothing is on top, and the note stays
            degraded.forget(spec, agent)
        self.head = self.state.head
        self.broken: frozenset[str] = frozenset()  # packs of what is built on that are damaged, missing or short
        self._others: dict[str, tuple[Pack, ...]] = {}  # states other than the head that trees of the index are of
        self._resumed = interrupted(spec, agent)
        if not self._dry:
            mark(spec, agent)
        self.cleared = False  # whether everything has to be read again
        self.learn()
        self._placed: list[Placed] = []
        index.used.clear()
        self.writer = Writer(None if self._dry else bucket.store, self.keys, index.has, progress=progress)

    def finish(self) -> list[Placed]:
        """Every pack that was sent, durable."""
        self._placed = self.writer.finish()
        return self._placed

    def again(self, error: Exception) -> bool:
        """Whether a sync that ended like this goes round once more. What it has sent is remembered in any case."""
        if self._dry or not isinstance(error, (Tombed, LeaseLost)):
            return False
        tombed = error.state.tombed if isinstance(error, Tombed) else frozenset()
        with self._index.writing():
            self._index.place(each for each in self._placed if each.pack.id not in tombed)
            self._index.forget_packs(tombed)
            for number in self._of_others():  # what only a state beside the head holds is read and sent again
                rows.drop_tree(self._index, number)
        if isinstance(error, LeaseLost):  # it ended: what lies here is in the store
            unmark(self._spec, self._agent)
        return isinstance(error, Tombed)

    def quiet(self) -> None:
        """Something is about to be printed."""
        self._progress.hide()

    @property
    def seed(self) -> int:
        """What moves the boundaries of chunks."""
        return self.keys.chunks

    def packs_of(self, state: str) -> tuple[Pack, ...]:
        """The packs that hold the pieces of a tree which the index knows as one of that state."""
        return self._others.get(state, self.packs)

    @property
    def built_on(self) -> tuple[Pack, ...]:
        """Every pack that a commit of now may need without asking for a piece of it."""
        return tuple({pack.id: pack for some in (self.packs, *self._others.values()) for pack in some}.values())

    @property
    def packs(self) -> tuple[Pack, ...]:
        """The packs that hold the head's pieces; none where the head is of an earlier epoch, whose ids are others."""
        head = self.head
        return head.packs if head is not None and head.keys.epoch == self.keys.epoch else ()

    def learn(self) -> None:
        """Bring what the index believes of the store up to date."""
        if self._index.db.in_transaction:
            self._learn()
        else:
            with self._index.writing():
                self._learn()

    def _learn(self) -> None:
        index = self._index
        if index.get("place") != self.keys.place:  # another key, another agent's name: every id is another
            index.clear(blobs=True)
            self.cleared = True
            index.set("place", self.keys.place)
        index.forget_packs(self.state.tombed & index.packs().keys())
        self._follow()
        before, bad = frozenset(index.get("broken").split()), damaged.known(self._spec, self._agent)
        index.forget_packs(bad & index.packs().keys())
        self.broken = (before | bad) & {pack.id for pack in self.built_on}
        if self._due():
            self._list()
        self._load([pack for pack in self.built_on if pack.id not in self.broken])
        if self.broken - before:
            self.cleared = True
            index.clear(blobs=False)  # which files hang on them is known when all are read
        if self.broken != before:
            index.set("broken", " ".join(sorted(self.broken)))

    def _follow(self) -> None:
        """Trees that are of another state than the head: a machine that took over, or an older state brought back.

        What was not read again is named by nobody else: their packs are that state's. Where it is gone from the store
        its packs may go too, so the tree is read in full.
        """
        self._others = {}
        for number, state in self._of_others().items():
            packs = history.packs_of(self._spec, self._agent, self.state, state)
            if packs is None:
                rows.drop_tree(self._index, number)
                self.cleared = True
            else:
                self._others[state] = packs

    def _of_others(self) -> dict[int, str]:
        """Trees that are of another state than the head, and which."""
        head = "" if self.head is None else str(self.head.name)
        return {number: state for number, state in rows.trees(self._index) if not head or state != head}

    def _due(self) -> bool:
        """Whether all packs are to be listed: never so far, a day ago, or the last sync did not end."""
        at = self._index.get("listed")
        return not at or not 0 <= time.time() - float(at) < LISTED or self._resumed

    def _list(self) -> None:
        """Packs that are missing or short hold nothing any more; what a cut-off sync sent is not sent again."""
        prefix = f"packs/{self.keys.place}/"
        there = {found.key.removeprefix(prefix): found for found in self.bucket.store.list(prefix)}
        known = self._index.packs()
        bad = {id_ for id_, pack in known.items() if id_ not in there or there[id_].size != pack.size}
        self._index.forget_packs(bad)
        named = {pack.id: pack for pack in self.built_on}
        missing = {id_ for id_, pack in named.items() if id_ not in there or there[id_].size != pack.size}
        for id_ in sorted(missing - self.broken):
            self._tell(f"packs/{self.keys.place}/{id_} is {'missing' if id_ not in there else 'of another length'}")
        self.broken |= missing
        if self._resumed:
            self._adopt([found for id_, found in there.items() if id_ not in named and id_ not in known])
        self._index.set("listed", str(time.time()))

    def _adopt(self, some: Collection[Found]) -> None:
        """Packs of a sync that was cut off: whole, sealed with these keys, and named by nothing yet."""
        now, unfit = self.state.now, self.state.tombed | damaged.known(self._spec, self._agent)
        fresh = []
        for found in some:
            id_ = found.key.rpartition("/")[2]
            if id_ in unfit or now - found.modified > _OURS:
                continue
            with suppress(StoreDamaged, ValueError, TypeError):
                directory = int.from_bytes(self.bucket.store.get(found.key, found.size - 4, 4), "big")
                fresh.append(Pack.parsed([id_, found.size, directory]))
        self._index.rebuild(Reader(self.bucket.store, self.keys), fresh)

    def _load(self, packs: Collection[Pack]) -> None:
        """Learn what packs hold that the index does not know."""
        known = self._index.packs()
        unknown = [pack for pack in packs if pack.id not in known]
        if not unknown:
            return
        try:
            for pack, frames in streaming.directories(self.bucket.store, self.keys, unknown):
                self._index.learn(pack, [id_ for frame in frames for id_, _, _ in frame.pieces()])
        except StoreDamaged:  # one by one, to find which
            for pack in unknown:
                for failure in self._index.rebuild(Reader(self.bucket.store, self.keys), [pack]):
                    self._tell(failure.what)
                    self.broken |= {pack.id}

    def _tell(self, what: str) -> None:
        self._progress.hide()
        cli.warn("persist", f"{self._agent.name}: {what}; what is still here is sent again")
