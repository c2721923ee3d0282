"""Declared files: copied into the home at restore, out of it at sync and at shutdown, never bound.

Programs replace such files by rename, which a bound file does not survive. What is kept of one is a directory of
root's, 0700, at its path under persist_dir (without one in STATE/files/AGENT), that holds the file under its own name
and nothing else; the store takes it like any declared directory. Of what the agent has in its place only a regular
file of its own with one link and at most 16 MiB is taken, opened without following anything.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from persist import copied, entering, ground, outgoing, places
from persist.ground import Ground
from town import btrfs, files, kernel
from town.btrfs import BtrfsFailed
from town.failure import Failure, TryLater, Unsafe
from town.spec import Agent, Persist, Spec
from town.terminal import shell_word, shown, size

LARGEST = 16 << 20  # bytes
_READS = 3  # how often a file that changes is read
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ROOT = (0, 0)

Place = Literal["in place", "to be copied", "to be kept", "differs"]


class NotCopied(Failure):
    """What stands in the place of a declared file is not one that is copied; what was kept of it before stays."""


class Changing(TryLater):
    """A declared file cannot be read now: the agent holds it. Trying again may help."""


class Held(NamedTuple):
    """A file: what it holds, its permissions, its time."""

    data: bytes
    mode: int
    mtime: int  # ns

    def same(self, other: "Held | None") -> bool:
        """Whether nothing but the time differs."""
        return other is not None and (self.data, self.mode) == (other.data, other.mode)


def declared(agent: Agent) -> list[Persist]:
    """The files that the agent declares."""
    return [entry for entry in agent.persist if entry.copied]


# ---- what is kept


@contextmanager
def base(spec: Spec, agent: Agent, here: Ground, *, make: bool = False) -> Iterator[int | None]:
    """The directory of root's below which what is kept of the agent's files lies, open; None when it is not there."""
    if here.persist is not None:
        with entering.maybe_persisted(spec, agent, here) as fd:
            yield fd
        return
    from persist.restore import origins

    if not make and not (spec.state_dir / "files" / agent.name).is_dir():
        yield None
        return
    with files.opened(origins.state(spec, "files")) as above:
        fd = files.make_dirs(above, PurePosixPath(agent.name), mode=0o711, owner=_ROOT)
    with files.opened(fd):
        yield fd


@contextmanager
def kept(spec: Spec, agent: Agent, entry: Persist, below: int) -> Iterator[int | None]:
    """What is kept of a declared file: its directory, open, or None. Raises Unsafe where it is not root's alone."""
    with entering.source(spec, agent, entry, below) as fd:
        if fd is not None:
            path = places.source(spec, agent, entry)
            if os.fstat(fd).st_uid != 0:
                raise NotCopied(
                    f"{shown(str(path))} is the agent's own directory, and the spec declares a file",
                    hint=f"mv {shell_word(str(path))} {shell_word(f'{path}.before')}, then restore",
                )
            ground.refuse_others(fd, path)
        yield fd


def read_kept(kept: int, name: str) -> Held | None:
    """The file that is kept, or None. Raises NotCopied: the store may have given something else."""
    return read(kept, name, {0}, f"what is kept of {shown(name)}")


def make_kept(entry: Persist, below: int) -> int:
    """Open the directory for what is kept, made where it is missing: root's, 0700, parents 0711. Raises OSError."""
    return files.make_dirs(below, entry.path, mode=0o700, owner=_ROOT, parents=(0o711, _ROOT))


# ---- what the agent has


@contextmanager
def _parent(spec: Spec, agent: Agent, entry: Persist, home: int) -> Iterator[int | None]:
    """The directory that the file lies in, in an open home; None when it is not there."""
    with entering.down(home, entry.path.parent, spec.home(agent)) as fd:
        yield fd


def _there(spec: Spec, agent: Agent, entry: Persist, home: int) -> bool:
    """Whether anything stands at the file's place in the home."""
    with _parent(spec, agent, entry, home) as parent:
        if parent is None:
            return False
        with suppress(FileNotFoundError):
            files.look(parent, entry.path.name)
            return True
    return False


def read_home(spec: Spec, agent: Agent, entry: Persist, home: int, *, durably: bool = False) -> Held | None:
    """The agent's file, or None where there is none. Raises NotCopied, Changing, Unsafe, InTheWay, OSError.

    `durably`: what is read is on the disk then.
    """
    with _parent(spec, agent, entry, home) as parent:
        if parent is None:
            return None
        what = shown(str(spec.home(agent) / entry.path))
        return read(parent, entry.path.name, {agent.uid}, what, durably=durably)


