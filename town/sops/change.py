"""Values of a SOPS file set and removed where they stand."""

from collections.abc import Collection
from collections.abc import Mapping as Map
from datetime import datetime
from typing import Any

from town.sops import editing, layout, metadata, sealing, writing
from town.sops.document import Document, parts_of
from town.sops.errors import BadSopsFile, Tampered, WouldBeClear
from town.sops.nodes import Mapping, Node, Scalar
from town.sops.values import Path, Sealer, place
from town.terminal import shown


def update(document: Document, changes: Map[str, str], *, now: datetime, remove: Collection[str] = ()) -> bytes:
    """The file with strings set at slash paths, and others removed; every other byte stays, but lastmodified and mac.

    A path that is missing is added at the end of its map, a new top-level key at the end of the file. What is removed
    may be a value or a whole map, and a map that it empties goes too; what is not there needs no removal. Equal values
    change nothing at all. A JSON file is laid out as sops does it. Raises BadSopsFile, and WouldBeClear when the file's
    rule leaves a new value in clear.
    """
    change = _Change(document)
    for path in remove:
        change.remove(parts_of(path))
    for path, value in changes.items():
        change.set(parts_of(path), value)
    if not change.changed:
        return document.data
    try:
        text = change.form.tidied(change.text_after(), document.name)
        return sealing.finished(text, change.tree, change.sealer, now=now, name=document.name)
    except (BadSopsFile, Tampered) as error:  # nothing is written that could not be read
        raise BadSopsFile(
            f"{shown(document.name)} cannot be changed where it stands: {error.what}",
            hint="its layout is unusual: run `sops edit` on it once, which writes it anew",
        ) from error


class _Change:
    """Gathers the edits of one update, and the tree that must come out of them."""

    def __init__(self, document: Document) -> None:
        self.name = document.name
        self.form = layout.of(document.data, document.name)
        self.text, self.root = self.form.parse(document.data, document.name)
        self.rule = metadata.read(self.root, document.name).rule
        self.tree: dict[str, Any] = sealing.as_read(document.tree)
        self.sealer = Sealer(document.data_key)
        self.edits: list[editing.Edit] = []
        self.additions: dict[Path, tuple[Mapping, dict[str, Any]]] = {}
        self.removed = False

    @property
    def changed(self) -> bool:
        return bool(self.removed or self.edits or self.additions)

    def text_after(self) -> str:
        added = [editing.append(self.text, node, new, len(path)) for path, (node, new) in self.additions.items()]
        return editing.applied(self.text, [*self.edits, *added])

    def remove(self, path: Path) -> None:
        """Take a path out, with the maps that it alone is in. To be done before anything is set."""
        chain: list[tuple[Mapping, dict[str, Any]]] = []
        below: Node | None = self.root
        holder: Any = self.tree
        for part in path:
            if not isinstance(below, Mapping) or below.get(part) is None:
                return
            chain.append((below, holder))
            below, holder = below.get(part), holder[part]
        depth = len(path) - 1
        while depth > 0 and len(chain[depth][1]) == 1:
            depth -= 1
        node, values = chain[depth]
        edited = editing.applied(self.text, [editing.removal(self.text, node, path[depth])])
        del values[path[depth]]
        self.text, self.root = self.form.parse(edited.encode(), self.name)
        self.removed = True

    def set(self, path: Path, value: str) -> None:
        below = self.root
        for depth, part in enumerate(path):
            child = below.get(part)
            if child is None:
                self._add(below, path, depth, value)
                return
            if depth == len(path) - 1:
                self._replace(below, path, value)
                return
            if not isinstance(child, Mapping):
                raise self._in_the_way(path[: depth + 1])
            below = child

    def _replace(self, below: Mapping, path: Path, value: str) -> None:
        key, old = next(entry for entry in below.items if entry[0].value == path[-1])
        if not isinstance(old, Scalar):
            raise BadSopsFile(f"{place(self.name, path)} is a map or a list, not one value")
        holder = self._holder(path)
        if holder[path[-1]] == value:
            return
        holder[path[-1]] = value
        new = sealing.leaf(value, path, self.rule, self.sealer)
        plain = isinstance(new, writing.Raw) and not below.flow
        self.edits.append(editing.replace(self.text, key, old, new if plain else writing.quoted(new)))

    def _add(self, below: Mapping, path: Path, depth: int, value: str) -> None:
        if value != "" and not self.rule.encrypts(path):
            raise WouldBeClear(
                f"{place(self.name, path)} would be stored in clear: so says {self.rule.name} of the file",
                hint="choose another name, or change the rule with sops",
            )
        _, new = self.additions.setdefault(path[:depth], (below, {}))
        for position in range(depth, len(path) - 1):
            new = new.setdefault(path[position], {})
            if not isinstance(new, dict):
                raise self._in_the_way(path[: position + 1])
        if path[-1] in new:
            raise BadSopsFile(f"{place(self.name, path)} is set twice")
        new[path[-1]] = sealing.leaf(value, path, self.rule, self.sealer)
        self._holder(path)[path[-1]] = value

    def _holder(self, path: Path) -> dict[str, Any]:
        holder = self.tree
        for part in path[:-1]:
            holder = holder.setdefault(part, {})
        return holder

    def _in_the_way(self, path: Path) -> BadSopsFile:
        return BadSopsFile(f"{place(self.name, path)} is a value, so nothing can stand below it")
