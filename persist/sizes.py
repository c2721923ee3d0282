"""How much room a kept home takes that nothing else needs: what deleting it would free."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

from persist import exclusive, kept
from persist.descent import Entered, Left, Met, descend
from persist.exclusive import Freed, Trees
from persist.kept import HOME, PERSISTED, Kept
from persist.shelves import Shelves
from persist.walk import KeepsChanging
from town import btrfs, files
from town.failure import Failure
from town.spec import Spec

AT_ONCE = 2.0  # seconds for all of a list, where a person did not ask for sizes
FOR_EVER = 1e9
_BLOCK = 512  # of st_blocks, stat(2)


def of_all(town: Spec, where: Shelves, homes: Sequence[Kept], seconds: float) -> Iterator[tuple[Kept, Freed | None]]:
    """Each with what deleting it would free, None where that cannot be said; so many seconds for all of them."""
    until, top = time.monotonic() + seconds, where.agents if where.top is None else where.top
    trees = None if top is None else Trees(top)
    for number, home in enumerate(homes):
        left = until - time.monotonic()
        # What one has to read is mostly what the next needs too.
        share = max(0.0, left / min(2, len(homes) - number))
        yield home, None if trees is None else _freed(town, where, home, trees, time.monotonic() + share)


def _freed(town: Spec, where: Shelves, home: Kept, trees: Trees, until: float) -> Freed | None:
    try:
        with kept.opened(town, where.top, home, where.agents) as there:
            if home.kind != "aside":
                return _entry(there.entry, trees, until)
            return _subvolumes([there.fd], trees, until) if home.subvolume else _plain(there.fd, until)
    except (OSError, Failure):  # it went meanwhile, or cannot be read
        return None


def _entry(entry: int, trees: Trees, until: float) -> Freed:
    """Of a home with what was persisted beside it."""
    with ExitStack() as stack:
        roots = list[int]()
        for name in (HOME, PERSISTED):
            with suppress(FileNotFoundError):
                roots.append(stack.enter_context(files.opened(files.enter(entry, name))))
        whole = [fd for fd in roots if btrfs.is_subvolume(fd)]
        found = [_subvolumes(whole, trees, until)] if whole else []
        found += [_plain(fd, until) for fd in roots if fd not in whole]
    return Freed(
        sum(one.data for one in found),
        sum(one.metadata for one in found),
        sum(one.doubtful for one in found),
        all(one.whole for one in found),
    )


def _subvolumes(roots: Sequence[int], trees: Trees, until: float) -> Freed:
    return trees.freed(exclusive.everything(roots[0], map(btrfs.number, roots)), until)


def _plain(top: int, until: float) -> Freed:
    """Of a plain directory: what its files take. On btrfs they may share that with others."""
    total, whole = 0, True
    links: dict[tuple[int, int], int] = {}  # names that are missing, of files with several

    def too_deep(*_where: object) -> None:
        nonlocal whole
        whole = False

    try:
        for event in descend(top, gone=_ignore, mounted=_ignore, deeper=too_deep):
            if time.monotonic() > until:
                whole = False
                break
            match event:
                case Met(_, _, fd):
                    total += _taken(os.fstat(fd), links)
                case Entered() | Left():
                    pass
    except KeepsChanging:
        whole = False
    return Freed(doubtful=total, whole=whole) if btrfs.is_btrfs(top) else Freed(data=total, whole=whole)


def _taken(found: os.stat_result, links: dict[tuple[int, int], int]) -> int:
    """Bytes that go with a name: those of a file when its last name was met."""
    if found.st_nlink > 1:
        key = (found.st_dev, found.st_ino)
        links[key] = links.get(key, found.st_nlink) - 1
        if links[key] > 0:
            return 0
    return found.st_blocks * _BLOCK


def _ignore(_path: bytes) -> None:
    pass
