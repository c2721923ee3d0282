"""What a sync left out or could not read whole, gathered to be said once, not once for each file."""

from dataclasses import dataclass, field
from typing import Literal

from town.terminal import shown

Kind = Literal["socket", "device", "mount", "changing", "capability", "subvolume", "bits", "owner"]
_WORDS: dict[Kind, str] = {
    "socket": "a socket is not kept",
    "device": "a device node is refused",
    "mount": "something is mounted there: it is not kept",
    "changing": "changed each time it was read: kept as it was read last",
    "capability": "file capabilities are not kept: they are root's to give",
    "subvolume": "a nested subvolume: read while it may change, restored as a directory",
    "owner": "its owner or group is neither the agent's nor root's: it comes back as root's",
    "bits": "set-uid or set-gid of another owner is not kept",
}


@dataclass(slots=True)
class Notes:
    """For each kind how often, and the first path."""

    found: dict[Kind, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, kind: Kind, path: bytes) -> None:
        """One more."""
        count, first = self.found.get(kind, (0, path))
        self.found[kind] = (count + 1, first)

    def lines(self) -> list[str]:
        """One sentence for each kind, safe to print."""
        return [
            f"{shown(path if len(path) < 300 else path[:300] + b'...')}: {_WORDS[kind]}"
            + (f" (and {count - 1:,} more like it)" if count > 1 else "")
            for kind, (count, path) in self.found.items()
        ]
