"""A SOPS file, read."""

from dataclasses import dataclass, field
from typing import Any

from town.sops import layout, metadata, nodes, sealing
from town.sops.errors import BadSopsFile
from town.sops.keys import Keys
from town.sops.scalars import Time
from town.sops.values import Path, Sealer, place
from town.terminal import shown


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
        if not isinstance(found, str) or isinstance(found, Time):
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
    """Open a SOPS file, YAML or JSON: parse, unwrap the data key, decrypt, check the seal over the whole.

    `name` is for messages; one that ends in .json, .yaml or .yml says how the file is read. A time is a str
    (`scalars.Time`), what is no UTF-8 text is bytes. Raises BadSopsFile, NoKey, Tampered.
    """
    root = layout.root(data, name)
    about = metadata.read(root, name)
    data_key = keys.data_key(about.groups, about.threshold, name)
    tree = sealing.opened(root, about, Sealer(data_key), name)
    return Document(name, tree, about.recipients, data, data_key)


def recipients_of(data: bytes, name: str) -> tuple[str, ...]:
    """Who can open a file, as it writes them; no key is needed, and nothing is verified. Raises BadSopsFile."""
    return metadata.read(layout.root(data, name), name).recipients


def groups_of(data: bytes, name: str) -> tuple[tuple[tuple[str, ...], ...], int]:
    """The recipients by group, and how many groups it takes to open the file; as `recipients_of` otherwise."""
    about = metadata.read(layout.root(data, name), name)
    return tuple(tuple(one.label for one in group) for group in about.groups), about.threshold


def outline(data: bytes, name: str) -> dict[str, Any]:
    """What stands in a file beside the metadata, encrypted as it is; no key is needed. Raises BadSopsFile."""
    root = layout.root(data, name)
    metadata.read(root, name)  # what is not encrypted is no SOPS file
    tree: dict[str, Any] = nodes.plain(root, name)
    return {key: value for key, value in tree.items() if key != "sops"}
