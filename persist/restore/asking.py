"""Directories that were brought over from a home set aside: has another machine a newer state of them in the store?

Nothing is overwritten that was written here and nowhere else. The question has 20 s, for all paths of an agent: where
the store does not answer in that time, and nobody is known to have synced the agent since this machine did, its copy is
used, and a note says so (`persist.degraded`).
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from persist import degraded, entering, lineage
from persist.restore import carry, fetching
from persist.restore import site as site_
from persist.restore.actions import Ask, Credentials, Fetch, origin
from persist.restore.site import Site
from persist.sync import local
from town import btrfs, cli, files, kernel
from town.failure import DONE, TRY_LATER, Failure, TryLater, status_of
from town.spec import Spec
from town.terminal import shown

if TYPE_CHECKING:
    from persist.fetch import Held
    from persist.lineage import Candidate

SECONDS = 20.0  # for the whole question
_GRACE = 1.0  # seconds that a killed child has to go
_LONGEST = 1 << 20  # bytes of an answer


class Unanswered(TryLater):
    """The store did not say in time whether it has a newer state. Trying again may help."""


class _Said(Failure):
    """What the question failed with in its own process."""

    def __init__(self, what: str, hint: str, status: int) -> None:
        super().__init__(what, hint=hint)
        self.status = status


@dataclass(slots=True)
class Answer:
    """What the store said. `newer`: of which paths it has something newer; `away`: it did not answer, so `failure`.

    `held`: another machine holds the lease, which matters where something is newer.
    """

    newer: frozenset[str] = frozenset()
    failure: Failure | None = None
    away: bool = False
    held: Failure | None = None
    state: "Held | None" = None


def settle(site: Site, action: Ask) -> str:
    """Ask, once for the agent, and do what the answer means for one path; what there is to say.

    Raises what the store raised, or LeaseHeld; Unanswered where its copy may not be used without an answer.
    """
    answer = _answer(site, action)
    if answer.failure is not None:
        if answer.away and (not action.entry.required or local.held_last(local.record(site.spec, site.agent))):
            return _without(site, action, answer.failure)
        raise answer.failure
    path = action.entry.path
    if str(path) not in answer.newer:
        _settled(site, path)
        return "it has none"
    if _written(site, path):
        return _both(site, action, answer)
    held, credentials = _state(site, answer), _credentials(action)
    done = fetching.fetch_home(site, Fetch(action.entry, action.path, held, over=True, credentials=credentials))
    degraded.forget(site.spec, site.agent, path)
    return f"fetched {origin(held)}: {done}"


def _credentials(action: Ask) -> Credentials:
    return "newest" if action.entry.upload else "live"


def _answer(site: Site, action: Ask) -> Answer:
    if site.answer is None:
        if action.failure is not None:
            site.answer = Answer(failure=action.failure, away=_is_away(site.spec, action.failure))
        elif action.held is not None:
            site.answer = Answer(_newer_in(site, action.held), state=action.held)
        else:
            site.answer = _asked(site)
    return site.answer


def _stands(site: Site) -> "dict[PurePosixPath, Candidate]":
    """What each directory that was brought over goes on from."""
    known = lineage.known(site.spec, site.agent)
    return {path: found[0] for path, found in known.items() if found and not found[0].settled}


def _newer_in(site: Site, held: "Held") -> frozenset[str]:
    record, (newest, _) = local.record(site.spec, site.agent), held.stands
    return _newer(site, record, newest, set(held.paths))


def _newer(site: Site, record: local.Record, newest: str, paths: set[PurePosixPath]) -> frozenset[str]:
    """The paths of which the newest state has what is not known here; none where this machine wrote that state."""
    if newest in (record.written, record.intended):
        return frozenset()
    stands = _stands(site)
    return frozenset(str(path) for path, found in stands.items() if found.commit != newest and path in paths)


def _state(site: Site, answer: Answer) -> "Held":
    """The newest state, whole."""
    from persist import fetch

    if answer.state is None:
        wishes = site.wishes
        options = fetch.Options(None, wishes.take_over, wishes.at_least, wishes.rate)
        answer.state = fetch.chosen(site.spec, site.agent, options)
    assert answer.state is not None, "it has something newer"
    return answer.state


def _settled(site: Site, path: PurePosixPath) -> None:
    """There is nothing newer, so a sync goes on top of what there is."""
    stands = _stands(site).get(path)

    def now(before: lineage.Known) -> lineage.Known:
        found = before.get(path, ())
        return {**before, path: (found[0]._replace(settled=True), *found[1:])} if found else before

    lineage.change(site.spec, site.agent, now)
    degraded.forget(site.spec, site.agent, path)
    if stands is not None and stands.commit:  # a crash may have come between a fetch and its note
        local.change(site.spec, site.agent, lambda record: _descends(record, str(path), stands.commit))


def _descends(record: local.Record, path: str, commit: str) -> local.Record:
    if record.head != commit or record.known.get(path) == commit:
        return record
    return record._replace(known={**record.known, path: commit})


def _written(site: Site, path: PurePosixPath) -> bool:
    """Whether this machine wrote after the state that its copy goes on from, as far as anybody can tell."""
    stands = _stands(site).get(path)
    with site_.home(site) as home, entering.down(home, path, site.spec.home(site.agent)) as fd:
        if fd is None or stands is None or not btrfs.is_subvolume(fd):
            return True
        if btrfs.info(fd).uuid_bytes.hex() != stands.uuid:
            return True
        return carry.written(fd, stands)


def _without(site: Site, action: Ask, failure: Failure) -> str:
    """The copy here is used though nobody knows whether it is the newest."""
    path = shown(str(action.entry.path))
    degraded.note(site.spec, site.agent, action.entry.path, failure.what, site.now)
    local.change(site.spec, site.agent, local.holding_again)
    cli.warn(
        "persist",
        f"{site.agent.name}: {path}: degraded: the copy on this machine is used without the store's word: "
        f"{failure.what}",
        f"the next sync that reaches the store reconciles them: persist sync {site.agent.name}",
    )
    return "no answer: the copy on this machine is used"


def _both(site: Site, action: Ask, answer: Answer) -> str:
    """Another machine wrote, and this one: nothing gives way, and the next sync keeps what lies here as a branch."""
    path, agent = shown(str(action.entry.path)), site.agent.name
    why = "another machine has synced a newer state, and this one wrote since too: nothing was overwritten"
    degraded.note(site.spec, site.agent, action.entry.path, why, site.now)
    if answer.held is not None:
        raise answer.held
    local.change(site.spec, site.agent, local.holding_again)
    cli.warn(
        "persist",
        f"{agent}: {path}: {why}",
        f"persist sync {agent} keeps what lies here as a branch, and says how to go on; persist log {agent} shows both",
    )
    return "it has one, and what lies here was written since: nothing was overwritten"


# ---- the question, in a process of its own: whatever hangs goes with it


def _asked(site: Site) -> Answer:
    """Ask within SECONDS. Never raises for what the store does."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _child(site, writing)
    os.close(writing)
    try:
        with files.opened(reading):
            said = _read(reading, time.monotonic() + SECONDS)
    finally:
        _end(child)
    return _told(said)


