"""Takes away what agents left in a directory that others use too: by descriptors, one filesystem, however deep.

What belongs to nobody but an agent goes: files, links, sockets, then directories that are empty. What others own stays,
also in a directory of an agent's, which then stays with it. No link is followed, no mount is entered or asked anything.
Whoever can put another thing at a name between the look and the unlink could have deleted that thing itself: in a
sticky directory only its owner can move an entry, elsewhere who may rename an entry may also remove it.
"""

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from persist.owners import Owners
from town import btrfs, files, kernel
from town.failure import Failure, Unsafe
from town.spec import Agent

_PEEK = os.O_PATH | os.O_NOFOLLOW
_STAY = files.BENEATH | kernel.RESOLVE_NO_XDEV
_BATCH, _AGENTS_BATCH = 10_000, 32  # names of directories that are held of one directory at a time
MOVES = 100  # how often a place is begun again because directories were moved about under the broom
FIRST = 5  # names that a report shows of what was taken from one place
SHARE = 60.0  # seconds for the leavings of one agent: who leaves millions holds up nobody but itself for long
SHARES = 240.0  # seconds for those of all agents: what is left of ALL is for passing by what there is no time for
ALL = 300.0  # seconds altogether
EACH = 5.0  # seconds that a place has in any case: a crontab is found, whatever lies in /tmp
DEEPEST = 20_000  # directories below a place: what lies deeper is left, and said
_LONGEST = 400  # bytes of a path that a report shows
_MOST = 100  # things that stay which a report names

Identity = tuple[int, int]
Aside = Callable[[Agent, int, bytes], None]


class OutOfTime(Exception):
    """The time for all of it is over."""


class Left(NamedTuple):
    """Something of an agent's that is still there: its path below the place, and why.

    `others`: only because it holds what is not the agent's, or lies where nothing can be changed by anybody.
    """

    agent: Agent
    path: bytes
    why: str
    others: bool = False


@dataclass(slots=True)
class Taken:
    """What was taken from one place of one agent's (or would be), with the first names."""

    entries: int = 0
    size: int = 0  # bytes
    first: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Budget:
    """Time: how much of it each agent's leavings took, and until when there is any."""

    share: float = SHARE
    until: float = field(default_factory=lambda: time.monotonic() + ALL)
    spent: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)
    moves: int = 0

    @classmethod
    def among(cls, agents: int) -> "Budget":
        """A budget for that many agents, who cannot use up the time by what they leave together."""
        return cls(share=min(SHARE, SHARES / max(1, agents)))

    def another(self) -> None:
        """Another place begins."""
        self.until = max(self.until, time.monotonic() + EACH)

    def charge(self, agent: Agent | None) -> None:
        """The time since the last call went by for this agent. Raises OutOfTime."""
        now = time.monotonic()
        if agent is not None:
            self.spent[agent.name] = self.spent.get(agent.name, 0.0) + now - self.last
        self.last = now
        if now > self.until:
            raise OutOfTime

    def over(self, agent: Agent) -> bool:
        """Whether nothing more is done for this agent."""
        return self.spent.get(agent.name, 0.0) > self.share


@dataclass(slots=True)
class _Level:
    """A directory on the way down."""

    name: bytes
    identity: Identity
    agent: Agent | None  # whose it is
    listed: bool = False
    todo: list[bytes] = field(default_factory=list)
    stays: set[bytes] | None = None  # names that were looked at and are not looked at again
    kept: int = 0  # what stays in it
    foreign: int | None = None  # the uid of one who owns something that stays
    owners: dict[str, int] = field(default_factory=dict)  # whose directories wait, once somebody's time is over
    again: Agent | None = None  # who has so many directories in it that it is listed once more

    cut: bool = False  # all time was over while it was listed

    def keep(self, name: bytes) -> None:
        if self.stays is None:  # there may be thousands of levels
            self.stays = set()
        self.stays.add(name)
        self.kept += 1


