"""The two homes that are compared, opened, and which directory of the one is held against which of the other.

A home and what it persists lie apart: bound directories below persist_dir, in a snapshot below `persisted`, and in a
state of the store there is nothing else. What one side does not hold is not compared, and that is said.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from persist import entering, fetch, ground, kept, momentary, shelves
from persist.difference import things
from persist.difference.disk import Disk, Noted
from persist.difference.nodes import Nothing, Tree
from persist.difference.stored import Stored
from persist.fetch import Held, Options
from persist.kept import Kept, NoSuchHome
from persist.momentary import Frozen
from persist.sync import declared
from town import files
from town.failure import Failure, Unsafe, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

STORE = "store:"
_SHORT_ID = re.compile(r"[0-9a-f]{4,64}")


class NoHome(Failure):
    """The agent has no living home."""


@dataclass(slots=True)
class Side:
    """One home. `home`: None of a state in the store; `apart`: declared paths whose data lies outside of it.

    `closed`: a copy, whose top a recall gave to a person.
    """

    name: str
    agent: Agent | None  # None: the spec has none of that name
    home: Frozen | None = None
    apart: frozenset[PurePosixPath] = frozenset()
    held: Held | None = None
    closed: bool = False
    part: Callable[[PurePosixPath], Frozen | None] = field(default=lambda _: None)

    @property
    def paths(self) -> frozenset[PurePosixPath]:
        """What it may hold outside of the home."""
        return self.apart if self.held is None else frozenset(self.held.paths)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two directories that are compared; `roots`: also what they themselves are."""

    one: Tree
    other: Tree
    roots: bool = True


def opened(town: Spec, texts: tuple[str, str], stack: ExitStack, noted: Noted) -> tuple[Side, Side]:
    """Both sides, from AGENT@NAME, AGENT@now, AGENT@store:SNAPSHOT. Raises WrongUsage, NoSuchHome, NoHome …"""
    if len({whose(text) for text in texts}) > 1:
        raise WrongUsage("the two are homes of different agents", hint="name two of one agent")
    there = stack.enter_context(shelves.opened(town))
    found = kept.every(town, there.top, there.agents)
    opening = _Opening(town, there, found, stack, noted)
    return opening.side(texts[0]), opening.side(texts[1])


def whose(text: str) -> str:
    """The agent of AGENT@NAME, without the number of a second home of one boot. Raises WrongUsage."""
    return kept.parse(text)[0].partition(".")[0]


class _Opening:
    def __init__(self, town: Spec, there: shelves.Shelves, found: list[Kept], stack: ExitStack, noted: Noted) -> None:
        self._town, self._there, self._found, self._stack, self._noted = town, there, found, stack, noted

    def side(self, text: str) -> Side:
        name, key = kept.parse(text)
        if key == kept.NOW:
            return self._living(self._town.agent(name))
        if key.startswith(STORE):
            return self._stored(self._town.agent(name), key.removeprefix(STORE))
        try:
            one = kept.chosen(self._found, text)
        except NoSuchHome:
            # A short id is what `persist log` shows; the beginning of several homes is none.
            begins = any(each.name.startswith(text) for each in self._found)
            if begins or self._town.town.store is None or not _SHORT_ID.fullmatch(key):
                raise
            return self._stored(self._town.agent(name), key)
        return self._kept(one)

    def _agent(self, name: str) -> Agent | None:
        return next((agent for agent in self._town.agents if agent.name == name), None)

    def _kept(self, one: Kept) -> Side:
        home = self._stack.enter_context(kept.opened(self._town, self._there.top, one, self._there.agents))
        whole = one.kind in ("snapshot", "imported")  # root made it, and it does not change
        agent = self._agent(one.whose)
        if whole:
            apart = frozenset(one.about.paths)
        else:
            declared_ = () if agent is None else agent.persist
            apart = frozenset({entry.path for entry in declared_ if entry.bound} | set(one.about.paths))

        def part(path: PurePosixPath) -> Frozen | None:
            fd = home.persisted.get(path)
            return None if fd is None else self._frozen(fd, one.whose, whole=whole)

        there, closed = self._frozen(home.fd, one.whose, whole=whole), one.kind == "recalled"
        return Side(one.name, agent, there, apart, closed=closed, part=part)

    def _frozen(self, fd: int, agent: str, *, whole: bool = False) -> Frozen:
        if whole:
            return Frozen(fd, True)
        found = self._stack.enter_context(momentary.frozen(fd, agent, self._there.top))
        for note in found.notes:
            self._noted(note, b"")
        return found

    def _living(self, agent: Agent) -> Side:
        here = self._stack.enter_context(ground.opened(self._town))
        home = self._stack.enter_context(entering.maybe_home(self._town, agent, here))
        if home is None:
            raise NoHome(f"{agent.name} has no home now", hint=f"persist restore {agent.name}")
        persisted = self._stack.enter_context(entering.maybe_persisted(self._town, agent, here))
        bound = {entry.path: entry for entry in agent.persist if entry.bound}

        def part(path: PurePosixPath) -> Frozen | None:
            if persisted is None or path not in bound:
                return None
            fd = self._stack.enter_context(entering.source(self._town, agent, bound[path], persisted))
            return None if fd is None else self._frozen(fd, agent.name)

        return Side(f"{agent.name}@now", agent, self._frozen(home, agent.name), frozenset(bound), part=part)

    def _stored(self, agent: Agent, at: str) -> Side:
        held = fetch.chosen(self._town, agent, Options(at=at))
        if held is None:
            raise NoSuchHome(
                f"the store holds nothing of {agent.name}", hint=f"persist log {agent.name} shows what it holds"
            )
        self._stack.callback(held.close)
        return Side(f"{agent.name}@{STORE}{held.snapshot}", agent, held=held)


