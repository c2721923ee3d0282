"""`persist lost`: what the next reboot takes, everything in the living home that no declared path covers.

It opens no file and runs no program of the agent's: git least of all.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack

from persist import entering, fold, ground
from persist.fold import Aside, Line, Tree
from persist.ground import Ground
from persist.walk import Directory, Entry, walk
from town import cli, spec
from town.failure import DONE, FAILED, Failure
from town.spec import Agent, Spec
from town.terminal import say, shown, size, toml_string

LINES = 40  # of a listing that a person reads
LONGEST = 160  # characters of a path in it


class LookFailed(Failure):
    """The home could not be read to its end. What was counted before is told."""


class NoHome(Failure):
    """The agent has no living home, so there is nothing to look at."""


def command(arguments: argparse.Namespace) -> int:
    """List it for the agents that were named, or all."""
    town = spec.load(cli.spec_file(arguments))
    return lost(town, town.chosen(arguments.agents), as_json=arguments.json)


def lost(town: Spec, agents: tuple[Agent, ...], *, as_json: bool = False) -> int:
    """Print what each agent would lose; FAILED when one has no home to look at, after the others were listed."""
    ground.require_root("lost")
    with ExitStack() as stack:
        here = stack.enter_context(ground.opened(town))
        homes = {agent: _home(stack, town, agent, here) for agent in agents}
        there = [(agent, home) for agent, home in homes.items() if home is not None]
        whole = _put_json(town, there) if as_json else [_put_text(town, agent, home) for agent, home in there]
    return DONE if len(there) == len(agents) and all(whole) else FAILED


def look(agent: Agent, home: int, tree: Tree) -> Iterator[Entry]:
    """Walk an open home into `tree`; yields the entries that a reboot takes and that a path can name."""
    left_to_store = {bytes(entry.path) for entry in agent.persist if not entry.apart}
    copied = {bytes(entry.path) for entry in agent.persist if entry.copied}
    deepest = max((len(entry.path.parts) for entry in agent.persist), default=0)

    def enter(directory: Directory, name: bytes) -> bool:
        # A bound path is a mount, where the walk stops by itself; when it is none it is gone into and counted apart.
        return directory.depth >= deepest or directory.path(name) not in left_to_store

    try:
        for event in walk(home, enter, tree.mounted):
            if isinstance(event, Directory):
                tree.enter(event)
            elif copied and event.directory.depth < deepest and event.directory.path(event.name) in copied:
                continue  # the next sync copies it out
            elif tree.add(event):
                yield event
    except (Failure, OSError) as error:  # what was counted so far is still told, and the next agent is looked at
        tree.failed = error
        failure = error if isinstance(error, Failure) else LookFailed(str(error.strerror or error))
        cli.tell("persist", failure, about=agent.name)
    tree.sum()


def tree_for(agent: Agent) -> Tree:
    """An empty tree that knows the agent's bound paths."""
    return Tree([bytes(entry.path) for entry in agent.persist if entry.bound])


def _home(stack: ExitStack, town: Spec, agent: Agent, here: Ground) -> int | None:
    try:
        home = stack.enter_context(entering.maybe_home(town, agent, here))
        if home is None:
            path = shown(str(town.home(agent)))
            raise NoHome(f"{agent.name} has no home at {path}", hint=f"persist restore {agent.name} makes it")
    except Failure as failure:
        cli.tell("persist", failure)
        return None
    return home


def _put_text(town: Spec, agent: Agent, home: int) -> bool:
    tree = tree_for(agent)
    for _ in look(agent, home, tree):
        pass
    lines = fold.lines(tree)
    path = shown(str(town.home(agent)))
    least = "at least " if tree.failed else ""
    print(f"{agent.name}: {least}{_sum(tree.root.bytes, tree.root.files)} in {path} {_fate(town)}")
    for line in lines[:LINES]:
        print(f"  {_line(line)}")
    if rest := lines[LINES:]:
        counted = _sum(sum(line.bytes for line in rest), sum(line.files for line in rest))
        print(f"  {len(rest):,} more lines, each smaller: {counted}")
    if tree.regenerated.files:
        print(f"  back by itself (identity install): {_sum(tree.regenerated.bytes, tree.regenerated.files)}")
    _put_proposals(agent, tree)
    _warn_of_unbound(town, agent, tree)
    for path_ in _foreign(agent, tree):
        cli.warn("persist", f"{agent.name}: something is mounted at {_short(path_)}; what lies below was not counted")
    return tree.failed is None


