"""`persist import`: a home that `persist export` wrote becomes a kept home of this machine, to look at.

It is listed by `persist homes`, recalled and compared like any other. It appears whole or not at all.
"""

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from persist import about as about_
from persist import device, fetch, ground, kept, recopied, shelving
from persist.bucket import opening
from persist.kept import HOME, PERSISTED, Kept
from persist.parcel import unpacking
from persist.parcel.unpacking import Parcel
from persist.progress import Progress
from town import btrfs, cli, files, sops, spec, trust
from town.failure import DONE, Failure
from town.files import Unreadable
from town.process import Person
from town.spec import Spec
from town.terminal import counted, say, shown, size

_PIECE = 1 << 20
_LEAST, _SHARE = 64 << 20, 20  # bytes, and one part in so many, that stay free where standard input is put down
_ROOT = Person(0, 0)
_WAY = 0o711


class ImportFailed(Failure):
    """A step failed. Nothing was made."""


def command(arguments: argparse.Namespace) -> int:
    """Bring one home in and print its name."""
    town = spec.load(cli.spec_file(arguments))
    ground.require_root("import", "it makes what only root may look into")
    trust.refuse(town)
    with ExitStack() as stack:
        top = stack.enter_context(device.top(town))
        fd = stack.enter_context(_input(town, arguments.file))
        parcel = stack.enter_context(unpacking.opened(fd, _keys(town, arguments.key)))
        name = _name(parcel)
        if arguments.dry_run:
            _put(arguments, parcel, f"{parcel.story.agent}@{name}", made=False)
            return DONE
        try:
            made = bring(town, top, parcel, name)
        except (OSError, btrfs.BtrfsFailed) as error:
            what = error.what if isinstance(error, Failure) else cli.unexpected(error)
            raise ImportFailed(f"the home cannot be brought in: {what}; nothing was made") from error
    _put(arguments, parcel, made.name, made=True)
    return DONE


def bring(town: Spec, top: int, parcel: Parcel, name: str) -> Kept:
    """Make a kept home of what a file holds; `name`, or with a number where that is taken. Raises OSError, Failure."""
    told = parcel.story
    agent = next((agent for agent in town.agents if agent.name == told.agent), None)
    owner = _ROOT if agent is None else agent.person
    what = f"persist: {told.agent}: import"
    with shelving.agent(town, top, told.agent) as above:
        shelving.sweep(above)
        free = shelving.free_name(above, name)
        with (
            shelving.entry(above, free) as entry,
            fetch.scratch(town) as scratch,
            Progress(what, total_files=parcel.commit.files, total_bytes=parcel.commit.bytes) as progress,
        ):
            with files.opened(btrfs.create(entry, HOME)) as home:
                parcel.unpack(parcel.home, home, owner, scratch, progress)
                btrfs.set_read_only(home, True)
            for path, held in parcel.persisted:
                with files.opened(_made(entry, path)) as place:
                    parcel.unpack(held, place, owner, scratch, progress)
            paths = tuple(path for path, _ in parcel.persisted)
            about_.write(
                entry, replace(told.about, origin=told.origin, paths=paths, apart=False, inside="", transids={})
            )
        return kept.read(above, told.agent, free)


def _made(entry: int, path: PurePosixPath) -> int:
    """The place of what lay outside of the home, made and open."""
    return files.make_dirs(entry, PurePosixPath(PERSISTED) / path, mode=0o700, owner=(0, 0), parents=(_WAY, (0, 0)))


def _name(parcel: Parcel) -> str:
    """What it is called here: as it was there, or as what it was a copy of; a name of another kind becomes its time."""
    name = recopied.COPY.sub("", parcel.story.name) if parcel.story.kind == "recalled" else parcel.story.name
    try:
        kept.refuse_name(name)
    except kept.BadName:
        return kept.stamp(parcel.story.about.time or parcel.commit.time)
    return name


def _keys(town: Spec, file: str | None) -> sops.Keys:
    """The key that was named, else the caller's own, else the machine's."""
    if file is None:
        return opening.keys_at_hand(town)
    try:
        return sops.Keys.of_age_file(Path(file))
    except sops.NoKey:
        return sops.Keys.of_ssh_file(Path(file))


@contextmanager
def _input(town: Spec, file: str) -> Iterator[int]:
    """The file, open for reading at any place of it. Raises Unreadable, ImportFailed."""
    if file == "-":
        with _put_down(town) as fd:
            yield fd
        return
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(f"{shown(file)} cannot be read: {error.strerror}") from error
    with files.opened(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unreadable(f"{shown(file)} is not a regular file", hint="`-` reads standard input")
        yield fd


@contextmanager
def _put_down(town: Spec) -> Iterator[int]:
    """Standard input as a file without a name: as it came, so encrypted. Raises ImportFailed."""
    with fetch.scratch(town) as place:
        fd = os.open(place, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    with files.opened(fd):
        try:
            while piece := sys.stdin.buffer.read(_PIECE):
                there = os.fstatvfs(fd)
                if there.f_bavail * there.f_frsize < max(_LEAST, there.f_blocks * there.f_frsize // _SHARE):
                    raise ImportFailed("no room to put standard input down", hint="make room, or give it as a file")
                files.write_all(fd, piece)
        except OSError as error:
            raise ImportFailed(f"standard input cannot be put down: {cli.unexpected(error)}") from error
        yield fd


def _put(arguments: argparse.Namespace, parcel: Parcel, name: str, *, made: bool) -> None:
    told, commit = parcel.story, parcel.commit
    count, held = commit.files - 1, commit.bytes
    if arguments.json:
        cli.put_json({"name": name, "made": made, "origin": told.origin, "files": count, "bytes": held,
                      "message": told.about.message, "without_secrets": told.without_secrets})  # fmt: skip
        return
    say(
        f"{shown(told.agent)}@{shown(told.name)} of {shown(told.host)}, exported {shown(told.exported)}: "
        f"{counted(count, 'file')}, {size(held)}"
        + (", without keys and credentials" if told.without_secrets else "")
        + (f": {shown(told.about.message)}" if told.about.message else "")
    )
    print(name if made else f"import    {name}")
    if made:
        say("who made the file is not known; an agent wrote the home: git, editors and shells run what lies in it")
