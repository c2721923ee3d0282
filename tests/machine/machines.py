"""Machines with one store, without an engine: a state is a number, and what is tried is who may write it where."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import pytest

from persist.bucket import agents, commits
from persist.bucket.agents import Listing
from persist.bucket.commits import Commit, Name, Top
from persist.bucket.content import Content
from persist.bucket.keys import TownKey
from persist.bucket.opening import Bucket
from persist.bucket.packs import Pack
from persist.bucket.trees import Entry
from persist.store import Store
from persist.store.memory import MemoryStore
from persist.sync import history, local
from persist.sync.history import State
from town import spec as specs
from town.spec import Agent, Spec

PATH = PurePosixPath("projects")
KEY = TownKey(bytes(range(32)))
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Wish:
    """What the command line says."""

    take_over: bool = False


@dataclass(frozen=True)
class Machine:
    """One machine: its spec, and the store as it reaches it."""

    spec: Spec
    bucket: Bucket

    @property
    def agent(self) -> Agent:
        return self.spec.agent("ada")

    @property
    def id(self) -> str:
        return local.machine(self.spec)

    @property
    def record(self) -> local.Record:
        return local.record(self.spec, self.agent)

    @property
    def listing(self) -> Listing:
        return agents.listed(self.bucket.store, self.bucket.keys("ada"))

    def on(self, store: Store) -> "Machine":
        """The same machine, reaching the store another way."""
        return replace(self, bucket=replace(self.bucket, store=store))

    def ask(self) -> State:
        return history.ask(self.spec, self.agent, self.bucket)

    def holding(self, *, take_over: bool = False) -> State:
        """The first half of a sync."""
        return history.hold(self.spec, self.agent, self.bucket, self.ask(), self.id, Wish(take_over))

    def finish(self, state: State, value: int, *, packs: tuple[Pack, ...] = ()) -> Name:
        """The second half: what lies here is `value`. What was synced descends from its commit."""
        made = self.commit(value, packs)
        name = history.commit(self.spec, self.agent, self.bucket, state, made, lambda _: False)
        self.descends(name)
        return name

    def sync(self, value: int, *, take_over: bool = False) -> Name:
        """A sync. A lease that was lost before it began is found out, and what lies here is kept as a branch."""
        state = self.ask()
        try:
            state = history.hold(self.spec, self.agent, self.bucket, state, self.id, Wish(take_over))
        except history.LeaseLost:
            history.branch(self.spec, self.agent, self.bucket, state, self.commit(value))
            raise
        return self.finish(state, value)

    def restore(self, *, take_over: bool = False) -> int:
        """What a restore does: the lease, then the newest state; its value."""
        state = history.take(self.spec, self.agent, self.bucket, self.ask(), self.id, take_over=take_over)
        assert state.head is not None
        self.descends(state.head.name)
        return state.head.commit.bytes

    def descends(self, name: Name) -> None:
        local.change(self.spec, self.agent, lambda record: record._replace(known={str(PATH): str(name)}))

    def commit(self, value: int, packs: tuple[Pack, ...] = ()) -> Commit:
        top = Top(PATH, Entry(b"projects", "dir", 0o700, 0, content=Content(())), 1, value)
        return Commit("ada", NOON, f"host-{self.id[:4]}", self.id, 0, None, (top,), packs, 41100, 41100)

    def values(self) -> dict[str, int]:
        """What the store holds: the value of every commit and branch, by name."""
        keys = self.bucket.keys("ada")
        return {str(name): commits.read(self.bucket.store, keys, name).bytes for name in self.listing.states}


def machine(
    base: Path, store: Store, *, more: str = "", earlier: tuple[TownKey, ...] = (), key: TownKey = KEY
) -> Machine:
    """A machine whose spec and notes lie below `base`, which is made."""
    base.mkdir()
    (base / "persist").mkdir()
    file = base / "town.toml"
    file.write_text(
        f'[town]\nagents_dir = "{base}/agents"\npersist_dir = "{base}/persist"\nstore = "file://{base}/store"\n{more}\n'
        '[agents.ada]\nuid = 41100\npersist = ["projects"]\n'
    )
    return Machine(specs.load(file), Bucket(store, key, earlier))


Pair = tuple[Machine, Machine]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Two machines of one town with one store."""
    store = MemoryStore()
    return machine(tmp_path / "one", store), machine(tmp_path / "two", store)


def head(of: Machine) -> Name:
    found = of.ask().head
    assert found is not None
    return found.name


def place(of: Machine) -> str:
    return f"agents/{of.bucket.keys('ada').place}/"


def written(of: Machine, value: int, generation: int, parent: Name | None, *, by: str = "") -> Name:
    """A commit that somebody else wrote, without a look."""
    made = replace(of.commit(value), generation=generation, parent=None if parent is None else str(parent))
    return commits.write(of.bucket.store, of.bucket.keys("ada"), replace(made, machine=by or "e" * 32))


class Turns:
    """Threads that take turns at every request to the store, in an order that a seed fixes."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._waiting: dict[int, threading.Event] = {}
        self._changed = threading.Condition()
        self._running = 0

    def store(self, store: Store) -> Store:
        """The same store; each call waits for its thread's turn."""
        return _Turning(store, self)  # type: ignore[return-value]

    def run(self, *work: Callable[[], object]) -> list[object]:
        """Run all at once; what each returned, or the exception that it ended by."""
        results: list[object] = [None] * len(work)
        threads = [threading.Thread(target=self._one, args=(at, one, results)) for at, one in enumerate(work)]
        self._running = len(work)
        for thread in threads:
            thread.start()
        while self._step():
            pass
        for thread in threads:
            thread.join()
        return results

    def wait(self) -> None:
        """Called by a thread before each request."""
        turn = threading.Event()
        with self._changed:
            self._waiting[threading.get_ident()] = turn
            self._running -= 1
            self._changed.notify_all()
        turn.wait()

    def _step(self) -> bool:
        """Let one thread go on, once all of them wait; False when none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0)
            if not self._waiting:
                return False
            chosen = self._random.choice(sorted(self._waiting, key=lambda one: self._order[one]))
            self._running = 1
            self._waiting.pop(chosen).set()
            return True

    _order: dict[int, int]

    def _one(self, at: int, work: Callable[[], object], results: list[object]) -> None:
        self.__dict__.setdefault("_order", {})[threading.get_ident()] = at
        try:
            self.wait()
            results[at] = work()
        except Exception as error:
            results[at] = error
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


class _Turning:
    """A store whose every request waits for its thread's turn. `now` and `requests` are none."""

    def __init__(self, store: Store, turns: Turns) -> None:
        self._store, self._turns = store, turns

    def list(self, prefix: str) -> Iterator[Any]:
        self._turns.wait()
        return iter(list(self._store.list(prefix)))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("get", "put", "put_if_absent", "delete", "size"):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._turns.wait()
            return found(*arguments, **named)

        return call
