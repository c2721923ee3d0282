"""`persist recall`: a writable copy of a home that was set aside, mounted where a person can look at it.

The old home itself is only read. The copy is a snapshot below agents_dir/.recalled (root's, 0700), inside @agents,
so the next boot takes it.
"""

import argparse
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from persist import device, ground, homes, nested
from persist.homes import Old
from town import acl, btrfs, cli, files, kernel, mounts, spec, subvolumes, trust
from town.acl import Writer
from town.failure import DONE, Failure, Unsafe, WrongUsage
from town.spec import Spec
from town.terminal import say, shell_word, shown

RECALLED = ".recalled"


class NoSuchHome(Failure):
    """No home that was set aside has that name, or more than one begins with it."""


class NotEmpty(Failure):
    """The directory for the mount holds something, or is none."""


class RecallFailed(Failure):
    """The filesystem refused a step; nothing was mounted and the old home is as it was."""


def command(arguments: argparse.Namespace) -> int:
    """Recall one home and print where it is mounted."""
    town = spec.load(cli.spec_file(arguments))
    agent, separator, key = arguments.home.partition("@")
    if not separator or not agent or not key:
        raise WrongUsage(
            f"{shown(arguments.home)} is not of the form AGENT@HOME", hint="persist homes lists what can be recalled"
        )
    ground.require_root("recall")
    trust.refuse(town)
    place = Path(os.path.abspath(arguments.to))
    if arguments.dry_run:
        print("\n".join(plan(town, (agent, key), place, run=arguments.exec)))
        return DONE
    try:
        old = recall(town, (agent, key), place, run=arguments.exec)
    except OSError as error:
        raise RecallFailed(f"{shown(str(place))}: {error.strerror}") from error
    _tell(old, place, run=arguments.exec)
    print(shell_word(str(place)) if shown(str(place)) != str(place) else str(place))
    return DONE


def recall(town: Spec, wanted: tuple[str, str], place: Path, *, run: bool = False) -> Old:
    """Snapshot the home that `wanted` (agent, name or its beginning) names and mount it at `place`.

    Raises NoSuchHome, Unsafe, NotEmpty, device.NoBtrfs, btrfs.BtrfsFailed, OSError.
    """
    with ExitStack() as stack:
        top = stack.enter_context(device.top(town))
        old = chosen(homes.kept(town, top), *wanted)
        agents = stack.enter_context(ground.agents_dir(town))
        target = stack.enter_context(_place(town, place))
        assert target is not None, "it was made"
        source = stack.enter_context(_copied(town, top, agents, old))
        attributes = mounts.HARDENED | (0 if run else kernel.MOUNT_NOEXEC)
        mounts.bind(source, target, attributes=attributes)
    return old


def plan(town: Spec, wanted: tuple[str, str], place: Path, *, run: bool = False) -> list[str]:
    """What `recall` would do, a line for each thing; refuses what it would refuse, and makes nothing."""
    with device.top(town) as top, ground.agents_dir(town):
        old = chosen(homes.kept(town, top), *wanted)
    with _place(town, place, make=False) as fd:
        missing = fd is None
    where, options = shown(str(place)), "nosuid,nodev" + ("" if run else ",noexec")
    making = [f"make      {where}, root:root 0755"] if missing else []
    copy = shown(str(town.town.agents_dir / RECALLED))
    return [f"snapshot  {old.name} into {copy}", *making, f"mount     the copy at {where} ({options})"]


