"""An empty directory, filled from the store: what the listings of a declared path say is made, by descriptors.

First the listings are read whole into a plan on disk (`atlas`, `listings`, `plan`) and checked; then directories are
made, files are written in the order of the packs (`writing`), and what needs no store comes last (`ending`). The
directory is one that only root can reach, so a name stays what it was made as. Names come from listings that were
authenticated, and are checked all the same: one component each, ascending, so nothing is written outside or twice.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from persist.bucket.commits import Top
from persist.bucket.trees import Entry
from persist.fill.atlas import Atlas
from persist.fill.ending import Ending
from persist.fill.facts import CannotMake, Facts, Totals, naming
from persist.fill.ledger import Claim, Ledger
from persist.fill.left import Left
from persist.fill.levels import Levels
from persist.fill.listings import Listings
from persist.fill.made import Made
from persist.fill.plan import Making, Plan, Room
from persist.fill.syncing import syncing
from persist.fill.writing import Writing
from persist.store import StoreDamaged
from town import files
from town.failure import Unsafe
from town.terminal import shown

if TYPE_CHECKING:
    from persist.bucket.keys import AgentKeys
    from persist.progress import Progress
    from persist.store import Store

__all__ = ["CannotMake", "Facts", "Going", "Made", "NotSame", "Room", "Source", "Totals", "fill", "fill_one"]

_MUCH = 16 << 20  # bytes that were fetched


class NotSame(Unsafe):
    """What an interrupted restore left is not what it had written; begin anew."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where pieces come from: a store, keys, and the atlas of a state's packs, made when it is first asked for."""

    store: "Store"
    keys: "AgentKeys"
    atlas: Callable[[], Atlas]


@dataclass(frozen=True, slots=True)
class Going:
    """What makes a restore one that can be gone on with: its ledger, and the claim that is or will be in it."""

    ledger: Ledger
    claim: Claim
    begun: bool


def fill(
    source: Source,
    top: Top,
    into: int,
    facts: Facts,
    scratch: Path,
    *,
    going: Going | None = None,
    tell: Callable[[Made], None] | None = None,
    progress: "Progress | None" = None,
    fits: Callable[[Room], None] | None = None,
) -> Totals:
    """Fill the directory `into` with a declared path, then give it its own facts.

    It is empty, or what `going` had begun there. `scratch`: a directory of root's for a plan that is not kept. `tell`
    is told what was made, at the very end; only with `going`, for it reads the plan. `fits` is told what it will take,
    before anything is made, and may raise. Raises StoreDamaged, StoreUnreachable, CannotMake, Unsafe, NotSame, OSError.
    """
    assert tell is None or going is not None
    began, requests = time.monotonic(), source.store.requests
    if going is None or not going.begun:
        _refuse_filled(into)

    def made(path: Path) -> Totals:
        return _planned(source, path, top)

    with _naming(scratch, going), _plan(scratch, made, going) as (plan, totals, read):
        if fits is not None:
            fits(plan.room())
        done, there = _carried_out(source, plan, into, facts, look=tell is not None, going=going, progress=progress)
        with naming(top.entry.name):
            facts.give(into, top.entry)
        if tell is not None and there is not None:
            tell(there)
    took = time.monotonic() - began
    return replace(totals, fetched=read + done, requests=source.store.requests - requests, seconds=took)


def fill_one(
    source: Source,
    entry: Entry,
    most: tuple[int, int],
    into: int,
    facts: Facts,
    scratch: Path,
    *,
    progress: "Progress | None" = None,
) -> Totals:
    """Make one entry, whatever it is, in the empty directory `into`; it holds `most` (files, bytes) at most."""
    began, requests = time.monotonic(), source.store.requests
    _refuse_filled(into)

    def made(path: Path) -> Totals:
        return _planned(source, path, entry, most)

    with _naming(scratch, None), _plan(scratch, made, None) as (plan, totals, read):
        done, _ = _carried_out(source, plan, into, facts, look=False, progress=progress)
    took = time.monotonic() - began
    return replace(totals, fetched=read + done, requests=source.store.requests - requests, seconds=took)


