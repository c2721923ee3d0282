"""What comes before the files of a plan, and after them: directories first; then names that hold nothing, links, facts.

The end looks at every directory once more: it must hold exactly what the plan says, whichever run made it.
"""

import json
import os
from collections.abc import Callable

from persist.bucket import trees
from persist.bucket.trees import Entry
from persist.fill.facts import Facts, cannot, naming
from persist.fill.levels import Levels
from persist.fill.made import Look, Made
from persist.fill.plan import DIR, FIFO, FILE, SYMLINK, TOP, Plan
from persist.fill.writing import NEW
from town import files

_BARE = f"kind IN ({SYMLINK}, {FIFO}) OR (kind = {FILE} AND held = 0)"


class Ending:
    """The parts of a restore that need no store. Each may be done again: what is there then is made anew."""

    def __init__(self, plan: Plan, levels: Levels, facts: Facts, *, again: bool) -> None:
        self._plan, self._levels, self._facts, self._again = plan, levels, facts, again

    def directories(self) -> None:
        """Every directory, above before below, root's and closed while it is filled."""
        for number, above, name in self._plan.db.execute(
            f"SELECT no, dir, name FROM entries WHERE kind = {DIR} ORDER BY no"  # noqa: S608 - constants
        ):
            del number
            with naming(name):
                try:
                    os.mkdir(name, 0o700, dir_fd=self._levels.open(above))
                except FileExistsError:
                    if not self._again:
                        raise

    def names(self) -> None:
        """Symlinks, FIFOs, and files that hold nothing; then the other names of files that have several."""
        for above, line in self._plan.db.execute(
            f"SELECT dir, line FROM entries WHERE ({_BARE}) AND first IS NULL ORDER BY no"  # noqa: S608 - constants
        ):
            entry = _entry(line)
            with naming(entry.name):
                directory = self._levels.open(above)
                self._anew(directory, entry.name, lambda at=directory, made=entry: self._make(at, made))  # type: ignore[misc]
        for above, name, first, old in self._plan.db.execute(
            "SELECT e.dir, e.name, f.dir, f.name FROM entries e JOIN entries f ON f.no = e.first ORDER BY e.no"
        ):
            with naming(name):
                self._link((first, old), (above, name))

    def _make(self, directory: int, entry: Entry) -> None:
        match entry.kind:
            case "symlink":
                os.symlink(entry.target, entry.name, dir_fd=directory)
                self._facts.give_name(directory, entry)
            case "fifo":
                os.mkfifo(entry.name, 0o600, dir_fd=directory)
                self._facts.give_name(directory, entry)
            case _:
                with files.opened(os.open(entry.name, NEW, 0o600, dir_fd=directory)) as fd:
                    os.ftruncate(fd, entry.size)
                    self._facts.give(fd, entry)

    def _link(self, old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
        self._levels.open(new[0])
        source, target = self._levels.open(old[0]), self._levels.open(new[0])

        def link() -> None:
            os.link(old[1], new[1], src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

        self._anew(target, new[1], link)

    def _anew(self, directory: int, name: bytes, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            if not self._again:
                raise
            os.unlink(name, dir_fd=directory)
            make()

    def facts(self, *, look: bool) -> Made | None:
        """Owner, mode and time of every directory, which nothing is made in any more; with `look` what lies there.

        What a run before may have made is looked at in any case. Raises Unsafe, CannotMake.
        """
        seen = Look(self._plan) if look or self._again else None
        if seen is not None:
            seen.at(TOP, self._levels.known[TOP])
        for number, name, mode, mtime, owner, group, odd in self._plan.db.execute(
            f"SELECT no, name, mode, mtime, owner, grp, odd FROM entries WHERE kind = {DIR} ORDER BY no"  # noqa: S608
        ):
            try:
                fd = self._levels.open(number)
                if seen is not None:
                    seen.at(number, fd)
                if odd or self._again:
                    self._facts.give(fd, _entry(self._plan.line(number)))
                else:
                    self._facts.give_plain(fd, mode, int(mtime), (owner, group))
            except OSError as error:
                raise cannot(name, error) from error
        return None if seen is None else seen.made


def _entry(line: bytes) -> Entry:
    return trees.parsed(json.loads(line), "an entry of a listing")
