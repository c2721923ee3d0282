"""What a restore will do, decided from the spec and from what was found (`persist.restore.actions`).

The order in a plan is the promise: leftovers go first, a directory is whole before it is bound, so no program ever
sees a half-filled one.
"""

from collections.abc import Iterator
from pathlib import Path

from persist import places
from persist.restore.actions import (
    Action,
    Ask,
    Begun,
    Bind,
    Blocked,
    Carry,
    CopyIn,
    CopyOut,
    Credentials,
    Fetch,
    Found,
    FoundDirectory,
    HidesData,
    MakeDirectory,
    MakeHome,
    MakePersisted,
    MakeSource,
    Remote,
    RemoveLeftover,
    SetAside,
    Waits,
    origin,
)
from town.failure import Failure
from town.spec import Agent, Persist, Spec
from town.terminal import shell_word, shown


def from_store(entry: Persist) -> bool:
    """Whether a missing directory is asked of the store: caches never are, credentials where they may go there."""
    return entry.synced


def needs_store(spec: Spec, found: Found, *, over: bool = False) -> bool:
    """Whether the plan depends on the store: something that it may hold is not on this machine, or to be replaced."""
    wanted = (there.entry for there in found.directories if over or not _present(there))
    return spec.town.store is not None and any(map(from_store, wanted))


def restore(spec: Spec, agent: Agent, found: Found, remote: Remote) -> tuple[Action, ...]:
    """Everything that is missing, in order; nothing when nothing is. Raises HidesData."""
    return tuple(_actions(spec, agent, found, remote))


def _actions(spec: Spec, agent: Agent, found: Found, remote: Remote) -> Iterator[Action]:
    making = list(_making(spec, agent, found, remote))
    going_on = {begun.stage for begun in found.begun if any(_goes_on(begun, action) for action in making)}
    yield from (RemoveLeftover(left) for left in found.leftovers if left.name not in going_on)
    yield from making


def _goes_on(begun: Begun, action: Action) -> bool:
    """Whether an action goes on with what was begun, or will when the store answers."""
    if isinstance(action, Fetch):
        return action.entry.path == begun.path and action.held.key == begun.key
    return isinstance(action, (Ask, Blocked, Waits)) and action.entry.path == begun.path


def _making(spec: Spec, agent: Agent, found: Found, remote: Remote) -> Iterator[Action]:
    if found.old:
        yield SetAside(spec.home(agent))
    if not found.home:
        yield MakeHome(spec.home(agent), found.subvolumes)
    apart = any(there.entry.apart for there in found.directories) and spec.town.persist_dir is not None
    if not found.persisted and apart:
        yield MakePersisted(places.persisted(spec, agent))
    for there in found.directories:
        directory = _bound if there.entry.bound else _file if there.entry.copied else _stored
        yield from directory(spec, agent, there, remote)


def _present(there: FoundDirectory) -> bool:
    if there.entry.copied:
        return there.source or there.target == "to be kept"
    return there.source if there.entry.bound else there.target != "missing" or there.aside > 0


def _bound(spec: Spec, agent: Agent, there: FoundDirectory, remote: Remote) -> Iterator[Action]:
    entry, source, target = there.entry, places.source(spec, agent, there.entry), spec.home(agent) / there.entry.path
    over = there.source and _over(entry, remote)
    if there.target == "bound" and not over:
        return
    if there.target == "filled":
        yield _hides(entry, target)
        return
    if not there.source or over:
        came = _came(entry, source, remote, over=over)
        yield MakeSource(entry, source, came) if isinstance(came, str) else came
        if isinstance(came, (Blocked, Waits)):
            return
    yield Bind(entry, source, target)


def _file(spec: Spec, agent: Agent, there: FoundDirectory, remote: Remote) -> Iterator[Action]:
    entry, source, target = there.entry, places.source(spec, agent, there.entry), spec.home(agent) / there.entry.path
    over = there.source and _over(entry, remote)
    if there.target == "differs" and not over:
        yield _blocked(entry, _differs(source, target))
        return
    if there.target == "to be kept" or over:
        yield CopyOut(entry, source, target)
    fetched = False
    if over or not _present(there):
        came = _came(entry, source, remote, over=over)
        yield MakeSource(entry, source, came) if isinstance(came, str) else came
        if isinstance(came, (Blocked, Waits)):
            return
        fetched = isinstance(came, Fetch)
    if fetched or there.target == "to be copied":
        yield CopyIn(entry, source, target, over)


def _stored(spec: Spec, agent: Agent, there: FoundDirectory, remote: Remote) -> Iterator[Action]:
    entry, path, missing = there.entry, spec.home(agent) / there.entry.path, there.target == "missing"
    over = _over(entry, remote)
    if over or (missing and not there.aside):
        came = _came(entry, path, remote, over=over and not missing)
        yield MakeDirectory(entry, path, came) if isinstance(came, str) else came
        return
    if missing:
        yield Carry(entry, path, there.aside)
    if (missing or there.unsure) and from_store(entry) and not remote.later and spec.town.store is not None:
        yield Ask(entry, path, None if remote.over else remote.held, remote.failure)


def _over(entry: Persist, remote: Remote) -> bool:
    """Whether what is there gives way: to a snapshot that was named, and holds it."""
    asked = remote.over and from_store(entry) and (entry.class_ == "data" or remote.credentials)
    return asked and remote.held is not None and entry.path in remote.held.paths


def _came(entry: Persist, path: Path, remote: Remote, *, over: bool) -> Fetch | Blocked | Waits | str:
    """How a missing directory comes: from the store, not now, or empty (then: why)."""
    if not from_store(entry):
        return "first use" if entry.class_ == "data" else f"first use, class {entry.class_}"
    if remote.later:
        return Waits(entry)
    if remote.failure is not None:
        return Blocked(entry, remote.failure)
    if remote.held is None:
        return "first use: the store has nothing of this agent"
    if entry.path not in remote.held.paths:
        return f"first use: not in {origin(remote.held)}"
    if entry.class_ == "credential" and remote.over and not remote.credentials:
        return "a credential: history's is brought back by --with-credentials"
    # The newest state is what the spec sends there as the live copy; any other is history.
    newest: Credentials = "newest" if entry.upload and not remote.over else "live"
    return Fetch(entry, path, remote.held, over, "asked" if remote.credentials else newest)


def _hides(entry: Persist, target: Path) -> Blocked:
    name = shell_word(str(target))
    failure = HidesData(
        f"{shown(str(target))} already holds data in the home, which a mount would hide",
        hint=f"mv {name} {shell_word(f'{target}.before')}, restore, then copy back what belongs there",
    )
    return _blocked(entry, failure)


def _differs(source: Path, target: Path) -> HidesData:
    name, kept = shell_word(str(target)), shown(str(source / target.name))
    return HidesData(
        f"{shown(str(target))} is in the home already, and another one is kept in {kept}",
        hint=f"to have what is kept: mv {name} {shell_word(f'{target}.before')}, then restore; "
        f"to keep the home's: rm {shell_word(str(source / target.name))}, then restore",
    )


def _blocked(entry: Persist, failure: Failure) -> Blocked:
    if entry.required:
        raise failure
    return Blocked(entry, failure)
