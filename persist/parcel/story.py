"""What a file tells of the home in it: `about/about.json`, sealed like the rest."""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from persist import about as about_
from persist.about import About
from persist.parcel.wire import ExportDamaged
from persist.store import StoreDamaged
from town import grammar
from town.grammar import Wrong
from town.terminal import shown

FILE = PurePosixPath("about")
HOME, PERSISTED = PurePosixPath("home"), PurePosixPath("persisted")
VERSION = 1
LARGEST = 1 << 20  # bytes
_WORDS = ("agent", "name", "kind", "host", "exported")


@dataclass(frozen=True, slots=True)
class Story:
    """Whose home it is and what it was called there; `about`: what its own machine knew of it."""

    agent: str
    name: str
    kind: str
    host: str
    exported: str  # RFC 3339
    without_secrets: bool
    about: About

    @property
    def origin(self) -> dict[str, str]:
        """Where a home that is brought in comes from, as its note says it."""
        return {"host": self.host, "name": f"{self.agent}@{self.name}", "kind": self.kind, "exported": self.exported}


def dumped(story: Story) -> bytes:
    """The text of the file."""
    words = {name: getattr(story, name) for name in _WORDS}
    tree = {
        "version": VERSION,
        "without_secrets": story.without_secrets,
        "about": json.loads(about_.dumped(story.about)),
    }
    return (json.dumps(tree | words, sort_keys=True) + "\n").encode()


def parsed(data: bytes) -> Story:
    """What it says. Raises ExportDamaged: whoever made the file may have written anything."""
    try:
        return _story(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError, Wrong, StoreDamaged) as error:
        raise ExportDamaged(f"what the file says of the home cannot be read: {shown(str(error))}") from error


def _story(tree: Any) -> Story:
    if not isinstance(tree, dict) or tree.get("version") != VERSION:
        raise ValueError("it is of another version")
    words = {name: tree[name] for name in _WORDS}
    if not all(isinstance(word, str) and len(word) < 1000 for word in words.values()):
        raise ValueError("a name that is none")
    grammar.agent_name(words["agent"])
    about = about_.parsed(tree["about"])
    if about is None:
        raise ValueError("its note is none")
    return Story(**words, without_secrets=tree["without_secrets"] is True, about=about)
