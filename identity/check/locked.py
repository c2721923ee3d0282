"""The lock itself: whether it says only what gen, rotate and revoke write, of agents that there are."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from identity import mismatch, places
from identity.finding import Finding
from identity.lock import Entry, KeptSsh, Lock
from town.spec import Spec
from town.terminal import shown

_LOCK = str(places.LOCK)
_EDITED = f"look at what changed with: git log -p {places.LOCK} - then bring back the last good one"
_GRACE = timedelta(minutes=5)  # by which clocks of two machines differ
_SECOND = timedelta(seconds=1)  # rotate ends a key of this very second one second later
_TOLD = 3  # keys of one agent


def findings(spec: Spec, lock: Lock, now: datetime) -> Iterator[Finding]:
    """What makes verifiers believe more than the spec's agents, and longer. Raises KeyMismatch."""
    for name, entry in sorted(lock.items()):
        for what in (*_to_come(entry, now + _GRACE), *_at_one_time(entry)):
            cure = f"where the clock of this machine is right: {_EDITED}"
            yield Finding("error", _LOCK, f"{shown(name)}: {what}", cure)
    yield from _gone(spec, lock)
    mismatch.twins(lock)


def _to_come(entry: Entry, now: datetime) -> Iterator[str]:
    """A key whose time ends in 9999 is believed for ever."""
    for ssh in entry.ssh:
        times = {"begins": ssh.since, "ends": ssh.until, "was revoked": ssh.revoked}
        for what, when in times.items():
            if when is not None and when > now:
                yield f"the SSH key {ssh.key.fingerprint} {what} at {when:%Y-%m-%d %H:%M} UTC, which is yet to come"
    for kept in entry.gpg:
        if kept.revoked is not None and kept.revoked > now:
            when = kept.revoked
            yield f"the key {kept.key.signing} was revoked at {when:%Y-%m-%d %H:%M} UTC, which is yet to come"


def _at_one_time(entry: Entry) -> Iterator[str]:
    """Each SSH key follows the one before it. One that was revoked is believed at no time."""
    for before, after in pairwise(entry.ssh):
        if before.revoked is None and _overlap(before, after):
            keys = f"{before.key.fingerprint} and {after.key.fingerprint}"
            yield f"the SSH keys {keys} are both believed at one time"


def _overlap(before: KeptSsh, after: KeptSsh) -> bool:
    return before.until is None or after.since is None or before.until - after.since > _SECOND


def _gone(spec: Spec, lock: Lock) -> Iterator[Finding]:
    for name in sorted(set(lock) - {agent.name for agent in spec.agents}):
        keys = [one.key.fingerprint for one in lock[name].ssh if one.revoked is None]
        keys += dict.fromkeys(one.key.primary for one in lock[name].gpg if one.revoked is None)
        if keys:
            its = "its key" if len(keys) == 1 else f"one of its {len(keys)} keys"
            what = f"the spec has no agent {shown(name)}, and whoever has {its} is still believed"
            yield Finding("warning", _LOCK, what, _revoke(name, keys))


def _revoke(name: str, keys: list[str]) -> str:
    commands = " && ".join(f"identity revoke {shown(name)} --key {key}" for key in keys[:_TOLD])
    return f"{commands}{' …' if len(keys) > _TOLD else ''} - what it signed does not verify then"
