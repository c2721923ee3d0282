"""A declared path as a state of the store holds it: its listings are read as they are asked for, no file is.

Every piece was authenticated before it gets here (`persist.bucket`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from persist.bucket import trees
from persist.bucket.blobs import Reader
from persist.bucket.keys import AgentKeys
from persist.bucket.trees import Entry
from persist.difference import things
from persist.difference.nodes import Child, Node
from persist.difference.things import Thing
from persist.fill import single
from persist.fill.atlas import Atlas


class Stored:
    """The directory that an entry of a state is. `atlas`: where its pieces are, made when the first is needed."""

    def __init__(self, entry: Entry, prefix: bytes, keys: AgentKeys, atlas: Callable[[], Atlas]) -> None:
        self.root = Node(prefix, None, entry=entry, length=len(prefix))
        self.keys, self.atlas = keys, atlas
        self.leave: frozenset[bytes] = frozenset()
        self._last: tuple[Node | None, dict[bytes, Entry]] = (None, {})

    @property
    def thing(self) -> Thing:
        """What the root itself is."""
        assert self.root.entry is not None
        return things.of_entry(self.root.entry)

    def listing(self, node: Node) -> Mapping[bytes, Any]:
        """Names, each with its entry."""
        if self._last[0] is not node:
            assert node.entry is not None
            assert node.entry.content is not None
            reader = cast(Reader, self.atlas())
            self._last = node, {entry.name: entry for entry in trees.read(reader, node.entry.content)}
        return self._last[1]

    def child(self, node: Node, name: bytes, item: Any = None) -> Child | None:
        """What has that name; None when nothing has."""
        entry = item if item is not None else self.listing(node).get(name)
        return None if entry is None else Child(name, things.of_entry(entry), entry=entry)

    def opened(self, node: Node, name: bytes) -> None:
        """Nothing: it lies in no filesystem."""
        del node, name

    def pieces(self, child: Child) -> Iterator[tuple[int, bytes]]:
        """What a file holds between its holes: offset and bytes. Raises ObjectMissing, StoreDamaged."""
        assert child.entry is not None
        return single.data(self.atlas(), child.entry)
