"""The clock held against the times that stand in a town's files: what it dates too early is never believed again.

`rotate` ends the time of an SSH key by it. A clock that is years behind would end it before all that the key signed.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from identity import places
from identity.found import Found
from identity.lock import Lock
from town.failure import Failure
from town.terminal import shown

_SKEW = timedelta(minutes=1)  # that the clocks of two machines may differ by


class ClockBehind(Failure):
    """A file speaks of a time that this machine has yet to reach."""


def refuse_behind(now: datetime, found: Found) -> None:
    """`now` is later than all that happened in this town. Raises ClockBehind, sops.BadSopsFile."""
    for when, what in [*_of_lock(found.lock), *_of_files(found)]:
        if when > now + _SKEW:
            raise ClockBehind(
                f"{what} {_said(when)}, and the clock of this machine says {_said(now)}",
                hint="set the clock, for example with timedatectl: a key that is rotated or revoked at an earlier time "
                "takes the signatures after it along. If the clock is right, see who wrote that time with git log -p",
            )


def _of_lock(lock: Lock) -> Iterator[tuple[datetime, str]]:
    for entry in lock.values():
        times = [time for kept in entry.ssh for time in (kept.since, kept.until, kept.revoked)]
        times += [time for kept in entry.gpg for time in (kept.key.created, kept.revoked)]
        yield from ((time, f"{places.LOCK} has") for time in times if time is not None)


def _of_files(found: Found) -> Iterator[tuple[datetime, str]]:
    for vault in (found.secrets, found.recovery):
        if (when := vault.modified) is not None:
            yield when, f"{shown(vault.name)} was written on"


def _said(when: datetime) -> str:
    return f"{when:%Y-%m-%d at %H:%M:%S} UTC"