def _refuse_filled(into: int) -> None:
    if files.names(into):
        raise Unsafe("the directory to restore into is not empty")


@contextmanager
def _naming(scratch: Path, going: Going | None) -> Iterator[None]:
    """What sqlite cannot do, in words: a plan of before is of no use then, a new one has no room."""
    try:
        yield
    except sqlite3.Error as error:
        if going is not None and going.begun:
            raise NotSame("the plan of an interrupted restore cannot be read") from error
        raise CannotMake(
            f"the plan of the restore cannot be kept in {shown(str(scratch))}: {shown(str(error))}",
            hint="make room on its disk, and below /var/tmp, then restore again",
        ) from error


@contextmanager
def _plan(scratch: Path, made: Callable[[Path], Totals], going: Going | None) -> Iterator[tuple[Plan, Totals, int]]:
    """The plan, open; what it holds; and how many bytes were read to make it."""
    if going is None:
        path = scratch / f"once-{secrets.token_hex(8)}.plan"
        totals = made(path)
        plan = Plan(path)
        path.unlink()
    elif going.begun:
        plan, claim = Plan(going.ledger.plan), going.claim
        totals = Totals(claim.files, claim.directories, claim.bytes)
        going.ledger.go_on(going.ledger.after() or 0)
    else:
        totals = made(going.ledger.plan)
        plan = Plan(going.ledger.plan)
        claim = replace(going.claim, files=totals.files, directories=totals.directories, bytes=totals.bytes)
        going.ledger.begin(claim)
    try:
        yield plan, replace(totals, fetched=0), totals.fetched
    finally:
        plan.close()
        if going is not None:
            going.ledger.close()


def _planned(source: Source, path: Path, what: Top | Entry, most: tuple[int, int] | None = None) -> Totals:
    """Make the plan of a declared path, which must hold just what its commit says, or of one entry."""
    atlas = source.atlas()
    making, whole = Making(atlas, path), False
    try:
        if isinstance(what, Top):
            assert what.entry.content is not None
            listings = Listings(atlas, making, files=what.files, bytes_=what.bytes)
            listings.below(what.entry.content)
            if (listings.files, listings.bytes) != (what.files, what.bytes):
                raise StoreDamaged("the listings hold another number of files or bytes than their commit says")
        else:
            assert most is not None
            listings = Listings(atlas, making, files=most[0], bytes_=most[1])
            listings.one(what)
        making.finish()
        whole = True
    finally:
        making.close(whole=whole)
    return replace(listings.totals(), fetched=listings.fetched)


def _carried_out(
    source: Source,
    plan: Plan,
    into: int,
    facts: Facts,
    *,
    look: bool,
    going: Going | None = None,
    progress: "Progress | None" = None,
) -> tuple[int, Made | None]:
    """Make everything that a plan says; bytes that were fetched for it, and with `look` what lies there now."""
    _make_plain(into)
    again = going is not None and going.begun
    after = (going.ledger.after() or 0) if going is not None else 0
    levels = Levels(into, plan.above)
    try:
        if going is not None and again and not Left(plan, levels, after, going.ledger.kept()).holds(source.keys):
            raise NotSame("what an interrupted restore wrote is not there any more")
        ending = Ending(plan, levels, facts, again=again)
        writing = Writing(plan, levels, facts, None if going is None else going.ledger, again=again)
        with closing(writing.fetched_from(source.store, source.keys, after)) as frames:
            ending.directories()
            writing.run(frames, source.keys, after, progress)
        # Of much the disk takes its part while directories are looked at: the caller's syncfs finds little left.
        with syncing(into) if writing.fetched >= _MUCH else nullcontext():
            ending.names()
            return writing.fetched, ending.facts(look=look)
    finally:
        levels.close()


def _make_plain(into: int) -> None:
    """What is made in a directory takes its group and its default ACL, where it was given some by whoever is above."""
    os.fchown(into, os.geteuid(), os.getegid())
    os.fchmod(into, 0o700)
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        with suppress(OSError):  # none, or a filesystem without
            os.removexattr(into, name)
