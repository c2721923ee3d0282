"""Many files as one step: what is to be written is first written down whole, so the next run finishes it.

The journal is one JSON file (docs/formats/identity.md). It holds ciphertext and public text only. A file is written
only when it still is as the run found it, or already as the run wants it.
"""

import glob
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from identity.places import IDENTITIES, JOURNAL, Places
from town import files
from town.failure import Failure
from town.terminal import shown

VERSION = 1
_LIMIT = 256 << 20  # bytes
_HALF = re.compile(r"\..+\.[0-9a-f]{12}\.new")  # as town.files names what it has not renamed yet


class Unfinished(Failure):
    """A run that died left a journal that cannot be carried out as it stands."""


@dataclass(frozen=True, slots=True)
class Write:
    """Make `name` (as in the spec, or below identities/) hold `text`; `before` is the SHA-256 of what it held."""

    name: str
    text: str
    before: str | None  # None: there was no file

    @property
    def changes(self) -> bool:
        """Whether the file does not hold this text yet."""
        return self.before != hashlib.sha256(self.text.encode()).hexdigest()


def write(places: Places, name: str, text: str) -> Write:
    """The step from what a file holds now to `text`."""
    return Write(name, text, _digest(places.path(name)))


def commit(places: Places, writes: list[Write]) -> None:
    """Carry out every write, in their order. Once the journal is on the disk, all of them will be."""
    record = {"version": VERSION, "writes": [{"name": w.name, "before": w.before, "text": w.text} for w in writes]}
    files.write_whole(places.path(JOURNAL), json.dumps(record).encode())
    _carry_out(places, writes)


def pending(places: Places) -> list[Write]:
    """What a run that died still had to write; empty when none did. Raises Unfinished."""
    path = places.path(JOURNAL)
    if not os.path.lexists(path):
        return []
    try:
        record = json.loads(files.read_bounded(path, _LIMIT))
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']!r}")
        found = [Write(str(w["name"]), str(w["text"]), w["before"]) for w in record["writes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Unfinished(
            f"{shown(str(path))} cannot be read: {shown(str(error))}",
            hint="it is written whole or not at all: if it was edited, remove it and run identity gen again",
        ) from error
    for one in found:
        _refuse_elsewhere(places, one)
    return found


def finish(places: Places) -> list[Write]:
    """Carry out what a run that died left, and tidy up. Returns what was written now. Raises Unfinished."""
    tidy(places)
    writes = pending(places)
    if not writes:
        return []
    return _carry_out(places, writes)


def _carry_out(places: Places, writes: list[Write]) -> list[Write]:
    done = []
    for one in writes:
        path, wanted = places.path(one.name), one.text.encode()
        now = _digest(path)
        if now == hashlib.sha256(wanted).hexdigest():
            continue
        if now != one.before:
            raise Unfinished(
                f"{shown(str(path))} was changed after an interrupted run had planned to write it",
                hint=f"bring back what it was, or, if the change is to stay, remove {shown(str(places.path(JOURNAL)))}",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # The file itself where its name is a link, and with the mode that somebody gave it.
        real = Path(os.path.realpath(path))
        files.write_whole(real, wanted, mode=0o644 if now is None else stat.S_IMODE(os.stat(real).st_mode))
        done.append(one)
    os.unlink(places.path(JOURNAL))
    return done


def tidy(places: Places) -> None:
    """Remove the half-written files that runs which died left beside their targets. Only while the lock is held."""
    for file in (places.path(places.secrets), places.path(places.recovery)):
        for left in file.parent.glob(f".{glob.escape(file.name)}.*.new"):
            left.unlink()
    for left in places.path(IDENTITIES).rglob(".*.new"):
        if _HALF.fullmatch(left.name):
            left.unlink()


def _refuse_elsewhere(places: Places, one: Write) -> None:
    below = Path(one.name).is_relative_to(IDENTITIES) and ".." not in Path(one.name).parts
    if not below and one.name not in (str(places.secrets), str(places.recovery)):
        raise Unfinished(
            f"{shown(str(places.path(JOURNAL)))} would write {shown(one.name)}, which is no file of identity",
            hint="somebody edited it: remove it and run identity gen again",
        )


def _digest(path: Path) -> str | None:
    if not os.path.lexists(path):
        return None
    return hashlib.sha256(files.read_bounded(path, _LIMIT)).hexdigest()
