"""Where a plan is done: an agent's two places, reached by descriptors, and what became of its directories."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from persist import copies, entering
from persist.ground import Ground
from persist.restore import staging
from persist.restore.origins import Origin
from persist.restore.wishes import Wishes
from town import files
from town.failure import Failure, Unsafe
from town.spec import Agent, Persist, Spec
from town.terminal import shown

if TYPE_CHECKING:
    from persist.restore.question import Answer

ROOT = (0, 0)
PARENTS = 0o711  # root's: others may pass through, not look around
STOP = "stop the agent's processes (loginctl terminate-user, or kill), then restore again"


class RestoreFailed(Failure):
    """The filesystem refused one step: full, read-only or damaged. What was done before stays, and is no half."""


@dataclass(slots=True)
class Site:
    """Where the actions of one agent happen, and what became of its directories."""

    spec: Spec
    agent: Agent
    ground: Ground
    origins: dict[PurePosixPath, Origin] = field(default_factory=dict)
    forgotten: set[PurePosixPath] = field(default_factory=set)
    aside: dict[PurePosixPath, tuple[int, int]] = field(default_factory=dict)  # what was set aside: device, inode
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    wishes: Wishes = field(default_factory=Wishes)
    answer: "Answer | None" = None  # what the store said of directories that were brought over, asked once

    def close(self) -> None:
        """What was read of packs is of no more use."""
        if self.answer is not None and self.answer.state is not None:
            self.answer.state.close()

    @property
    def owner(self) -> tuple[int, int]:
        """Whose everything in the home is."""
        return (self.agent.uid, self.agent.gid)


def made_in_home(site: Site, base: int, path: PurePosixPath) -> int:
    """Open `path` in the home; every component that is missing is made, the agent's, 0700. No mount is entered."""
    return _made(base, path, site.spec.home(site.agent), mode=0o700, owner=site.owner)


def subvolume_in_home(site: Site, base: int, path: PurePosixPath, told: Callable[[int], staging.Told]) -> int:
    """The same; the last component is made as a subvolume of its own, which `told` is given before it is shown."""
    with files.opened(made_in_home(site, base, path.parent)) as parent:
        try:
            return staging.made(
                base, parent, path.name, mode=0o700, owner=site.owner, make=staging.subvolume, told=told
            )
        except (OSError, Unsafe) as error:
            raise entering.in_the_way(site.spec.home(site.agent) / path, error) from error


def made_parents(site: Site, base: int, path: PurePosixPath) -> int:
    """Open `path` in the agent's directory under persist_dir; every component that is missing is made, root's."""
    persist_dir = site.spec.town.persist_dir
    above = site.spec.state_dir / "files" if persist_dir is None else persist_dir / "agents"
    return _made(base, path, above / site.agent.name, mode=PARENTS, owner=ROOT)


def refuse_swapped(site: Site, base: int, path: PurePosixPath, made: int) -> None:
    """Raises Unsafe when what stands at `path` in the home is not the directory that `made` has open."""
    where = site.spec.home(site.agent)
    with entering.down(base, path, where) as there:
        if there is None or not os.path.sameopenfile(there, made):
            raise Unsafe(f"{shown(str(where / path))} was swapped while it was being put in its place", hint=STOP)


def _made(base: int, path: PurePosixPath, where: Path, *, mode: int, owner: tuple[int, int]) -> int:
    fd = os.dup(base)
    try:
        for part in path.parts:
            where = where / part
            below = staging.made(base, fd, part, mode=mode, owner=owner)
            os.close(fd)
            fd = below
    except BaseException as error:
        os.close(fd)
        if isinstance(error, (OSError, Unsafe)):
            raise entering.in_the_way(where, error) from error
        raise
    return fd


@contextmanager
def home(site: Site) -> Iterator[int]:
    """The agent's home, open. Raises RestoreFailed when it is gone."""
    with entering.maybe_home(site.spec, site.agent, site.ground) as fd:
        if fd is None:
            raise RestoreFailed(f"{shown(str(site.spec.home(site.agent)))} vanished during the restore")
        yield fd


@contextmanager
def apart(site: Site, entry: Persist) -> Iterator[int]:
    """The directory of root's below which the data of `entry` lies, open. Raises RestoreFailed when it is gone."""
    if not entry.copied:
        with persisted(site) as fd:
            yield fd
        return
    with copies.base(site.spec, site.agent, site.ground, make=True) as below:
        if below is None:
            raise RestoreFailed(f"the directory of {site.agent.name} under persist_dir vanished during the restore")
        yield below


@contextmanager
def persisted(site: Site) -> Iterator[int]:
    """The agent's directory under persist_dir, open. Raises RestoreFailed when it is gone."""
    with entering.maybe_persisted(site.spec, site.agent, site.ground) as fd:
        if fd is None:
            raise RestoreFailed(f"the directory of {site.agent.name} under persist_dir vanished during the restore")
        yield fd
