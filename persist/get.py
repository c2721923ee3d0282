"""`persist get`: one file or directory out of a state in the store, to standard output or into a directory.

Nothing of the agent is touched and no lease is asked for. What comes out is root's, and nobody else's to read: an
agent wrote it.
"""

import argparse
import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from persist import fetch, fill, ground
from persist import place as place_
from persist.bucket.commits import Top
from persist.bucket.trees import Entry, checked_name
from persist.fetch import Held, Options
from persist.fill import Totals, single
from persist.progress import Progress
from persist.restore import staging
from town import cli, files, kernel, spec, trust
from town.failure import DONE, Failure, Unsafe, WrongUsage
from town.process import Person
from town.spec import Agent, Spec
from town.terminal import say, shell_word, shown

_ON_A_TERMINAL = 1 << 20  # bytes


class NotThere(Failure):
    """The state does not hold what was asked for, or not as something that can be given that way."""


class OutputFailed(Failure):
    """Standard output did not take all of a file."""


class InTheWay(Failure):
    """Something is there already where a file or directory would be put. It was not touched."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One path of a state: in which declared path it lies, and what it is."""

    path: PurePosixPath
    top: Top
    entry: Entry


def command(arguments: argparse.Namespace) -> int:
    """Give what was asked for; into a directory all of it, or what came before the first failure."""
    town = spec.load(cli.spec_file(arguments))
    agent, at = _state(town, arguments.what)
    paths, rate = [_file(agent, _path(text)) for text in arguments.paths], cli.rate(arguments.limit_rate)
    if arguments.to is None and len(paths) > 1:
        raise WrongUsage("only one file goes to standard output", hint="with --to DIR all of them go into a directory")
    ground.require_root("get")
    trust.refuse(town)
    held = fetch.chosen(town, agent, Options(at=at, rate=rate))
    if held is None:
        raise NotThere(f"the store holds nothing of {agent.name}", hint="persist log shows what it holds")
    try:
        wanted = [_found(held, agent, path) for path in paths]
        if arguments.to is None:
            _print(held, wanted[0])
        else:
            _put_all(town, held, wanted, Path(os.path.abspath(arguments.to)))
    finally:
        held.close()
    return DONE


def _state(town: Spec, text: str) -> tuple[Agent, str | None]:
    """`AGENT`, `AGENT@SNAPSHOT` or `AGENT@store:SNAPSHOT`. Raises WrongUsage."""
    name, separator, at = text.partition("@")
    at = at.removeprefix("store:")
    if not name or (separator and not at):
        raise WrongUsage(f"{shown(text)} is not of the form AGENT[@SNAPSHOT]", hint="persist log shows what there is")
    (agent,) = town.chosen([name])
    return agent, at or None


