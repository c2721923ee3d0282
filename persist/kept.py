"""Kept homes, whatever their kind, as values: what there is, which one a person means, and its directory, open.

| kind       | where                                        | named              |
|------------|----------------------------------------------|--------------------|
| `aside`    | @agents-old/KEY/AGENT (no btrfs: agents_dir/.old/KEY/AGENT) | AGENT@KEY |
| `snapshot` | @agents-snapshots/AGENT/NAME/home            | AGENT@NAME         |
| `imported` | the same, with an `origin` in about.json     | AGENT@NAME         |
| `recalled` | agents_dir/.recalled/AGENT@NAME/home         | AGENT@NAME         |

The last three are made whole under a name that begins with a dot, then renamed: what such a name has is no kept home.
docs/formats/disk.md.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from persist import about as about_
from persist import places, shelves
from persist.about import About
from town import btrfs, files, locks
from town.failure import Failure, Unsafe, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

Kind = Literal["aside", "snapshot", "recalled", "imported"]

HOME, PERSISTED = "home", "persisted"
NOW = "now"  # AGENT@now is the living home
STAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_KEY = re.compile(rb"(\d{8}T\d{6}Z)-([0-9A-Fa-f-]{1,64})(.*)", re.DOTALL)


class NoSuchHome(Failure):
    """No kept home has that name, or more than one begins with it."""


class BadName(WrongUsage):
    """A name that a snapshot or a copy cannot have."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One kept home. `agent` and `key` are names as the disk has them; `time`: when it was kept, None: not known."""

    kind: Kind
    agent: bytes
    key: bytes
    time: datetime | None
    boot: str
    subvolume: bool
    nested: tuple[bytes, ...]  # paths of subvolumes inside it: a snapshot leaves them out
    about: About = field(default=about_.NOTHING, compare=False)  # nothing of what was set aside

    @property
    def name(self) -> str:
        """AGENT@NAME, safe to print; what every verb takes."""
        return f"{shown(self.agent)}@{shown(self.key)}"

    @property
    def whose(self) -> str:
        """The agent, without the number that a second home of one boot and agent has (docs/decisions/0049)."""
        return os.fsdecode(self.agent.partition(b".")[0])

    @property
    def message(self) -> str:
        """What was said when it was kept; not safe to print as it is."""
        return self.about.message


class Home(NamedTuple):
    """A kept home, open. `persisted`: of a snapshot, declared directories as they were then, by path, each open."""

    fd: int
    persisted: Mapping[PurePosixPath, int]
    entry: int  # the directory that holds it: `home`, `persisted`, `about.json`, or homes of other agents
    held: int | None = None  # the directory `persisted`, open, where it is there


def every(town: Spec, top: int | None, agents: int | None) -> list[Kept]:
    """Every kept home, by agent and then oldest first. `top`, `agents`: see `Shelves`. Raises OSError, Unsafe."""
    found = [*_aside(town, top, agents), *_snapshots(town, top), *_recalled(town, top, agents)]
    first = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda kept: (kept.agent, kept.time or first, kept.key))


def parse(text: str) -> tuple[str, str]:
    """AGENT and NAME of AGENT@NAME. Raises WrongUsage."""
    agent, separator, key = text.partition("@")
    if not separator or not agent or not key:
        raise WrongUsage(f"{shown(text)} is not of the form AGENT@HOME", hint="persist homes lists what is kept")
    return agent, key


def chosen(kept: Sequence[Kept], text: str) -> Kept:
    """The one that `text` (AGENT@NAME, escaped or not) names, or alone begins with. Raises NoSuchHome, WrongUsage.

    Recalled copies are copies of others: a beginning means one only where nothing else begins so.
    """
    agent, key = parse(text)
    if key == NOW:
        raise NoSuchHome(
            f"{shown(text)} is the living home, which nobody has kept yet",
            hint=f"persist snapshot {shown(agent)} keeps it",
        )
    names = {text, f"{shown(agent)}@{shown(key)}"}
    exact = [one for one in kept if one.name in names]
    begin = [one for one in kept if any(map(one.name.startswith, names))]
    first = [one for one in begin if one.kind != "recalled"]
    found = exact or first or begin
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchHome(
            f"{shown(text)} is the beginning of {len(found)} homes: {', '.join(one.name for one in found[:10])}"
            + (" …" if len(found) > 10 else ""),
            hint="give more of the name",
        )
    raise NoSuchHome(f"no home that is kept is named {shown(text)}", hint=_nearest(kept, text))


