"""One SOPS file brought to those who shall open it: what is different, decided without any private key."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from identity.readers import canonical
from identity.vault import Vault
from town import sops
from town.terminal import shown


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who shall open a file. `groups` and `threshold` only where something says how they share its key."""

    recipients: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] | None = None
    threshold: int | None = None


@dataclass(frozen=True, slots=True)
class Rewrap:
    """Make a SOPS file one for exactly these recipients; with a new data key when anyone leaves.

    `groups` share the key of a file, any `threshold` of them open it; None: as the file has it. `called` gives
    recipients in canonical form the words that people know them by.
    """

    name: str
    recipients: tuple[str, ...]
    joined: tuple[str, ...]
    left: tuple[str, ...]
    called: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...] | None = None
    threshold: int | None = None

    @property
    def fresh(self) -> bool:
        """Whether a new data key is made: who leaves knows the old one, and so may who has only a share of it now."""
        return bool(self.left) or self.groups is not None

    def __str__(self) -> str:
        changes = [*(f"+ {self._call(one)}" for one in self.joined), *(f"- {self._call(one)}" for one in self.left)]
        if self.groups is not None:
            count = len(self.groups)
            changes.append(f"any {self.threshold} of {count} groups" if count > 1 else "one group")
        if self.fresh:
            changes.append("a new data key")
        return f"rewrap  {shown(self.name)}: {', '.join(changes) or 'recipients written as sops-nix reads them'}"

    def _call(self, one: str) -> str:
        words = self.called.get(one)
        return shown(one) if words is None else f"{shown(one)} ({words})"


def rewrap(vault: Vault, wanted: Wanted, called: Mapping[str, str]) -> Rewrap | None:
    """The step from those who can open a file that is there to those who shall; None when they are the same.

    Raises sops.BadSopsFile, sops.BadRecipient.
    """
    assert vault.data is not None
    there, threshold = sops.groups_of(vault.data, str(vault.path))
    spelled = [one for group in there for one in group]
    before, after = set(map(canonical, spelled)), tuple(dict.fromkeys(map(sops.canonical, wanted.recipients)))
    groups = wanted.groups or there
    several = max(len(there), len(groups)) > 1 and wanted.groups is not None
    regrouped = several and (_sets(there), threshold) != (_sets(groups), wanted.threshold)
    made = Rewrap(
        name=vault.name,
        recipients=after,
        joined=tuple(one for one in after if one not in before),
        left=tuple(sorted(before - set(after))),
        called=called,
        groups=wanted.groups if regrouped else None,
        threshold=wanted.threshold if regrouped else None,
    )
    # An ssh-ed25519 line that stands in a file as it is, say: sops-nix takes it when it builds and fails at boot.
    respelled = any(one not in before for one in spelled)
    return made if made.joined or made.left or regrouped or respelled else None


def _sets(groups: Iterable[Iterable[str]]) -> list[list[str]]:
    """Groups without an order of their own."""
    return sorted(sorted(map(canonical, group)) for group in groups)
