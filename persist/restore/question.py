"""The question to the store: has it a newer state of what was brought over? Asked in a process of its own.

Whatever hangs (a connection, a key that is unlocked, a disk that is away) goes with that process after 20 s.
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

from persist import lineage
from persist.lineage import Candidate
from persist.restore.site import Site
from persist.sync import local
from town import cli, files, kernel
from town.failure import DONE, TRY_LATER, Failure, TryLater, status_of
from town.spec import Spec

if TYPE_CHECKING:
    from persist.fetch import Held

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


def stands(site: Site) -> dict[PurePosixPath, Candidate]:
    """What each directory that was brought over goes on from."""
    known = lineage.known(site.spec, site.agent)
    return {path: found[0] for path, found in known.items() if found and not found[0].settled}


def newer(site: Site, record: local.Record, newest: str, paths: set[PurePosixPath]) -> frozenset[str]:
    """The paths of which the newest state has what is not known here; none where this machine wrote that state."""
    if newest in (record.written, record.intended):
        return frozenset()
    known = stands(site)
    return frozenset(str(path) for path, found in known.items() if found.commit != newest and path in paths)


def ask(site: Site) -> Answer:
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
        return {"failed": _plain(failure) | {"away": is_away(site.spec, failure)}}


def _put(site: Site) -> dict[str, Any]:
    """What the store has; the lease is taken where nothing is newer, as a fetch would."""
    from persist.bucket.opening import open_bucket
    from persist.sync import history

    spec, agent, wishes = site.spec, site.agent, site.wishes
    bucket = open_bucket(spec)
    state = history.ask(spec, agent, bucket, at_least=wishes.at_least)
    machine, found = local.machine(spec), frozenset[str]()
    if state.head is not None:
        paths = {top.path for top in state.head.commit.root}
        found = newer(site, local.record(spec, agent), str(state.head.name), paths)
    held = _refused(lambda: history.refuse_held(agent, state, machine, take_over=wishes.take_over))
    if not found:
        history.take(spec, agent, bucket, state, machine, take_over=wishes.take_over)
    return {"newer": sorted(found), "held": None if held is None else _plain(held)}


def _refused(act: Callable[[], None]) -> Failure | None:
    try:
        act()
    except Failure as failure:
        return failure
    return None


def _plain(failure: Failure) -> dict[str, Any]:
    return {"what": failure.what, "hint": failure.hint, "status": status_of(failure)}


def is_away(spec: Spec, failure: Failure) -> bool:
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