def _nearest(kept: Sequence[Kept], text: str) -> str:
    from difflib import get_close_matches

    names = [one.name for one in kept]
    near = get_close_matches(text[:200], names, n=1, cutoff=0.4)
    if near:
        return f"did you mean {near[0]}?"
    if names:
        return "persist homes lists what is kept"
    return "a boot and persist reset set homes aside; where [town.btrfs] is, persist snapshot AGENT keeps one"


@contextmanager
def opened(town: Spec, top: int | None, kept: Kept, agents: int | None = None) -> Iterator[Home]:
    """The directory of a kept home, O_RDONLY, reached by descriptors; what lies in it is hostile all the same.

    As long as the block lasts nobody deletes it. What the caller writes to it is the caller's mistake.

    Raises NoSuchHome when it went meanwhile, OSError, Unsafe.
    """
    with ExitStack() as stack:
        try:
            home = _opened(town, top, kept, agents, stack)
        except FileNotFoundError as error:
            raise NoSuchHome(f"{kept.name} is gone", hint="persist homes lists what is kept") from error
        yield home


def _opened(town: Spec, top: int | None, kept: Kept, agents: int | None, stack: ExitStack) -> Home:
    entry = stack.enter_context(_entry(town, top, kept, agents))
    if kept.kind == "aside":
        return Home(stack.enter_context(files.opened(files.enter(entry, kept.agent))), {}, entry)
    fd = stack.enter_context(files.opened(files.enter(entry, HOME)))
    if kept.about.inside:
        fd = stack.enter_context(files.opened(files.enter(fd, kept.about.inside)))
    holder = stack.enter_context(_apart(town, kept)) if kept.about.apart else entry
    held = None if holder is None or not kept.about.paths else _below(holder, PurePosixPath(PERSISTED))
    if held is None:
        return Home(fd, {}, entry)
    stack.enter_context(files.opened(held))
    found: dict[PurePosixPath, int] = {}
    for path in kept.about.paths:
        if (below := _below(held, path)) is not None:
            found[path] = stack.enter_context(files.opened(below))
    return Home(fd, found, entry, held)


def _below(above: int, path: PurePosixPath) -> int | None:
    """A directory, open; None where there is none."""
    fd = os.dup(above)
    try:
        for part in path.parts:
            below = files.enter(fd, part)
            os.close(fd)
            fd = below
    except (FileNotFoundError, NotADirectoryError, Unsafe):
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def _apart(town: Spec, kept: Kept) -> Iterator[int | None]:
    """The directory that holds `persisted` on persist_dir's own filesystem, open; None when it is not there."""
    with ExitStack() as stack:
        above = stack.enter_context(shelves.apart(town))
        for part in (kept.agent, kept.key):
            fd = None if above is None else _directory(above, part)
            above = None if fd is None else stack.enter_context(files.opened(fd))
        yield above


@contextmanager
def _entry(town: Spec, top: int | None, kept: Kept, agents: int | None) -> Iterator[int]:
    """The directory right above what `opened` yields. Raises FileNotFoundError when a part of the way is gone."""
    with ExitStack() as stack:
        match kept.kind:
            case "aside":
                above = stack.enter_context(shelves.old(town, top, agents))
                parts: tuple[bytes, ...] = (kept.key,)
            case "recalled":
                above = stack.enter_context(shelves.recalled(town, top, agents))
                parts = (kept.agent + b"@" + kept.key,)
            case _:
                above = stack.enter_context(shelves.snapshots(town, top))
                parts = (kept.agent, kept.key)
        if above is None:
            raise FileNotFoundError(2, os.strerror(2))
        for part in parts:
            holder, above = above, stack.enter_context(files.opened(files.enter(above, part)))
        if not _read(holder, parts[-1], above):
            raise FileNotFoundError(2, os.strerror(2))
        yield above


def _read(holder: int, name: bytes, entry: int) -> bool:
    """Lock an open entry, so that nobody deletes it meanwhile; false where somebody does, or it is gone."""
    if not locks.free(entry, shared=True):
        return False
    there, here = os.stat(name, dir_fd=holder, follow_symlinks=False), os.fstat(entry)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _aside(town: Spec, top: int | None, agents: int | None) -> Iterator[Kept]:
    with shelves.old(town, top, agents) as above:
        for key in [] if above is None else files.names(above):
            # What is being deleted is no home any more; hidden names in an entry are root's own.
            fd = None if above is None or is_being_deleted(key) else _directory(above, key)
            if fd is None:
                continue
            with files.opened(fd):
                time, boot = parsed_key(key)
                for name in files.names(fd):
                    if not name.startswith(b".") and (home := _directory(fd, name)) is not None:
                        with files.opened(home):
                            yield Kept("aside", name, key, time, boot, *_shape(name, home))


