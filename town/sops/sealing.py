"""A whole tree sealed and opened: every value by its path, and one seal (the MAC) over all of them in order."""

import hashlib
import hmac
import math
from collections.abc import Mapping as Map
from datetime import UTC, datetime
from typing import Any

from town.sops import editing, layout, metadata, writing
from town.sops.errors import BadSopsFile, Tampered
from town.sops.metadata import Metadata
from town.sops.nodes import MAX_DEPTH, Mapping, Node, Scalar, Sequence
from town.sops.rules import Rule
from town.sops.scalars import INT64, Plain, Time
from town.sops.values import Path, Sealer, aad, float_text, is_time, leaf_bytes, place
from town.terminal import shown

MAX_KEY = 256  # characters of a map key that is written; YAML takes 1024 before a colon, go.yaml.in writes 128 plainly


def opened(root: Mapping, about: Metadata, sealer: Sealer, name: str) -> dict[str, Any]:
    """The plain tree of a parsed file, after its seal was checked. Raises Tampered, BadSopsFile."""
    walk = _Walk(about, sealer, name)
    tree = walk.tree(root)
    stored = sealer.open(
        str(about.mac.value), about.sealed_at, f"{shown(name)}: the seal over the whole file (sops.mac)"
    )
    if not hmac.compare_digest(str(stored).encode(), walk.mac().encode()):
        raise Tampered(
            f"{shown(name)}: the seal over the whole file (sops.mac) does not match: "
            "a value in clear was changed, or a value was added, removed or moved",
            hint="bring back the last good version of the file; to change a value, use `sops edit`",
        )
    return tree


class _Walk:
    """Opens every leaf in document order and hashes what sops hashes."""

    def __init__(self, about: Metadata, sealer: Sealer, name: str) -> None:
        self.about = about
        self.sealer = sealer
        self.name = name
        # sops.go, MACOnlyEncryptedInitialization: the two kinds of MAC never equal each other.
        self.hash = hashlib.sha512(hashlib.sha256(b"sops").digest() if about.mac_only_encrypted else b"")

    def mac(self) -> str:
        return self.hash.hexdigest().upper()

    def tree(self, root: Mapping) -> dict[str, Any]:
        return {
            str(key.value): self._value(value, (str(key.value),)) for key, value in root.items if key.value != "sops"
        }

    def _value(self, node: Node, path: Path) -> Any:
        match node:
            case Mapping():
                return {str(key.value): self._value(value, (*path, str(key.value))) for key, value in node.items}
            case Sequence():
                return [self._value(item, path) for item in node.items]
            case Scalar():
                return self._leaf(node, path)

    def _leaf(self, node: Scalar, path: Path) -> Plain:
        value = node.value
        if value is None:
            return None
        encrypted = self.about.rule.encrypts(path)
        if encrypted:
            value = self.sealer.open(str(value), aad(path), place(self.name, path))
        if encrypted or not self.about.mac_only_encrypted:
            self.hash.update(leaf_bytes(value))
        return value


def sealed(tree: Map[str, Any], rule: Rule, sealer: Sealer) -> dict[str, Any]:
    """A plain tree as `writing.block` takes it. Raises BadSopsFile that names the path of what cannot be stored."""
    if "sops" in tree:
        raise BadSopsFile("the top-level key sops is reserved for the metadata", hint="choose another name")
    result: dict[str, Any] = _sealed(tree, (), rule, sealer)
    return result


def _sealed(value: Any, path: Path, rule: Rule, sealer: Sealer) -> Any:
    if len(path) >= MAX_DEPTH:
        raise _unfit(path, f"is nested more than {MAX_DEPTH} deep")
    match value:
        case Map():
            return {_key(key, path): _sealed(item, (*path, key), rule, sealer) for key, item in value.items()}
        case list() | tuple():
            return [_sealed(item, path, rule, sealer) for item in value]
        case None | str() | bool() | int() | float():
            return leaf(value, path, rule, sealer)
        case _:
            raise _unfit(path, f"is of type {type(value).__name__}, which SOPS cannot hold")


def _key(key: object, path: Path) -> str:
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise _unfit(path, f"has a key that is no string of at most {MAX_KEY} characters")
    if not is_text(key):
        raise _unfit(path, "has a key that is not valid Unicode")
    return key


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8: no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def leaf(value: Plain, path: Path, rule: Rule, sealer: Sealer) -> str:
    """One leaf as it is written: sealed, or in clear where the rule says so (a str that is no Raw gets quoted)."""
    if isinstance(value, str) and not is_text(value):
        raise _unfit(path, "is not valid Unicode")
    if isinstance(value, bytes):
        raise _unfit(path, "is of type bytes, which no program writes: store it as base64 text")
    if isinstance(value, float) and not math.isfinite(value):
        raise _unfit(path, "is not a finite number")
    if isinstance(value, int) and value not in INT64:
        raise _unfit(path, "is an integer beyond 64 bits")
    if isinstance(value, Time) and not is_time(value):
        raise _unfit(path, "is no time such as 2026-11-21T11:38:15Z")
    if value is None:
        return writing.Raw("null")
    if value == "":
        return ""
    if rule.encrypts(path):
        return writing.Raw(sealer.seal(value, aad(path)))
    return _clear(value)


def _clear(value: str | int | float | bool) -> str:
    match value:
        case Time():
            return writing.Raw(value)
        case str():
            return value
        case bool():
            return writing.Raw(str(value).lower())
        case float():
            text = float_text(value)
            return writing.Raw(text if "." in text else text + ".0")
        case int():
            return writing.Raw(value)


def _unfit(path: Path, what: str) -> BadSopsFile:
    return BadSopsFile(f"{shown('/'.join(map(str, path))) or 'the tree'} {what}")


def as_read(tree: Any) -> Any:
    """A tree with dicts and lists in the place of other maps and tuples, as reading gives it back."""
    match tree:
        case Map():
            return {key: as_read(value) for key, value in tree.items()}
        case list() | tuple():
            return [as_read(item) for item in tree]
        case _:
            return tree


def finished(text: str, expected: dict[str, Any], sealer: Sealer, *, now: datetime, name: str) -> bytes:
    """The text with a new lastmodified and MAC, read back first: it holds `expected`, or BadSopsFile is raised."""
    text, root = layout.parse(text.encode(), name)
    about = metadata.read(root, name)
    walk = _Walk(about, sealer, name)
    if walk.tree(root) != expected:
        raise BadSopsFile(f"{shown(name)} would not hold what it should")
    modified = rfc3339(now)
    mac = sealer.seal(walk.mac(), modified)
    edits = [
        editing.Edit(node.start, node.end, writing.quoted(value) if flow else value)
        for node, value, flow in (
            (about.lastmodified, writing.quoted(modified), False),
            (about.mac, mac, root.flow),
        )
    ]
    return editing.applied(text, edits).encode()


def rfc3339(now: datetime) -> str:
    """A time as sops writes it: `2026-11-21T11:38:15Z`. A time without a zone is a mistake of the caller."""
    if now.tzinfo is None:
        raise ValueError("now has no time zone")
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
