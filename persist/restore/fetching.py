"""A directory that comes from the store: filled in a staging beside its place, then shown whole, in one moment.

What was there, where a person named the state to bring back, is set aside in the same moment and never removed here.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from persist import entering, places
from persist.lineage import Candidate
from persist.restore import carry, staging
from persist.restore import site as site_
from persist.restore.actions import Fetch, when
from persist.restore.origins import Origin
from persist.restore.site import PARENTS, ROOT, RestoreFailed, Site
from town import btrfs, files
from town.failure import TryLater
from town.terminal import shown

if TYPE_CHECKING:
    from persist.fetch import Begun


def fetch_source(site: Site, action: Fetch) -> str:
    """Fetch what lies apart from the home: into the agent's directory under persist_dir. What there is to say of it."""
    path = action.entry.path

    def show(base: int, stage: staging.Stage) -> str:
        with files.opened(site_.made_parents(site, base, path.parent)) as parent:
            return _shown(site, action, base, stage, parent)

    with site_.apart(site, action.entry) as below:
        _refuse_other(site, action)
        return _fetched(site, action, below, show)


def _refuse_other(site: Site, action: Fetch) -> None:
    """A file that was a directory when it was synced, or the reverse: neither takes the place of the other."""
    entry, top = action.entry, action.held.top(action.entry.path).entry
    if entry.copied and top.owner != "root":
        raise RestoreFailed(
            f"{shown(str(entry.path))} was a directory in {shown(action.held.snapshot)}, and the spec declares a file",
            hint=f"persist get {site.agent.name}@{action.held.snapshot} {shown(str(entry.path))} --to DIR gives it",
        )


def fetch_home(site: Site, action: Fetch) -> str:
    """Fetch into the home itself."""
    path = action.entry.path

    def show(base: int, stage: staging.Stage) -> str:
        with files.opened(site_.made_in_home(site, base, path.parent)) as parent:
            aside = _shown(site, action, base, stage, parent)
        site_.refuse_swapped(site, base, path, stage.inside)
        return aside

    with site_.home(site) as home:
        return _fetched(site, action, home, show)


Show = Callable[[int, staging.Stage], str]


def _fetched(site: Site, action: Fetch, base: int, show: Show) -> str:
    """Fetch into a staging in `base`, one that was left by an interrupted restore of the same where there is one."""
    from persist import fetch

    held, path = action.held, action.entry.path
    held.take()
    ledger, begun = held.ledger(path), held.begun(path)
    if begun is not None:
        try:
            return _staged(site, action, base, show, begun, again=True)
        except (staging.Gone, fetch.NotSame):
            ledger.clear()
    ledger.clear()
    return _staged(site, action, base, show, fetch.Begun.fresh(staging.hidden()), again=False)


def _staged(site: Site, action: Fetch, base: int, show: Show, begun: "Begun", *, again: bool) -> str:
    from persist import fetch
    from persist import live as live_

    held, path = action.held, action.entry.path
    ledger = held.ledger(path)

    def keep(error: BaseException) -> bool:
        # What a later try may cure goes on from here; after anything else nothing of it stays.
        later = isinstance(error, TryLater) or not isinstance(error, Exception)
        if not (later and ledger.claim() is not None):
            ledger.clear()
            return False
        return True

    make = staging.plain if action.entry.apart else staging.subvolume
    with staging.kept(base, begun.stage, begun.token, again=again, make=make, keep=keep) as stage:
        totals = fetch.fetch(
            held, path, stage.inside, site.agent.person, begun=begun, going_on=again, index=True
        )  # fmt: skip
        with _live(site, action, base) as live:
            carried = _carried(site, action, live, stage.inside)
            aside = show(base, stage)
            if live is not None:
                live_.settle(site.agent, action.entry, live, stage.inside, carried)
    fetch.note(held, path)
    ledger.clear()
    site.origins[path] = Origin("fetched", held.snapshot, held.host, when(held))
    return f"{totals}{f'; {aside}' if aside else ''}"


@contextmanager
def _live(site: Site, action: Fetch, base: int) -> Iterator[int | None]:
    """The directory that gives way, or that the home before had, open: what is a live copy in it stays in use."""
    from persist.restore import before
    from persist.sync import declared

    entry = action.entry
    if entry.copied or not any(declared.parts(entry)):
        yield None
    elif not action.over:
        with before.directory(site.spec, site.agent, entry, site.ground) as fd:
            yield fd
    elif entry.bound:
        with entering.source(site.spec, site.agent, entry, base) as fd:
            yield fd
    else:
        with entering.down(base, entry.path, site.spec.home(site.agent)) as fd:
            yield fd


def _carried(site: Site, action: Fetch, live: int | None, inside: int) -> tuple[PurePosixPath, ...]:
    """Take out of what was fetched what is not the store's to give, and put the live copies of it there."""
    from persist import live as live_

    entry = action.entry
    if entry.copied:
        return ()
    fetched = action.credentials == "asked" or (action.credentials == "newest" and live is None)
    live_.drop(entry, inside, credentials=fetched)
    if live is None:
        return ()
    lacking = live_.lacking(entry, inside)
    live_.carry(site.agent, entry, live, inside)
    return lacking


def _shown(site: Site, action: Fetch, base: int, stage: staging.Stage, parent: int) -> str:
    """Give what was made its name; where something has it, in exchange for that, which is set aside and named."""
    name = action.entry.path.name
    told = () if action.entry.apart else (_recorded(site, action, stage.inside),)
    if not action.over:
        staging.publish(stage.fd, stage.inside, parent, name, *told)
        return ""
    # The staging gets a name that no restore removes before anybody's data lies in it.
    beside = _set_aside(site, action, base, stage)
    staging.exchange(stage.fd, stage.inside, parent, name, *told)
    found = os.stat(staging.INSIDE, dir_fd=stage.fd, follow_symlinks=False)
    site.aside[action.entry.path] = (found.st_dev, found.st_ino)
    os.unlink(staging.TOKEN, dir_fd=stage.fd)
    os.fchown(stage.fd, *(ROOT if action.entry.apart else site.owner))
    os.fchmod(stage.fd, PARENTS if action.entry.apart else 0o700)
    top = places.above(site.spec, site.agent, action.entry)
    return f"what was there is now {shown(str(top / beside / staging.INSIDE))}"


@contextmanager
def _recorded(site: Site, action: Fetch, inside: int) -> Iterator[None]:
    """On record as going on from the newest state: who chose an older one did so with that in the store."""
    stands = Candidate(0, "", "", *action.held.stands)
    if btrfs.is_subvolume(inside):
        stands = carry.now(inside, stands)
    with carry.recorded(site.spec, site.agent, action.entry.path, inside, stands):
        yield


def _set_aside(site: Site, action: Fetch, base: int, stage: staging.Stage) -> str:
    stamp = site.now.strftime("%Y%m%dT%H%M%SZ")
    name = f"{'-'.join(action.entry.path.parts)[:150]}.before-{stamp}"
    try:
        stage.named(base, name)
    except FileExistsError:
        name = f"{name}-{secrets.token_hex(3)}"
        stage.named(base, name)
    return name
