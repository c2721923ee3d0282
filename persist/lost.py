"""`persist lost`: what the next reboot takes, everything in the living home that no declared path covers.

On btrfs the filesystem is asked (persist/searched.py), elsewhere a walk looks. No program is run for it, git least of
all: what git work trees hold alone is read by a few lines of our own, after the listing, for a bounded time.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from time import monotonic

from persist import entering, finding, fold, git, ground, lostwords, reinstalled, searched, since, unsynced
from persist.finding import Finding
from persist.fold import Line, Tree
from persist.ground import Ground
from persist.since import ALL, Since
from persist.walk import Directory, Entered, Entry, walk
from town import btrfs, cli, files, kernel, spec
from town.failure import DONE, FAILED, Failure, Unsafe, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

GIT_SECONDS, GIT_TREES = 5.0, 200  # for all git work trees of an agent
_OFTEN = 256  # entries between two looks at the clock
_MARKED = 10_000  # directories: 0.1 s
_PEEK = os.O_PATH | os.O_NOFOLLOW


class LookFailed(Failure):
    """The home could not be read to its end. What was counted before is told."""


class NoHome(Failure):
    """The agent has no living home, so there is nothing to look at."""


def command(arguments: argparse.Namespace) -> int:
    """List it for the agents that were named, or all; or what went with the last reboot; or write it down for then."""
    from persist import last

    town = spec.load(cli.spec_file(arguments))
    agents = town.chosen(arguments.agents)
    if arguments.tree and (arguments.json or arguments.record):
        raise WrongUsage(f"--tree and --{'json' if arguments.json else 'record'} do not go together")
    ground.require_root("lost")
    if arguments.record:
        return last.record(town, agents)
    if arguments.last:
        return last.tell(town, agents, as_json=arguments.json, as_tree=arguments.tree)
    return lost(town, agents, since_=arguments.since, as_json=arguments.json, as_tree=arguments.tree)


def lost(
    town: Spec, agents: tuple[Agent, ...], *, since_: str | None = None, as_json: bool = False, as_tree: bool = False
) -> int:
    """Print what each agent would lose; FAILED when one has no home to look at, after the others were listed."""
    now = datetime.now(UTC)
    bounds = {agent: ALL if since_ is None else since.read(town, agent, since_, now) for agent in agents}
    with ExitStack() as stack:
        here = stack.enter_context(ground.opened(town))
        homes = {agent: _home(stack, town, agent, here) for agent in agents}
        there = [(agent, home) for agent, home in homes.items() if home is not None]
        if as_json:
            whole = _put_json(town, there, bounds)
        else:
            whole = [_put_text(town, agent, home, bounds[agent], as_tree=as_tree) for agent, home in there]
    return DONE if len(there) == len(agents) and all(whole) else FAILED


def look(agent: Agent, home: int, tree: Tree, bound: Since = ALL, seconds: float | None = None) -> Iterator[Entry]:
    """Look through an open home into `tree`; yields the entries that a reboot takes and that a path can name.

    `seconds`: after so many it ends, as where the home cannot be read further.
    """
    left_to_store = {bytes(entry.path) for entry in agent.persist if not entry.apart}
    copied = {bytes(entry.path) for entry in agent.persist if entry.copied}
    deepest = max((len(entry.path.parts) for entry in agent.persist), default=0)
    until = None if seconds is None else monotonic() + seconds

    def enter(directory: Directory, name: bytes) -> bool:
        # A bound path is a mount, where the look stops by itself; when it is none it is gone into and counted apart.
        return directory.depth >= deepest or directory.path(name) not in left_to_store

    try:
        for number, event in enumerate(_events(agent, home, enter, tree.mounted, bound), start=1):
            if until is not None and number % _OFTEN == 0 and monotonic() > until:
                raise LookFailed(f"it took longer than {seconds:.0f} s")
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
    if tree.part:
        _mark_work_trees(home, tree)
    tree.sum()


def _mark_work_trees(home: int, tree: Tree) -> None:
    """What is new in a work tree lies beside a `.git` that may be old, and was not met."""
    stay = files.BENEATH | kernel.RESOLVE_NO_XDEV
    for directory in tree.unmarked()[:_MARKED]:
        with suppress(OSError, Unsafe), files.opened(kernel.openat2(home, directory.path(b".git"), _PEEK, 0, stay)):
            tree.mark(directory, b".git")


def _events(agent: Agent, home: int, enter: Entered, mounted: list[bytes], bound: Since) -> Iterator[Entry | Directory]:
    """What lies in the home: asked of the filesystem, where that is not more work than to go and look."""
    # Of all that there is, a search could not pass over a plain directory.
    plain = not bound.words and any(_is_plain(home, entry.path) for entry in agent.persist if not entry.apart)
    by_search = not plain and searched.ready(home, written=bool(bound.words))
    if by_search:
        mounted += searched.mounted(home)
        near = since.nearer(bound, home)
        events = searched.search(home, enter, mounted, since=near.transid, changed=0 if near.exact else near.time)
    else:
        events = walk(home, enter, mounted)
    for event in events:
        if isinstance(event, Directory) or bound.new(event, searched=by_search):
            yield event


def _is_plain(home: int, path: PurePosixPath) -> bool:
    """Whether a declared directory is one of the home's own subvolume."""
    with suppress(Failure, OSError), entering.down(home, path, Path()) as fd:
        return fd is not None and not btrfs.is_subvolume(fd)
    return False


