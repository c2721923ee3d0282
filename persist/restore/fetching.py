"""A directory that comes from the store: filled in a staging beside its place, then shown whole, in one moment.

What was there, where a person named the state to bring back, is set aside in the same moment and never removed here.
"""

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from persist import places
from persist.restore import site as site_
from persist.restore import staging
from persist.restore.origins import Origin
from persist.restore.plan import Fetch, when
from persist.restore.site import PARENTS, ROOT, STOP, Site
from town import files
from town.failure import TryLater, Unsafe
from town.terminal import shown

if TYPE_CHECKING:
    from persist.fetch import Begun


def fetch_source(site: Site, action: Fetch) -> str:
    """Fetch what is bound: into the agent's directory under persist_dir. What there is to say of it."""
    path = action.entry.path

    def show(base: int, stage: staging.Stage) -> str:
        with files.opened(site_.made_parents(site, base, path.parent)) as parent:
            return _shown(site, action, base, stage, parent)

    with site_.persisted(site) as persisted:
        return _fetched(site, action, persisted, show)


def fetch_home(site: Site, action: Fetch) -> str:
    """Fetch into the home itself."""
    path = action.entry.path

    def show(base: int, stage: staging.Stage) -> str:
        with files.opened(site_.made_in_home(site, base, path.parent)) as parent:
            aside = _shown(site, action, base, stage, parent)
        with files.opened(files.open_beneath(base, path)) as there:
            if not os.path.sameopenfile(there, stage.inside):
                raise Unsafe(f"{shown(str(action.path))} was swapped while it was being put in its place", hint=STOP)
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

    held, path = action.held, action.entry.path
    ledger = held.ledger(path)

    def keep(error: BaseException) -> bool:
        # What a later try may cure goes on from here; after anything else nothing of it stays.
        later = isinstance(error, TryLater) or not isinstance(error, Exception)
        if not (later and ledger.claim() is not None):
            ledger.clear()
            return False
        return True

    with staging.kept(base, begun.stage, begun.token, again=again, keep=keep) as stage:
        totals = fetch.fetch(
            held, path, stage.inside, site.agent.person, begun=begun, going_on=again, index=True
        )  # fmt: skip
        aside = show(base, stage)
    fetch.note(held, path)
    ledger.clear()
    site.origins[path] = Origin("fetched", held.snapshot, held.host, when(held))
    return f"{totals}{f'; {aside}' if aside else ''}"


def _shown(site: Site, action: Fetch, base: int, stage: staging.Stage, parent: int) -> str:
    """Give what was made its name; where something has it, in exchange for that, which is set aside and named."""
    name = action.entry.path.name
    if not action.over:
        staging.publish(stage.fd, stage.inside, parent, name)
        return ""
    # The staging gets a name that no restore removes before anybody's data lies in it.
    beside = _set_aside(site, action, base, stage)
    staging.exchange(stage.fd, stage.inside, parent, name)
    found = os.stat(staging.INSIDE, dir_fd=stage.fd, follow_symlinks=False)
    site.aside[action.entry.path] = (found.st_dev, found.st_ino)
    os.unlink(staging.TOKEN, dir_fd=stage.fd)
    os.fchown(stage.fd, *(ROOT if action.entry.bound else site.owner))
    os.fchmod(stage.fd, PARENTS if action.entry.bound else 0o700)
    top = places.persisted(site.spec, site.agent) if action.entry.bound else site.spec.home(site.agent)
    return f"what was there is now {shown(str(top / beside / staging.INSIDE))}"


def _set_aside(site: Site, action: Fetch, base: int, stage: staging.Stage) -> str:
    stamp = site.now.strftime("%Y%m%dT%H%M%SZ")
    name = f"{'-'.join(action.entry.path.parts)[:150]}.before-{stamp}"
    try:
        stage.named(base, name)
    except FileExistsError:
        name = f"{name}-{secrets.token_hex(3)}"
        stage.named(base, name)
    return name
