"""What a git work tree holds that is nowhere else, read by a few lines of our own: git itself is never run.

git runs what the agent wrote into its configuration: hooks, filters, fsmonitor, external diffs. Here files are opened
by descriptors below the home, each of a bounded size, up to a time; what cannot be told is said to be unknown, and
counts as at stake. Formats: gitrepository-layout(5), gitformat-index(5), gitignore(5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from town.failure import Failure
from town.terminal import counted, shown

_NAMED = 3  # branches in a line


class Unknown(Exception):
    """Something is not of a form that these lines read, too large, or took too long; says what."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One work tree: what was not pushed (branches) and not committed (numbers of files)."""

    path: bytes
    unpushed: tuple[bytes, ...] = ()
    remote: bool = True  # whether anything was ever fetched from one, or pushed
    changed: int = 0
    untracked: int = 0
    staged: bool = False
    stash: bool = False
    unknown: tuple[str, ...] = ()

    @property
    def at_stake(self) -> bool:
        """Whether something of it may be nowhere else."""
        return bool(self.unpushed or self.changed or self.untracked or self.staged or self.stash or self.unknown)

    @property
    def empty(self) -> bool:
        """Whether nothing was ever committed in it, and nothing is about to be."""
        return not self.remote and not self.at_stake

    @property
    def words(self) -> str:
        """As a person reads it, safe to print."""
        if self.empty:
            return "nothing is in it"
        said = [*self._unpushed()]
        said += [f"{counted(self.changed, 'file')} changed"] if self.changed else []
        said += [f"{self.untracked:,} untracked"] if self.untracked else []
        said += ["staged changes"] if self.staged else []
        said += ["a stash"] if self.stash else []
        said += [f"not known: {', '.join(map(shown, self.unknown))}"] if self.unknown else []
        return ", ".join(said) or "all pushed, nothing changed"

    def _unpushed(self) -> Sequence[str]:
        names = ", ".join(map(shown, self.unpushed[:_NAMED])) + (" …" if len(self.unpushed) > _NAMED else "")
        if not self.remote:
            return [f"never pushed ({names})" if names else "never pushed"]
        number = len(self.unpushed)
        return [f"{number:,} branch{'' if number == 1 else 'es'} not pushed ({names})"] if names else []


class Clock:
    """Until when something may take its time."""

    def __init__(self, seconds: float) -> None:
        self.until = monotonic() + seconds

    def check(self) -> None:
        """Raises Unknown when the time is over."""
        if monotonic() > self.until:
            raise Unknown("it took too long")


def look(home: int, path: bytes, seconds: float, called: bytes = b"") -> Facts:
    """The work tree at `path` below an open home, whose owner calls it `called` in absolute paths.

    Raises nothing: what cannot be read is not known.
    """
    from persist.git import tree

    try:
        return tree.facts(home, path, called, Clock(seconds))
    except Unknown as reason:
        return Facts(path, unknown=(str(reason),))
    except MemoryError:
        return Facts(path, unknown=("it needs too much memory",))
    except (Failure, OSError, ValueError) as error:
        what = error.what if isinstance(error, Failure) else getattr(error, "strerror", None) or "it is damaged"
        return Facts(path, unknown=(what,))
