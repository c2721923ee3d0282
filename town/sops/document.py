"""A SOPS file read, made, and changed in place."""

import secrets
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path as File
from typing import Any

from town.sops import editing, metadata, nodes, plainform, sealing, writing
from town.sops.errors import BadRecipient, BadSopsFile, Tampered, WouldBeClear
from town.sops.keys import Keys
from town.sops.metadata import Rule
from town.sops.nodes import Mapping, Scalar
from town.sops.recipients import canonical, wrap
from town.sops.values import KEY_BYTES, Path, Sealer, place
from town.terminal import shown

# The release of sops whose files these equal: the `version` of a new file.
VERSION = "3.13.2"


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """A SOPS file that was opened and whose seals hold. No text of it shows a value."""

    name: str
    tree: dict[str, Any]
    recipients: tuple[str, ...]
    data: bytes
    data_key: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"Document({self.name!r}, {len(self.tree)} keys, {len(self.recipients)} recipients)"

    def get(self, path: str) -> str | None:
        """The string at a slash path such as `ada/ssh-key`; None where nothing stands, or null.

        Raises BadSopsFile where something else than a string stands: it is not "missing", nobody may replace it.
        """
        found: Any = self.tree
        for part in parts_of(path):
            if not isinstance(found, dict):
                raise BadSopsFile(f"{shown(self.name)}: {shown(path)} goes through a value that is no map")
            found = found.get(part)
            if found is None:
                return None
        if not isinstance(found, str):
            raise BadSopsFile(
                f"{place(self.name, parts_of(path))} is not a string", hint="sops-nix would fail on it too: quote it"
            )
        return found


def parts_of(path: str) -> Path:
    """A slash path as map keys. Raises BadSopsFile when it is empty, has empty parts, or names the metadata."""
    parts = tuple(path.split("/"))
    if not all(0 < len(part) <= sealing.MAX_KEY and sealing.is_text(part) for part in parts) or parts[0] == "sops":
        raise BadSopsFile(
            f"{shown(path)} is no path of a secret", hint="write it as agent/name, for example ada/ssh-key"
        )
    return parts


def load(data: bytes, name: str, keys: Keys) -> Document:
    """Open a SOPS file: parse, unwrap the data key, decrypt, check the seal over the whole.

    `name` is for messages. Raises BadSopsFile, NoKey, Tampered.
    """
    root = plainform.read(data) or nodes.parse(data, name)[1]
    about = metadata.read(root, name)
    data_key = keys.data_key(about.wrapped, name)
    tree = sealing.opened(root, about, Sealer(data_key), name)
    return Document(name, tree, about.recipients, data, data_key)


def recipients_of(data: bytes, name: str) -> tuple[str, ...]:
    """Who can open a file, as it writes them; no key is needed, and nothing is verified. Raises BadSopsFile."""
    _, root = nodes.parse(data, name)
    return metadata.read(root, name).recipients


def create(tree: Map[str, Any], recipients: Sequence[str], *, now: datetime, gnupg_home: File | None = None) -> bytes:
    """A new file that holds `tree` (dicts, lists, str, int, float, bool, None) for these recipients.

    Values below a key that ends in `_unencrypted` stay in clear, as with sops. `now` has a time zone. Public OpenPGP
    keys come from `gnupg_home`, else from the caller's keyring. Raises BadSopsFile, BadRecipient.
    """
    to = tuple(dict.fromkeys(map(canonical, recipients)))
    if not to:
        raise BadRecipient("no recipient is given", hint="name at least one human in [town.recipients]")
    data_key = secrets.token_bytes(KEY_BYTES)
    sealer, modified = Sealer(data_key), sealing.rfc3339(now)
    block: dict[str, Any] = {
        **wrap(data_key, to, modified, gnupg_home),
        "lastmodified": modified,
        "mac": writing.Raw("unsealed"),
        Rule().name: writing.Raw(Rule().argument),
        "version": writing.Raw(VERSION),
    }
    values = sealing.sealed(tree, Rule(), sealer)
    text = writing.block(values | {"sops": dict(sorted(block.items()))})
    return sealing.finished(text, _plain(tree), sealer, now=now, name="the new file")


def _plain(tree: Any) -> Any:
    """A tree with tuples as lists, as reading gives it back."""
    match tree:
        case Map():
            return {key: _plain(value) for key, value in tree.items()}
        case list() | tuple():
            return [_plain(item) for item in tree]
        case _:
            return tree


def update(document: Document, changes: Map[str, str], *, now: datetime) -> bytes:
    """The file with strings set at slash paths; every other byte stays, but for lastmodified and mac.

    A path that is missing is added at the end of its map, a new top-level key at the end of the file. Equal values
    change nothing at all. Raises BadSopsFile, and WouldBeClear when the file's rule leaves a new value in clear.
    """
    text, root = nodes.parse(document.data, document.name)
    about = metadata.read(root, document.name)
    change = _Change(document, text, root, about.rule)
    for path, value in changes.items():
        change.set(parts_of(path), value)
    if not change.edits and not change.additions:
        return document.data
    try:
        return sealing.finished(change.text_after(), change.tree, change.sealer, now=now, name=document.name)
    except (BadSopsFile, Tampered) as error:  # nothing is written that could not be read
        raise BadSopsFile(
            f"{shown(document.name)} cannot be changed where it stands: {error.what}",
            hint="its layout is unusual: run `sops edit` on it once, which writes it anew",
        ) from error


class _Change:
    """Gathers the edits of one update, and the tree that must come out of them."""

    def __init__(self, document: Document, text: str, root: Mapping, rule: Rule) -> None:
        self.name = document.name
        self.tree: dict[str, Any] = _plain(document.tree)
        self.text = text
        self.root = root
        self.rule = rule
        self.sealer = Sealer(document.data_key)
        self.edits: list[editing.Edit] = []
        self.additions: dict[Path, tuple[Mapping, dict[str, Any]]] = {}

    def text_after(self) -> str:
        added = [editing.append(self.text, node, new, len(path)) for path, (node, new) in self.additions.items()]
        return editing.applied(self.text, [*self.edits, *added])

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
