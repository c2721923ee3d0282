"""What the next commit keeps of the newest state without reading it here: paths that were not read, or not declared.

A path that leaves the spec, by mistake perhaps, stays in the newest state: declared again, it is restored from there.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from persist.bucket import content, trees
from persist.bucket.blobs import Reader
from persist.bucket.commits import Commit, Top
from persist.bucket.keys import AgentKeys
from persist.bucket.packs import Pack
from persist.bucket.trees import Entry
from persist.store import Store, StoreDamaged

if TYPE_CHECKING:
    from persist.sync.seen import Head
    from persist.sync.session import Session


def undeclared(
    commit: Commit, declared: Collection[PurePosixPath], tops: Iterable[Top]
) -> tuple[tuple[Top, ...], tuple[Top, ...]]:
    """The paths of a commit that are not declared: those that stay in the next one, and those that give way to `tops`.

    Paths of a commit never overlap, so one that another of the next holds, or that holds one, cannot stand beside it.
    """
    paths = [top.path for top in tops]
    others = [top for top in commit.root if top.path not in declared]
    giving_way = tuple(top for top in others if any(overlap(top.path, path) for path in paths))
    return tuple(top for top in others if top not in giving_way), giving_way


def overlap(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether two declared paths are the same, or one lies in the other."""
    return one.is_relative_to(other) or other.is_relative_to(one)


def packs(tops: Iterable[Top], commit: Commit, store: Store, keys: AgentKeys) -> set[Pack]:
    """The packs of `commit` that hold the pieces of `tops`; all of them where a piece cannot be found.

    Reads listings, no file. Without this a commit would name every pack of before for as long as it carries a path.
    """
    reader, where = Reader(store, keys), dict[bytes, Pack]()
    try:
        for pack in commit.packs:
            where |= dict.fromkeys(reader.load(pack), pack)
        return {where[id_] for top in tops for id_ in _pieces(reader, top)}
    except (StoreDamaged, KeyError):
        return set(commit.packs)


def copied(top: Top, head: "Head", session: "Session") -> Top:
    """The same path of an earlier epoch, its pieces under the keys of this one. Raises StoreDamaged."""
    reader = Reader(session.bucket.store, head.keys)
    reader.load_all(head.packs)
    return replace(top, entry=_copied(top.entry, reader, session))


def _copied(entry: Entry, reader: Reader, session: "Session") -> Entry:
    """An entry with everything below it, from the deepest directory up, without a call for each level."""
    assert entry.content is not None, "a declared path is a directory"
    done: list[list[Entry]] = [[]]
    way: list[tuple[Entry, Iterator[Entry]]] = [(entry, trees.read(reader, entry.content))]
    while True:
        at, left = way[-1]
        below = next(left, None)
        if below is None:
            way.pop()
            made = replace(at, content=trees.write(session.writer, done.pop()))
            if not way:
                return made
            done[-1].append(made)
        elif below.kind == "dir" and below.content is not None:
            way.append((below, trees.read(reader, below.content)))
            done.append([])
        elif below.content is not None:
            pieces = content.read(reader, "data", below.content)
            done[-1].append(replace(below, content=content.write(session.writer, "data", pieces)))
        else:
            done[-1].append(below)


def _pieces(reader: Reader, top: Top) -> Iterator[bytes]:
    """The id of every piece of a declared path."""
    pending = [top.entry.content]
    while pending:
        listing = pending.pop()
        assert listing is not None, "only directories are pending"
        yield from content.ids(reader, listing)
        for entry in trees.read(reader, listing):
            if entry.kind == "dir":
                pending.append(entry.content)
            elif entry.content is not None:
                yield from content.ids(reader, entry.content)