def _path(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    try:
        for part in path.parts:
            checked_name(os.fsencode(part))
    except ValueError:
        path = PurePosixPath()
    if not path.parts:
        raise WrongUsage(f"{shown(text)} is no path in a home", hint="give it relative to the home: projects/notes.md")
    return path


def _file(agent: Agent, path: PurePosixPath) -> PurePosixPath:
    """A declared file lies in a directory of its own name (docs/formats/store.md)."""
    return path / path.name if any(entry.copied and entry.path == path for entry in agent.persist) else path


def _found(held: Held, agent: Agent, path: PurePosixPath) -> Wanted:
    """What the state holds at `path`. Raises NotThere."""
    where = f"the snapshot {held.snapshot} of {agent.name}"
    above = next((one for one in held.paths if path.is_relative_to(one)), None)
    if above is None:
        raise NotThere(
            f"{where} does not hold {shown(str(path))}",
            hint=f"it holds {', '.join(shown(str(one)) for one in held.paths) or 'nothing'}",
        )
    top = held.top(above)
    names = tuple(map(os.fsencode, path.relative_to(above).parts))
    entry = single.find(held.source().atlas(), top.entry, names)
    if entry is None:
        raise NotThere(f"{where} does not hold {shown(str(path))}", hint=f"persist log {agent.name} shows other states")
    return Wanted(path, top, replace(entry, name=os.fsencode(path.name)))


def _print(held: Held, wanted: Wanted) -> None:
    entry, name = wanted.entry, shown(str(wanted.path))
    if entry.kind != "file":
        kind = {"dir": "a directory", "symlink": f"a symbolic link to {shown(entry.target)}"}.get(entry.kind, "a FIFO")
        raise NotThere(f"{name} is {kind}: only a file goes to standard output", hint="give --to DIR")
    pieces = single.contents(held.source().atlas(), entry)
    if sys.stdout.isatty():
        pieces = iter([_text(name, entry, pieces)])
    _write(pieces)


def _write(pieces: Iterator[bytes]) -> None:
    """To standard output. Raises OutputFailed; what reading the pieces raises stays what it is."""
    for piece in pieces:
        with _said_of_the_output():
            sys.stdout.buffer.write(piece)
    with _said_of_the_output():
        sys.stdout.buffer.flush()


@contextmanager
def _said_of_the_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OutputFailed(
            f"standard output: {error.strerror}",
            hint="make room where standard output goes, or send it elsewhere, then run it again: what came out so far "
            "is not whole"
            if full
            else "what came out so far is not whole: run it again",
        ) from error


def _text(name: str, entry: Entry, pieces: Iterator[bytes]) -> bytes:
    """All of a file, when a terminal can show it and does nothing else with it. Raises Unsafe."""
    hint = "send it to a file or a pager, or give --to DIR"
    if entry.size > _ON_A_TERMINAL:
        raise Unsafe(f"{name} is larger than what a terminal is given", hint=hint)
    data = b"".join(pieces)
    try:
        plain = all(shown(line) == line for line in data.decode().replace("\\", "").replace("\t", " ").split("\n"))
    except UnicodeDecodeError:
        plain = False
    if not plain:
        raise Unsafe(f"{name} is no plain text, and could act on the terminal", hint=hint)
    return data


def _put_all(town: Spec, held: Held, wanted: Sequence[Wanted], place: Path) -> None:
    names = [one.path.name for one in wanted]
    if len(set(names)) < len(names):
        raise WrongUsage(
            "two of the paths have the same name", hint="get them one after the other, into two directories"
        )
    with _place(town, place) as directory:
        taken = set(files.names(directory))
        for name in names:
            if os.fsencode(name) in taken:
                raise _in_the_way(place / name)
        for one in wanted:
            totals = _put(town, held, one, directory, place)
            print(shell_word(str(place / one.path.name)), flush=True)
            say(f"{shown(str(one.path))}: {totals}; an agent wrote it: git, editors and shells run what lies in it")


def _put(town: Spec, held: Held, wanted: Wanted, directory: int, place: Path) -> Totals:
    """Make one entry whole in a staging, then give it its name. Raises InTheWay, StoreDamaged, CannotMake."""
    name, most = wanted.path.name, (wanted.top.files, wanted.top.bytes)
    facts = held.facts(Person(os.geteuid(), os.getegid()), plain=True)
    with (
        staging.opened(directory) as (_, inside),
        fetch.scratch(town) as scratch,
        Progress(f"persist: get {name}") as progress,
    ):
        totals = fill.fill_one(held.source(), wanted.entry, most, inside, facts, scratch, progress=progress)
        made = os.stat(name, dir_fd=inside, follow_symlinks=False)
        if not stat.S_ISLNK(made.st_mode):
            # A home lets nobody else in; the directory that a person names may.
            os.chmod(name, stat.S_IMODE(made.st_mode) & 0o700, dir_fd=inside)
        kernel.syncfs(inside)
        try:
            kernel.renameat2(inside, name, directory, name)
        except FileExistsError as error:
            raise _in_the_way(place / name) from error
    return totals


@contextmanager
def _place(town: Spec, place: Path) -> Iterator[int]:
    """The directory to put things in, made (0700) where it is missing: real, and out of every agent's reach."""
    fd, where = os.open("/", files.DIRECTORY), Path("/")
    try:
        for part in place.parts[1:]:
            place_.refuse_agents(town, fd, where)
            where = where / part
            below = place_.entered(fd, part, where, make=True, mode=0o700)
            assert below is not None, "it was made"
            os.close(fd)
            fd = below
        place_.refuse_agents(town, fd, where)
        yield fd
    finally:
        os.close(fd)


def _in_the_way(path: Path) -> InTheWay:
    return InTheWay(f"{shown(str(path))} is there already", hint="name another directory, or move it away first")