def _told(said: bytes | None) -> Answer:
    if said is None:
        failure = Unanswered(
            f"the store did not answer within {SECONDS:.0f} s", hint="see the network, and the store; then try again"
        )
        return Answer(failure=failure, away=True)
    try:
        tree = json.loads(said)
    except ValueError:
        return Answer(failure=Unanswered("the question to the store was cut off", hint="try again"), away=True)
    if (failed := tree.get("failed")) is not None:
        return Answer(failure=_failure(failed), away=bool(failed["away"]))
    held = tree["held"]
    return Answer(frozenset(tree["newer"]), held=None if held is None else _failure(held))


def _failure(tree: dict[str, Any]) -> Failure:
    what, hint, status = str(tree["what"]), str(tree["hint"]), int(tree["status"])
    return Unanswered(what, hint=hint) if status == TRY_LATER else _Said(what, hint, status)


def _read(fd: int, until: float) -> bytes | None:
    """All that comes until the other end is closed; None when that takes too long."""
    found = bytearray()
    while len(found) <= _LONGEST:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        piece = os.read(fd, 1 << 16)
        if not piece:
            return bytes(found)
        found += piece
    return None


def _end(child: int) -> None:
    """The child, and what it started, goes: by itself, or now. One that hangs in the kernel is left behind."""
    with suppress(ProcessLookupError):  # its group may not be made yet
        os.killpg(child, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    until = time.monotonic() + _GRACE
    while time.monotonic() < until:
        with suppress(ChildProcessError):
            if os.waitpid(child, os.WNOHANG)[0]:
                return
        time.sleep(0.002)


def _child(site: Site, writing: int) -> NoReturn:
    status = DONE
    try:
        os.setsid()
        kernel.die_with_parent(signal.SIGKILL)
        files.write_all(writing, json.dumps(_reported(site)).encode())
    except BaseException:
        status = 1
    finally:
        os._exit(status)


def _reported(site: Site) -> dict[str, Any]:
    try:
        return _put(site)
    except Exception as error:
        failure = error if isinstance(error, Failure) else _Said(cli.unexpected(error), "", 1)
        return {"failed": _plain(failure) | {"away": _is_away(site.spec, failure)}}


def _put(site: Site) -> dict[str, Any]:
    """What the store has; the lease is taken where nothing is newer, as a fetch would."""
    from persist.bucket.opening import open_bucket
    from persist.sync import history

    spec, agent, wishes = site.spec, site.agent, site.wishes
    bucket = open_bucket(spec)
    state = history.ask(spec, agent, bucket, at_least=wishes.at_least)
    machine, newer = local.machine(spec), frozenset[str]()
    if state.head is not None:
        paths = {top.path for top in state.head.commit.root}
        newer = _newer(site, local.record(spec, agent), str(state.head.name), paths)
    held = _refused(lambda: history.refuse_held(agent, state, machine, take_over=wishes.take_over))
    if not newer:
        history.take(spec, agent, bucket, state, machine, take_over=wishes.take_over)
    return {"newer": sorted(newer), "held": None if held is None else _plain(held)}


def _refused(act: Callable[[], None]) -> Failure | None:
    try:
        act()
    except Failure as failure:
        return failure
    return None


def _plain(failure: Failure) -> dict[str, Any]:
    return {"what": failure.what, "hint": failure.hint, "status": status_of(failure)}


def _is_away(spec: Spec, failure: Failure) -> bool:
    """Whether the store did not answer, or its disk is not there: nothing that somebody must look into first."""
    from persist.store import StoreMissing, StoreUnreachable
    from town import store_url

    if isinstance(failure, StoreMissing) and spec.town.store is not None:
        place = store_url.parse(spec.town.store)
        return isinstance(place, store_url.Directory) and not _any(str(place.path))
    return isinstance(failure, (StoreUnreachable, Unanswered))


def _any(path: str) -> bool:
    """Whether a directory is there and holds anything: one that does not is where the store's disk gets mounted."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
