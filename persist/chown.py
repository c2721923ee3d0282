"""`persist chown`: an agent whose uid changed in the spec gets what lies here under the earlier one.

Everything in its home and in its directory under persist_dir that belongs to the earlier uid, and nothing else; each
thing by a descriptor of its own. What a directory holds comes before the directory: cut off anywhere, the owner of the
topmost still says what the earlier uid was, and the next run goes on.
"""

import argparse
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from persist import entering, ground, places, running
from persist.alone import alone
from persist.descent import Entered, Event, Few, Left, Met, Moved, descend
from persist.ground import Ground
from persist.release import ProcessesRun
from persist.walk import Directory
from town import accounts, acl, cli, files, kernel, machine, spec, trust
from town.failure import DONE, FAILED, Failure, WrongUsage
from town.spec import Agent, Spec
from town.terminal import counted, shown

_WALKS = 20  # while somebody moves directories about
_LENDS = stat.S_ISUID | stat.S_ISGID


class NotThisUid(Failure):
    """The earlier uid is not one whose things may be given to the agent, or nobody can say what it was."""


class Stays(Failure):
    """Something cannot be given away: it is immutable, or in a read-only subvolume. All else was."""


@dataclass(slots=True)
class Tally:
    """What was, or would be, given; and what a person should hear of."""

    top: Path
    directories: int = 0
    files: int = 0
    lending: Few = field(default_factory=Few)  # had set-uid or set-gid bits
    listed: Few = field(default_factory=Few)  # have ACL entries for the earlier uid
    others: Few = field(default_factory=Few)  # belong to somebody else
    stuck: Few = field(default_factory=Few)

    def lines(self) -> Iterator[str]:
        """The tally, in words."""
        directories = "1 directory" if self.directories == 1 else f"{self.directories:,} directories"
        yield f"{shown(str(self.top))}: {directories}, {counted(self.files, 'file')}"
        if self.lending:
            yield f"  without their set-uid and set-gid bits from now on: {self.lending}"
        if self.listed:
            yield f"  access lists still name the earlier uid (getfacl shows them): {self.listed}"
        if self.others:
            yield f"  of other owners, and left to them: {self.others}"


def command(arguments: argparse.Namespace) -> int:
    """Give the agent what lies here under its earlier uid, or count it."""
    town = spec.load(cli.spec_file(arguments))
    ground.require_root("chown", "it gives files to another uid")
    trust.refuse(town)
    agent = town.agent(arguments.agent)
    machine.refuse_conflicts(town, (agent,))
    with ground.opened(town) as here:
        before = arguments.before if arguments.before is not None else earlier(town, agent, here)
        if before is None:
            print(f"{agent.name}: nothing lies here under another uid than {agent.uid}")
            return DONE
        refuse(town, agent, before)
        if arguments.dry_run:
            return _told(agent, before, give(town, agent, here, before, dry_run=True))
        with alone(town, agent):
            return _told(agent, before, give(town, agent, here, before))


def _told(agent: Agent, before: int, tallies: Sequence[Tally]) -> int:
    print(f"{agent.name}: from uid {before} to uid {agent.uid}, gid {agent.gid}:")
    for tally in tallies:
        print("\n".join(f"{agent.name}: {line}" for line in tally.lines()), flush=True)
    for tally in (tally for tally in tallies if tally.stuck):
        failure = Stays(
            f"{agent.name}: stays uid {before}'s below {shown(str(tally.top))}: {tally.stuck}",
            hint="it lies in a read-only subvolume (btrfs property get -ts DIR ro) or is immutable (lsattr): "
            f"change that, then persist chown --from {before} {agent.name}",
        )
        cli.tell("persist", failure)
    return FAILED if any(tally.stuck for tally in tallies) else DONE


def earlier(town: Spec, agent: Agent, here: Ground) -> int | None:
    """The uid that the agent's things have: its home's owner, else that of what it declared. None: all are its own.

    Raises NotThisUid when they have several.
    """
    with _tops(town, agent, here) as tops:
        home = next((fd for path, fd in tops if path == town.home(agent)), None)
        own = None if home is None else os.fstat(home).st_uid
        if own not in (None, 0, agent.uid):
            return own
        found = {uid for path, fd in tops if path != town.home(agent) for uid in _owners(agent, path, fd)}
    found -= {0, agent.uid}
    if len(found) > 1:
        uids = ", ".join(map(str, sorted(found)))
        raise NotThisUid(
            f"what {agent.name} declared belongs to several uids: {uids}",
            hint=f"persist chown --from UID {agent.name}, for each that was this agent's",
        )
    return next(iter(found), None)


def _owners(agent: Agent, path: Path, persisted: int) -> Iterator[int]:
    for entry in agent.persist:
        with entering.down(persisted, entry.path, path) as fd:
            if fd is not None:
                yield os.fstat(fd).st_uid


