"""Many files as one step: what is to be written is first written down whole, so the next run finishes it.

The journal is one JSON file (docs/formats/identity.md). It holds ciphertext and public text only. A file is written
only when it still is as the run found it, or already as the run wants it. Whoever commits files beside a spec could
commit a journal too: one with a mode that git never gives, of nobody else, was left by a run here.
"""

import base64
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from identity import tree
from identity.places import IDENTITIES, JOURNAL, Places
from town import files
from town.failure import Failure
from town.terminal import shell_word, shown

VERSION = 2
MODE = 0o400  # git makes files that their owner can write, whatever the umask: 0644 and 0755 less its bits
_KNOWN = (1, VERSION)  # version 1 had neither bytes nor removals
_LIMIT = 256 << 20  # bytes
_HALF = re.compile(r"\.(.+)\.[0-9a-f]{12}\.new")  # as town.files names what it has not renamed yet
_NAMED = 48  # characters of the name that are left in that


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
    """The step from what a file holds now to `held`; None removes it. Raises tree.Linked, files.Unreadable."""
    return Write(name, held.encode() if isinstance(held, str) else held, _digest(places, name))


def commit(places: Places, writes: list[Write], run: str = "") -> None:
    """Carry out every write, in their order. Once the journal is on the disk, all of them will be.

    `run` names what writes them, for `interrupted`.
    """
    record = {"version": VERSION, "run": run, "writes": [_record(one) for one in writes]}
    tree.write(places, JOURNAL, json.dumps(record).encode(), mode=MODE)
    _carry_out(places, writes)


def pending(places: Places) -> list[Write]:
    """What a run that died still had to write; empty when none did. Raises Unfinished, tree.Linked."""
    record = _read(places)
    try:
        found = [_write(one) for one in record.get("writes", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(places, error) from error
    for one in found:
        _refuse_elsewhere(places, one)
    return found


def interrupted(places: Places) -> str:
    """The run that a journal is of; empty where there is none, or one that was not named."""
    return str(_read(places).get("run", "")) if pending(places) else ""


def written_at(places: Places) -> datetime | None:
    """When the run that died began to write; None where none did."""
    found = tree.found(places, JOURNAL)
    return None if found is None else datetime.fromtimestamp(found.st_mtime, UTC)


def _read(places: Places) -> dict[str, Any]:
    """The journal's JSON object; empty where there is none."""
    _refuse_strange(places)
    data = tree.read(places, JOURNAL, _LIMIT)
    if data is None:
        return {}
    try:
        record = json.loads(data)
        if record["version"] not in _KNOWN:
            raise ValueError(f"version {record['version']!r}")
        return dict(record)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(places, error) from error


def _unreadable(places: Places, error: Exception) -> Unfinished:
    return Unfinished(
        f"{_path(places)} cannot be read: {shown(str(error)[:200])}",
        hint=f"a run writes it whole: if it was edited, remove it and run identity gen again: {_rm(places)}",
    )


def _refuse_strange(places: Places) -> None:
    """A journal that no run left here came with git, from whoever wrote it: it could write keys of theirs."""
    found = tree.found(places, JOURNAL)
    if found is None or stat.S_ISLNK(found.st_mode):  # a link is refused when it is read
        return
    if found.st_uid not in (0, os.geteuid()):
        reason = f"it belongs to uid {found.st_uid}"
        cure = "if a run of that user was interrupted, let that user run identity gen; if not, remove it"
    elif stat.S_IMODE(found.st_mode) != MODE:
        reason = f"it has the mode {stat.S_IMODE(found.st_mode):04o}, and a run gives it {MODE:04o}"
        cure = "see who put it there with git log, and remove it"
    else:
        return
    raise Unfinished(f"{_path(places)} was not left by a run of identity here: {reason}", hint=f"{cure}: {_rm(places)}")


def _path(places: Places) -> str:
    return shown(str(places.path(JOURNAL)))


def _rm(places: Places) -> str:
    return f"rm -f {shell_word(str(places.path(JOURNAL)))}"


def _record(one: Write) -> dict[str, str | None]:
    named: dict[str, str | None] = {"name": one.name, "before": one.before}
    try:
        return named | {"text": None if one.data is None else one.data.decode()}
    except UnicodeDecodeError:
        return named | {"base64": base64.b64encode(one.data or b"").decode()}


def _write(record: dict[str, Any]) -> Write:
    name, before = record["name"], record["before"]
    if not isinstance(name, str) or not isinstance(before, str | None):
        raise TypeError("a name or a digest is no text")
    if "\0" in name:
        raise ValueError("a name holds a NUL byte")
    os.fsencode(name)  # raises UnicodeEncodeError for half of a surrogate pair
    return Write(name, _held(record), before)


def _held(record: dict[str, str | None]) -> bytes | None:
    if (encoded := record.get("base64")) is not None:
        return base64.b64decode(encoded, validate=True)
    text = record["text"]
    return None if text is None else text.encode()


def finish(places: Places) -> list[Write]:
    """Carry out what a run that died left, and tidy up. Returns what was written. Raises Unfinished, tree.Linked."""
    tidy(places)
    writes = pending(places)
    if not writes:
        return []
    return _carry_out(places, writes)


def _carry_out(places: Places, writes: list[Write]) -> list[Write]:
    left = [one for one in writes if _is_left(places, one)]  # all of them looked at before any is written
    for one in left:
        if _is_sops_file(places, one.name):
            _put(places.path(one.name), one)
        elif one.data is None:
            tree.remove(places, one.name)
        else:
            tree.make_directory(places, PurePosixPath(one.name).parent)
            tree.write(places, one.name, one.data)
    tree.remove(places, JOURNAL)
    return left


def _put(path: Path, one: Write) -> None:
    """The file itself where its name is a link, as the spec may have it, and with the mode that somebody gave it."""
    real = Path(os.path.realpath(path))
    if one.data is None:
        _remove(real)
    else:
        _make_directory(path.parent)
        files.write_whole(real, one.data, mode=0o644 if one.before is None else stat.S_IMODE(os.stat(real).st_mode))


def _is_left(places: Places, one: Write) -> bool:
    now = _digest(places, one.name)
    if now not in (one.before, one.after):
        raise Unfinished(
            f"{shown(str(places.path(one.name)))} was changed after an interrupted run had planned to write it",
            hint=f"bring back what it was, or, if the change is to stay, remove the journal: {_rm(places)}",
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
        for left in file.parent.glob(".*.new"):
            if (half := _HALF.fullmatch(left.name)) and half[1] == file.name[:_NAMED]:
                left.unlink()
    for name in list(tree.half_written(places)):
        if _HALF.fullmatch(name.name):
            tree.remove(places, name)


def _is_sops_file(places: Places, name: str) -> bool:
    return name in (str(places.secrets), str(places.recovery))


def _refuse_elsewhere(places: Places, one: Write) -> None:
    parts = PurePosixPath(one.name).parts
    below = parts[:1] == IDENTITIES.parts and len(parts) > 1 and ".." not in parts
    if not below and not _is_sops_file(places, one.name):
        raise Unfinished(
            f"{_path(places)} would write {shown(one.name)}, which is no file of identity",
            hint=f"somebody edited it: remove it and run identity gen again: {_rm(places)}",
        )


def _digest(places: Places, name: str) -> str | None:
    if not _is_sops_file(places, name):
        data = tree.read(places, name, _LIMIT)
        return None if data is None else hashlib.sha256(data).hexdigest()
    path = places.path(name)
    return hashlib.sha256(files.read_bounded(path, _LIMIT)).hexdigest() if os.path.lexists(path) else None
