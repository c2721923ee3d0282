"""An adoption, done: each path whole, or as it was before.

What lies in the home stays until its copy is whole, compared and on the disk. Then one rename shows the copy under
persist_dir, one sets the home's aside, and, when nothing changed in between, the bind takes its place. Cut off at any
point, both places hold the same, and the next run compares them and goes on.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import NamedTuple, assert_never

from persist import entering, running
from persist.adopt import comparing, copying
from persist.adopt.comparing import Differs
from persist.adopt.facts import CannotMove
from persist.adopt.plan import Action, Move, SetAside
from persist.progress import Progress
from persist.restore import apply as restoring
from persist.restore import site as site_
from persist.restore import staging
from persist.restore.actions import Bind, MakePersisted, RemoveLeftover
from persist.restore.origins import Origin
from persist.restore.site import Site
from town import btrfs, files, kernel
from town.failure import TryLater, Unsafe
from town.spec import Persist
from town.terminal import shown

ADOPTED = Origin("adopted from the home")
_ATTEMPTS = 3
_LINKS = "links"
_ACLS = ("system.posix_acl_default", "system.posix_acl_access")


class KeepsChanging(TryLater):
    """What lies in the home changed each time it was copied. It is as it was; nothing was moved."""


class NotGivenBack(CannotMove):
    """What was set aside could not have its name again: somebody made another there. It lies where the message says."""


class Aside(NamedTuple):
    """What was in the home, in a directory of root's beside its place: that directory, open, and its name."""

    fd: int
    name: str


def apply(site: Site, action: Action) -> list[str]:
    """Do one action; what there is to add to its own line. Raises Failure, never OSError."""
    match action:
        case Move() | SetAside():
            try:
                return _moved(site, action)
            except OSError as error:
                assert site.spec.town.persist_dir is not None
                raise _refused(site, action, error) from error
        case RemoveLeftover() | MakePersisted() | Bind():
            added = restoring.apply(site, action)
            return [added] if added else []
        case _:
            assert_never(action)


def _refused(site: Site, action: Move | SetAside, error: OSError) -> Exception:
    where = site.spec.town.agents_dir if isinstance(action, SetAside) else action.kept.parent
    failure = restoring.refused(error, where, f"{shown(str(action.home))} was not moved")
    failure.hint = failure.hint.replace("restore again", "adopt again")
    return failure


def _moved(site: Site, action: Move | SetAside) -> list[str]:
    for attempt in range(_ATTEMPTS):
        try:
            return _tried(site, action)
        except Differs as differs:
            if isinstance(action, SetAside) or attempt == _ATTEMPTS - 1:
                raise KeepsChanging(
                    f"{shown(str(action.home))} changed while it was moved, and stays where it is: {differs.what}",
                    hint=f"persist release --stop {site.agent.name} ends the agent's processes; then adopt again",
                ) from differs
    raise AssertionError("the last attempt raises")


def _tried(site: Site, action: Move | SetAside) -> list[str]:
    with ExitStack() as stack:
        enter = stack.enter_context
        above = enter(_above(site, enter(site_.home(site)), action.entry))
        name = action.entry.path.name
        home = enter(files.opened(files.enter(above, name)))
        persisted = enter(site_.persisted(site))
        if isinstance(action, Move):
            return _copied(site, action, (above, home), persisted)
        with entering.source(site.spec, site.agent, action.entry, persisted) as kept:
            if kept is None:
                raise CannotMove(f"{shown(str(action.kept))} vanished", hint="adopt again")
            began = _settled(home)
            comparing.compare(home, kept, site.agent)
            with _set_aside(site, action.entry, (above, home), kept, began) as aside:
                return [*_bind(site, action), *_cleared(site, action, aside)]


@contextmanager
def _above(site: Site, home: int, entry: Persist) -> Iterator[int]:
    """The directory in the home that holds the declared one. Raises Differs when it is gone."""
    with entering.down(home, entry.path.parent, site.spec.home(site.agent)) as fd:
        if fd is None:
            raise Differs(f"{shown(str(entry.path))} vanished", hint="adopt again")
        yield fd


def _settled(home: int) -> int:
    """Since when what changes in the home can be told by its times: also what is mapped for writing, from here on."""
    began = comparing.now()
    kernel.syncfs(home)  # the kernel notes a write to a page that it wrote out before
    return began


