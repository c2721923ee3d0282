"""What an adoption will do for one agent, as values; and in words why there is nothing to do for a declared path.

Nothing is merged and nothing is replaced: where both places hold something, it is the same, or a person decides.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from persist import entering, outgoing, places
from persist.adopt import comparing, copying
from persist.adopt.facts import CannotMove
from persist.ground import Ground
from persist.restore import found
from persist.restore.actions import Bind, Leftover, MakePersisted, RemoveLeftover
from town import btrfs, files, kernel, mounts
from town.failure import Failure, TryLater, Unsafe
from town.spec import Agent, Persist, Spec
from town.terminal import shell_word, shown

_FEW = 5


class BothHold(Failure):
    """The home and persist_dir both hold data for the same path, and it differs. Nothing was changed."""


class Hidden(Failure):
    """Under a bind lies data in the home, which nobody sees. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Move:
    """Copy what lies in the home to where it is kept, then set it aside there and bind the copy in its place."""

    entry: Persist
    home: Path
    kept: Path
    totals: copying.Totals
    bind: bool = True

    def __str__(self) -> str:
        return f"move    {shown(str(self.home))} -> {shown(str(self.kept))} ({self.totals.said})"


@dataclass(frozen=True, slots=True)
class SetAside:
    """Set aside in the home what is kept already, to the last byte: an adoption was cut off there; then bind that."""

    entry: Persist
    home: Path
    kept: Path
    bind: bool = True

    def __str__(self) -> str:
        return f"aside   {shown(str(self.home))} (the same lies in {shown(str(self.kept))})"


Action = RemoveLeftover | MakePersisted | Move | SetAside | Bind


@dataclass(slots=True)
class Plan:
    """Actions in order; `words` on what is not moved, and why; `failures` of single paths, which stop no other.

    `old`: the home is of an earlier boot, and nothing rolls back: the next restore sets it aside, so nothing is bound
    in it.
    """

    actions: list[Action] = field(default_factory=list)
    words: list[tuple[Persist, str]] = field(default_factory=list)
    failures: list[tuple[Persist, Failure]] = field(default_factory=list)
    old: bool = False


def look(spec: Spec, agent: Agent, ground: Ground) -> Plan:
    """Look at all declared paths of an agent. Raises Failure where that cannot be done at all."""
    plan = Plan(old=outgoing.is_old(spec, agent, ground))
    with entering.maybe_home(spec, agent, ground) as home, entering.maybe_persisted(spec, agent, ground) as persisted:
        if persisted is not None:
            plan.actions += map(RemoveLeftover, _leftovers(spec, agent, ground))
        for entry in agent.persist:
            try:
                _entry(spec, agent, entry, (home, persisted), plan)
            except OSError as error:
                what = f"{shown(str(entry.path))} cannot be read: {error.strerror}"
                plan.failures.append((entry, CannotMove(what, hint="dmesg may say why")))
            except Failure as failure:
                plan.failures.append((entry, failure))
    if persisted is None and any(isinstance(action, Move) for action in plan.actions):
        plan.actions.insert(0, MakePersisted(places.persisted(spec, agent)))
    return plan


def _leftovers(spec: Spec, agent: Agent, ground: Ground) -> Iterator[Leftover]:
    """Stagings that killed adoptions and restores left under persist_dir, but for those of fetches that can go on."""
    try:
        there = found.look(spec, agent, ground)
    except Failure:  # a path that is in the way is named by who looks at that path
        return
    going_on = {begun.stage for begun in there.begun}
    yield from (left for left in there.leftovers if left.place == "persisted" and left.name not in going_on)


def _entry(spec: Spec, agent: Agent, entry: Persist, tops: tuple[int | None, int | None], plan: Plan) -> None:
    home, persisted = tops
    if entry.type == "file":
        plan.words.append((entry, "a declared file: it is copied in and out, and stays where it lies"))
    elif not entry.bound:
        plan.words.append((entry, "via = store: it stays in the home, and goes to the store with the next sync"))
    elif home is None:
        plan.words.append((entry, "there is no home: nothing to move"))
    else:
        with _kept(spec, agent, entry, persisted) as kept:
            _bound(spec, agent, entry, (home, kept), plan)


@contextmanager
def _kept(spec: Spec, agent: Agent, entry: Persist, persisted: int | None) -> Iterator[int | None]:
    """What is kept of a declared path under persist_dir, open; None where there is nothing."""
    if persisted is None:
        yield None
        return
    with entering.source(spec, agent, entry, persisted) as fd:
        yield fd


