"""A directory of a tree that is compared, and what has a name in it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from persist.bucket.trees import Entry
from persist.difference.things import Thing
from persist.walk import DEEPEST

PATH_MAX = 4096  # limits.h: no program can name what has a longer path
Boundary = Literal["", "subvolume", "stub"]  # `stub`: where a nested subvolume was that the snapshot leaves out


@dataclass(slots=True, eq=False)
class Node:
    """A directory: its name and the one above, never its whole path (that may be megabytes)."""

    name: bytes
    above: "Node | None"
    inode: int = 0  # 0: of no filesystem
    entry: Entry | None = None  # of a state in the store
    depth: int = 0
    length: int = 0  # of the path, in bytes
    deep: "Node | None" = None  # the last directory above it whose path a program can name

    @classmethod
    def below(cls, above: "Node", name: bytes, inode: int = 0, entry: Entry | None = None) -> "Node":
        """A directory in another."""
        length = above.length + len(name) + (above.length > 0)
        deep = above.deep or (above if length > PATH_MAX else None)
        return cls(name, above, inode, entry, above.depth + 1, length, deep)

    @property
    def too_deep(self) -> bool:
        """Whether nobody goes on below it: whoever goes on making directories would never be done with."""
        return self.depth >= DEEPEST

    def path(self, name: bytes = b"") -> bytes:
        """Relative to the home; `name` is something in it."""
        parts: list[bytes] = [name] if name else []
        at: Node | None = self
        while at is not None:
            if at.name:
                parts.append(at.name)
            at = at.above
        return b"/".join(reversed(parts))


@dataclass(frozen=True, slots=True)
class Child:
    """Something with a name in a directory. `inode`: 0 where it says nothing."""

    name: bytes
    thing: Thing
    inode: int = 0
    boundary: Boundary = ""
    entry: Entry | None = None

    def node(self, above: Node) -> Node:
        """The directory that it is."""
        return Node.below(above, self.name, self.inode, self.entry)


class Tree(Protocol):
    """One side of a comparison: directories, from the root down."""

    @property
    def root(self) -> Node:
        """The directory that is compared."""
        ...

    @property
    def leave(self) -> frozenset[bytes]:
        """Paths that are not looked at."""
        ...

    @property
    def thing(self) -> Thing:
        """What the root itself is."""
        ...

    def listing(self, node: Node) -> Mapping[bytes, Any]:
        """The names in a directory, each with what `child` needs."""
        ...

    def child(self, node: Node, name: bytes, item: Any = None) -> Child | None:
        """What has that name; None when nothing has, or nothing that counts."""
        ...

    def opened(self, node: Node, name: bytes) -> AbstractContextManager[int] | None:
        """A regular file, for reading; None where it lies in no filesystem."""
        ...


class Nothing:
    """The side that has no such directory."""

    leave: frozenset[bytes] = frozenset()

    def __init__(self, prefix: bytes) -> None:
        self.root = Node(prefix, None, length=len(prefix))
        self.thing = Thing("directory", 0, (0, 0))

    def listing(self, node: Node) -> Mapping[bytes, Any]:
        """No names."""
        del node
        return {}

    def child(self, node: Node, name: bytes, item: Any = None) -> None:
        """Nothing."""
        del node, name, item

    def opened(self, node: Node, name: bytes) -> None:
        """Nothing."""
        del node, name