def _copied(site: Site, action: Move, place: tuple[int, int], persisted: int) -> list[str]:
    _, home = place
    with ExitStack() as stack:
        stage, inside = stack.enter_context(staging.opened(persisted))
        totals = _copy(site, action, home, (stage, inside))
        began = _settled(home)
        comparing.compare(home, inside, site.agent)
        parent = stack.enter_context(files.opened(site_.made_parents(site, persisted, action.entry.path.parent)))
        _show(stage, inside, parent, action.entry.path.name)
        try:
            aside = stack.enter_context(_set_aside(site, action.entry, place, inside, began))
        except NotGivenBack:
            raise
        except BaseException:
            # The home has it again: what is kept goes back into the staging, and with that.
            kernel.renameat2(parent, action.entry.path.name, stage, staging.INSIDE)
            raise
        site.origins[action.entry.path] = ADOPTED
        return [*totals.notes(), *_bind(site, action), *_cleared(site, action, aside)]


def _copy(site: Site, action: Move, home: int, into: tuple[int, int]) -> copying.Totals:
    stage, inside = into
    os.mkdir(_LINKS, 0o700, dir_fd=stage)
    about = f"persist: {site.agent.name}: adopt"
    try:
        with (
            files.opened(files.enter(stage, _LINKS)) as links,
            Progress(about, total_files=action.totals.files, total_bytes=action.totals.size) as progress,
        ):
            return copying.copy(home, inside, links, site.agent, progress.add)
    finally:
        files.remove_tree(stage, _LINKS)


def _show(stage: int, inside: int, parent: int, name: str) -> None:
    """Give the copy its name, durably. An empty directory that has the name gives way, and nothing else does."""
    kernel.syncfs(inside)
    kernel.renameat2(stage, staging.INSIDE, parent, name, 0)
    kernel.syncfs(parent)


@contextmanager
def _set_aside(site: Site, entry: Persist, place: tuple[int, int], kept: int, began: int) -> Iterator[Aside]:
    """Move the home's directory where the agent has no way to; given back, when it changed since `began`.

    Raises Differs, OSError; then it has its name again, or the message says where it lies.
    """
    above, home = place
    if btrfs.is_subvolume(home) and btrfs.info(home).read_only:
        btrfs.set_read_only(home, False)  # it could not move
    with _made_aside(above, entry.path) as aside:
        kernel.renameat2(above, entry.path.name, aside.fd, entry.path.name)
        try:
            with files.opened(files.enter(aside.fd, entry.path.name)) as there:
                if not os.path.sameopenfile(there, home):
                    raise Differs("another directory was put in its place", hint="stop the agent's processes first")
            comparing.compare(home, kept, site.agent, since=began)
        except BaseException:
            _give_back(above, aside, entry)
            raise
        yield aside


@contextmanager
def _made_aside(above: int, path: PurePosixPath) -> Iterator[Aside]:
    """A directory of root's, 0700, in one of the agent's; gone at the end when nothing lies in it."""
    name = f".adopted-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    os.mkdir(name, 0o700, dir_fd=above)
    with files.opened(files.enter(above, name)) as fd:
        if os.fstat(fd).st_uid != os.geteuid():
            raise Unsafe(f"{shown(str(path))}: a directory was swapped", hint="stop the agent's processes first")
        for attribute in _ACLS:
            with suppress(OSError):
                os.removexattr(fd, attribute)
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o700)
        try:
            yield Aside(fd, name)
        finally:
            with suppress(OSError):
                os.rmdir(name, dir_fd=above)


def _give_back(above: int, aside: Aside, entry: Persist) -> None:
    try:
        kernel.renameat2(aside.fd, entry.path.name, above, entry.path.name)
    except FileExistsError as error:
        raise NotGivenBack(
            f"{shown(str(entry.path))} was made anew in the home meanwhile; what lay there is in "
            f"{shown(str(entry.path.parent / aside.name))} now, and the agent cannot reach it",
            hint="stop the agent's processes, look at both, then adopt again",
        ) from error


def _bind(site: Site, action: Move | SetAside) -> list[str]:
    if not action.bind:
        return [f"the home is of an earlier boot: persist restore {site.agent.name} binds it in a new one"]
    bind = Bind(action.entry, action.kept, action.home)
    added = restoring.apply(site, bind)
    return [f"{bind}{f': {added}' if added else ''}"]


def _cleared(site: Site, action: Move | SetAside, aside: Aside) -> list[str]:
    """Remove what was set aside, which is kept to the last byte by now; what somebody could still write to stays."""
    where = shown(str(action.home.parent / aside.name))
    if found := running.of(site.agent.uid):
        return [f"what lay in the home stays in {where} until the next boot: {running.named(found)} may use it"]
    try:
        files.remove_tree(aside.fd, action.entry.path.name)
    except OSError as error:
        why = "a nested subvolume lies in it" if error.errno in (errno.EXDEV, errno.EBUSY) else error.strerror
        return [f"what is left of what lay in the home stays in {where} until the next boot: {why}"]
    return []
