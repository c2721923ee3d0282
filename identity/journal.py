"""Many files as one step: what is to be written is first written down whole, so the next run finishes it.

The journal is one JSON file (docs/formats/identity.md). It holds ciphertext and public text only. A file is written
only when it still is as the run found it, or already as the run wants it.
"""

import base64
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

VERSION = 2
_KNOWN = (1, VERSION)  # version 1 had neither bytes nor removals
_LIMIT = 256 << 20  # bytes
_HALF = re.compile(r"\..+\.[0-9a-f]{12}\.new")  # as town.files names what it has not renamed yet


class Unfinished(Failure):
    """A run that died left a journal that cannot be carried out as it stands."""


@dataclass(frozen=True, slots=True)
class Write:
    """Make `name` (as in the spec, or below identities/) hold `data`; `before` is the SHA-256 of what it held."""

    name: str
    data: bytes | None  # None: no file
    before: str | None  # None: there was no file

    @property
    def changes(self) -> bool:
        """Whether the file does not hold this yet."""
        return self.before != self.after

    @property
    def after(self) -> str | None:
        """The SHA-256 of what it shall hold; None: there shall be no file."""
        return None if self.data is None else hashlib.sha256(self.data).hexdigest()


def write(places: Places, name: str, held: str | bytes | None) -> Write:
    """The step from what a file holds now to `held`; None removes it."""
    return Write(name, held.encode() if isinstance(held, str) else held, _digest(places.path(name)))


def commit(places: Places, writes: list[Write], run: str = "") -> None:
    """Carry out every write, in their order. Once the journal is on the disk, all of them will be.

    `run` names what writes them, for `interrupted`.
    """
    record = {"version": VERSION, "run": run, "writes": [_record(one) for one in writes]}
    files.write_whole(places.path(JOURNAL), json.dumps(record).encode())
    _carry_out(places, writes)


def pending(places: Places) -> list[Write]:
    """What a run that died still had to write; empty when none did. Raises Unfinished."""
    path = places.path(JOURNAL)
    if not os.path.lexists(path):
        return []
    try:
        record = json.loads(files.read_bounded(path, _LIMIT))
        if record["version"] not in _KNOWN:
            raise ValueError(f"version {record['version']!r}")
        found = [Write(str(one["name"]), _held(one), one["before"]) for one in record["writes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Unfinished(
            f"{shown(str(path))} cannot be read: {shown(str(error))}",
            hint="it is written whole or not at all: if it was edited, remove it and run identity gen again",
        ) from error
    for one in found:
        _refuse_elsewhere(places, one)
    return found


def interrupted(places: Places) -> str:
    """The run that a journal is of; empty where there is none, or one that was not named."""
    path = places.path(JOURNAL)
    if not pending(places):
        return ""
    return str(json.loads(files.read_bounded(path, _LIMIT)).get("run", ""))


def _record(one: Write) -> dict[str, str | None]:
    named: dict[str, str | None] = {"name": one.name, "before": one.before}
    try:
        return named | {"text": None if one.data is None else one.data.decode()}
    except UnicodeDecodeError:
        return named | {"base64": base64.b64encode(one.data or b"").decode()}


def _held(record: dict[str, str | None]) -> bytes | None:
    if (encoded := record.get("base64")) is not None:
        return base64.b64decode(encoded, validate=True)
    text = record["text"]
    return None if text is None else text.encode()


def finish(places: Places) -> list[Write]:
    """Carry out what a run that died left, and tidy up. Returns what was written now. Raises Unfinished."""
    tidy(places)
    writes = pending(places)
    if not writes:
        return []
    return _carry_out(places, writes)


def _carry_out(places: Places, writes: list[Write]) -> list[Write]:
    left = [one for one in writes if _is_left(places, one)]  # all of them looked at before any is written
    for one in left:
        # The file itself where its name is a link, and with the mode that somebody gave it.
        path = places.path(one.name)
        real = Path(os.path.realpath(path))
        if one.data is None:
            _remove(real)
        else:
            _make_directory(path.parent)
            files.write_whole(real, one.data, mode=0o644 if one.before is None else stat.S_IMODE(os.stat(real).st_mode))
    os.unlink(places.path(JOURNAL))
    return left


def _is_left(places: Places, one: Write) -> bool:
    path = places.path(one.name)
    now = _digest(path)
    if now not in (one.before, one.after):
        raise Unfinished(
            f"{shown(str(path))} was changed after an interrupted run had planned to write it",
            hint=f"bring back what it was, or, if the change is to stay, remove {shown(str(places.path(JOURNAL)))}",
        )
    return now != one.after


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(exist_ok=True)
        with files.opened(files.open_dir(os.path.realpath(path.parent))) as above:
            os.fsync(above)  # files are durable in it before the journal goes


def _remove(path: Path) -> None:
    path.unlink()
    with files.opened(files.open_dir(path.parent)) as directory:
        os.fsync(directory)  # before the journal goes, which would do it again


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
