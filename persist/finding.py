"""What a look at a home found: values that are printed, or written down for after the reboot.

As JSON: version 1, docs/formats/lost.md. Paths have a readable form and their exact bytes.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from persist import fold
from persist.fold import Aside, Line, Proposal, Tree
from persist.git import Facts
from persist.unsynced import Unsynced
from persist.worth import ORDER
from town import cli
from town.spec import Agent

VERSION = 1
MOST = 1000  # lines that are written down
_COUNTED = ("bytes", "files")
_Paths = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One home. `whole` is false where it could not be read to its end; `rest`: further lines, each smaller."""

    agent: str
    home: bytes
    bytes: int
    files: int
    lines: tuple[Line, ...]
    rest: Line | None = None
    whole: bool = True
    regenerated: Aside = field(default_factory=lambda: Aside(b""))
    unbound: tuple[Aside, ...] = ()
    mounted: _Paths = ()  # by others
    git: tuple[Facts, ...] = ()
    persist: tuple[Proposal, ...] = ()
    unsynced: tuple[Unsynced, ...] = ()


def of(agent: Agent, home: bytes, tree: Tree, *, most: int = MOST) -> Finding:
    """What a tree says, before anybody looked into its git work trees; `tree.sum()` was called."""
    lines = fold.lines(tree)
    ours = {bytes(entry.path) for entry in agent.persist if entry.bound}
    return Finding(
        agent.name, home, tree.root.bytes, tree.root.files, tuple(lines[:most]), _rest(lines[most:]),
        tree.failed is None, tree.regenerated, tuple(aside for aside in tree.unbound.values() if aside.files),
        tuple(path for path in tree.mounted if path not in ours),
    )  # fmt: skip


def _rest(lines: Sequence[Line]) -> Line | None:
    if not lines:
        return None
    return Line(b"", f"{len(lines):,}", sum(line.bytes for line in lines), sum(line.files for line in lines))


def entry(line: Line) -> dict[str, object]:
    """A line of a listing as JSON."""
    return {"path": cli.named(line.path), "bytes": line.bytes, "files": line.files, "kind": line.kind}


def summary(found: Finding) -> dict[str, object]:
    """All but the names of agent and home."""
    return {
        "whole": found.whole,
        "mounted": [cli.named(path) for path in found.mounted],
        "bytes": found.bytes,
        "files": found.files,
        "folded": [entry(line) for line in found.lines],
        "rest": None if found.rest is None else {**entry(found.rest), "path": None},
        "regenerated": {"bytes": found.regenerated.bytes, "files": found.regenerated.files},
        "unbound": [entry(Line(aside.path, "directory", aside.bytes, aside.files)) for aside in found.unbound],
        "persist": [
            {"path": cli.named(bytes(one.path)), "kind": one.kind, "type": "file" if one.file else "directory"}
            for one in found.persist
        ],
        "git": [_work_tree(facts) for facts in found.git],
        "unsynced": [
            {"path": cli.named(bytes(one.path)), "bytes": one.bytes, "files": one.files, "carried": one.carried}
            for one in found.unsynced
        ],
    }


def _work_tree(facts: Facts) -> dict[str, object]:
    return {
        "path": cli.named(facts.path),
        "at_stake": facts.at_stake,
        "unpushed": [cli.named(name) for name in facts.unpushed],
        "remote": facts.remote,
        "changed": facts.changed,
        "untracked": facts.untracked,
        "staged": facts.staged,
        "stash": facts.stash,
        "unknown": list(facts.unknown),
    }


def parsed(agent: str, home: bytes, tree: Mapping[str, Any]) -> Finding:
    """What `summary` made. Raises KeyError, TypeError, ValueError when it is of no such form."""
    rest = tree["rest"]
    return Finding(
        agent, home, int(tree["bytes"]), int(tree["files"]), tuple(map(_line, tree["folded"])),
        None if rest is None else Line(b"", str(rest["kind"]), int(rest["bytes"]), int(rest["files"])),
        tree["whole"] is True, _aside(b"", tree["regenerated"]),
        tuple(_aside(_path(one), one) for one in tree["unbound"]),
        tuple(path_of(path) for path in tree["mounted"]),
        tuple(map(_facts, tree["git"])),
        tuple(map(_proposal, tree["persist"])),
        tuple(Unsynced(PurePosixPath(_path(one).decode()), int(one["bytes"]), int(one["files"]), one["carried"] is True)
              for one in tree["unsynced"]),
    )  # fmt: skip


def _line(tree: Mapping[str, Any]) -> Line:
    return Line(_path(tree), str(tree["kind"]), int(tree["bytes"]), int(tree["files"]))


def _proposal(tree: Mapping[str, Any]) -> Proposal:
    return Proposal(PurePosixPath(_path(tree).decode()), ORDER[ORDER.index(tree["kind"])], tree.get("type") == "file")


def _aside(path: bytes, tree: Mapping[str, Any]) -> Aside:
    return Aside(path, *(int(tree[key]) for key in _COUNTED))


def _facts(tree: Mapping[str, Any]) -> Facts:
    return Facts(
        _path(tree), tuple(path_of(name) for name in tree["unpushed"]),
        tree["remote"] is True, int(tree["changed"]), int(tree["untracked"]), tree["staged"] is True,
        tree["stash"] is True, tuple(map(str, tree["unknown"])),
    )  # fmt: skip


def _path(tree: Mapping[str, Any]) -> bytes:
    return path_of(tree["path"])


def path_of(named: Mapping[str, Any]) -> bytes:
    """The exact bytes of a name as JSON has it. Raises KeyError, TypeError, ValueError."""
    return b64decode(named["base64"], validate=True)
