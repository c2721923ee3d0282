"""What `persist restore` takes from the store: a whole state of an agent, and its directories, verified."""

import gc
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath

from persist import fill
from persist.bucket import trees
from persist.bucket.commits import Top
from persist.bucket.opening import Bucket, open_bucket
from persist.fill import Facts, Going, Made, NotSame, Source, Totals
from persist.fill.atlas import Atlas
from persist.fill.ledger import VERSION, Claim, Ledger
from persist.fill.syncing import syncing
from persist.progress import Progress
from persist.sync import history, local
from persist.sync.history import Head
from persist.sync.index import Index
from persist.sync.schema import IndexFailed
from town import cli, files
from town.failure import Failure
from town.process import Person
from town.spec import Agent, Spec
from town.terminal import shown

__all__ = ["Begun", "Held", "NotHeld", "NotSame", "Options", "Totals", "chosen", "fetch", "newest", "scratch", "take"]


_LEFTOVER = 24 * 3600.0  # seconds after which a plan without a claim belongs to nobody any more


class NotHeld(Failure):
    """The snapshot does not hold the path that was asked for."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says: which state, whose lease, how old it may be, bytes a second (None: no limit)."""

    at: str | None = None
    take_over: bool = False
    at_least: int = 0
    rate: float | None = None


@dataclass(slots=True)
class _Once:
    """What several paths of one state share: the atlas of its packs, and whether the lease was taken."""

    atlas: Atlas | None = None
    taken: bool = False
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A staging of a restore that can be gone on with, or that begins: its hidden name, and its proof."""

    stage: str
    token: str

    @classmethod
    def fresh(cls, stage: str) -> "Begun":
        """One that begins in the staging of that name."""
        return cls(stage, secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Held:
    """A whole state of one agent in the store: short id, when and on which host it was made, what it holds."""

    snapshot: str
    time: datetime
    host: str
    paths: tuple[PurePosixPath, ...]
    _spec: Spec = field(repr=False, compare=False)
    _agent: Agent = field(repr=False, compare=False)
    _bucket: Bucket = field(repr=False, compare=False)
    _head: Head = field(repr=False, compare=False)
    _options: Options = field(repr=False, compare=False)
    _once: _Once = field(default_factory=_Once, repr=False, compare=False)

    @property
    def key(self) -> str:
        """What a restore must have been of, to be gone on with: state, packs, owner, form of the plan."""
        said = (VERSION, str(self._head.name), self._head.packs, self._agent.uid, self._agent.gid)
        return hashlib.sha256(repr(said).encode()).hexdigest()

    @property
    def stands(self) -> tuple[str, str]:
        """What is restored goes on from: the state that was the newest when it was chosen, and who wrote that."""
        newest = self._head.newest
        return str(newest), newest.machine

    def top(self, path: PurePosixPath) -> Top:
        """What the state says of a declared path. Raises NotHeld."""
        found = self._head.commit.top(path)
        if found is None:
            raise NotHeld(f"the snapshot {self.snapshot} of {self._agent.name} does not hold {shown(str(path))}")
        return found

    def take(self) -> None:
        """Take the agent's lease for this machine, once. Raises LeaseHeld, each time."""
        once = self._once
        if once.failure is not None:
            raise once.failure
        if once.taken:
            return
        try:
            options = self._options
            take(self._spec, self._agent, self._bucket, take_over=options.take_over, at=options.at)
        except history.LeaseHeld as failure:
            once.failure = failure
            raise
        once.taken = True

    def ledger(self, path: PurePosixPath) -> Ledger:
        """What is noted of a restore of that path while it runs."""
        os.close(_scratch(self._spec))
        return Ledger(self._spec, self._agent, path)

    def begun(self, path: PurePosixPath) -> Begun | None:
        """A restore of that path from this very state that was cut off."""
        claim = Ledger(self._spec, self._agent, path).claim()
        return None if claim is None or claim.key != self.key else Begun(claim.stage, claim.token)

    def source(self) -> Source:
        """Where its pieces come from."""
        return Source(self._bucket.store, self._head.keys, self._atlas)

    def _atlas(self) -> Atlas:
        if self._once.atlas is None:
            self._once.atlas = Atlas(self._bucket.store, self._head.keys, self._head.packs)
        return self._once.atlas

    def close(self) -> None:
        """Forget what was read of its packs."""
        if self._once.atlas is not None:
            self._once.atlas.close()
            self._once.atlas = None

    def facts(self, owner: Person, *, plain: bool = False) -> Facts:
        """Who is who where it is restored to."""
        return Facts(owner, Person(self._head.commit.uid, self._head.commit.gid), plain=plain)


def take(spec: Spec, agent: Agent, bucket: Bucket | None = None, *, take_over: bool, at: str | None = None) -> None:
    """Take the agent's lease for this machine, also with nothing to fetch. Raises LeaseHeld."""
    bucket = bucket or open_bucket(spec)
    state = history.ask(spec, agent, bucket)
    history.take(spec, agent, bucket, state, local.machine(spec), take_over=take_over, at=at)


