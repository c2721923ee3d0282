"""A home that is a plain directory of @agents: what keeps it is a subvolume that is made of it, whole.

Such a home cannot leave the subvolume that it lies in. A snapshot of that has it, without what is nested in it; then
all else is taken out, what is nested filled in, and the home raised to be all of it.
"""

import os
from contextlib import suppress

from persist import copied, fitting, nested
from persist.recopied import Copy
from town import btrfs, files, subvolumes
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shown

_MOST = 1 << 16  # nested subvolumes, each a millisecond or two


class TooManyNested(Failure):
    """More subvolumes are nested in the home than are kept. Nothing was changed."""


def keep(agents: int, entry: int, home: str, name: str) -> None:
    """Make a subvolume of the home called `home`, as `name` in an open directory of root's: whole, or not at all.

    Raises TooManyNested, OSError, btrfs.BtrfsFailed.
    """
    making = f".new-{name}"
    for left in (making, name):
        with suppress(FileNotFoundError):
            subvolumes.remove(entry, left)
    with files.opened(btrfs.snapshot(agents, entry, making, read_only=False)) as whole:
        os.fchmod(whole, 0o700)
        _alone(agents, whole, home)
        with files.opened(files.enter(whole, home)) as inside:
            owner = os.fstat(inside)
            copy = Copy(inside, home, 0)
            fitting.raised(copy)
            os.fchown(copy.home, owner.st_uid, owner.st_gid)
    os.rename(making, name, src_dir_fd=entry, dst_dir_fd=entry)


def _alone(agents: int, copy: int, home: str) -> None:
    """Leave only the home in a snapshot of @agents, and fill in all that is nested in it."""
    for other in files.names(copy):
        if other != os.fsencode(home):
            subvolumes.remove(copy, other)
    if left := nested.fill(agents, copy, most=_MOST):
        raise TooManyNested(
            f"{shown(home)}: {left:,} of the subvolumes nested in its home could not be kept",
            hint="btrfs subvolume list -o says where they are: delete some",
        )


def follow(town: Spec, agent: Agent, home: str, kept: int) -> None:
    """Declared files are brought over from the open subvolume that was made of the home of this identity.

    Raises OSError, Failure.
    """
    known = copied.known(town, agent)
    if copied.is_plain(home) and known.home == home:
        copied.keep(town, agent, copied.of_home(kept)._replace(paths=known.paths))