def _foreign(agent: Agent, tree: Tree) -> list[bytes]:
    """Mounts in the home that are none of ours."""
    ours = {bytes(entry.path) for entry in agent.persist if entry.bound}
    return [path for path in tree.mounted if path not in ours]


def _fate(town: Spec) -> str:
    if town.town.btrfs is not None:
        return "would be lost at the next boot"
    return "outside every declared path (the town has no [town.btrfs]: no boot of its own takes that)"


def _put_proposals(agent: Agent, tree: Tree) -> None:
    proposed = fold.proposals(tree, [entry.path for entry in agent.persist])
    if proposed:
        kinds = ", ".join(dict.fromkeys(kind for _, kind in proposed))
        say(f"{agent.name}: worth keeping ({kinds}): add these to persist under [agents.{agent.name}]")
        print(f"persist = [{', '.join(toml_string(str(path)) for path, _ in proposed)}]")


def _warn_of_unbound(town: Spec, agent: Agent, tree: Tree) -> None:
    fate = "would be lost too" if town.town.btrfs is not None else "is in the home alone"
    for aside in _filled(tree):
        cli.warn(
            "persist",
            f"{agent.name}: {shown(aside.path)} is declared but not bound: {_sum(aside.bytes, aside.files)} in it "
            f"{fate}",
            "move it aside, persist restore, then copy it back",
        )


def _filled(tree: Tree) -> list[Aside]:
    return [aside for aside in tree.unbound.values() if aside.files]


def _sum(bytes_: int, files: int) -> str:
    return f"{size(bytes_)}, {files:,} file{'' if files == 1 else 's'}"


def _line(line: Line) -> str:
    if line.kind == "file":
        return f"{_short(line.path)}  {_sum(line.bytes, line.files)}"
    name = _short(line.path) + ("" if line.path.endswith(b"/*") else "/…")
    kind = "" if line.kind == "directory" else f"  ({line.kind})"
    return f"{name}  {_sum(line.bytes, line.files)}{kind}"


def _short(path: bytes) -> str:
    text = shown(path)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _put_json(town: Spec, homes: list[tuple[Agent, int]]) -> list[bool]:
    # Written while it is read: a home of a million files is never held whole.
    whole = []
    print('{"agents": [')
    for position, (agent, home) in enumerate(homes):
        tree = tree_for(agent)
        head = {"agent": agent.name, "home": cli.named(bytes(town.home(agent)))}
        print(f'{"," if position else ""}{json.dumps(head)[:-1]}, "entries": [')
        _put_entries(agent, home, tree)
        print(f"], {json.dumps(_summary(agent, tree))[1:]}")
        whole.append(tree.failed is None)
    print(f'], "wiped_at_boot": {json.dumps(town.town.btrfs is not None)}}}')
    return whole


def _put_entries(agent: Agent, home: int, tree: Tree) -> None:
    before = ""
    for entry in look(agent, home, tree):
        counted = int(entry.kind not in ("directory", "subvolume"))
        line = Line(entry.directory.path(entry.name), entry.kind, entry.bytes, counted)
        print(before + json.dumps(_entry(line)))
        before = ","
    for deep in tree.deep:
        print(before + json.dumps(_entry(Line(deep.path, "too deep", deep.bytes, deep.files))))
        before = ","


def _entry(line: Line) -> dict[str, object]:
    return {"path": cli.named(line.path), "bytes": line.bytes, "files": line.files, "kind": line.kind}


def _summary(agent: Agent, tree: Tree) -> dict[str, object]:
    proposed = fold.proposals(tree, [entry.path for entry in agent.persist])
    return {
        "whole": tree.failed is None,
        "mounted": [cli.named(path) for path in _foreign(agent, tree)],
        "bytes": tree.root.bytes,
        "files": tree.root.files,
        "folded": [_entry(line) for line in fold.lines(tree)],
        "regenerated": {"bytes": tree.regenerated.bytes, "files": tree.regenerated.files},
        "unbound": [_entry(Line(aside.path, "directory", aside.bytes, aside.files)) for aside in _filled(tree)],
        "persist": [{"path": cli.named(bytes(path)), "kind": kind} for path, kind in proposed],
    }
