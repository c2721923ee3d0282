"""Histories of an agent in a store in memory, made without a disk: states, clocks, and requests that go wrong."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TypeVar

from persist.bucket import agents, commits, content, tombs, trees
from persist.bucket.blobs import Reader, Writer
from persist.bucket.commits import Commit, Kind, Name, Top
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.opening import Bucket
from persist.bucket.packs import Pack
from persist.store import Found, Store
from persist.store.memory import MemoryStore
from persist.upkeep import policy
from persist.upkeep.policy import Past
from persist.upkeep.pruning import Keep, Pruned, pruned
from town.spec import KeepSnapshots

HOUR, DAY = 3600.0, 24 * 3600.0
START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
A, B = "a" * 32, "b" * 32
Files = Mapping[str, bytes]


Watcher = Callable[[int, str, str], None]
T = TypeVar("T")


def unwatched(_number: int, _verb: str, _key: str) -> None:
    """Nothing goes wrong."""


class Stopped(BaseException):
    """What stands for a kill: nothing catches it."""


class ClockStore(MemoryStore):
    """A store whose clock the test sets, and whose requests it may watch, number by number, from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.time = START
        self.count = 0
        self.before: Watcher = unwatched
        self.after: Watcher = unwatched

    def now(self) -> float:
        return self.time

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._watched("get", key, lambda: super(ClockStore, self).get(key, offset, length))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._watched("put", key, lambda: super(ClockStore, self).put_if_absent(key, data))

    def list(self, prefix: str) -> Iterator[Found]:
        return iter(self._watched("list", prefix, lambda: [*super(ClockStore, self).list(prefix)]))

    def delete(self, key: str) -> None:
        self._watched("delete", key, lambda: super(ClockStore, self).delete(key))

    def _watched(self, verb: str, key: str, act: Callable[[], T]) -> T:
        number = self.count
        self.count += 1
        self.before(number, verb, key)
        result = act()
        self.after(number, verb, key)
        return result

    def objects(self) -> dict[str, tuple[bytes, float]]:
        """A copy of everything."""
        return dict(self._objects)

    def put_back(self, objects: Mapping[str, tuple[bytes, float]]) -> None:
        """Everything as it was; nothing is watched any more."""
        self._objects = dict(objects)
        self.unwatched()

    def unwatched(self) -> None:
        """Nothing goes wrong any more; requests are counted from 0."""
        self.count = 0
        self.before = self.after = unwatched


class _Noting(Writer):
    """A writer that knows all that it was asked to write."""

    def __init__(self, store: Store, keys: AgentKeys, known: Callable[[bytes], bool]) -> None:
        super().__init__(store, keys, known)
        self.noted: set[bytes] = set()

    def add(self, kind: object, piece: bytes) -> bytes:
        id_ = super().add(kind, piece)  # type: ignore[arg-type]
        self.noted.add(id_)
        return id_


@dataclass
class Machine:
    """Something that syncs ada: what it believes the store to have, and what it has seen."""

    bucket: Bucket
    machine: str = A
    known: dict[bytes, Pack] = field(default_factory=dict)
    head: Name | None = None
    time: datetime | None = None  # of its next commits; None: the store's
    asked: float = 0.0  # when the packs were listed last
    stubborn: bool = False  # commits however long ago it looked, as a request does that is on its way for a day

    @property
    def keys(self) -> AgentKeys:
        return self.bucket.keys("ada")

    def sync(self, files: Files, *, kind: Kind = "commit") -> Name:
        """One whole sync."""
        *_, name = self.steps(files, kind=kind)
        assert isinstance(name, Name)
        return name

    def steps(self, files: Files, *, kind: Kind = "commit") -> Iterator[str | Name]:
        """A sync as the format asks for it, stopped at each step; the last is the name of its commit."""
        store = self.bucket.store
        gone = self._gone()
        while True:
            self.known = {id_: pack for id_, pack in self.known.items() if pack.id not in gone}
            self._learn_head()
            yield "listed"
            writer = _Noting(store, self.keys, self.known.__contains__)
            entry = written(writer, files)
            self.known |= {id_: placed.pack for placed in writer.finish() for id_ in placed.ids}
            yield "sent"
            gone = self._gone()
            looked = store.now()
            packs = {self.known[id_] for id_ in writer.noted}
            if any(pack.id in gone for pack in packs):
                continue
            yield "looked"
            if store.now() - looked < HOUR or self.stubborn:
                break
            gone = self._gone()  # it slept: the look is worth nothing any more
        top = Top(PurePosixPath("projects"), entry, len(files), sum(map(len, files.values())))
        newest = max((name.generation for name in agents.listed(store, self.keys).commits), default=0)
        commit = Commit(
            "ada", self.time or datetime.fromtimestamp(store.now(), UTC), "host", self.machine,
            newest + 1, str(self.head) if self.head else None, (top,), tuple(sorted(packs)), 1, 1,
        )  # fmt: skip
        name = commits.write(store, self.keys, commit, kind=kind)
        if kind == "commit":
            self.head = name
        yield name

    def _gone(self) -> frozenset[str]:
        """Packs that nothing may be built on: a tomb names them, or (looked at once a day) they are not there."""
        tombed = frozenset().union(*(tomb.packs for tomb in buried(self.bucket, self.keys)))
        if self.bucket.store.now() - self.asked < DAY / 2:
            return tombed
        self.asked = self.bucket.store.now()
        return tombed | {pack.id for pack in self.known.values()} - packs(self.bucket, self.keys).keys()

    def _learn_head(self) -> None:
        """What the head's packs hold now: a merge has moved pieces."""
        if self.head is None:
            return
        commit = commits.read(self.bucket.store, self.keys, self.head)
        reader = Reader(self.bucket.store, self.keys)
        for pack in tombs.resolved(self.head, commit.packs, buried(self.bucket, self.keys)):
            if pack not in self.known.values():
                self.known |= dict.fromkeys(reader.load(pack), pack)