def _bound(spec: Spec, agent: Agent, entry: Persist, tops: tuple[int, int | None], plan: Plan) -> None:
    home, kept = tops
    path, where = spec.home(agent) / entry.path, places.source(spec, agent, entry)
    with entering.down(home, entry.path.parent, spec.home(agent)) as above:
        if above is not None and _is_bound(above, path, kept):
            refuse_hidden(home, agent, entry, path)
            plan.words.append((entry, "bound already"))
            return
        with _there(above, path) as here:
            filled = here is not None and bool(files.names(here))
            if here is not None and filled:
                refuse_read_only(home, spec.home(agent))
                _filled(agent, entry, (here, kept), (path, where), plan)
            elif kept is not None and plan.old:
                plan.words.append((entry, f"kept already: persist restore {agent.name} binds it"))
            elif kept is not None:
                plan.actions.append(Bind(entry, where, path))
            else:
                hint = f"a home that was set aside may hold it: persist homes {agent.name}"
                plan.words.append((entry, f"nothing lies in the home; {hint}"))


@contextmanager
def _there(above: int | None, path: Path) -> Iterator[int | None]:
    if above is None:
        yield None
        return
    with entering.maybe(above, path.name, path) as fd:
        yield fd


def _is_bound(above: int, path: Path, kept: int | None) -> bool:
    """Whether what is kept is mounted there; `entering` names anything else that is."""
    if kept is None:
        return False
    try:
        fd = files.open_beneath(above, path.name, os.O_PATH | os.O_DIRECTORY)
    except (OSError, Unsafe):
        return False
    with files.opened(fd):
        # The mount table first: whoever mounted something else there may never answer.
        if mounts.mount_id(fd) == mounts.mount_id(above) or mounts.of(fd).kind != mounts.of(kept).kind:
            return False
        return os.path.sameopenfile(fd, kept)


def _filled(agent: Agent, entry: Persist, tops: tuple[int, int | None], paths: tuple[Path, Path], plan: Plan) -> None:
    here, kept = tops
    path, where = paths
    _refuse_owner(here, agent, path)
    if kept is None or not files.names(kept):
        totals = copying.survey(here, agent)
        if totals.wrong:
            raise _cannot(totals.wrong)
        plan.actions.append(Move(entry, path, where, totals, not plan.old))
        return
    try:
        comparing.compare(here, kept, agent)
    except comparing.Differs as differs:
        raise _both(entry, path, where, differs) from differs
    plan.actions.append(SetAside(entry, path, where, not plan.old))


def refuse_hidden(home: int, agent: Agent, entry: Persist, path: Path) -> None:
    """Raises Hidden when data lies in the home under a bind. Looked at through a copy of the mount without others."""
    with (
        files.opened(kernel.open_tree(home)) as tree,
        files.opened(files.enter(tree, ".")) as bare,
        entering.down(bare, entry.path, path) as fd,
    ):
        if fd is None or not files.names(fd):
            return
    raise Hidden(
        f"data lies in the home under the bind at {shown(str(path))}, where nobody sees it",
        hint=f"persist release {agent.name} && persist adopt {agent.name}",
    )


def _refuse_owner(here: int, agent: Agent, path: Path) -> None:
    """Raises CannotMove when the directory is not the agent's: where data is kept, it has to be."""
    if (owner := os.fstat(here).st_uid) == agent.uid:
        return
    # That directory alone: what lies in it may be links to files that are nobody's to give away.
    give = f"persist chown --from {owner} {agent.name}"
    if owner == 0:
        give = f"stop its processes, then: chown -h {agent.uid}:{agent.gid} {shell_word(str(path))}"
    raise CannotMove(
        f"{shown(str(path))} belongs to uid {owner}, expected uid {agent.uid}",
        hint=f"look whose it is; if it is the agent's: {give}",
    )


def refuse_read_only(home: int, path: Path) -> None:
    """Raises CannotMove where an agent, who may, made its home a read-only subvolume: nothing could be set aside."""
    if btrfs.is_subvolume(home) and btrfs.info(home).read_only:
        raise CannotMove(
            f"the home {shown(str(path))} is a read-only subvolume",
            hint=f"btrfs property set -ts {shell_word(str(path))} ro false, then adopt again",
        )


def _cannot(wrong: list[str]) -> CannotMove:
    more = f"; and {len(wrong) - _FEW:,} more" if len(wrong) > _FEW else ""
    return CannotMove(
        "; ".join(wrong[:_FEW]) + more, hint="remove each, or move it out of the directory, then adopt again"
    )


def _both(entry: Persist, path: Path, where: Path, differs: TryLater) -> BothHold:
    home, kept = shell_word(str(path)), shell_word(str(where))
    return BothHold(
        f"{shown(str(path))} and {shown(str(where))} both hold data, and it differs: {differs.what}",
        hint=f"to have what lies in the home: mv {kept} {shell_word(f'{where}.before')}; "
        f"to have what is kept: mv {home} {shell_word(f'{path}.before')}; then adopt again ({shown(str(entry.path))})",
    )
