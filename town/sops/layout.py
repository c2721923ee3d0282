"""The two layouts of SOPS files, YAML and JSON: how each is read, written new, and laid out after a change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from town.sops import jsontext, nodes, plainform, writing
from town.sops.errors import BadSopsFile


@dataclass(frozen=True, slots=True)
class Layout:
    """`parse` gives text and nodes, `new` the text of a tree, `tidied` an edited text as sops lays it out."""

    parse: Callable[[bytes, str], tuple[str, nodes.Mapping]]
    new: Callable[[Mapping[str, Any]], str]
    tidied: Callable[[str, str], str]


def _as_it_is(text: str, _name: str) -> str:
    return text


YAML = Layout(nodes.parse, writing.block, _as_it_is)
# A JSON file is laid out anew whenever it changes: sops does that too, and there are no comments to lose.
JSON = Layout(jsontext.parse, jsontext.block, jsontext.tidied)


def of_name(name: str) -> Layout:
    """The layout that sops takes for a new file of that name."""
    return JSON if name.endswith(".json") else YAML


def of(data: bytes, name: str) -> Layout:
    """The layout of a file: by its name as with sops, else what it is (a YAML document may begin with `{`, too)."""
    if name.endswith((".yaml", ".yml")) or not data.lstrip().startswith(b"{"):
        return of_name(name)
    if not name.endswith(".json"):
        try:
            jsontext.parse(data, name)
        except BadSopsFile:
            return YAML
    return JSON


def root(data: bytes, name: str) -> nodes.Mapping:
    """The top-level map, read the quickest way; its nodes may not know their places. Raises BadSopsFile."""
    layout = of(data, name)
    return (plainform.read(data) if layout is YAML else None) or layout.parse(data, name)[1]


def parse(data: bytes, name: str) -> tuple[str, nodes.Mapping]:
    """The text and the top-level map of a file in its layout. Raises BadSopsFile."""
    return of(data, name).parse(data, name)