def _snapshots(town: Spec, top: int | None) -> Iterator[Kept]:
    with shelves.snapshots(town, top) as above:
        for agent in [] if above is None else files.names(above):
            fd = None if above is None or agent.startswith(b".") else _directory(above, agent)
            if fd is None:
                continue
            with files.opened(fd):
                for name in files.names(fd):
                    yield from _shelved(fd, name, agent, name, "snapshot")


def _recalled(town: Spec, top: int | None, agents: int | None) -> Iterator[Kept]:
    with shelves.recalled(town, top, agents) as above:
        for name in [] if above is None else files.names(above):
            assert above is not None
            agent, at, key = name.partition(b"@")
            if at and key:
                yield from _shelved(above, name, agent, key, "recalled")


def _shelved(above: int, name: bytes, agent: bytes, key: bytes, kind: Kind) -> Iterator[Kept]:
    """What lies in a directory with `home` in it and an about.json beside."""
    entry = None if name.startswith(b".") else _directory(above, name)
    if entry is None:
        return
    with files.opened(entry):
        about = about_.read(entry)
        home = _directory(entry, HOME.encode())
        if home is None:
            return
        with files.opened(home):
            shape = _shape(b"", home)
        time = about.time or datetime.fromtimestamp(os.fstat(entry).st_mtime, UTC)
        yield Kept("imported" if about.origin else kind, agent, key, time, about.boot, *shape, about)


def _directory(above: int, name: bytes) -> int | None:
    """The directory of that name, or None for anything else: a file or a link there is nobody's home."""
    try:
        return files.enter(above, name)
    except (NotADirectoryError, FileNotFoundError, Unsafe):
        return None


def _shape(name: bytes, home: int) -> tuple[bool, tuple[bytes, ...]]:
    """Whether an open home is a subvolume, and what is nested in it."""
    if not btrfs.is_btrfs(home):
        return False, ()
    subvolume, paths = btrfs.is_subvolume(home), [nested.path for nested in btrfs.nested(home)]
    if subvolume:
        return True, tuple(paths)
    # A plain directory: those of the whole subvolume that it lies in, among them its own.
    return False, tuple(path[len(name) + 1 :] for path in paths if path.startswith(name + b"/"))


def parsed_key(key: bytes) -> tuple[datetime | None, str]:
    """When and at which boot a home was set aside, as its name says; (None, "") where it is no such name."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None, ""
    try:
        time = datetime.strptime(match[1].decode(), STAMP).replace(tzinfo=UTC)
    except ValueError:  # 99 hours
        return None, ""
    return time, match[2].decode()


def is_being_deleted(key: bytes) -> bool:
    """Whether a name among what was set aside says that it is no home any more."""
    return key.startswith(places.DELETING)


def refuse_name(name: str) -> None:
    """Raises BadName where a snapshot, a copy or an import cannot be named so."""
    cure = "letters, digits, . _ + - , at most 100, the first a letter or a digit"
    if _NAME.fullmatch(name) is None:
        raise BadName(f"{shown(name[:120])} cannot be the name of a kept home", hint=f"--name takes {cure}")
    if name == NOW or _KEY.fullmatch(name.encode()) is not None or name.endswith(".deleting"):
        raise BadName(f"{name} is a name of another kind of home", hint="choose another name")


def stamp(now: datetime) -> str:
    """The name that a kept home has by default. `now` is aware."""
    return now.astimezone(UTC).strftime(STAMP)


def read(above: int, agent: str, name: str) -> Kept:
    """The one of that name in the open directory of an agent's snapshots. Raises NoSuchHome."""
    found = list(_shelved(above, os.fsencode(name), os.fsencode(agent), os.fsencode(name), "snapshot"))
    if not found:
        raise NoSuchHome(f"{shown(agent)}@{shown(name)} is gone", hint="persist homes lists what is kept")
    return found[0]


def path_of(town: Spec, agent: str) -> str:
    """Where the snapshots of an agent lie in their filesystem."""
    assert town.town.btrfs is not None
    return f"{town.town.btrfs.snapshots}/{agent}"


def of(kept: Sequence[Kept], agent: Agent) -> list[Kept]:
    """Those of one agent."""
    return [one for one in kept if one.whose == agent.name]