def pairs(one: Side, other: Side, noted: Noted, stack: ExitStack) -> Iterator[Pair]:
    """What is compared with what. Raises OSError, Unsafe."""
    matching = _Matching((one, other), noted, stack)
    yield from matching.apart()
    yield from matching.homes()


class _Matching:
    def __init__(self, sides: tuple[Side, Side], noted: Noted, stack: ExitStack) -> None:
        self._sides, self._noted, self._stack = sides, noted, stack
        self._stored = any(side.held is not None for side in sides)
        self._leave: set[bytes] = set()
        self._without: dict[str, list[PurePosixPath]] = {}

    def homes(self) -> Iterator[Pair]:
        """The homes themselves, but for what is compared apart."""
        for name, paths in self._without.items():
            listed = ", ".join(shown(str(path)) for path in sorted(paths))
            self._noted(f"not compared, as {name} does not hold it: {listed}", b"")
        one, other = (side.home for side in self._sides)
        if one is not None and other is not None:
            trees = self._disk(one), self._disk(other)
            for tree in trees:
                tree.leave = frozenset(self._leave)
            yield Pair(*trees, roots=not any(side.closed for side in self._sides))

    def apart(self) -> Iterator[Pair]:
        """Declared paths whose data lies outside of a home, or in the store."""
        one, other = self._sides
        if self._stored:
            paths = frozenset(path for side in self._sides if side.held is not None for path in side.held.paths)
            self._tell_undeclared(paths)
        else:
            paths = one.paths | other.paths
        for path in sorted(paths):
            self._leave.add(bytes(path))
            if path in self._copied:
                yield from self._files(path)
                continue
            trees = [self._tree(side, path) for side in self._sides]
            if trees[0] is None or trees[1] is None:
                missing = self._sides[0 if trees[0] is None else 1]
                self._without.setdefault(missing.name, []).append(path)
            elif not all(isinstance(tree, Nothing) for tree in trees):
                yield Pair(*self._as_stored(path, (trees[0], trees[1])))

    @property
    def _copied(self) -> frozenset[PurePosixPath]:
        """Declared files: the store has each in a directory of its own name."""
        agents = [side.agent for side in self._sides if side.agent is not None and self._stored]
        return frozenset(entry.path for agent in agents for entry in agent.persist if entry.copied)

    def _tell_undeclared(self, paths: frozenset[PurePosixPath]) -> None:
        if any(side.held is None for side in self._sides):
            listed = ", ".join(shown(str(path)) for path in sorted(paths)) or "nothing"
            self._noted(f"only what the store holds is compared: {listed}", b"")

    def _tree(self, side: Side, path: PurePosixPath) -> Tree | None:
        """A declared directory of one side; None: what it was is not known."""
        if side.held is not None:
            return self._stored_tree(side.held, path) if path in side.held.paths else Nothing(bytes(path))
        if (found := side.part(path)) is not None:
            return self._disk(found, bytes(path))
        assert side.home is not None
        fd = self._inside(side.home.fd, path)
        if fd is not None and (path not in side.apart or files.names(fd)):
            return self._disk(Frozen(fd, side.home.frozen), bytes(path))
        return None if path in side.apart else Nothing(bytes(path))

    def _inside(self, home: int, path: PurePosixPath) -> int | None:
        """A directory of the home, open; None where there is none."""
        with suppress(FileNotFoundError, NotADirectoryError, Unsafe):
            return self._stack.enter_context(files.opened(files.open_beneath(home, path)))
        return None

    def _disk(self, found: Frozen, prefix: bytes = b"") -> Disk:
        tree = Disk(found.fd, prefix, frozen=found.frozen, noted=self._noted)
        self._stack.callback(tree.close)
        return tree

    @staticmethod
    def _stored_tree(held: Held, path: PurePosixPath, prefix: PurePosixPath | None = None) -> Stored:
        where = b"" if prefix == PurePosixPath() else bytes(prefix or path)
        source = held.source()
        return Stored(held.top(path).entry, where, source.keys, source.atlas)

    def _as_stored(self, path: PurePosixPath, trees: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        """Where one side is a state of the store: the other as a sync would have kept it."""
        agent = self._sides[0].agent or self._sides[1].agent
        if not self._stored or agent is None:
            return trees
        entry = next((entry for entry in agent.persist if entry.path == path), None)
        left = declared.left_out(entry) if entry is not None else ()
        leave = frozenset(bytes(path / each) for each in left)
        for tree in trees:
            if isinstance(tree, Disk):
                tree.as_ = lambda thing: things.as_stored(thing, agent.person)
            if isinstance(tree, (Disk, Stored)):
                tree.leave = leave
        return trees

    def _files(self, path: PurePosixPath) -> Iterator[Pair]:
        """A declared file: in the store in a directory of its own, in a home where it is."""
        above = path.parent
        prefix = b"" if above == PurePosixPath() else bytes(above)
        trees: list[Tree] = []
        for side in self._sides:
            if side.held is not None:
                there = path in side.held.paths
                trees.append(self._stored_tree(side.held, path, above) if there else Nothing(prefix))
                continue
            assert side.home is not None
            fd = side.home.fd if not prefix else self._inside(side.home.fd, above)
            if fd is None:
                trees.append(Nothing(prefix))
                continue
            tree = self._disk(Frozen(fd, side.home.frozen), prefix)
            tree.only = frozenset({os.fsencode(path.name)})
            tree.as_ = lambda thing: replace(thing, owner=("root", "root"))  # what is kept of a file is root's
            trees.append(tree)
        yield Pair(trees[0], trees[1], roots=False)
