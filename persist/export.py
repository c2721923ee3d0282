"""`persist export`: a kept home as one encrypted file, to look at on another machine.

Whoever is named can open it, with an age key, an SSH key or gpg, and nobody else. It appears whole or not at all.
"""

import argparse
import os
import secrets as random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from persist import ground, kept, momentary, place, secrets, shelves
from persist.bucket import commits
from persist.bucket.blobs import Writer
from persist.bucket.commits import Commit, Name
from persist.bucket.keys import AgentKeys, TownKey
from persist.kept import Home, Kept
from persist.parcel import story, wire
from persist.parcel.packing import Packing
from persist.parcel.story import Story
from persist.parcel.wire import Outgoing
from persist.progress import Progress
from persist.secrets import Rules
from town import cli, files, kernel, recipients, sops, spec, trust
from town.failure import DONE, Failure, Unsafe, WrongUsage
from town.grammar import Wrong
from town.process import Person
from town.spec import Agent, Spec
from town.terminal import counted, say, shell_word, shown, size

_LOOK = 5.0  # seconds for which secrets are looked for that are only pointed out


class NoRecipients(Failure):
    """Nobody is named who could open the file."""


class InTheWay(Failure):
    """Something is there already where the file would be. It was not touched."""


class CannotLeaveOut(Failure):
    """Keys and credentials cannot be left out: no copy can be made from which they would be taken."""


class ExportFailed(Failure):
    """A step failed. No file was made."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was written: bytes of the file, files in it, their bytes, and what is to be said."""

    written: int
    files: int
    bytes: int
    notes: tuple[str, ...]


def command(arguments: argparse.Namespace) -> int:
    """Export one kept home and print the file's name."""
    town = spec.load(cli.spec_file(arguments))
    to = _recipients(town, arguments.to)
    kept.parse(arguments.home)
    ground.require_root("export")
    trust.refuse(town)
    with ExitStack() as stack:
        there = stack.enter_context(shelves.opened(town))
        one = kept.chosen(kept.every(town, there.top, there.agents), arguments.home)
        home = stack.enter_context(kept.opened(town, there.top, one, there.agents))
        exporting = _Exporting(town, there.top, one, without=arguments.without_secrets)
        try:
            with _output(town, arguments.file) as fd:
                made = exporting.write(home, fd, to)
        except OSError as error:
            raise ExportFailed(f"{one.name} cannot be exported: {cli.unexpected(error)}") from error
        _tell(one, made, to, exporting)
    if arguments.file != "-":
        print(arguments.file if shown(arguments.file) == arguments.file else shell_word(arguments.file))
    return DONE


def _recipients(town: Spec, named: list[str] | None) -> tuple[str, ...]:
    """Who can open the file: those who were named, else the town's humans, else who can open its secrets."""
    if named:
        try:
            found = [recipients.recipient(text) for text in named]
        except Wrong as wrong:
            raise WrongUsage(f"--to: what was given {wrong.what}", hint=wrong.cure) from wrong
    elif town.town.recipients is not None:
        found = list(town.town.recipients.humans)
    else:
        beside, start = town.beside(town.town.sops_file), town.file.absolute().parent
        found = list(sops.creation_recipients(beside, start=start) or ())
    if not found:
        raise NoRecipients(
            f"{shown(str(town.file))} names nobody who could open the file",
            hint="name somebody: --to age1…, or at least one human in [town.recipients]",
        )
    return tuple(dict.fromkeys(map(sops.canonical, found)))


