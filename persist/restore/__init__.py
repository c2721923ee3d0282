"""`persist restore`: every agent gets its home and all it declared, or a failure that names what is missing.

Look (`found`), decide (`plan`), do (`apply`). One agent's failure stops no other; a second run finds nothing to do.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from persist import copies, ground, proof, quota, quotasteps, running
from persist.ground import Ground
from persist.restore import apply, begun, carry, found, origins, plan, retrying
from persist.restore import wishes as wishes_
from persist.restore.actions import (
    Action,
    Ask,
    Blocked,
    Carry,
    Fetch,
    Late,
    MakeDirectory,
    MakePersisted,
    MakeSource,
    Remote,
    RemoveLeftover,
)
from persist.restore.site import RestoreFailed, Site
from persist.restore.wishes import Wishes
from town import btrfs, cli, files, locks, machine, spec, trust
from town.failure import DONE, Failure, TryLater, Unsafe, status_of, worst
from town.spec import Agent, Spec
from town.terminal import shown


class Busy(TryLater):
    """Another restore of the same agent is running. Trying again may help."""


def command(arguments: argparse.Namespace) -> int:
    """Restore the agents that were named, or all. The worst status of any of them."""
    wishes = wishes_.wanted(arguments)
    town = spec.load(cli.spec_file(arguments))
    return restore(town, town.chosen(arguments.agents), wishes, dry_run=arguments.dry_run)


def restore(town: Spec, agents: Sequence[Agent], wishes: Wishes | None = None, *, dry_run: bool = False) -> int:
    """Restore `agents`, say on standard output what was done and on standard error what was not.

    Raises proof.Unproven, before anything is changed, when nobody can say that @agents was made blank at this boot.
    """
    ground.require_root("restore")
    trust.refuse(town)
    rollback = proof.read()
    # First: without a proof, the cure for homes that are not mounted would be to mount what nobody made blank.
    proof.refuse(proof.doubt_of_boot(town, rollback))
    with ground.opened(town) as here:
        _refuse_unproven(town, rollback, here)
        _warn(town, agents, here)
        wished = wishes or Wishes()
        if wished.half == "local" and not dry_run:
            _show_snapshots(town, here)

        def one(agent: Agent) -> int:
            return _one(town, agent, here, wished, dry_run=dry_run)

        return retrying.retried(agents, one) if wished.retry and not dry_run else worst(list(map(one, agents)))


def _refuse_unproven(town: Spec, rollback: proof.Rollback, here: Ground) -> None:
    """No home is made on an @agents whose uuid is not in the proof. Raises proof.Unproven."""
    if town.town.btrfs is not None:
        where = shown(str(town.town.agents_dir))
        proof.refuse(proof.doubt_of_homes(town, rollback, btrfs.info(here.agents), where))


def _warn(town: Spec, agents: Sequence[Agent], here: Ground) -> None:
    """What a person should hear before homes are made, and what stops nothing."""
    bound = any(entry.bound for agent in agents for entry in agent.persist)
    persist_dir = town.town.persist_dir
    if not bound or here.persist is None or persist_dir is None or _holds_agents(here.persist):
        return
    if not ground.is_mount_point(here.persist, persist_dir):
        cli.warn(
            "persist",
            f"persist_dir holds nothing yet: {shown(str(persist_dir))} is no mount point, and agents start empty",
            "if a disk belongs there, mount it before agents write",
        )


def _show_snapshots(town: Spec, here: Ground) -> None:
    """What syncs has the network and mounts nothing: this half does. A sync without it mounts for itself."""
    if "INVOCATION_ID" not in os.environ or not any(entry.synced for agent in town.agents for entry in agent.persist):
        return  # typed by a person (systemd.exec(5)), or nothing is ever sent
    from persist import snapshots

    try:
        snapshots.show(fd for fd in here if fd is not None)
    except (Failure, OSError) as error:
        what = error.what if isinstance(error, Failure) else cli.unexpected(error)
        cli.warn("persist", f"syncs will read files as they change: snapshots cannot be shown: {what}")


def _holds_agents(persist: int) -> bool:
    try:
        os.stat("agents", dir_fd=persist, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _one(town: Spec, agent: Agent, here: Ground, wishes: Wishes, *, dry_run: bool) -> int:
    try:
        machine.refuse_conflicts(town, (agent,))
        if dry_run:
            planned = [*_limits(town, agent, here, wishes), *_planned(town, agent, here, wishes)]
            _say(agent, list(map(str, planned)) or ["nothing to do"])
            return DONE
        with _alone(town, agent):
            return _restored(town, agent, here, wishes)
    except Exception as error:  # what one agent's home brings about stops no other agent
        return _failed(agent, error)


def again(town: Spec, agent: Agent, here: Ground, half: wishes_.Half = "both") -> int:
    """What `restore` does for one agent whose lock the caller holds; its status. What fails is told. Raises nothing.

    `half`: as a command says it.
    """
    try:
        machine.refuse_conflicts(town, (agent,))
        return _restored(town, agent, here, Wishes(half=half))
    except Exception as error:
        return _failed(agent, error)


def _limits(town: Spec, agent: Agent, here: Ground, wishes: Wishes) -> list[quotasteps.Action]:
    """What is to be done for the agent's quota now; more of it follows when there is a home."""
    return [] if wishes.half == "fetch" else quota.plan(town, agent, here)


