"""Who besides root and the person could change a file that root believes: whoever does is root at the next boot."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from town import acl
from town.acl import Writer
from town.failure import Unsafe
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

_LINKS = 40  # that a path may go through, as path_resolution(7) has it


def refuse(spec: Spec) -> None:
    """Raises Unsafe when an agent can change the spec, or put another in its place: root does not act on that one."""
    for path, reason in doubts(spec):
        found, word = path.lstat(), shell_word(str(path))
        raise Unsafe(
            f"the spec {shown(str(spec.file))} is not acted on: {shown(str(path))} {reason} "
            f"(owner uid {found.st_uid}, mode {found.st_mode & 0o7777:04o})",
            hint="look at what the spec says now, and keep it where only root writes, such as /etc/nuketown; or: "
            f"chown -h root:root {word}{'' if path.is_symlink() else f' && chmod go-w {word}'}",
        )


def refuse_as_root(spec: Spec) -> None:
    """The same for a verb that a person runs without root too: on another machine an agent's uid may be anybody's."""
    if os.geteuid() == 0:
        refuse(spec)


def doubts(spec: Spec) -> Iterator[tuple[Path, str]]:
    """The spec, and everything on the way to it, that an agent could change: each path and why. The file first."""
    for path in reversed(way(spec.file)):
        if reason := changeable(spec, path):
            yield path, reason


def way(path: Path) -> list[Path]:
    """All that decides what `path` leads to, from `/` on to what it names: directories, and symlinks as they are."""
    here, waiting = Path("/"), list(reversed((Path.cwd() / path).parts[1:]))
    found, links = [here], 0
    while waiting:
        part = waiting.pop()
        here = here.parent if part == ".." else here / part
        found.append(here)
        if os.path.islink(here) and links < _LINKS:  # false where nobody may look
            links += 1
            target = Path(os.readlink(here))
            waiting += [name for name in reversed(target.parts) if name != "/"]
            here = Path("/") if target.is_absolute() else here.parent
    return list(dict.fromkeys(found))


def changeable(spec: Spec, path: Path) -> str:
    """Why an agent could change what a path holds; empty when none can, or when it is gone or nobody may look."""
    try:
        found = path.lstat()
        writers = tuple(acl.writers(path))
    except OSError:
        return ""
    for agent in spec.agents:
        if found.st_uid == agent.uid:
            return f"belongs to the agent {agent.name}"
    # In a sticky directory only its owner, and the owner of an entry, can replace the entry.
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return ""
    if Writer("everybody", 0) in writers:
        return "can be written by everybody"
    return next((reason for agent in spec.agents if (reason := _written(agent, writers))), "")


def _written(agent: Agent, writers: tuple[Writer, ...]) -> str:
    if Writer("user", agent.uid) in writers:
        return f"can be written by the agent {agent.name}, by its access list"
    groups = {writer.id for writer in writers if writer.kind == "group"}
    if agent.gid in groups:
        return f"can be written by the group of the agent {agent.name}"
    if groups - {0} and groups & set(os.getgrouplist(agent.name, agent.gid)):
        return f"can be written by a group that the agent {agent.name} is in"
    return ""
