"""The next key file, and `persist key rotate`: a new key, and with it a new epoch of the store.

The order protects data, as in `persist.makestore`: what is settled is written beside the spec first, then the key file
goes into the store, then the lock. A key in the store is only adopted when it fits what was settled here.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from persist.bucket import keyfile, lock, opening, remembered
from persist.bucket.keyfile import KeyFile
from persist.bucket.keys import TownKey
from persist.bucket.lock import StoreLock
from persist.bucket.remembered import Remembered
from persist.store import ObjectMissing, Store, StoreForeign, open_store, whole
from town import cli, sops
from town.failure import DONE, Failure, TryLater
from town.spec import Spec
from town.terminal import shown

_TRIES, _PAUSE = 10, 0.2  # how often, and how many seconds apart, what was just written is asked for


class KeyChanged(TryLater):
    """Somebody else wrote a key file at this moment. Trying again may help."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A recipient, and who that is: `host` by its name in the spec, `here` when this machine's own key is meant."""

    recipient: str
    human: bool
    host: str
    here: bool

    def __str__(self) -> str:
        who = "human" if self.human else f"host {self.host}" if self.host else "not named in the spec"
        return f"{shown(self.recipient)} ({who}{', this machine' if self.here else ''})"


def holders(spec: Spec, recipients: Iterable[str]) -> tuple[Holder, ...]:
    """Who the recipients are. Where the spec names nobody, all but this machine are taken for humans."""
    named = spec.town.recipients
    humans = set() if named is None else {sops.canonical(one) for one in named.humans}
    hosts = {} if named is None else {sops.canonical(one): host for host, one in named.hosts}
    here = _own(spec)
    found = dict.fromkeys(map(_canonical, recipients))
    return tuple(
        Holder(one, one in humans or (named is None and one not in here), hosts.get(one, ""), one in here)
        for one in found
    )


def _canonical(recipient: str) -> str:
    try:
        return sops.canonical(recipient)
    except sops.BadRecipient:
        return recipient


def _own(spec: Spec) -> tuple[str, ...]:
    """The recipients that this machine's own key stands for; none where it cannot be read."""
    try:
        return sops.Keys.of_host(spec.town.host_key).recipients
    except Failure:
        return ()


def write(spec: Spec, store: Store, file: KeyFile, now: datetime) -> None:
    """Put a new key file into the store. Raises KeyChanged when its number is taken, and what sealing raises."""
    data = keyfile.sealed(file, now)
    # A store without conditional writes may let two in: the last one counts, the other is told.
    if not store.put_if_absent(file.name, data) or _read_back(store, file.name) != data:
        raise KeyChanged(
            f"somebody else wrote {file.name} at this moment", hint="look, then try again: persist key show"
        )
    remembered.remember(spec, Remembered(opening.config(), file.number, data))


def _read_back(store: Store, name: str) -> bytes:
    """What counts now of what was just written; empty where it is gone. Some servers hide it while another writes."""
    for _ in range(_TRIES):
        with suppress(ObjectMissing):
            return whole(store, name, keyfile.LIMIT)
        time.sleep(_PAUSE)
    return b""


def rotate(spec: Spec, *, dry_run: bool, json: bool) -> int:
    """Begin a new epoch, or finish beginning it after an interruption. Raises KeyChanged and what opening raises."""
    if dry_run:
        file, _ = opening.read(spec, open_store(spec), lock.read(spec))
        return _said(spec, _next(file), json=json, wrote=False)
    with lock.alone(spec):
        store = open_store(spec)
        file = _finished(spec, store) or _begun(spec, store)
    return _said(spec, file, json=json, wrote=True)


def _next(file: KeyFile) -> KeyFile:
    return KeyFile(
        file.number + 1,
        TownKey.random(file.key.epoch + 1),
        (*file.earlier, file.key),
        file.recipients,
    )


def _begun(spec: Spec, store: Store) -> KeyFile:
    now = datetime.now(UTC)
    file, _ = opening.read(spec, store, lock.read(spec))
    if lock.read(spec, lock.BEGUN) is not None:
        # What an interrupted rotate sent may still be on its way: with its number taken, it is too late.
        file = replace(file, number=file.number + 1)
        write(spec, store, file, now)
    new = _next(file)
    settled = StoreLock.of(new.key, now, new.earlier)
    lock.write(spec, settled, lock.BEGUN)
    try:
        write(spec, store, new, now)
    except KeyChanged:  # the new key is not there, and will not be
        os.unlink(spec.beside(lock.BEGUN))
        raise
    _finish(spec, settled)
    return new


def _finished(spec: Spec, store: Store) -> KeyFile | None:
    """Finish what an earlier run began; None when nothing of it is in the store, or there was none."""
    begun, locked = lock.read(spec, lock.BEGUN), lock.read(spec)
    if begun is None or locked is None or not opening.has_config(store):
        return None
    if begun == locked:  # cut off at its very end
        os.unlink(spec.beside(lock.BEGUN))
        return None
    number, data = keyfile.newest(store)
    file = keyfile.opened(data, number, opening.keys_at_hand(spec))
    if locked.fits(file.key, file.earlier):
        return None
    if not begun.fits(file.key, file.earlier) or begun.earlier != locked.all:
        raise StoreForeign(
            "the key in the store is neither the town's nor the one that the interrupted `persist key rotate` made",
            hint="look who wrote it; `persist key rotate` on the machine where it was begun finishes it",
        )
    file.check_number()
    _finish(spec, begun)
    remembered.remember(spec, Remembered(opening.config(), number, data))
    return file


def _finish(spec: Spec, settled: StoreLock) -> None:
    lock.write(spec, settled)
    os.unlink(spec.beside(lock.BEGUN))


def _said(spec: Spec, file: KeyFile, *, json: bool, wrote: bool) -> int:
    path, to = shown(str(spec.beside(lock.NAME))), ", ".join(map(shown, file.recipients))
    if json:
        cli.put_json({"file": file.name, "epoch": file.key.epoch, "recipients": file.recipients, "wrote": wrote})
    elif wrote:
        print(f"epoch {file.key.epoch} began with {file.name}, for {to}; {path} names it: bring it to every machine")
    else:
        print(f"write  {file.name}, a new key and {len(file.earlier)} of earlier epochs, for {to}\nwrite  {path}")
    return DONE