class Broom:
    """One sweep of one place. `spared`: directories (device, inode) that are not entered; `dry`: nothing is changed."""

    def __init__(
        self, owners: Owners, budget: Budget, spared: frozenset[Identity], *, dry: bool = False,
        aside: Aside | None = None, tell: Callable[[int, int], None] = lambda _entries, _bytes: None,
    ) -> None:  # fmt: skip
        self._owners, self._budget, self._spared, self._dry = owners, budget, spared, dry
        self._aside, self._tell = aside, tell
        self._trail: list[_Level] = []
        self.taken: dict[str, Taken] = {}
        self.left: list[Left] = []
        self.failed: set[str] = set()  # agents of whom something is there that should not be
        self.waiting: set[str] = set()  # agents of whom something was known to be there when all time was over
        self._late = False  # whether the time of any agent is over

    def sweep(self, top: int) -> None:
        """Everything below the open directory `top`. Raises OutOfTime, Unsafe, OSError."""
        while not self._swept(top):
            # Somebody moves directories about. What was taken is gone, so this ends where nobody goes on with it.
            self._budget.moves += 1
            if self._budget.moves > MOVES:
                raise Unsafe("directories were moved about faster than they could be swept",
                             hint="stop the agents' processes, then: persist sweep")  # fmt: skip

    def by_name(self, top: int) -> None:
        """What lies right in the open directory `top`, is called after an agent, and is root's or the agent's."""
        for name, agent in self._owners.names.items():
            found = _looked(top, name)
            if isinstance(found, os.stat_result) and found.st_uid in (0, agent.uid):
                self._take(top, name, found, agent, _Level(b"", _identity(os.fstat(top)), None))

    def _swept(self, top: int) -> bool:
        """Whether the walk came back to where it began."""
        self._trail.clear()
        fd = files.enter(top, ".")
        level = _Level(b"", _identity(os.fstat(fd)), None)
        try:
            while True:
                if level.todo:
                    name = level.todo.pop()
                    if (entered := self._entered(fd, name, level)) is not None:
                        os.close(fd)
                        self._trail.append(level)
                        fd, level = entered
                elif self._more(fd, level):
                    continue
                elif not self._trail:
                    return True
                else:
                    above = os.open("..", files.DIRECTORY, dir_fd=fd)
                    os.close(fd)
                    fd, done, level = above, level, self._trail.pop()
                    if _identity(os.fstat(fd)) != level.identity:
                        return False
                    self._emptied(fd, done, level)
                    self._budget.charge(done.agent)  # to come back and to remove it takes longer than to enter it
        except OutOfTime:
            for one in (*self._trail, level):
                self.waiting |= {one.agent.name} if one.agent is not None else set(one.owners)
            raise
        finally:
            os.close(fd)

    def _more(self, fd: int, level: _Level) -> bool:
        """Take what is no directory, note some of what is one; whether there is any to go into."""
        if self._dry and level.listed:  # everything is still there
            return False
        if level.cut:
            level.owners = {}
            raise OutOfTime
        payer, level.again, level.owners = level.again, None, {}
        most = _BATCH if level.agent is None else _AGENTS_BATCH
        level.listed, level.kept = True, len(level.stays or ())
        for entry in files.scan(fd):
            name = os.fsencode(entry.name)
            if level.stays is not None and name in level.stays:
                continue
            # As the listing says: it is looked at when it is entered.
            is_directory = entry.is_dir(follow_symlinks=False)
            found = None if is_directory and not self._late else _looked(fd, name)
            try:
                if self._late and isinstance(found, os.stat_result) and self._passed_by(found, level, payer):
                    continue
            except OutOfTime:
                self._cut(level)
                break
            if is_directory or (isinstance(found, os.stat_result) and stat.S_ISDIR(found.st_mode)):
                self._note(level, name, found)
                if len(level.todo) >= most and not self._dry:
                    break
            elif found is not None:
                self._met(fd, name, found, level)
        return bool(level.todo)

    def _note(self, level: _Level, name: bytes, found: os.stat_result | OSError | None) -> None:
        """A directory to go into; and whose it is, where that is known and the directory above is no agent's."""
        level.todo.append(name)
        owner = self._owners.of(found.st_uid) if isinstance(found, os.stat_result) else None
        if owner is not None and level.agent is None:
            level.owners[owner.name] = level.owners.get(owner.name, 0) + 1
            if level.owners[owner.name] > _BATCH // 2:
                level.again = owner

    def _cut(self, level: _Level) -> None:
        """All time is over: what was found on the way still has its turn, and a little time. Raises OutOfTime."""
        if level.cut or not level.owners:
            raise OutOfTime
        level.cut = True
        self._budget.another()

    def _spend(self, payer: Agent | None, owner: Agent | None) -> None:
        """Charge for a look at something of `owner`'s, which stays where all time is over. Raises OutOfTime."""
        try:
            self._budget.charge(payer)
        except OutOfTime:
            self.waiting |= set() if owner is None else {owner.name}
            raise

    def _passed_by(self, found: os.stat_result, level: _Level, payer: Agent | None) -> bool:
        """Whether it belongs to one whose time is over: of millions none is held, or looked for again."""
        agent = self._owners.of(found.st_uid)
        self._spend(payer or agent or level.agent, agent)  # who has many directories pays for the way to the next
        if agent is None or not self._is_over(agent):
            return False
        level.kept += 1
        return True

    def _met(self, fd: int, name: bytes, found: os.stat_result | OSError, level: _Level) -> None:
        """One thing that is no directory, or that cannot be looked at: something is mounted there."""
        agent = None if isinstance(found, OSError) else self._owners.of(found.st_uid)
        self._spend(agent or level.agent, agent)
        if isinstance(found, OSError):
            level.keep(name)
        elif agent is None:
            level.foreign = found.st_uid
            level.kept += 1
        elif not self._take(fd, name, found, agent, level):
            level.keep(name)

    def _take(self, fd: int, name: bytes, found: os.stat_result, agent: Agent, level: _Level) -> bool:
        if self._is_over(agent):
            return False
        if not self._dry:
            try:
                if self._aside is not None and not self._trail and stat.S_ISREG(found.st_mode):
                    self._aside(agent, fd, name)
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                return True
            except (OSError, Failure) as error:
                self._stays(agent, level, name, error)
                return False
        self._count(agent, level, name, found.st_size if found.st_nlink == 1 else 0)
        return True

    def _entered(self, fd: int, name: bytes, level: _Level) -> tuple[int, _Level] | None:
        """A directory to go into; None when it is gone, or stays as it is."""
        self._budget.charge(level.agent)
        try:
            below = files.enter(fd, name)
        except (FileNotFoundError, NotADirectoryError, Unsafe):  # gone since, or another thing: the next look tells
            return None
        except OSError:  # something is mounted there
            level.keep(name)
            return None
        found = os.fstat(below)
        agent = self._owners.of(found.st_uid)
        if found.st_ino == btrfs.EMPTY_INODE and btrfs.is_btrfs(below):  # whose it is depends on the kernel
            agent = level.agent or agent
        if self._is_entered(below, name, found, agent, level):
            return below, _Level(name, _identity(found), agent)
        os.close(below)
        level.keep(name)
        return None

    def _is_entered(self, below: int, name: bytes, found: os.stat_result, agent: Agent | None, level: _Level) -> bool:
        if agent is None:
            level.foreign = found.st_uid
        self._spend(agent or level.agent, agent)
        if _identity(found) in self._spared or (agent is not None and self._is_over(agent)):
            return False
        if len(self._trail) >= DEEPEST:
            if agent is not None:
                self._stays(agent, level, name, f"lies deeper than {DEEPEST:,} directories")
            return False
        if agent is None or self._dry or found.st_dev == level.identity[0] or not btrfs.is_subvolume(below):
            return True
        try:
            btrfs.set_read_only(below, False)  # a subvolume of the agent's own
        except Failure as failure:
            self._stays(agent, level, name, failure)
            return False
        return True

    def _emptied(self, fd: int, done: _Level, level: _Level) -> None:
        """Remove a directory that was gone through, where nothing stays in it."""
        agent = done.agent
        if agent is None:
            level.keep(done.name)
        elif done.kept:
            level.keep(done.name)
            level.foreign = done.foreign if level.foreign is None else level.foreign
            if done.foreign is not None and level.agent is None:
                self._stays(agent, level, done.name, f"holds what belongs to uid {done.foreign}", others=True)
        elif self._dry or self._removed(fd, done, agent, level):
            self._count(agent, level, done.name, 0)
        else:
            level.keep(done.name)

    def _removed(self, fd: int, done: _Level, agent: Agent, level: _Level) -> bool:
        found = _looked(fd, done.name)
        if found is None:
            return True
        try:
            if isinstance(found, OSError) or _identity(found) != done.identity:
                raise OSError(errno.EBUSY, "was exchanged while it was swept")
            os.rmdir(done.name, dir_fd=fd)
        except OSError as error:
            why = "was filled again while it was swept" if error.errno == errno.ENOTEMPTY else error
            self._stays(agent, level, done.name, why)
            return False
        return True

    def _is_over(self, agent: Agent) -> bool:
        if not self._budget.over(agent):
            return False
        self.failed.add(agent.name)
        self._late = True
        return True

    def _stays(
        self, agent: Agent, level: _Level, name: bytes, why: str | OSError | Failure, *, others: bool = False
    ) -> None:
        """Note that something is not taken away."""
        # A read-only snapshot that somebody else made of it: nobody can use it to leave anything.
        others = others or (level.agent is None and isinstance(why, OSError) and why.errno == errno.EROFS)
        if not others:
            self.failed.add(agent.name)
        said = why if isinstance(why, str) else why.what if isinstance(why, Failure) else str(why.strerror)
        left = Left(agent, self._path(level, name), said, others)
        if len(self.left) < _MOST and left not in self.left:
            self.left.append(left)

    def _count(self, agent: Agent, level: _Level, name: bytes, size: int) -> None:
        taken = self.taken.setdefault(agent.name, Taken())
        taken.entries += 1
        taken.size += size
        if len(taken.first) < FIRST:
            taken.first.append(self._path(level, name))
        self._tell(1, size)

    def _path(self, level: _Level, name: bytes) -> bytes:
        """The path of a name below the place, its middle left out where it is long."""
        names = [above.name for above in self._trail[1:]] + ([level.name] if self._trail else []) + [name]
        path = b"/".join(names if len(names) <= _LONGEST else [*names[:100], b"...", *names[-100:]])
        return path if len(path) <= _LONGEST else path[: _LONGEST // 2] + b"..." + path[-_LONGEST // 2 :]


def _looked(fd: int, name: bytes) -> os.stat_result | OSError | None:
    """What has that name, None when nothing has; the error where something is mounted, which is asked nothing."""
    try:
        with files.opened(kernel.openat2(fd, name, _PEEK, 0, _STAY)) as there:
            return os.fstat(there)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino
