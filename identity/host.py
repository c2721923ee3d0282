"""`identity host init`: this machine's age key, which opens the town's secrets here. Made once, never replaced."""

import argparse
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from identity.guard import no_core_dump
from identity.keys.home import in_memory
from town import again, cli, files, grammar, sops, trust
from town import spec as specs
from town.failure import DONE, Failure, TryLater, Unsafe
from town.grammar import Wrong
from town.locks import take
from town.spec import HostKey, Spec
from town.terminal import shell_word, shown
from town.town_table import AGENTS_DIR, PERSIST_DIR

_ROOT = (0, 0)


class NotRoot(Failure):
    """The machine's key is root's: nobody else can make it."""


class NoPlace(Failure):
    """The machine's key cannot lie where it should: it would not be root's alone, or not last."""


@dataclass(frozen=True, slots=True)
class MakeKey:
    """A new age key at `path`."""

    path: Path

    def __str__(self) -> str:
        return f"make    {shown(str(self.path))}"


def command(arguments: argparse.Namespace) -> int:
    """`identity host init`. Works without a spec too: the key then lies where one is looked for by default."""
    spec = _spec(cli.spec_file(arguments))
    if os.geteuid() != 0:
        raise NotRoot("the machine's key is root's", hint=again.as_root("identity", "host"))
    path = (HostKey() if spec is None else spec.town.host_key).age
    refuse_place(path, spec)
    if not os.path.lexists(path) and arguments.dry_run:
        print(MakeKey(path))
        return DONE
    no_core_dump()
    recipient = make(path) if not os.path.lexists(path) else of_key(path)
    print(recipient)
    _advise(spec, path, recipient)
    return DONE


def _spec(file: Path) -> Spec | None:
    """The spec; None where none was named and there is none yet. Raises BadSpec, Unsafe."""
    if file == cli.DEFAULT_SPEC and not os.path.lexists(file):
        return None
    spec = specs.load(file)
    trust.refuse(spec)
    return spec


def refuse_place(path: Path, spec: Spec | None) -> None:
    """Refuse a place for the key that agents reach, or that others than root can change. Raises NoPlace, Unsafe."""
    real = Path(os.path.realpath(path))
    for key, place in _agents_places(spec):
        if any(one.is_relative_to(there) for one in (path, real) for there in (place, Path(os.path.realpath(place)))):
            raise NoPlace(
                f"{shown(str(path))} lies in {shown(str(place))} ({key}): the key would be among the agents' data",
                hint=f"set town.host_key.age to a place such as {HostKey().age}",
            )
    for one in trust.way(path):
        _refuse_others(one, path)


def _agents_places(spec: Spec | None) -> Iterator[tuple[str, Path]]:
    """Where agents' data lies: it is wiped, or bound into homes."""
    yield "agents_dir", AGENTS_DIR if spec is None else spec.town.agents_dir
    persist_dir = PERSIST_DIR if spec is None else spec.town.persist_dir
    if persist_dir is not None:
        yield "persist_dir", persist_dir / "agents"


def _refuse_others(place: Path, key: Path) -> None:
    try:
        found = place.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise NoPlace(f"{shown(str(place))} cannot be looked at: {error.strerror}") from error
    name, word = shown(str(place)), shell_word(str(place))
    if found.st_uid != 0:
        raise Unsafe(
            f"{name} belongs to uid {found.st_uid}, who could put another key in the place of {shown(str(key))}",
            hint=f"chown -h root: {word}",
        )
    if stat.S_ISDIR(found.st_mode) and found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise Unsafe(
            f"others than root can write in {name}, and so put another key in the place of {shown(str(key))}",
            hint=f"chmod go-w {word}",
        )


def make(path: Path) -> str:
    """A new key at `path`, root's, 0400; the recipient. One that is there meanwhile is kept and its recipient given.

    Raises NoPlace, TryLater, and what `of_key` raises.
    """
    from pyrage import x25519

    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = f"# created: {created}\n# public key: {recipient}\n{identity}\n".encode()
    try:
        with files.opened(_directory(path.parent)) as directory:
            take(directory, TryLater(f"another run makes {shown(str(path))}", hint="wait until it has ended"))
            _tidy(directory, path.name)
            made = _put(directory, path.name, data)
    except OSError as error:
        raise NoPlace(f"{shown(str(path))} cannot be made: {error.strerror}") from error
    return recipient if made else of_key(path)


def _directory(path: Path) -> int:
    """The directory of the key, open. What is missing is made: root's, the last 0700, those above it 0755."""
    above = path
    while not os.path.lexists(above):
        above = above.parent
    with files.opened(os.open(os.path.realpath(above), files.DIRECTORY)) as fd:
        below = PurePosixPath(path.relative_to(above))
        return files.make_dirs(fd, below, mode=0o700, owner=_ROOT, parents=(0o755, _ROOT))


def _put(directory: int, name: str, data: bytes) -> bool:
    """Write the key whole under another name, then link it: False where something has the name already, and stays."""
    beside = _beside(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with files.opened(os.open(beside, flags, 0o400, dir_fd=directory)) as fd:
            os.fchown(fd, *_ROOT)
            os.fchmod(fd, 0o400)
            files.write_all(fd, data)
            os.fsync(fd)
        os.link(beside, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            os.unlink(beside, dir_fd=directory)
    os.fsync(directory)
    return True


def _beside(name: str) -> str:
    return f".{name[:48]}.{os.urandom(6).hex()}.new"


def _tidy(directory: int, name: str) -> None:
    """Remove what runs that died had written beside the key: private keys that nothing ever used."""
    for entry in list(files.scan(directory)):
        head, tail = f".{name[:48]}.", ".new"
        if entry.name.startswith(head) and entry.name.endswith(tail) and len(entry.name) == len(head) + 12 + len(tail):
            os.unlink(entry.name, dir_fd=directory)


def of_key(path: Path) -> str:
    """The recipient of the key that is there. Raises Unsafe, files.Unreadable, NoKey; nothing is put in its place."""
    try:
        return sops.Keys.of_host(HostKey(age=path)).recipients[0]
    except (Unsafe, files.Unreadable, sops.NoKey) as failure:
        cure = failure.hint or "bring the right one back; a key is never replaced here"
        raise type(failure)(f"the machine's key is there, and cannot be used: {failure.what}", hint=cure) from failure


def _advise(spec: Spec | None, path: Path, recipient: str) -> None:
    """What comes next: the secrets do not know this key yet."""
    if in_memory(path.parent):
        cli.warn(
            "identity", f"{shown(str(path))} lies in memory: with the next boot the key is gone",
            f"set town.host_key.age to a place that lasts, such as {HostKey().age}",
        )  # fmt: skip
    if spec is not None and recipient in _recipients(spec):
        return
    if spec is not None and (other := _by_ssh(spec)) is not None:
        cli.warn(
            "identity",
            f"until now {shown(str(spec.town.host_key.ssh))} opened the secrets here ({other}); from now on only the "
            "new key is used, and install fails until the secrets are for it",
            f"add it before the next boot, or remove it again: rm {shell_word(str(path))}",
        )  # fmt: skip
    cli.advise("identity", f"where the secrets are kept, as a human who opens them: {joins(spec, recipient)}")


def joins(spec: Spec | None, recipient: str) -> str:
    """The commands that make this machine's key one of those that open the secrets."""
    name = host_name()
    hosts = {} if spec is None or spec.town.recipients is None else dict(spec.town.recipients.hosts)
    leaves = f"identity recipients remove --host {name}, then " if name in hosts else ""
    return f"{leaves}identity recipients add --host {name} {recipient}"


def host_name() -> str:
    """What this machine is called in town.recipients.hosts: the first part of its host name, where that may stand."""
    try:
        return grammar.host_name(os.uname().nodename.partition(".")[0])
    except Wrong:
        return "NAME"


def _recipients(spec: Spec) -> set[str]:
    """Who can open the secrets by the spec, else by the file itself; nobody where neither says."""
    named = spec.town.recipients
    with suppress(Failure):
        if named is not None:
            return set(map(sops.canonical, named.all))
        file = spec.beside(spec.town.sops_file)
        return set(map(sops.canonical, sops.recipients_of(files.read_bounded(file, 8 << 20), str(file))))
    return set()


def _by_ssh(spec: Spec) -> str | None:
    """The recipient of the machine's SSH key, where that is one who can open the secrets."""
    with suppress(Failure):
        found = sops.Keys.of_ssh_file(spec.town.host_key.ssh).recipients
        return next((one for one in found if one in _recipients(spec)), None)
    return None
