"""What a sync left out or could not read whole, said once for each kind, not once for each file.

What lasts (a socket, an owner that nobody here has) is a row of the index, so that it is said at each sync and not only
at that which read it; what only this run met is kept here.
"""

from dataclasses import dataclass, field
from typing import Literal

from persist.sync.rows import Rows
from town.terminal import shown

Kind = Literal["socket", "device", "mount", "changing", "capability", "subvolume", "living", "bits", "owner", "deep"]
_WORDS: dict[str, str] = {
    "socket": "a socket is not kept",
    "device": "a device node is refused",
    "mount": "something is mounted there: it is not kept",
    "changing": "changed each time it was read: kept as it was read last",
    "capability": "file capabilities are not kept: they are root's to give",
    "subvolume": "a nested subvolume: restored as a directory",
    "living": "a nested subvolume: read while it may change, restored as a directory",
    "owner": "its owner or group is neither the agent's nor root's: it comes back as root's",
    "deep": "a directory that lies too deep: left out with all below it",
    "bits": "set-uid or set-gid of another owner is not kept",
}


@dataclass(slots=True)
class Notes:
    """For each kind how often, and the first: a name in a directory of the index."""

    found: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)

    def add(self, kind: Kind, at: int, name: bytes) -> None:
        """One more."""
        count, *first = self.found.get(kind, (0, at, name))
        self.found[kind] = (count + 1, *first)  # type: ignore[assignment]

    def lines(self, rows: Rows) -> list[str]:
        """One sentence for each kind, those that the index keeps first; safe to print."""
        found = [*rows.notes(), *((kind, *each) for kind, each in self.found.items())]
        return [
            f"{_place(rows, at, name)}: {_WORDS[kind]}" + (f" (and {count - 1:,} more like it)" if count > 1 else "")
            for kind, count, at, name in found
        ]


def _place(rows: Rows, at: int, name: bytes) -> str:
    if at < 0:
        return "."
    path = b"/".join((*(rows.names(at) or ()), name))
    return shown(path if len(path) < 300 else path[:300] + b"...")
