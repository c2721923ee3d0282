"""Every sealed value and comment of a file under a new data key, each where it stands and of the type that it has."""

import re
from collections.abc import Iterator

from town.sops import editing, nodes, writing
from town.sops.errors import BadSopsFile, Tampered
from town.sops.metadata import Metadata
from town.sops.nodes import Mapping, Node, Scalar
from town.sops.values import Path, Sealer, aad, place
from town.terminal import shown

_TRIES = 200_000  # a comment against a map, some 8 µs each

_COMMENT = re.compile(r"#(ENC\[AES256_GCM,[A-Za-z0-9+/=:,]+,type:comment\])")


def resealed(text: str, root: Mapping, about: Metadata, old: Sealer, new: Sealer, name: str) -> Iterator[editing.Edit]:
    """The edits that bring a text from one data key to another. Raises Tampered."""
    walk = _Walk(text, about, old, new, name)
    for key, value in root.items:
        if key.value != "sops":
            yield from walk.node(value, (str(key.value),))
    if not root.flow:  # JSON has no comments
        yield from walk.comments()


class _Walk:
    def __init__(self, text: str, about: Metadata, old: Sealer, new: Sealer, name: str) -> None:
        self.text, self.about, self.old, self.new, self.name = text, about, old, new, name
        self.paths: dict[Path, None] = {(): None}  # of maps and lists
        self.spans: list[tuple[int, int]] = []  # of scalars

    def node(self, node: Node, path: Path) -> Iterator[editing.Edit]:
        match node:
            case Mapping():
                self.paths[path] = None
                for key, value in node.items:
                    yield from self.node(value, (*path, str(key.value)))
            case nodes.Sequence():
                self.paths[path] = None
                for item in node.items:
                    yield from self.node(item, path)
            case Scalar():
                self.spans.append((node.start, node.end))
                if self.about.rule.encrypts(path) and node.value not in (None, ""):
                    yield self._leaf(node, path)

    def _leaf(self, node: Scalar, path: Path) -> editing.Edit:
        opened, kind = self.old.raw(str(node.value), aad(path), place(self.name, path))
        sealed = self.new.seal_raw(opened, kind, aad(path))
        quoted = self.text[node.start] in "\"'"
        return editing.over(self.text, node, writing.quoted(sealed) if quoted else sealed)

    def comments(self) -> Iterator[editing.Edit]:
        """After all nodes. Raises BadSopsFile."""
        every = list(_COMMENT.finditer(self.text))
        if len(every) * len(self.paths) > _TRIES:
            raise BadSopsFile(
                f"{shown(self.name)} has {len(every):,} sealed comments among {len(self.paths):,} maps: to find out "
                "where each belongs would take too long",
                hint="take comments out of it with: sops edit",
            )
        for found in every:
            inside = any(start <= found.start() < end for start, end in self.spans)
            if not inside and (sealed := self._comment(found[1])) is not None:
                yield editing.Edit(found.start(1), found.end(1), sealed)

    def _comment(self, sealed: str) -> str | None:
        """A comment is bound to the map that sops counts it to, and that is the one whose path opens it."""
        for path in self.paths:
            try:
                opened, kind = self.old.raw(sealed, aad(path), "a comment")
            except Tampered:
                continue
            return self.new.seal_raw(opened, kind, aad(path))
        return None  # moved by hand, or of an older key: sops only warns, and so it stays as it is
