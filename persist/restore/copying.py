"""Declared files of a plan: copied into the home whole, or kept where nothing was kept of them yet."""

from persist import copies
from persist.restore import site as site_
from persist.restore.actions import CopyIn, CopyOut, HidesData
from persist.restore.site import STOP, Site
from town import files
from town.terminal import shown


def copy(site: Site, action: CopyIn | CopyOut) -> str:
    """Do it; what there is to add to its own line. Raises Failure, OSError."""
    entry = action.entry
    with site_.home(site) as home, site_.apart(site, entry) as below:
        if isinstance(action, CopyOut):
            done = copies.out(site.spec, site.agent, entry, home, below, was_there=False)
        else:
            done = _into(site, action, home, below)
        if done:
            copies.settled(home)  # else a power cut could leave the note alone, and the file would pass for removed
            copies.note(site.spec, site.agent, home, entry.path)
    return "" if done else "there is none"


def _into(site: Site, action: CopyIn, home: int, below: int) -> bool:
    entry = action.entry
    with files.opened(site_.made_in_home(site, home, entry.path.parent)) as parent:
        try:
            return copies.into(site.spec, site.agent, entry, home, below, parent, over=action.over)
        except FileExistsError as error:
            raise HidesData(f"{shown(str(action.target))} appeared while it was being copied", hint=STOP) from error