def buried(bucket: Bucket, keys: AgentKeys) -> list[tombs.Tomb]:
    listing = agents.listed(bucket.store, keys)
    return [tombs.read(bucket.store, keys, name) for name in listing.tombs]


def written(writer: Writer, files: Files) -> trees.Entry:
    """A directory of files, one level of directories in it."""
    below: dict[str, dict[str, bytes]] = {}
    for path, data in files.items():
        directory, _, name = path.rpartition("/")
        below.setdefault(directory, {})[name] = data
    entries = [_file(writer, name, data) for name, data in below.pop("", {}).items()]
    for name, inside in below.items():
        listing = trees.write(writer, [_file(writer, one, data) for one, data in inside.items()])
        entries.append(trees.Entry(name.encode(), "dir", 0o700, 1, content=listing))
    return trees.Entry(b"projects", "dir", 0o700, 1, content=trees.write(writer, entries))


def _file(writer: Writer, name: str, data: bytes) -> trees.Entry:
    cut = [data[at : at + 1000] for at in range(0, len(data), 1000)]  # a long file gets lists of ids
    held = content.write(writer, "data", cut)
    return trees.Entry(name.encode(), "file", 0o600, 1, size=len(data), content=held)


def restored(bucket: Bucket, name: Name, keys: AgentKeys | None = None) -> dict[str, bytes]:
    """A state as a machine reads it that knows nothing: every byte, checked. Raises StoreDamaged and the like."""
    keys = keys or bucket.keys("ada")
    commit = commits.read(bucket.store, keys, name)
    reader = Reader(bucket.store, keys)
    for pack in tombs.resolved(name, commit.packs, buried(bucket, keys)):
        reader.load(pack)
    found: dict[str, bytes] = {}
    for top in commit.root:
        _read(reader, top.entry.content, "", found)
    return found


def _read(reader: Reader, listing: Content | None, above: str, found: dict[str, bytes]) -> None:
    assert listing is not None
    for entry in trees.read(reader, listing):
        path = f"{above}{entry.name.decode()}"
        if entry.kind == "dir":
            _read(reader, entry.content, f"{path}/", found)
        else:
            assert entry.content is not None
            found[path] = b"".join(content.read(reader, "data", entry.content))


def machine(store: Store | None = None, **more: object) -> Machine:
    """The first machine of a fresh town."""
    return Machine(Bucket(store or ClockStore(), TownKey.random()), **more)  # type: ignore[arg-type]


def states(bucket: Bucket, keys: AgentKeys | None = None) -> tuple[Name, ...]:
    return agents.listed(bucket.store, keys or bucket.keys("ada")).states


def packs(bucket: Bucket, keys: AgentKeys | None = None) -> dict[str, Found]:
    prefix = f"packs/{(keys or bucket.keys('ada')).place}/"
    return {found.key.removeprefix(prefix): found for found in bucket.store.list(prefix)}


def keeping(rule: KeepSnapshots) -> Keep:
    def keep(past: list[Past], head: Name, now: float) -> dict[Name, tuple[str, ...]]:
        return policy.keep(past, head, rule, now)

    return keep  # type: ignore[return-value]


def last(number: int) -> KeepSnapshots:
    """The policy that keeps so many states and nothing else."""
    return KeepSnapshots(number, 0, 0, 0, 0, 0)


def prune(bucket: Bucket, rule: KeepSnapshots | None = None, *, dry_run: bool = False) -> Pruned:
    """A prune whose head is the newest commit of the newest epoch that has one."""
    for keys in (bucket.keys("ada"), *bucket.older("ada")):
        if found := agents.listed(bucket.store, keys).commits:
            return pruned(bucket, "ada", found[-1], keeping(rule or last(1_000_000)), dry_run=dry_run)
    raise AssertionError("no state")
