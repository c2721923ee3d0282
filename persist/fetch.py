"""What `persist restore` takes from the store: the newest whole state of an agent, and its directories, verified."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePosixPath

from persist.bucket.blobs import Reader
from persist.bucket.commits import Commit
from persist.bucket.opening import Bucket, open_bucket
from persist.fill import Filler, Totals
from persist.sync import history, local
from town.failure import Failure
from town.process import Person
from town.spec import Agent, Spec
from town.terminal import shown

__all__ = ["Held", "NotHeld", "Totals", "fetch", "newest"]


class NotHeld(Failure):
    """The snapshot does not hold the path that was asked for."""


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
    _commit: Commit = field(repr=False, compare=False)
    _name: str = field(repr=False, compare=False)
    _readers: list[Reader] = field(default_factory=list, repr=False, compare=False)


def newest(spec: Spec, agent: Agent) -> Held | None:
    """The newest whole state of `agent`; None only when the town's proven store holds no commit of it.

    Raises StoreMissing, StoreForeign, KeyMismatch, StoreDamaged, StoreOlder, StoreUnreachable and what sops raises.
    """
    bucket = open_bucket(spec)
    head = history.head(spec, agent, bucket)
    if head is None:
        return None
    commit = head.commit
    paths = tuple(top.path for top in commit.root)
    return Held(head.name.short, commit.time, commit.host, paths, spec, agent, bucket, commit, str(head.name))


def fetch(held: Held, path: PurePosixPath, into: int, owner: Person) -> Totals:
    """Fill the empty directory that `into` has open with a declared path, then give it its own mode, owner and time.

    Only root may reach `into`. Every byte is authenticated before it is written; nothing is written outside. `owner`
    is who the role "agent" stands for here. What was written is not durable before the caller's syncfs. Raises
    NotHeld, StoreDamaged, StoreUnreachable, CannotMake; what is there then is a part: throw it away.
    """
    top = held._commit.top(path)
    if top is None:
        raise NotHeld(f"the snapshot {held.snapshot} of {held._agent.name} does not hold {shown(str(path))}")
    before = Person(held._commit.uid, held._commit.gid)
    totals = Filler(_reader(held), owner, before, top).fill(into)
    local.change(held._spec, held._agent, lambda record: replace(record, known={**record.known, str(path): held._name}))
    return totals


def _reader(held: Held) -> Reader:
    """One reader for all paths of a state: the directories of its packs are read once."""
    if not held._readers:
        reader = Reader(held._bucket.store, held._bucket.keys(held._agent.name))
        for pack in held._commit.packs:
            reader.load(pack)
        held._readers.append(reader)
    return held._readers[0]
