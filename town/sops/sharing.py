"""Who has the data key: one group, each of whom has it whole, or several that hold a share of it each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from town.sops import shamir, writing
from town.sops.errors import BadRecipient
from town.sops.recipients import canonical, wrap

# The parts of a sops block that say who has the key.
PARTS = ("key_groups", "shamir_threshold")


@dataclass(frozen=True, slots=True)
class Sharing:
    """Groups of canonical recipients; of several groups any `threshold` open the file together."""

    groups: tuple[tuple[str, ...], ...]
    threshold: int

    @property
    def recipients(self) -> tuple[str, ...]:
        """Everybody, once."""
        return tuple(dict.fromkeys(one for group in self.groups for one in group))


def among(
    groups: Sequence[Sequence[str]], threshold: int | None = None, *, services: frozenset[str] = frozenset()
) -> Sharing:
    """Groups of recipients as written by people; `threshold` is all of the groups when none is given, as with sops.

    `services` are recipients that stay as they are named. Raises BadRecipient.
    """
    named = tuple(tuple(dict.fromkeys(_named(one, services) for one in group)) for group in groups)
    if not named or not all(named):
        what = "a group of recipients is empty" if len(named) > 1 else "no recipient is given"
        raise BadRecipient(what, hint="name at least one human in [town.recipients]")
    needed = len(named) if threshold is None or len(named) == 1 else threshold
    if len(named) > 1 and not 2 <= needed <= len(named) <= shamir.MOST:
        raise BadRecipient(
            f"{needed} of {len(named)} groups cannot open a file together",
            hint=f"the threshold is a number from 2 to the number of groups, which is at most {shamir.MOST}",
        )
    return Sharing(named, needed)


def _named(one: str, services: frozenset[str]) -> str:
    return one if one in services else canonical(one)


def block(
    key: bytes, sharing: Sharing, now: str, home: Path | None, kept: Mapping[str, tuple[str, Any]] | None = None
) -> dict[str, Any]:
    """What a sops block says of who has the data key. `kept`: entries that stay, kind and text by recipient.

    Raises BadRecipient.
    """
    if len(sharing.groups) == 1:
        return _entries(key, sharing.groups[0], now, home, kept or {})
    shares = shamir.split(key, len(sharing.groups), sharing.threshold)
    pairs = zip(shares, sharing.groups, strict=True)
    # sops writes these two lists of a group even when they are empty.
    groups = [{"age": [], "hc_vault": []} | _entries(share, group, now, home, {}) for share, group in pairs]
    return {
        "key_groups": [dict(sorted(group.items())) for group in groups],
        "shamir_threshold": writing.Raw(sharing.threshold),
    }


def _entries(
    key: bytes, group: Sequence[str], now: str, home: Path | None, kept: Mapping[str, tuple[str, Any]]
) -> dict[str, Any]:
    made = iter(wrap(key, [one for one in group if one not in kept], now, home))
    lists: dict[str, Any] = {}
    for one in group:
        kind, entry = kept[one] if one in kept else next(made)
        lists.setdefault(kind, []).append(entry)
    return lists
