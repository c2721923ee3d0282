"""A copy of an old home is made ready to be lived in: the agent's own again, and free where declared data belongs.

Nobody but root reaches the copy. What lies at a declared path is left out where the agent's present data comes there
(a directory of the store, a file), or steps aside where a mount would hide it.
"""

import os
import stat
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from persist import parts, reinstalled, secrets, showing
from persist.kept import Kept
from persist.recopied import Copy
from persist.restore import staging
from persist.secrets import Found, Rules
from town import accounts, files, kernel, subvolumes
from town.failure import Unsafe
from town.spec import Agent, Persist, Spec

_LOOK = 2.0  # seconds in which keys and logins are looked for, to point them out


@dataclass(slots=True)
class Fitted:
    """What a person should hear of a copy. `stays`: declared paths, which are as they are now; `older`: those of which
    the kept home has the state of then; `anew`: files that the next `identity install` writes over.
    """

    found: Found = field(default_factory=Found)
    stays: list[PurePosixPath] = field(default_factory=list)
    older: list[PurePosixPath] = field(default_factory=list)
    anew: list[bytes] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    left: int = 0


def fit(
    town: Spec, agent: Agent, kept: Kept, copy: Copy, old: os.stat_result, *, without_secrets: bool, now: datetime
) -> Fitted:
    """Make the open copy the agent's next home. `old`: the owner that its files have. Raises Failure, OSError."""
    done = Fitted(left=copy.left, stays=[entry.path for entry in agent.persist], older=list(kept.about.paths))
    _own(agent, kept, copy, old)
    for entry in agent.persist:
        _free(copy.home, entry, done, now)
    rules: Rules = secrets.rules(agent)
    done.found = secrets.remove(copy.home, rules) if without_secrets else secrets.find(copy.home, rules, seconds=_LOOK)
    done.anew = reinstalled.written_over(town, agent, copy.home)
    os.fchown(copy.home, agent.uid, agent.gid)
    os.fchmod(copy.home, 0o700)
    return done


def _own(agent: Agent, kept: Kept, copy: Copy, old: os.stat_result) -> None:
    """What had another uid's name on it: the agent's earlier one, or of whom a copy was given to."""
    owners = {old.st_uid: old.st_gid}
    if kept.about.user and (user := accounts.by_name(kept.about.user)) is not None:
        owners[user.uid] = user.gid
    for uid, gid in owners.items():
        if uid not in (0, agent.uid):
            showing.give(copy.home, (uid, gid), (agent.uid, agent.gid))


def _free(home: int, entry: Persist, done: Fitted, now: datetime) -> None:
    fd = os.dup(home)
    try:
        for part in entry.path.parent.parts:
            below = _entered(fd, part, done, now)
            if below is None:
                return
            os.close(fd)
            fd = below
        _leaf(fd, entry, done, now)
    finally:
        os.close(fd)


def _entered(directory: int, name: str, done: Fitted, now: datetime) -> int | None:
    """A directory on the way to a declared path; what is none steps aside."""
    try:
        return files.enter(directory, name)
    except FileNotFoundError:
        return None
    except (NotADirectoryError, Unsafe):
        done.moved.append(parts.step_aside(directory, name, now))
        return None


def _leaf(directory: int, entry: Persist, done: Fitted, now: datetime) -> None:
    name = entry.path.name
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if entry.copied or not entry.apart:
        subvolumes.remove(directory, name)
        done.older.append(entry.path)
        return
    if stat.S_ISDIR(found.st_mode):
        with files.opened(files.enter(directory, name)) as fd:
            if not files.names(fd):
                return
    done.moved.append(parts.step_aside(directory, name, now))


def raised(copy: Copy) -> None:
    """A home that is a directory of the copied subvolume becomes all of it. Raises OSError."""
    with files.opened(files.open_beneath(copy.home, ".")) as home, files.opened(subvolumes.root_of(copy.home)) as top:
        for name in files.names(top):
            if name != os.fsencode(copy.inside):
                subvolumes.remove(top, name)
        beside = staging.hidden()
        kernel.renameat2(top, copy.inside, top, beside)
        for name in files.names(home):
            kernel.renameat2(home, name, top, name)
        os.rmdir(beside, dir_fd=top)
        os.dup2(top, copy.home, inheritable=False)
    copy.inside = ""
