"""A home as a person reads it: directories folded into one line each, what looks worth keeping on lines of its own."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from persist import reinstalled, worth
from persist.copies import LARGEST
from persist.reinstalled import Known
from persist.walk import Directory, Entry
from persist.worth import Worth
from town.failure import Failure
from town.persist_table import OWNED
from town.terminal import shown

DEEPEST = 16  # levels: what lies deeper gets no line and no proposal of its own
PROPOSALS = 20
PATH_MAX = 4096  # limits.h: no program can name what has a longer path


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the listing: `kind` is `file`, `directory`, `subvolume`, or what the directory looks like."""

    path: bytes
    kind: str
    bytes: int
    files: int


class Proposal(NamedTuple):
    """One item for `persist = […]`: a path below the home, what it looks like, whether it is a file of its own."""

    path: PurePosixPath
    kind: Worth
    file: bool = False


@dataclass(slots=True, eq=False)
class Aside:
    """A part of the home that is counted by itself."""

    path: bytes
    bytes: int = 0
    files: int = 0

    def add(self, size: int) -> None:
        self.bytes += size
        self.files += 1


@dataclass(slots=True, eq=False)
class Node:
    """One directory: what lies right in it, then (after `Tree.sum`) everything below it."""

    directory: Directory
    aside: Aside | None = None  # regenerated or unbound: not among the losses
    deep: Aside | None = None  # beyond PATH_MAX
    remade: bool = False
    worth: Worth | None = None
    own_bytes: int = 0
    own_files: int = 0
    bytes: int = 0
    files: int = 0
    split: bool = False  # something below has a line of its own
    below: list["Node"] = field(default_factory=list)

    @property
    def apart(self) -> bool:
        """Whether the directory has a line of its own wherever it lies."""
        special = self.worth == "git work tree" or self.directory.subvolume
        return special and not self.remade and 0 < self.directory.depth <= DEEPEST


class Tree:
    """What a walk found, added up. `declared` are the bound paths that the walk went into: they are not bound now.

    `installed`: what identity put there, persist/reinstalled.py. `part`: only what is new was looked for, so what has
    nothing new in it is not listed.
    """

    def __init__(self, declared: Sequence[bytes] = (), installed: Known | None = None, *, part: bool = False) -> None:
        self.part = part
        self.regenerated = Aside(b"")
        self._installed: Known = installed or {}
        self.unbound = {path: Aside(path) for path in declared}
        self.deep: dict[Directory, Aside] = {}  # what no program can name, at the last directory that one can
        self.nodes: dict[Directory, Node] = {}
        self.loose: list[Line] = []  # files right in the home
        self.single: list[Line] = []  # those of them that can be declared one by one
        self.mounted: list[bytes] = []  # where something is mounted: not looked at
        self.failed: Failure | OSError | None = None  # why the walk ended early

    @property
    def root(self) -> Node:
        """The home itself; an empty one where nothing could be read."""
        return next(iter(self.nodes.values()), Node(Directory(b"", None, 0, 0, False)))

    def enter(self, directory: Directory) -> None:
        """Take note of a directory; `directory.above` was entered before."""
        if directory.above is None:
            self.nodes[directory] = Node(directory)
            return
        above = self.nodes[directory.above]
        node = Node(directory, above.aside, above.deep, above.remade or directory.name in worth.REMADE)
        if node.aside is None:
            node.aside = self._unbound(directory, b"")
        if node.deep is None and directory.length > PATH_MAX:
            node.deep = self.deep.setdefault(directory.above, Aside(b""))  # paths so long are made when they are told
        if directory.name in {b".git", b"sessions"}:
            self.mark(directory.above, directory.name)
        above.below.append(node)
        self.nodes[directory] = node

    def mark(self, directory: Directory, name: bytes) -> None:
        """Take note that something of that name lies in a directory that was entered."""
        node = self.nodes[directory]
        node.worth = worth.better(node.worth, worth.marked(name))

    def unmarked(self) -> list[Directory]:
        """Directories that may be git work trees, for all that was met."""
        return [
            directory
            for directory, node in self.nodes.items()
            if node.worth != "git work tree" and self._near(directory) and not node.remade and node.aside is None
        ]

    def add(self, entry: Entry) -> bool:
        """Count an entry; whether it is one that a reboot takes and that has a name of its own.

        A socket is none: it holds nothing, and the program that listens makes it.
        """
        if entry.kind == "socket":
            return False
        node = self.nodes[entry.directory]
        aside = node.aside or self._unbound(entry.directory, entry.name)
        if aside is None and entry.kind == "file" and self._near(entry.directory):
            back = reinstalled.comes_back(entry.directory.path(entry.name), self._installed)
            aside = self.regenerated if back else None
        if entry.kind in ("directory", "subvolume"):
            return aside is None and node.deep is None
        if aside is not None:
            aside.add(entry.bytes)
            return False
        node.own_bytes += entry.bytes
        node.own_files += 1
        node.worth = worth.better(node.worth, worth.marked(entry.name))
        if node.directory.above is None:
            self.loose.append(Line(entry.name, "file", entry.bytes, 1))
            if entry.kind == "file" and entry.bytes <= LARGEST:
                self.single.append(self.loose[-1])
        if node.deep is not None:
            node.deep.add(entry.bytes)
        return node.deep is None

    def sum(self) -> None:
        """Add every directory to the one above it. Once, after the walk."""
        for node in reversed(self.nodes.values()):
            node.bytes, node.files = node.bytes + node.own_bytes, node.files + node.own_files
            if node.directory.above is not None:
                above = self.nodes[node.directory.above]
                above.bytes += node.bytes
                above.files += node.files
                above.split |= node.split or node.apart

    def _unbound(self, directory: Directory, name: bytes) -> Aside | None:
        return self.unbound.get(directory.path(name)) if self._near(directory) else None

    @staticmethod
    def _near(directory: Directory) -> bool:
        """Whether paths are short here: what is matched by path is matched near the top only."""
        return directory.depth <= DEEPEST and directory.length <= PATH_MAX