def tree_for(town: Spec, agent: Agent, home: int, bound: Since = ALL) -> Tree:
    """An empty tree that knows the agent's bound paths, and what is installed in its home."""
    paths = [bytes(entry.path) for entry in agent.persist if entry.bound]
    return Tree(paths, reinstalled.read(town, agent, home), part=bool(bound.words))


def git_facts(home: int, called: bytes, tree: Tree, seconds: float) -> tuple[git.Facts, ...]:
    """What the git work trees of a tree hold alone, those at stake first; what takes too long is not known."""
    until = monotonic() + seconds
    paths = fold.work_trees(tree)
    found = list[git.Facts]()
    for number, path in enumerate(paths):
        left = until - monotonic()
        if number >= GIT_TREES or left <= 0:
            found.append(git.Facts(path, unknown=("it took too long" if left <= 0 else "not looked at",)))
            continue
        found.append(git.look(home, path, left, called))
    return tuple(sorted(found, key=lambda facts: not facts.at_stake))


def judged(town: Spec, agent: Agent, home: int, tree: Tree, found: Finding, seconds: float | None = None) -> Finding:
    """The same with what takes longer: git work trees, what would be worth keeping, what the store does not have."""
    facts = git_facts(home, bytes(town.home(agent)), tree, GIT_SECONDS if seconds is None else seconds)
    elsewhere = {one.path for one in facts if not one.at_stake}
    empty = {one.path for one in facts if one.empty}
    proposed = fold.proposals(tree, [entry.path for entry in agent.persist], elsewhere, empty)
    return replace(found, git=facts, persist=tuple(proposed), unsynced=tuple(unsynced.look(town, agent, home)))


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


# ---- as text


def _put_text(town: Spec, agent: Agent, home: int, bound: Since, *, as_tree: bool) -> bool:
    tree = tree_for(town, agent, home, bound)
    for _ in look(agent, home, tree, bound):
        pass
    found = finding.of(agent, bytes(town.home(agent)), tree)
    lostwords.put_listing(found, f"{bound.words} would be lost at the next boot".strip(), tree if as_tree else None)
    found = judged(town, agent, home, tree, found)
    lostwords.put_judged(found)
    lostwords.warn(town, found)
    return found.whole


# ---- as JSON


def _put_json(town: Spec, homes: list[tuple[Agent, int]], bounds: dict[Agent, Since]) -> list[bool]:
    # Written while it is read: a home of a million files is never held whole.
    whole = []
    print('{"agents": [')
    for position, (agent, home) in enumerate(homes):
        tree = tree_for(town, agent, home, bounds[agent])
        head = {"agent": agent.name, "home": cli.named(bytes(town.home(agent))), "since": bounds[agent].words or None}
        print(f'{"," if position else ""}{json.dumps(head)[:-1]}, "entries": [')
        put_entries(tree, look(agent, home, tree, bounds[agent]))
        found = judged(town, agent, home, tree, finding.of(agent, bytes(town.home(agent)), tree, most=sys.maxsize))
        print(f"], {json.dumps(finding.summary(found))[1:]}")
        whole.append(found.whole)
    # True of every town: without [town.btrfs] the first restore of a boot sets homes aside.
    print('], "wiped_at_boot": true}')
    return whole


def put_entries(tree: Tree, entries: Iterator[Entry]) -> None:
    """Each entry as a line of a JSON list, with a comma before all but the first."""
    before = ""
    for entry in entries:
        counted = int(entry.kind not in ("directory", "subvolume"))
        line = Line(entry.directory.path(entry.name), entry.kind, entry.bytes, counted)
        print(before + json.dumps(finding.entry(line)))
        before = ","
    for directory, deep in tree.deep.items():
        print(before + json.dumps(finding.entry(Line(directory.path(), "too deep", deep.bytes, deep.files))))
        before = ","
