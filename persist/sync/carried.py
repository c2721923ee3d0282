"""What the next commit keeps of the newest state without reading it here: paths that were not read, or not declared.

A path that leaves the spec, by mistake perhaps, stays in the newest state: declared again, it is restored from there.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath

from persist.bucket import content, trees
from persist.bucket.blobs import Reader
from persist.bucket.commits import Commit, Top
from persist.bucket.keys import AgentKeys
from persist.bucket.packs import Pack
from persist.store import Store, StoreDamaged


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