def lines(tree: Tree) -> list[Line]:
    """The listing, largest first; `tree.sum()` was called."""
    return sorted([*tree.loose, *_opened(tree)], key=lambda line: (-line.bytes, -line.files, line.path))


def _opened(tree: Tree) -> Iterator[Line]:
    root = tree.root
    left = [root]
    while left:
        node = left.pop()
        for child in node.below:
            if child.aside is not None:
                continue
            if not child.remade and not child.apart and _read_further(child):
                left.append(child)
            elif child.files or (child.apart and not tree.part):
                yield _folded(child)
        if node is not root and node.own_files:
            yield Line(node.directory.path(b"*"), "directory", node.own_bytes, node.own_files)


def _read_further(node: Node) -> bool:
    if node.directory.depth > DEEPEST:
        return False
    return node.split or (node.directory.depth <= 2 and node.directory.path() in worth.OPENED)


def _folded(node: Node) -> Line:
    # A directory that holds nothing but another directory is read as one: `.mozilla/firefox/profile`.
    while len(node.below) == 1 and not node.own_files and not node.apart and node.directory.depth < DEEPEST:
        node = node.below[0]
    kind = "subvolume" if node.directory.subvolume else node.worth or "directory"
    return Line(node.directory.path(), "directory" if node.remade else kind, node.bytes, node.files)


def proposals(
    tree: Tree, declared: Sequence[PurePosixPath], elsewhere: Collection[bytes] = (), empty: Collection[bytes] = ()
) -> list[Proposal]:
    """Items for `persist = […]`, what is hardest to make again first; none overlaps another or `declared`.

    Only what a spec can say: valid UTF-8 without control characters, and not what nuketown writes itself. `elsewhere`:
    git work trees that another machine has just so, which come last; `empty`: those in which nothing is.
    """
    found = [
        (node.worth, node.bytes, node.directory.path(), False)
        for node in tree.nodes.values()
        if node.worth is not None and _fit(tree, node)
    ]
    found += [(kind, one.bytes, one.path, True) for one in tree.single if (kind := worth.marked_file(one.path))]
    found.sort(key=lambda one: (one[2] in elsewhere, worth.ORDER.index(one[0]), -one[1], one[2]))
    kept: list[Proposal] = []
    for kind, _, name, file in found:
        said = None if name in empty else _sayable(name)
        if said is not None and not any(_overlap(said, other) for other in (*declared, *(one.path for one in kept))):
            kept.append(Proposal(said, kind, file))
    return kept[:PROPOSALS]


def work_trees(tree: Tree) -> list[bytes]:
    """Paths of the git work trees that can be named, largest first."""
    found = [node for node in tree.nodes.values() if node.worth == "git work tree" and _fit(tree, node)]
    found.sort(key=lambda node: -node.bytes)
    return [node.directory.path() for node in found]


def _fit(tree: Tree, node: Node) -> bool:
    holds = node.files > 0 or not tree.part
    return holds and 0 < node.directory.depth <= DEEPEST and not node.remade and node.aside is None


def _sayable(path: bytes) -> PurePosixPath | None:
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return None
    plain = text.replace("\\", "")  # `shown` doubles a backslash, which TOML and a spec can hold
    said = PurePosixPath(text)
    owned = any(said.is_relative_to(other) for other in OWNED)
    return said if shown(plain) == plain and not owned else None


def _overlap(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
