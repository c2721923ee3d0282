"""Keys and logins in a home: pointed out in a copy that a person is given, or left out of it. The list is data
(`town/secrets.toml`); to it come what the spec and the presets call a credential, and the keys that nuketown installs.

A list of names finds what programs put where they usually do. What somebody hid, it does not find.
"""

import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from persist.descent import Deeper, Entered, Few, descend
from persist.walk import DEEPEST, Directory
from town import files, presets, subvolumes
from town.failure import Failure, Unsafe
from town.persist_table import KEYS
from town.spec import Agent
from town.terminal import counted

_MARKS = (b"PRIVATE KEY", b"AGE-SECRET-KEY-")
_DEEPEST = 10  # names in a path of the data
_BEGINNING = 64 << 10  # bytes of a file in which a mark counts
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Names(NamedTuple):
    """The data: see the file."""

    paths: tuple[str, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(slots=True)
class Found:
    """What was found, or taken out. `whole`: nothing of the home was left unseen.

    `deep`: so many directories were taken out with all in them, as nobody looks through what lies that deep.
    """

    secrets: Few = field(default_factory=Few)
    whole: bool = True
    deep: int = 0

    def join(self, other: "Found", below: PurePosixPath) -> None:
        """Add what was found in the directory `below` (`.`: all) of the same home."""
        self.secrets.join(other.secrets, b"" if not below.parts else bytes(below) + b"/")
        self.whole &= other.whole
        self.deep += other.deep


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a secret in the home of one agent."""

    paths: tuple[tuple[str, ...], ...]  # the names of each, with `*`
    names: tuple[str, ...]
    keys: tuple[str, ...]

    def covers(self, path: bytes) -> bool:
        """Whether something at that path, relative to the home, is one by its place or its name alone."""
        parts = os.fsdecode(path).split("/")
        if any(fnmatchcase(parts[-1], name) for name in self.names):
            return True
        return any(_matches(parts[: len(wanted)], wanted) for wanted in self.paths)

    def below(self, path: PurePosixPath) -> "Rules | None":
        """The rules for a directory that lies at `path` of the home; None: all that is in it is one."""
        paths: list[tuple[str, ...]] = []
        for wanted in self.paths:
            count = min(len(wanted), len(path.parts))
            if _matches(path.parts[:count], wanted[:count]):
                if count == len(wanted):
                    return None
                paths.append(wanted[count:])
        return Rules(tuple(paths), self.names, self.keys)

    def may_be_key(self, name: bytes) -> bool:
        """Whether a file of that name is one when it holds a key: `holds_key` says so."""
        return any(fnmatchcase(os.fsdecode(name), wanted) for wanted in self.keys)


def rules(agent: Agent | None) -> Rules:
    """The rules for an agent's home; None: of an agent that the spec does not have (any more)."""
    data = _data()
    return Rules(tuple(dict.fromkeys(_paths(agent, data))), data.names, data.keys)


def _paths(agent: Agent | None, data: _Names) -> Iterator[tuple[str, ...]]:
    yield from (PurePosixPath(path).parts for path in data.paths)
    yield from (path.parts for path in KEYS)
    for name in presets.names():
        preset = presets.preset(name)
        yield from ((preset.path / part).parts for part in preset.credential)
    for entry in agent.persist if agent is not None else ():
        if entry.class_ == "credential":
            yield entry.path.parts
        if entry.preset is not None:
            yield from ((entry.path / part).parts for part in presets.preset(entry.preset).credential)


@cache
def _data() -> _Names:
    import tomllib

    tree = tomllib.loads((Path(presets.__file__).parent / "secrets.toml").read_text(encoding="utf-8"))
    return _Names(tuple(tree["paths"]), tuple(tree["names"]), tuple(tree["keys"]))


def _matches(parts: Iterable[str], wanted: tuple[str, ...]) -> bool:
    found = tuple(parts)
    return len(found) == len(wanted) and all(map(fnmatchcase, found, wanted))


def holds_key(directory: int, name: bytes) -> bool:
    """Whether the regular file `name` of an open directory begins with a private key. Raises nothing."""
    with suppress(OSError, Unsafe), files.opened(files.open_beneath(directory, name, _READ)) as fd:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            beginning = os.read(fd, _BEGINNING)
            return any(mark in beginning for mark in _MARKS)
    return False


def find(home: int, wanted: Rules, *, seconds: float) -> Found:
    """What of an open home is a secret; looked for so long at most, the places that are known first."""
    found, until = Found(), time.monotonic() + seconds
    known = set[bytes]()

    def too_deep(_directory: Directory, _fd: int, _name: bytes) -> None:
        found.whole = False

    try:
        for path in _at_known_places(home, wanted):
            if time.monotonic() > until:
                raise TimeoutError
            known.add(path)
            found.secrets.add(TOP, path)
        for directory, _, name in _by_name(home, wanted, until, too_deep):
            if not _is_below(directory.path(name), known):
                found.secrets.add(directory, name)
    except (Failure, OSError, TimeoutError):
        found.whole = False
    return found


def remove(home: int, wanted: Rules) -> Found:
    """Take every secret out of an open home that only root reaches; what it was. Raises Failure, OSError."""
    found = Found()

    def too_deep(_directory: Directory, fd: int, name: bytes) -> None:
        subvolumes.remove(fd, name)
        found.deep += 1

    for path in list(_at_known_places(home, wanted)):
        above, _, name = path.rpartition(b"/")
        with suppress(FileNotFoundError), files.opened(files.open_beneath(home, above or b".")) as holder:
            subvolumes.remove(holder, name)
        found.secrets.add(TOP, path)
    for directory, fd, name in _by_name(home, wanted, None, too_deep):
        subvolumes.remove(fd, name)
        found.secrets.add(directory, name)
    return found


def deep_line(found: Found) -> str:
    """What a person should hear of what was taken out as too deep; empty where nothing was."""
    if not found.deep:
        return ""
    return f"left out unseen: {counted(found.deep, 'tree')} of directories, deeper than {DEEPEST:,} levels"


TOP = Directory(b"", None, 0, 0, True)  # for a path that is said from the home on


def _at_known_places(home: int, wanted: Rules) -> Iterator[bytes]:
    """Paths that exist, none below another one."""
    done: set[bytes] = set()
    for parts in sorted(wanted.paths, key=len):
        for path in _expanded(home, b"", parts):
            if not _is_below(path, done):
                done.add(path)
                yield path


def _is_below(path: bytes, known: Collection[bytes]) -> bool:
    """Whether a path, or a directory on its way, is one of them; at a cost that does not grow with them."""
    parts = path.split(b"/", _DEEPEST)
    return any(b"/".join(parts[:count]) in known for count in range(1, min(len(parts), _DEEPEST) + 1))


def _expanded(directory: int, above: bytes, parts: tuple[str, ...]) -> Iterator[bytes]:
    first, rest = parts[0], parts[1:]
    for name in _named(directory, first):
        path = above + b"/" + name if above else name
        if not rest:
            yield path
            continue
        with suppress(OSError, Unsafe), files.opened(files.enter(directory, name)) as fd:
            yield from _expanded(fd, path, rest)


def _named(directory: int, name: str) -> Iterator[bytes]:
    """Names of an open directory that fit."""
    if "*" in name:
        yield from (found for found in files.names(directory) if fnmatchcase(os.fsdecode(found), name))
        return
    with suppress(FileNotFoundError, NotADirectoryError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        yield os.fsencode(name)


def _by_name(home: int, wanted: Rules, until: float | None, too_deep: Deeper) -> Iterator[tuple[Directory, int, bytes]]:
    """Files anywhere whose name, or content, says it: the directory, open, and the name. Raises TimeoutError."""
    for event in descend(home, gone=_ignored, mounted=_ignored, deeper=too_deep):
        if until is not None and time.monotonic() > until:
            raise TimeoutError
        if isinstance(event, Entered):
            for entry in files.scan(event.fd):
                name = os.fsencode(entry.name)
                if not entry.is_dir(follow_symlinks=False) and _is_secret(event.fd, name, wanted):
                    yield event.directory, event.fd, name


def _is_secret(directory: int, name: bytes, wanted: Rules) -> bool:
    text = os.fsdecode(name)
    if any(fnmatchcase(text, pattern) for pattern in wanted.names):
        return True
    return wanted.may_be_key(name) and holds_key(directory, name)


def _ignored(_path: bytes) -> None:
    return