class _Exporting:
    """One export. `without`: keys and credentials are left out."""

    def __init__(self, town: Spec, top: int | None, one: Kept, *, without: bool) -> None:
        self._town, self._top, self._one, self.without = town, top, one, without
        self.agent: Agent | None = next((agent for agent in town.agents if agent.name == one.whose), None)
        self.rules = secrets.rules(self.agent)
        self.secrets = secrets.Found()

    def write(self, home: Home, fd: int, to: tuple[str, ...]) -> Made:
        """All of it, to an open file."""
        key, now = TownKey.random(), datetime.now(UTC)
        keys = AgentKeys.of(key, wire.AGENT)
        outgoing = Outgoing(fd)
        outgoing.put(wire.KEY, wire.seal_key(key, to, now))
        person = self._person(home)
        with (
            Progress(f"persist: {self._one.whose}: export") as progress,
            Writer(outgoing, keys, progress=progress) as writer,
            Packing(self._town, keys, writer, person, progress.add) as packing,
        ):
            tops, notes = [packing.file(story.FILE, story.dumped(self._story(now)), int(now.timestamp() * 10**9))], []
            for path, directory, rules in self._directories(home):
                with self._settled(directory, rules, path.relative_to(path.parts[0])) as settled:
                    found = packing.directory(settled, path)
                tops.append(found.top)
                notes += [f"{path}/{note}" for note in found.notes]
            placed = writer.finish()
        commit = Commit(
            wire.AGENT, now, socket.gethostname()[:200], os.urandom(16).hex(), 1, None, tuple(tops),
            tuple(each.pack for each in placed), person.uid, person.gid,
        )  # fmt: skip
        name = Name.fresh(1, commit.machine)
        outgoing.put(commits.key(keys, name), commits.sealed(keys, name, commit))
        return Made(outgoing.written, commit.files - 1, commit.bytes - tops[0].bytes, tuple(notes))

    def _person(self, home: Home) -> Person:
        """Who the role `agent` stands for: the owner of the home, but for a copy, which is root's."""
        if self.agent is not None:
            return self.agent.person
        found = os.fstat(home.fd)
        return Person(found.st_uid, found.st_gid)

    def _story(self, now: datetime) -> Story:
        one, notes = self._one, self._one.about.notes
        return Story(
            agent=one.whose,
            name=os.fsdecode(one.key),
            kind=one.kind,
            host=socket.gethostname()[:200],
            exported=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            without_secrets=self.without,
            about=replace(one.about, time=one.time, boot=one.boot, notes=notes),
        )

    def _directories(self, home: Home) -> Iterator[tuple[PurePosixPath, int, Rules]]:
        """What goes into the file: its path there, the directory, and what in it is a secret."""
        yield story.HOME, home.fd, self.rules
        for path, fd in sorted(home.persisted.items()):
            inner = self.rules.below(path)
            if inner is None:
                self.secrets.secrets.add(secrets.TOP, bytes(path))
            if inner is not None or not self.without:
                yield story.PERSISTED / path, fd, inner or Rules((), (), ())

    @contextmanager
    def _settled(self, fd: int, rules: Rules, path: PurePosixPath) -> Iterator[int]:
        """The directory as it is to go into the file; `path`: where in the home it belongs."""
        if not self.without:
            self.secrets.join(secrets.find(fd, rules, seconds=_LOOK), path)
            yield fd
            return
        with momentary.frozen(fd, self._one.whose, self._top, writable=True) as copy:
            if not copy.frozen:
                raise CannotLeaveOut(
                    f"{self._one.name} lies in no subvolume of its own, so nothing can be left out of it",
                    hint="export it whole, for recipients who may have its keys; or rotate those: identity rotate",
                )
            self.secrets.join(secrets.remove(copy.fd, rules), path)
            yield copy.fd


@contextmanager
def _output(town: Spec, file: str) -> Iterator[int]:
    """Where the file goes: standard output, or a file that gets its name when the block ends well.

    Raises InTheWay, Unsafe where an agent could put another one in its place.
    """
    if file == "-":
        if os.isatty(1):
            raise Unsafe("a terminal has no use for an encrypted file", hint="send it to a file or a pipe")
        sys.stdout.flush()
        yield 1
        return
    path = Path(os.path.abspath(file))
    try:
        above = place.directory(town, path.parent)
    except OSError as error:
        raise ExportFailed(f"{shown(str(path.parent))} cannot be opened: {error.strerror}") from error
    with files.opened(above):
        with suppress(FileNotFoundError):
            os.stat(path.name, dir_fd=above, follow_symlinks=False)
            raise _in_the_way(path)
        hidden = f".{path.name[:48]}.{random.token_hex(6)}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with files.opened(os.open(hidden, flags, 0o600, dir_fd=above)) as fd:
            try:
                yield fd
                os.fsync(fd)
                kernel.renameat2(above, hidden, above, path.name)
            except BaseException as error:
                with suppress(OSError):
                    os.unlink(hidden, dir_fd=above)
                if isinstance(error, FileExistsError):
                    raise _in_the_way(path) from error
                raise
        os.fsync(above)


def _in_the_way(path: Path) -> InTheWay:
    return InTheWay(f"{shown(str(path))} is there already", hint="name another file, or move that one away")


def _tell(one: Kept, made: Made, to: tuple[str, ...], exporting: _Exporting) -> None:
    say(f"{one.name}: {counted(made.files, 'file')}, {size(made.bytes)}, in a file of {size(made.written)}")
    say(f"who can open it: {', '.join(map(shown, to))}")
    for note in made.notes:
        say(f"note: {note}")
    found = exporting.secrets
    if exporting.without:
        say(f"keys and credentials left out, by place and name: {found.secrets or 'none were found'}")
        if deep := secrets.deep_line(found):
            say(f"note: {deep}")
    elif found.secrets or not found.whole:
        least = "" if found.whole else " at least"
        cli.warn(
            "persist",
            f"it holds keys and credentials,{least} {found.secrets or 'some'}",
            "who can open the file has them too: --without-secrets leaves them out",
        )