def _limited(town: Spec, agent: Agent, here: Ground, wishes: Wishes) -> list[str]:
    return [] if wishes.half == "fetch" else quota.settle(town, agent, here)


def _taken_over(town: Spec, agent: Agent, actions: Sequence[Action], wishes: Wishes, lines: list[str]) -> int:
    """Whose directories all lie here is taken over too: a fetch would have taken the lease."""
    fetched = any(isinstance(action, Fetch) for action in actions)
    if not wishes.take_over or fetched or town.town.store is None or not any(map(plan.from_store, agent.persist)):
        return DONE
    from persist import fetch

    try:
        fetch.take(town, agent, take_over=True)
    except Failure as failure:
        return _failed(agent, failure)
    lines.append("this machine syncs it from now on")
    return DONE


def _close(actions: Sequence[Action]) -> None:
    """What was read of packs is of no more use."""
    for action in actions:
        if isinstance(action, Fetch):
            action.held.close()


def _failed(agent: Agent, error: Exception) -> int:
    failure = error if isinstance(error, Failure) else RestoreFailed(cli.unexpected(error))
    cli.tell("persist", failure, about=agent.name)
    return status_of(failure)


def _planned(town: Spec, agent: Agent, here: Ground, wishes: Wishes) -> tuple[Action, ...]:
    there, over = found.look(town, agent, here), wishes.at is not None
    asked = plan.needs_store(town, there, over=over)
    if wishes.half == "local":
        return plan.restore(town, agent, there, Remote(later=True))
    if wishes.half == "fetch" and not there.home:
        raise RestoreFailed(
            f"{shown(str(town.home(agent)))}, the home of this boot, is not there: nothing was fetched",
            hint=f"persist restore --local {agent.name}",
        )
    actions = plan.restore(town, agent, there, _asked(town, agent, wishes) if asked else Remote())
    return actions if wishes.half == "both" else tuple(filter(_of_fetch, actions))


def _of_fetch(action: Action) -> bool:
    """Whether an action belongs to the half that mounts nothing: a part of the other waits for it."""
    if isinstance(action, RemoveLeftover):
        return action.leftover.place != "agents"
    return isinstance(action, (Fetch, Blocked, MakePersisted, MakeSource, MakeDirectory, Carry, Ask))


def _asked(town: Spec, agent: Agent, wishes: Wishes) -> Remote:
    from persist import fetch

    over = wishes.at is not None
    options = fetch.Options(wishes.at, wishes.take_over, wishes.at_least, wishes.rate)
    try:
        return Remote(held=fetch.chosen(town, agent, options), over=over, credentials=wishes.credentials)
    except Failure as failure:
        if over:  # who named a state means it, and nothing else
            raise
        return Remote(failure=failure)


