"""Take a kept home away for good, by its whole name: a snapshot, an import, a recalled copy, a home set aside."""

import os
from contextlib import ExitStack
from typing import NamedTuple

from persist import kept, places, prune, rollback, shelves, shelving, spared, tidy, underway
from persist.alone import alone
from persist.kept import Kept
from persist.shelves import Shelves
from town import files
from town.failure import Failure
from town.spec import Spec
from town.terminal import shell_word, shown


class Needed(Failure):
    """The home holds what exists nowhere else yet. Once the agent came up again it may go."""


class GiveWhole(Failure):
    """Only a beginning of a name was given: what is deleted is named whole."""


class Discard(NamedTuple):
    """Delete one kept home."""

    home: Kept

    def __str__(self) -> str:
        return f"delete    {self.home.name}"


def plan(town: Spec, where: Shelves, names: list[str]) -> list[Discard]:
    """What deleting those names would do. Raises NoSuchHome, GiveWhole, Needed."""
    there, actions = kept.every(town, where.top, where.agents), list[Discard]()
    for text in names:
        home = kept.chosen(there, text)
        agent, key = kept.parse(text)
        if (shown(agent), shown(key)) != (shown(home.agent), shown(home.key)) and text != home.name:
            raise GiveWhole(f"{shown(text)} is the beginning of a name", hint=f"what is meant may be {home.name}")
        _refuse_needed(town, where, home)
        if Discard(home) not in actions:
            actions.append(Discard(home))
    return actions


def _refuse_needed(town: Spec, where: Shelves, home: Kept) -> None:
    """What a restore has yet to bring over stays, whoever asks: only root's own rm takes that."""
    _refuse_underway(town, home)
    if home.kind != "aside" or town.town.btrfs is None or where.top is None:
        return
    for agent in town.agents:
        if agent.name == home.whose and (why := spared.of(town, agent, where.top, town.town.btrfs).get(home.key)):
            raise Needed(f"{home.name} stays: {why}", hint=f"persist restore {agent.name} brings it over")


def _refuse_underway(town: Spec, home: Kept) -> None:
    """A replacement that was killed is ended by the same command, which needs both homes."""
    for agent in town.agents:
        begun = underway.read(agent)
        if begun is None or home.name not in (begun.source, f"{agent.name}@{begun.place}"):
            continue
        what = f"{home.name} stays: persist {shown(begun.verb)} was interrupted"
        raise Needed(what, hint=f"first let it end: persist {begun.verb}")


def discard(town: Spec, where: Shelves, home: Kept) -> None:
    """Delete it, durably. Raises prune.InUse, tidy.Running, alone.Busy, NoSuchHome, OSError, BtrfsFailed."""
    with ExitStack() as stack:
        for agent in town.agents:
            if agent.name == home.whose:
                stack.enter_context(alone(town, agent))
        try:
            _discard(town, where, home, stack)
        except prune.InUse as error:
            raise _in_use(home, error) from error
        except FileNotFoundError as error:
            raise kept.NoSuchHome(f"{home.name} is gone", hint="persist homes lists what is kept") from error


def _in_use(home: Kept, error: prune.InUse) -> prune.InUse:
    """The same, said of a home that is deleted by name: no later tidy does it. The caller says which home."""
    what = error.what
    for name in (home.name, shown(home.key), shown(home.agent)):  # what its directory is called
        if what.startswith(f"{name} is "):
            what = what.removeprefix(f"{name} ")
            break
    cure = error.hint
    if "mounted at" in what:
        cure = "unmount it, then try again"
        if home.kind == "recalled":
            cure = f"persist recall --end {shell_word(home.name)} unmounts and deletes it"
    return prune.InUse(what, hint=cure)


def _discard(town: Spec, where: Shelves, home: Kept, stack: ExitStack) -> None:
    match home.kind:
        case "aside":
            busy = tidy.Running("a persist tidy is running", hint="wait until it has ended")
            stack.enter_context(rollback.alone(tidy.LOCK, busy))
            old = stack.enter_context(shelves.old(town, where.top, where.agents))
            with files.opened(files.enter(_there(old), home.key)) as boot:
                shelving.sweep(boot)
                shelving.remove(boot, home.agent, _path(town, home), within=boot)
        case "recalled":
            above = stack.enter_context(shelves.recalled(town, where.top, where.agents))
            _remove(above, home.agent + b"@" + home.key, (), _path(town, home), stack)
        case "snapshot" | "imported":
            above = stack.enter_context(shelves.snapshots(town, where.top))
            _remove(above, home.key, (home.agent,), _path(town, home), stack)
            if home.about.apart:
                other = stack.enter_context(shelves.apart(town))
                _remove(other, home.key, (home.agent,), _path(town, home), stack)


def _remove(above: int | None, name: bytes, way: tuple[bytes, ...], path: str, stack: ExitStack) -> None:
    above = _there(above)
    for part in way:
        above = stack.enter_context(files.opened(files.enter(above, part)))
    shelving.sweep(above)
    shelving.remove(above, name, path)


def _there(fd: int | None) -> int:
    if fd is None:
        raise FileNotFoundError(2, os.strerror(2))
    return fd


def _path(town: Spec, home: Kept) -> str:
    """Where the directory that holds it lies in its filesystem, as mountinfo writes it."""
    names = town.town.btrfs
    if names is None:
        return f"{os.path.realpath(town.town.agents_dir)}/{places.DELETING.decode()}"  # no subvolume: none is mounted
    match home.kind:
        case "aside":
            return f"{names.old}/{os.fsdecode(home.key)}"
        case "recalled":
            return f"{names.subvolume}/{shelves.RECALLED}"
        case "snapshot" | "imported":
            return f"{names.snapshots}/{os.fsdecode(home.agent)}"