def chosen(kept: Sequence[Old], agent: str, key: str) -> Old:
    """The one home of that agent whose name is `key`, or alone begins with it. Raises NoSuchHome."""
    full = f"{agent}@{key}"
    named = [old for old in kept if shown(old.agent) == shown(agent)]
    found = [old for old in named if old.name == full] or [old for old in named if old.name.startswith(full)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchHome(
            f"{shown(full)} is the beginning of {len(found)} homes: {', '.join(old.name for old in found)}",
            hint="give more of the name",
        )
    raise NoSuchHome(f"no home that is kept is named {shown(full)}", hint=_nearest(kept, full))


def _nearest(kept: Sequence[Old], full: str) -> str:
    from difflib import get_close_matches

    names = [old.name for old in kept]
    near = get_close_matches(full[:200], names, n=1, cutoff=0.4)
    if near:
        return f"did you mean {near[0]}?"
    return "persist homes lists what is kept" if names else "nothing was set aside yet: a rollback does that"


@contextmanager
def _copied(town: Spec, top: int, agents: int, old: Old) -> Iterator[int]:
    """The root of a writable snapshot of `old`, open through agents_dir; deleted again when the mount fails."""
    with (
        files.opened(files.make_dirs(agents, PurePosixPath(RECALLED), mode=0o700, owner=(0, 0))) as place,
        _original(town, top, old) as (origin, inside),
    ):
        ground.refuse_others(place, town.town.agents_dir / RECALLED)
        name = f"{os.fsdecode(old.agent + b'@' + old.key)[:120]}-{secrets.token_hex(6)}"
        with files.opened(btrfs.snapshot(origin, place, name, read_only=False)) as copy:
            try:
                if left := nested.fill(origin, copy):
                    say(f"note: {left:,} nested subvolumes, with what lies in them, are not in the copy")
                with files.opened(os.dup(copy) if inside is None else files.enter(copy, inside)) as home:
                    # The copy is a person's: its old owner, who may be running, does not get back what a boot took.
                    os.fchown(home, 0, 0)
                    os.fchmod(home, 0o700)
                    yield home
            except BaseException:
                subvolumes.remove(place, name)
                raise


@contextmanager
def _original(town: Spec, top: int, old: Old) -> Iterator[tuple[int, bytes | None]]:
    """The subvolume to snapshot, and where the home lies in it: a home that is a plain directory needs the whole."""
    with homes.directory(town, top) as above:
        assert above is not None, "a home was found in it"
        with files.opened(files.enter(above, old.key)) as key, files.opened(files.enter(key, old.agent)) as home:
            if old.subvolume:
                yield home, None
            else:
                yield key, old.agent


@contextmanager
def _place(town: Spec, place: Path, *, make: bool = True) -> Iterator[int | None]:
    """The directory to mount on: real, empty, and out of every agent's reach.

    Made where it is missing; with `make` false nothing is, and it is None then.
    """
    fd = os.open("/", files.DIRECTORY)
    try:
        where = Path("/")
        for part in place.parts[1:]:
            refuse_agents(town, fd, where)
            where = where / part
            below = entered(fd, part, where, make=make)
            if below is None:
                yield None
                return
            os.close(fd)
            fd = below
        if where == Path("/") or files.names(fd):
            raise NotEmpty(f"{shown(str(place))} is not empty", hint="name an empty or a new directory")
        refuse_agents(town, fd, where)
        yield fd
    finally:
        os.close(fd)


def entered(fd: int, part: str, where: Path, *, make: bool, mode: int = 0o755) -> int | None:
    """One component of a path that a person gave, open; None where it is missing and not to be made.

    Raises NotEmpty, Unsafe.
    """
    try:
        try:
            return files.open_beneath(fd, part)
        except FileNotFoundError:
            if not make:
                return None
            return files.make_dirs(fd, PurePosixPath(part), mode=mode, owner=(os.geteuid(), os.getegid()))
    except NotADirectoryError as error:
        raise NotEmpty(f"{shown(str(where))} is not a directory", hint="name an empty or a new directory") from error
    except Unsafe as error:
        real = shell_word(os.path.realpath(where))
        raise Unsafe(f"{shown(str(where))} is a symbolic link", hint=f"if that is meant, give {real}") from error


def refuse_agents(town: Spec, fd: int, where: Path) -> None:
    """Raises Unsafe when an agent could put something else where `where` is, or below it.

    Who is in a group, and may be in it later, is not known here: write access for any group but root's is too much.
    Whoever has it can move the mount's directory away, in a mount namespace that is older than the mount.
    """
    found = os.fstat(fd)
    sticky = bool(found.st_mode & stat.S_ISVTX)  # there, only the owner of an entry can put another in its place
    others = [writer for writer in acl.writers(fd) if not (sticky and writer.kind == "everybody")]
    if found.st_uid in {agent.uid for agent in town.agents} or any(map(_is_not_root, others)):
        raise Unsafe(
            f"{shown(str(where))} can be changed by an agent, or by a group that an agent may be in (owner uid "
            f"{found.st_uid}, group {found.st_gid}, mode {found.st_mode & 0o7777:04o})",
            hint="name a directory whose parents nobody but root, or a person who owns them, can write to, such as one "
            f"below /srv; getfacl {shell_word(str(where))} shows who can",
        )


def _is_not_root(writer: Writer) -> bool:
    return writer.kind == "everybody" or writer.id != 0


def _tell(old: Old, place: Path, *, run: bool) -> None:
    where = shell_word(str(place))
    say(f"{old.name} is at {where}: a writable copy, gone after the next boot; the old home stays as it is")
    noexec = "" if run else "; the mount is noexec, which stops programs but no script that an interpreter is given"
    say(f"careful: an agent wrote this, and git, editors and shells run what lies in it{noexec}")
    say(f"when done: umount {where}")
