"""`persist init --store`: the only thing that makes a store and its key, once.

The order protects data. What is settled is written beside the spec first (`store.lock.toml.begun`), then the first key
file goes into the store, then `config`, then the lock. Nothing is ever synced without the lock, so a key that was lost
before it cannot have data; a key in the store is only adopted when it fits what was settled here, never because it is
there.
"""

import os
from contextlib import suppress
from datetime import UTC, datetime

from persist.bucket import keyfile, lock, opening
from persist.bucket.keyfile import KeyFile
from persist.bucket.keys import TownKey
from persist.bucket.lock import StoreLock
from persist.store import ObjectMissing, Store, StoreForeign, StoreMissing, checked_url, open_store
from town import cli, sops
from town.failure import DONE, Failure
from town.spec import Spec
from town.terminal import shell_word, shown


class AlreadyMade(Failure):
    """The town has a store, or the place is taken. Nothing was changed."""


class NoRecipients(Failure):
    """Nobody is named who could open the store's key."""


def make(spec: Spec, dry_run: bool) -> int:
    """Make the store that the spec names, or finish making it after an interruption. Raises AlreadyMade and others."""
    url = checked_url(spec)
    recipients = _recipients(spec)
    where, path = shown(url), shown(str(spec.beside(lock.NAME)))
    if dry_run:
        _refuse_locked(spec)
        with suppress(StoreMissing):  # its directory is not there: that is what would be made
            _refuse_taken(spec, open_store(spec))
        print(f"make   {where}, its key for {', '.join(map(shown, recipients))}")
        print(f"write  {path}")
        return DONE
    with lock.alone(spec):
        begun = lock.read(spec, lock.BEGUN)
        if begun is None:
            _refuse_locked(spec)  # before anything is made
        store = open_store(spec, make=True)
        if begun is None or not _finished(spec, store, begun):
            _begin(spec, store, recipients)
    print(f"made the store {where}; {path} belongs to the spec: keep them together")
    return DONE


def _begin(spec: Spec, store: Store, recipients: tuple[str, ...]) -> None:
    _refuse_locked(spec)
    _refuse_taken(spec, store)
    key, now = TownKey.random(), datetime.now(UTC)
    begun = StoreLock.of(key, now)
    file = KeyFile(1, key, recipients=tuple(dict.fromkeys(map(sops.canonical, recipients))))
    sealed = keyfile.sealed(file, now)
    lock.write(spec, begun, lock.BEGUN)
    if not store.put_if_absent(file.name, sealed):
        raise AlreadyMade("somebody else made a store there at this moment", hint="bring the lock that they got")
    _finish(spec, store, begun)
    _warn_unless_it_opens(spec, sealed)


def _finished(spec: Spec, store: Store, begun: StoreLock) -> bool:
    """Finish what an earlier run began; False when it came to nothing, so that nothing can hang on its key."""
    locked = lock.read(spec)
    if locked is not None and locked != begun:
        return False
    try:
        number, data = keyfile.newest(store)
    except ObjectMissing:
        return False
    file = keyfile.opened(data, number, opening.keys_at_hand(spec))
    if not begun.fits(file.key, file.earlier):
        raise StoreForeign(
            "the key in the store is not the one that the interrupted `persist init --store` made",
            hint=f"look who wrote it; to give up that init, remove {shown(str(spec.beside(lock.BEGUN)))}",
        )
    _finish(spec, store, begun)
    return True


def _finish(spec: Spec, store: Store, begun: StoreLock) -> None:
    if not store.put_if_absent(opening.CONFIG, opening.config()):
        opening.has_config(store)  # one that is there is one that this version knows
    lock.write(spec, begun)
    os.unlink(spec.beside(lock.BEGUN))


def _refuse_locked(spec: Spec) -> None:
    found = lock.read(spec)
    if found is None:
        return
    path = spec.beside(lock.NAME)
    raise AlreadyMade(
        f"the town has a store already: {shown(str(path))} names its key, made {shown(found.made) or 'some day'}",
        hint=_what_is_there(spec, shell_word(str(path))),
    )


def _what_is_there(spec: Spec, path: str) -> str:
    """What became of the store that the lock names, and what to do."""
    try:
        opening.open_bucket(spec, ask=True, remember=False)  # what this machine remembers proves nothing here
    except Failure as failure:
        return (
            f"it cannot be used: {failure.what}. Mount it, or bring it back; only where its data is gone for good: "
            f"rm {path}, then init again"
        )
    return "it is there and opens: nothing is left to make, `persist sync` sends to it"


def _refuse_taken(spec: Spec, store: Store) -> None:
    path = shown(str(spec.beside(lock.NAME)))
    taken = next(iter(store.list("")), None)
    if taken is not None:
        raise AlreadyMade(
            f"the place is taken: it holds {shown(taken.key)}, and {path} does not exist",
            hint="bring the lock from where the spec is kept, or choose an empty place: town.store",
        )


def _recipients(spec: Spec) -> tuple[str, ...]:
    if spec.town.recipients is not None:
        return spec.town.recipients.all
    found = sops.creation_recipients(spec.beside(spec.town.sops_file), start=spec.file.absolute().parent)
    if not found:
        raise NoRecipients(
            f"{shown(str(spec.file))}: nobody is named who may open the store's key",
            hint="name at least one human in [town.recipients], or write creation rules into .sops.yaml",
        )
    return found


def _warn_unless_it_opens(spec: Spec, sealed: bytes) -> None:
    try:
        sops.load(sealed, "the store's key", opening.keys_at_hand(spec))
    except Failure as failure:
        cli.warn("persist", f"this machine cannot use the store that it made: {failure.what}", failure.hint)