def read(directory: int, name: str, owners: set[int], what: str, *, durably: bool = False) -> Held | None:
    """A plain file of an open directory that an agent may change meanwhile, or None; `what` is for the message.

    Raises NotCopied for what is not one of `owners`, with one name and at most 16 MiB; Changing.
    """
    try:
        # A mount is not entered, a symlink not followed; a FIFO does not wait for its other end.
        fd = kernel.openat2(directory, name, _READ, 0, files.BENEATH | kernel.RESOLVE_NO_XDEV)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EINTR):  # a lease that a process of the agent's keeps
            raise Changing(f"{what} is held by a process", hint="stop the agent's processes, or try again") from error
        raise _no_file(what, error.errno) from error
    with files.opened(fd):
        for _ in range(_READS):
            found = os.fstat(fd)
            _refuse(found, owners, what)
            os.lseek(fd, 0, os.SEEK_SET)
            data = files.read_fd(fd, LARGEST, what)
            after = os.fstat(fd)
            if _times(found) == _times(after):
                break
        if durably:
            os.fsync(fd)
        return Held(data, stat.S_IMODE(found.st_mode) & 0o777, found.st_mtime_ns)


def _times(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _no_file(what: str, number: int | None) -> NotCopied:
    words = {
        errno.ELOOP: "is a symbolic link", errno.EXDEV: "is a mount, or leads out of its directory",
        errno.ENXIO: "is a socket",
    }  # fmt: skip
    said = words.get(number or 0) or f"cannot be opened: {os.strerror(number or 0)}"
    return NotCopied(f"{what} {said}: only a regular file is copied", hint="let the agent put a plain file there")


def _refuse(found: os.stat_result, owners: set[int], what: str) -> None:
    """Raises NotCopied for what is not a plain file of its owner's with one name and a bounded size."""
    cure = "let the agent put a plain file of its own there"
    if not stat.S_ISREG(found.st_mode):
        raise NotCopied(f"{what} is no regular file", hint=cure)
    if found.st_uid not in owners:
        raise NotCopied(f"{what} belongs to uid {found.st_uid}", hint=cure)
    if found.st_nlink > 1:
        raise NotCopied(f"{what} has {found.st_nlink} names (hard links)", hint=cure)
    if found.st_size > LARGEST:
        much = f"{size(found.st_size)}, more than the {LARGEST >> 20} MiB that a declared file may have"
        raise NotCopied(f"{what} has {much}", hint="declare the directory that holds it instead")


# ---- copying


def out(spec: Spec, agent: Agent, entry: Persist, home: int, below: int, *, was_there: bool) -> bool:
    """Keep what the agent's file holds now; whether the home has the file. Nothing is written where nothing differs.

    `was_there`: it was in this very home before, so that a missing one was removed, and what is kept goes too.
    Raises NotCopied, Changing, Unsafe, InTheWay, OSError: then what was kept stays.
    """
    name, now = entry.path.name, read_home(spec, agent, entry, home, durably=True)
    with kept(spec, agent, entry, below) as fd:
        before = None if fd is None else read_kept(fd, name)
        if now is None:
            if fd is not None and before is not None and was_there:
                settled(home)
                os.unlink(name, dir_fd=fd)
                os.fsync(fd)
            return False
        if now.same(before):
            return True
    settled(home)
    with files.opened(make_kept(entry, below)) as fd:
        files.write_beneath(fd, name, now.data, mode=now.mode, owner=_ROOT)
        os.utime(name, ns=(now.mtime, now.mtime), dir_fd=fd, follow_symlinks=False)
    return True


def settled(home: int) -> None:
    """What was renamed or removed in an open home is so on the disk: before anything elsewhere goes by it.

    After a power cut the home is looked at as the disk has it: what is older there is not to take the place of what was
    kept, and what never got there does not count as removed. Raises OSError, BtrfsFailed.
    """
    if btrfs.is_btrfs(home):
        btrfs.commit(home)
    else:
        kernel.syncfs(home)


def into(spec: Spec, agent: Agent, entry: Persist, home: int, below: int, parent: int, *, over: bool = False) -> bool:
    """Put what is kept into the directory `parent` of the home, whole; whether there was anything to put.

    Without `over` it takes nobody's place. Raises FileExistsError, NotCopied, Unsafe, OSError.
    """
    from persist.restore import staging

    name = entry.path.name
    with kept(spec, agent, entry, below) as fd:
        held = None if fd is None else read_kept(fd, name)
    if held is None:
        return False
    with staging.opened(home) as (_, inside):
        files.write_beneath(inside, "file", held.data, mode=held.mode, owner=(agent.uid, agent.gid))
        os.utime("file", ns=(held.mtime, held.mtime), dir_fd=inside, follow_symlinks=False)
        if over:
            os.rename("file", name, src_dir_fd=inside, dst_dir_fd=parent)
        else:
            kernel.renameat2(inside, "file", parent, name)
    return True


def place(spec: Spec, agent: Agent, entry: Persist, home: int | None, below: int | None) -> tuple[bool, Place]:
    """Whether something is kept of a declared file, and what there is to do for its place in the home.

    Raises NotCopied, Unsafe, InTheWay, OSError.
    """
    name = entry.path.name
    with ExitStack() as stack:
        fd = None if below is None else stack.enter_context(kept(spec, agent, entry, below))
        if home is not None and _has_had(spec, agent, entry, home):
            return fd is not None, "in place"  # a file that the agent removed since is removed
        before = None if fd is None else read_kept(fd, name)
        if home is None or not _there(spec, agent, entry, home):
            return fd is not None, "to be copied" if before is not None else "in place"
        if before is None:
            return fd is not None, "to be kept"
        return True, "in place" if before.same(read_home(spec, agent, entry, home)) else "differs"


def _has_had(spec: Spec, agent: Agent, entry: Persist, home: int) -> bool:
    known = copied.known(spec, agent)
    return str(entry.path) in known.paths and known.home == copied.of_home(home).home


def note(spec: Spec, agent: Agent, home: int, path: PurePosixPath) -> None:
    """Record that the open home has had the file. Raises OSError, Failure."""
    here, known = copied.of_home(home), copied.known(spec, agent)
    paths = known.paths if known.home == here.home else frozenset()
    copied.keep(spec, agent, here._replace(paths=paths | {str(path)}))


def take(spec: Spec, agent: Agent) -> list[tuple[PurePosixPath, Failure]]:
    """Copy every declared file of the agent out of its home; those that could not be, and why.

    Raises Busy, and what stands in the way of the home itself.
    """
    entries = declared(agent)
    if not entries:
        return []
    with ground.opened(spec) as here, entering.maybe_home(spec, agent, here) as home, copied.alone(spec, agent):
        return [] if home is None else _taken(spec, agent, entries, home, here)


def take_aside(spec: Spec, agent: Agent, here: Ground) -> list[tuple[PurePosixPath, Failure]]:
    """The same from the home of another boot, where a power cut came before the last copy. Raises Busy."""
    entries, record = declared(agent), copied.known(spec, agent)
    if not entries:
        return []
    with copied.alone(spec, agent), entering.maybe_home(spec, agent, here) as now:
        if now is not None and outgoing.is_old(spec, agent, here):  # it is about to be set aside
            return _taken(spec, agent, entries, now, here)
        if not record.home or (now is not None and copied.of_home(now).home == record.home):
            return []
        try:
            with copied.set_aside(agent, here, record) as home:
                return [] if home is None else _taken(spec, agent, entries, home, here)
        except (BtrfsFailed, OSError) as error:
            why = error.what if isinstance(error, Failure) else str(error.strerror)
            return [(entries[0].path, NotCopied(f"the home that was set aside cannot be opened: {why}"))]


def settle(spec: Spec, agent: Agent, here: Ground) -> None:
    """Record the home that is there now, so that its files are found when it is set aside. Raises OSError, Failure."""
    if not declared(agent):
        return
    with entering.maybe_home(spec, agent, here) as home:
        if home is not None and copied.known(spec, agent).home != (now := copied.of_home(home)).home:
            copied.keep(spec, agent, now)


def _taken(
    spec: Spec, agent: Agent, entries: list[Persist], home: int, here: Ground
) -> list[tuple[PurePosixPath, Failure]]:
    known, this, failures = copied.known(spec, agent), copied.of_home(home), []
    before = known.paths if known.home == this.home else frozenset()
    paths = set(before)
    with base(spec, agent, here, make=True) as below:
        if below is None:  # not restored yet: the first restore makes it
            return []
        for entry in entries:
            try:
                if out(spec, agent, entry, home, below, was_there=str(entry.path) in before):
                    paths.add(str(entry.path))
            except (Failure, OSError) as error:
                failures.append((entry.path, _failure(spec, agent, entry, error)))
    copied.keep(spec, agent, this._replace(paths=frozenset(paths)))
    return failures


def _failure(spec: Spec, agent: Agent, entry: Persist, error: Failure | OSError) -> Failure:
    if isinstance(error, Failure):
        return error
    where = shown(str(spec.home(agent) / entry.path))
    if isinstance(error, Unsafe):
        return error
    return NotCopied(f"{where} cannot be copied: {error.strerror or error}", hint="what was kept of it stays")