def _restored(town: Spec, agent: Agent, here: Ground, wishes: Wishes) -> int:
    site = Site(town, agent, here, wishes=wishes)
    carry.settle(site)
    aside = [] if wishes.half == "fetch" else copies.take_aside(town, agent, here)
    for path, failure in aside:  # before a power cut it was not copied out any more
        cli.warn("persist", f"{agent.name}: {shown(str(path))} of the home set aside: {failure.what}", failure.hint)
    lines = _limited(town, agent, here, wishes)
    actions = _planned(town, agent, here, wishes)
    try:
        status = _loop(site, actions, lines)
        lines += _limited(town, agent, here, wishes)  # with the home, and what was brought over
    except Failure as failure:
        status = _failed(agent, failure)
    finally:
        _close(actions)
        site.close()
    status = worst([status, _taken_over(town, agent, actions, wishes, lines)])
    begun.forget(town, agent, but=[action.entry.path for action in actions if isinstance(action, Late)])
    # Also after a failure: what was done is done, and is said and recorded.
    if wishes.half != "fetch":
        copies.settle(town, agent, here)
    origins.record(town, agent, site.origins, forget=site.forgotten)
    try:
        lines += _came_from(site) if actions else [] if lines else ["nothing to do"]
    except Failure:
        if status == DONE:
            raise
    _say(agent, lines)
    return status


def _loop(site: Site, actions: Sequence[Action], lines: list[str]) -> int:
    statuses, failed = [DONE], set[PurePosixPath]()
    for action in actions:
        entry = getattr(action, "entry", None)
        if entry is not None and entry.path in failed:
            continue  # its bind, after a fetch that did not come
        try:
            added = apply.apply(site, action)
        except Failure as failure:
            # Only what the store could not give leaves the rest of this agent worth doing.
            if entry is None or isinstance(failure, Unsafe) or (entry.required and not _of_store(action)):
                raise
            failed.add(entry.path)
            statuses.append(_told(site, failure, required=entry.required, path=shown(str(entry.path))))
        else:
            lines.append(f"{action}{f': {added}' if added else ''}")
    return worst(statuses)


def _of_store(action: Action) -> bool:
    return isinstance(action, (Fetch, Blocked, Ask))


def _told(site: Site, failure: Failure, *, required: bool, path: str) -> int:
    about = f"{site.agent.name}: {path}"
    if required:
        cli.tell("persist", failure, about=about)
        return status_of(failure)
    cli.warn("persist", f"{about}: {failure.what} (not required)", failure.hint)
    return DONE


def _came_from(site: Site) -> Iterator[str]:
    """One line for each directory that is in its place now: how it is there, and from where."""
    there = found.look(site.spec, site.agent, site.ground)
    known = origins.known(site.spec, site.agent)
    for directory in there.directories:
        entry = directory.entry
        if directory.target in ("bound", "in place") or (not entry.apart and directory.target != "missing"):
            how = "bound, " if entry.bound else "copied, " if entry.copied else ""
            yield f"{shown(str(entry.path))}: {how}{known.get(entry.path, origins.KEPT)}"


def _say(agent: Agent, lines: Sequence[str]) -> None:
    for line in lines:
        print(f"{agent.name}: {line}", flush=True)


@contextmanager
def _alone(town: Spec, agent: Agent) -> Iterator[None]:
    """One restore of an agent at a time: the lock lies where no agent can take it, and goes with the process."""
    with files.opened(_lock(town, agent)) as lock:
        what = f"another restore of this agent, or a command like it, is running{running.holding_lock(lock)}"
        locks.take(lock, Busy(what, hint="wait for it, then try again"))
        yield


def _lock(town: Spec, agent: Agent) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with files.opened(origins.state(town, "locks")) as directory:
            return os.open(f"restore-{agent.name}", flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise apply.refused(error, town.state_dir, "the lock of the restore cannot be made") from error