def refuse(town: Spec, agent: Agent, before: int) -> None:
    """Raises NotThisUid when somebody else has that uid; ProcessesRun while processes of it run."""
    if before == agent.uid:
        raise WrongUsage(
            f"{agent.name} has uid {before} now: there is nothing to give", hint="--from is the earlier uid"
        )
    if before == 0:
        raise NotThisUid("what root owns is given to nobody", hint="--from is the uid that the agent had before")
    for other in town.agents:
        if other.uid == before:
            raise NotThisUid(
                f"uid {before} is the agent {other.name}'s", hint="what lies here may be that agent's: look at it first"
            )
    if (account := accounts.by_uid(before)) is not None:
        raise NotThisUid(
            f"uid {before} is the account {shown(account.name)}'s on this machine",
            hint="what lies here may be theirs: look at it first",
        )
    if found := running.of(before):
        raise ProcessesRun(
            f"processes of uid {before} run: {running.named(found)}",
            hint=f"end them (loginctl terminate-user {before}, or kill), then try again",
        )


def give(town: Spec, agent: Agent, here: Ground, before: int, *, dry_run: bool = False) -> list[Tally]:
    """Give everything of uid `before` to the agent; a tally for each place. Raises Failure, OSError."""
    tallies = []
    with _tops(town, agent, here) as tops:
        for path, fd in tops:
            tallies.append(_given(Tally(path), agent, before, fd, dry_run=dry_run))
            if not dry_run:
                kernel.syncfs(fd)
    return tallies


@contextmanager
def _tops(town: Spec, agent: Agent, here: Ground) -> Iterator[list[tuple[Path, int]]]:
    """What is kept, then the home: each through a copy of its mount in which nothing else is mounted."""
    with ExitStack() as stack:
        found = []
        persisted = stack.enter_context(entering.maybe_persisted(town, agent, here))
        home = stack.enter_context(entering.maybe(here.agents, agent.name, town.home(agent)))
        if persisted is not None:
            found.append((places.persisted(town, agent), stack.enter_context(_bare(persisted))))
        if home is not None:
            found.append((town.home(agent), stack.enter_context(_bare(home))))
        yield found


@contextmanager
def _bare(directory: int) -> Iterator[int]:
    with files.opened(kernel.open_tree(directory)) as tree, files.opened(files.enter(tree, ".")) as fd:
        yield fd


def _given(tally: Tally, agent: Agent, before: int, top: int, *, dry_run: bool) -> Tally:
    giver = _Giver(agent, before, dry_run=dry_run)
    for walk in range(_WALKS):
        try:
            for event in descend(top, gone=lambda _path: None, mounted=lambda _path: None):
                giver.give(event, tally)
        except Moved:
            if walk == _WALKS - 1:
                raise
            if dry_run:
                tally = Tally(tally.top)
        else:
            break
    return tally


class _Giver:
    def __init__(self, agent: Agent, before: int, *, dry_run: bool) -> None:
        self._agent, self._before, self._dry_run = agent, before, dry_run
        self._linked: set[tuple[int, int]] = set()

    def give(self, event: Event, tally: Tally) -> None:
        match event:
            case Entered():
                return  # when all that lies in it was given
            case Left(directory, fd):
                self._one(fd, (directory, b""), tally)
            case Met(directory, name, fd):
                self._one(fd, (directory, name), tally)

    def _one(self, fd: int, where: tuple[Directory, bytes], tally: Tally) -> None:
        found = os.fstat(fd)
        if not stat.S_ISLNK(found.st_mode) and acl.names_user(Path(f"/proc/self/fd/{fd}"), self._before):
            tally.listed.add(*where)
        if found.st_uid != self._before:
            # What root keeps there, and an administrator's own files, are where they belong; a link to one may not be.
            linked = found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)
            if found.st_uid not in (self._agent.uid, 0) or (found.st_uid == 0 and linked):
                tally.others.add(*where)
            return
        if self._counted(found):
            return
        try:
            self._give(fd, found)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EPERM):
                raise
            tally.stuck.add(*where)
            return
        tally.directories += stat.S_ISDIR(found.st_mode)
        tally.files += not stat.S_ISDIR(found.st_mode)
        if stat.S_ISREG(found.st_mode) and found.st_mode & _LENDS:
            tally.lending.add(*where)

    def _counted(self, found: os.stat_result) -> bool:
        """Whether a file with several names was counted before: only a dry run meets it as it was."""
        if not self._dry_run or found.st_nlink == 1 or stat.S_ISDIR(found.st_mode):
            return False
        inode = (found.st_dev, found.st_ino)
        before = inode in self._linked
        self._linked.add(inode)
        return before

    def _give(self, fd: int, found: os.stat_result) -> None:
        if self._dry_run:
            return
        # The kernel takes the bits that lend the owner's rights, and capabilities, in the same step.
        kernel.chown_open(fd, self._agent.uid, self._agent.gid)
        if stat.S_ISREG(found.st_mode) and (mode := os.fstat(fd).st_mode) & _LENDS:
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(mode) & ~_LENDS)