def newest(spec: Spec, agent: Agent) -> Held | None:
    """The newest whole state of `agent`; None only when the town's proven store holds no commit of it.

    Raises StoreMissing, StoreForeign, KeyMismatch, StoreDamaged, StoreOlder, StoreUnreachable and what sops raises.
    """
    return chosen(spec, agent, Options())


def chosen(spec: Spec, agent: Agent, options: Options) -> Held | None:
    """The state that `options` mean: like `newest`; also raises NoSuchState, WrongUsage for an ambiguous one."""
    bucket = open_bucket(spec).at_rate(options.rate)
    head = history.pick(spec, agent, bucket, options.at, at_least=options.at_least)
    if head is None:
        return None
    commit = head.commit
    paths = tuple(top.path for top in commit.root)
    return Held(head.name.short, commit.time, commit.host, paths, spec, agent, bucket, head, options)


def fetch(
    held: Held,
    path: PurePosixPath,
    into: int,
    owner: Person,
    *,
    begun: Begun | None = None,
    going_on: bool = False,
    index: bool = False,
) -> Totals:
    """Fill the directory that `into` has open with a declared path, then give it its own mode, owner and time.

    Only root may reach `into`. Every byte is authenticated before it is written; nothing is written outside. `owner`
    is who the role "agent" stands for here. With `begun` what is done is noted, so that a later call can go on
    (`going_on`: this is that call). With `index` too the agent's index learns what was made. What was written is not
    durable before the caller's syncfs. Raises NotHeld, StoreDamaged, StoreUnreachable, CannotMake, NotSame: then what
    is there is a part.
    """
    top, spec, agent = held.top(path), held._spec, held._agent
    going = None
    if begun is not None:
        claim = Claim(path, held.key, begun.stage, begun.token, 0, 0, 0)
        ledger = held.ledger(path)
        going = Going(ledger, (ledger.claim() or claim) if going_on else claim, going_on)
    what = f"persist: {agent.name}: {path}: restore"
    with (
        scratch(spec) as place,
        Progress(what, total_files=top.files, total_bytes=top.bytes) as progress,
        # Before anything is written: to make it later would wait for all that is on its way to the disk.
        _opened(spec, agent) if index else nullcontext() as there,
    ):
        gc.freeze()  # modules of the store's client and others stay: to look through them again and again costs 0.1 s
        tell = None if there is None else partial(_tell, there, top, held._head, into)
        try:
            totals = fill.fill(
                held.source(), top, into, held.facts(owner), place, going=going, tell=tell, progress=progress
            )
        except BaseException:
            held.close()  # a plan that was not finished may have left its database unfit for another
            raise
    return totals


def note(held: Held, path: PurePosixPath) -> None:
    """Note that what lies at a declared path now is of that state: when it does, not before.

    Who brings back an older state means to go on from it: what it goes on top of is the head of now. Noted too early,
    what lay there before would pass for that.
    """
    newest = str(held._head.newest)
    local.change(held._spec, held._agent, lambda record: record._replace(known={**record.known, str(path): newest}))


@contextmanager
def _opened(spec: Spec, agent: Agent) -> Iterator[Index | None]:
    """The index of the agent; None, with a word, where it cannot be used."""
    try:
        index = Index.opened(spec, agent)
    except (IndexFailed, sqlite3.Error, OSError) as error:
        _cannot_tell(agent, error)
        yield None
        return
    with index:
        yield index


def _tell(index: Index, top: Top, head: Head, into: int, made: Made) -> None:
    """The index learns what was made, while the filesystem puts that on the disk."""
    try:
        _same_place(index, head)
        with index.restored(top.path, str(head.name), into) as rows:
            with syncing(into):
                rows.take(made.plan, (top.entry.name, trees.line_of(top.entry)), made.inodes, made.born)
            if head.name == head.newest:  # then a sync that finds nothing changed need not ask what the store holds
                index.saw(str(head.name), head.commit)
    except (IndexFailed, sqlite3.Error) as error:
        _cannot_tell(index.agent, error)


def _same_place(index: Index, head: Head) -> None:
    """What the index knows of another key, or another agent's name, is of no use beside this state."""
    if index.get("place") != head.keys.place:
        with index.writing():
            index.clear(blobs=True)
            index.set("place", head.keys.place)


def _cannot_tell(agent: Agent, error: Exception) -> None:
    what = error.what if isinstance(error, Failure) else f"the local index: {cli.unexpected(error)}"
    cli.warn("persist", f"{agent.name}: {what}", "the restore goes on; the next sync reads everything once")


@contextmanager
def scratch(spec: Spec) -> Iterator[Path]:
    """The directory of root's in which plans lie."""
    os.close(_scratch(spec))
    place = spec.state_dir / "restore"
    for left in place.glob("once-*.plan"):  # of who was killed
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - _LEFTOVER:
                left.unlink()
    yield place


def _scratch(spec: Spec) -> int:
    where = spec.state_dir
    with files.opened(files.open_dir(where.parent)) as above:
        owner = (os.geteuid(), os.getegid())
        return files.make_dirs(above, PurePosixPath(where.name, "restore"), mode=0o700, owner=owner)
