"""An agent's directories on this machine, entered by descriptors: its home, and what lies under persist_dir.

The agent may be running and hostile: no symlink is followed and no mount is entered. Nothing is changed here.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from persist import places
from persist.ground import Ground, refuse_others, wrong_owner
from town import files
from town.failure import Failure, Unsafe
from town.spec import Agent, Persist, Spec
from town.terminal import shell_word, shown


class InTheWay(Failure):
    """Something that is no directory, or another mount, stands where a directory belongs."""


@contextmanager
def maybe_home(spec: Spec, agent: Agent, ground: Ground) -> Iterator[int | None]:
    """The agent's home, open, or None. Raises when it is no directory of the agent's."""
    with maybe(ground.agents, agent.name, spec.home(agent)) as fd:
        if fd is not None and (owner := os.fstat(fd).st_uid) != agent.uid:
            raise wrong_owner(spec.home(agent), owner, agent.uid, agent.name)
        yield fd


@contextmanager
def maybe_persisted(spec: Spec, agent: Agent, ground: Ground) -> Iterator[int | None]:
    """The agent's directory under persist_dir, open, or None. Raises Unsafe when others than root may change it."""
    if ground.persist is None:
        yield None
        return
    path = places.persisted(spec, agent)
    with maybe(ground.persist, "agents", path.parent) as above:
        if above is None:
            yield None
            return
        refuse_others(above, path.parent)
        with maybe(above, agent.name, path) as fd:
            if fd is not None:
                refuse_others(fd, path)
            yield fd


@contextmanager
def source(spec: Spec, agent: Agent, entry: Persist, persisted: int) -> Iterator[int | None]:
    """The directory under persist_dir that `entry` names, open, or None when it or a parent is missing.

    Its parents are root's, so the agent cannot put another in its place. Raises Unsafe or WrongOwner.
    """
    above = places.above(spec, agent, entry)
    with down(persisted, entry.path.parent, above, check=refuse_others) as parent:
        if parent is None:
            yield None
            return
        path = above / entry.path
        with maybe(parent, path.name, path) as fd:
            if fd is not None and (owner := os.fstat(fd).st_uid) not in (agent.uid, 0):
                raise wrong_owner(path, owner, agent.uid, agent.name)
            yield fd


@contextmanager
def down(
    top: int, path: PurePosixPath, where: Path, check: Callable[[int, Path], None] = lambda _fd, _path: None
) -> Iterator[int | None]:
    """The directory `path` below `top` (which lies at `where`), or None; every component passes `check`."""
    fd = os.dup(top)
    try:
        for part in path.parts:
            where = where / part
            with maybe(fd, part, where) as below:
                if below is None:
                    yield None
                    return
                check(below, where)
                os.dup2(below, fd, inheritable=False)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def maybe(directory: int, name: str, path: Path) -> Iterator[int | None]:
    """One directory below an open one, or None where the name is free; `path` is for the message."""
    try:
        fd = files.enter(directory, name)
    except FileNotFoundError:
        yield None
        return
    except (Unsafe, OSError) as error:
        raise in_the_way(path, error) from error
    with files.opened(fd):
        yield fd


def in_the_way(path: Path, error: OSError | Unsafe) -> Failure:
    """What keeps `path` from being opened as a directory, in words."""
    name = shown(str(path))
    if isinstance(error, Unsafe):
        return Unsafe(f"{name} is a symbolic link where a directory belongs", hint=error.hint)
    if error.errno == errno.EXDEV:
        return InTheWay(f"something else is mounted at {name}", hint=f"umount {shell_word(str(path))}")
    if error.errno == errno.ENOTDIR:
        return InTheWay(
            f"{name} is a file where a directory belongs", hint=f"mv {shell_word(str(path))} to another name"
        )
    word, hint = shell_word(str(path)), ""
    if error.errno == errno.EROFS:
        hint = f"findmnt -T {word} says whether its disk is; where the subvolume is: btrfs property set {word} ro false"
    return InTheWay(f"{name} cannot be opened: {error.strerror}", hint=hint)
