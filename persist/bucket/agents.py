"""What lies below `agents/<place>/`: one listing shows all that a sync must know of an agent."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from persist.bucket import leases, tombs
from persist.bucket.commits import Name
from persist.bucket.keys import AgentKeys
from persist.bucket.leases import Lease
from persist.store import Store, StoreDamaged


@dataclass(frozen=True, slots=True)
class Listing:
    """Commits and branches in the order of their generations, leases, names of tombs; `at`: the store's time then."""

    at: float
    commits: tuple[Name, ...] = ()
    branches: tuple[Name, ...] = ()
    leases: tuple[Lease, ...] = ()
    tombs: tuple[str, ...] = ()
    times: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def states(self) -> tuple[Name, ...]:
        """Commits and branches."""
        return self.commits + self.branches

    def modified(self, name: Name | Lease | str) -> float:
        """When the object of that name was stored, in seconds since the epoch, by the store's clock."""
        return self.times[str(name)]


def listed(store: Store, keys: AgentKeys) -> Listing:
    """Everything of one agent in one epoch. Raises StoreDamaged for a name that nuketown does not write there."""
    prefix = f"agents/{keys.place}/"
    times = {found.key.removeprefix(prefix): found.modified for found in store.list(prefix)}
    names: list[Name] = []
    held: list[Lease] = []
    buried: list[str] = []
    try:
        for text, modified in times.items():
            if text.startswith("lease-"):
                held.append(leases.parsed(keys, text, modified))
            elif tombs.is_name(text):
                buried.append(text)
            else:
                names.append(Name.parsed(text))
    except ValueError as error:
        raise StoreDamaged(
            f"{prefix} in the store: {error}", hint="nuketown did not write it: look at it, then remove it"
        ) from error
    return Listing(
        store.now(),
        tuple(sorted(name for name in names if name.kind == "commit")),
        tuple(sorted(name for name in names if name.kind == "branch")),
        tuple(sorted(held)),
        tuple(sorted(buried)),
        times,
    )
