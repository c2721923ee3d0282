"""What root wrote down beside a kept home: `about.json` of a snapshot, a recalled copy, an import.

Version 1, docs/formats/disk.md. It is a note, not a promise: a missing or broken one reads as "nothing is known", and
what it is about is there all the same.
"""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from town import files
from town.failure import Failure

FILE, ATTRIBUTE = "about.json", "trusted.nuketown.about"
VERSION = 1
_LIMIT = 1 << 20
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a kept home; every value may be empty.

    `transids`: the transaction of the filesystem that each part is of (`home`, `persisted`, a path of the home).
    `paths`: the declared directories that lie under `persisted`; `apart`: on persist_dir's own filesystem. `inside`:
    the home is that directory of `home`. `of`: the kept home that a recalled copy was made from, or, of the snapshot
    that `--replace` takes, the one that took its place. `origin`: where an
    imported one comes from. `place`, `user`: where a copy was mounted, and whose its files appear to be. `notes`: what
    is not in it, or not of the same moment.
    """

    time: datetime | None = None
    message: str = ""
    boot: str = ""
    transids: Mapping[str, int] = field(default_factory=dict)
    paths: tuple[PurePosixPath, ...] = ()
    inside: str = ""
    of: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    user: str = ""
    notes: tuple[str, ...] = ()
    apart: bool = False


NOTHING = About()


def read(directory: int) -> About:
    """What the open directory of a kept home says of it. Raises nothing."""
    try:
        return parsed(json.loads(_text(directory))) or NOTHING
    except (Failure, OSError, ValueError, RecursionError):
        return NOTHING


def _text(directory: int) -> bytes:
    try:
        with files.opened(files.open_beneath(directory, FILE, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            return files.read_fd(fd, _LIMIT, FILE)
    except FileNotFoundError:
        return os.getxattr(directory, ATTRIBUTE)


def write(directory: int, about: About) -> None:
    """Put it into the open directory of a kept home, durably; or beside it, on a full disk. Raises OSError.

    What keeps a home may be what makes room: a file needs some of that of data, however small it is, an attribute none.
    """
    text = dumped(about).encode()
    try:
        files.write_beneath(directory, FILE, text, mode=0o600, owner=(0, 0))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.setxattr(directory, ATTRIBUTE, text)


def dumped(about: About) -> str:
    """The text of the file."""
    tree = asdict(about) | {
        "version": VERSION,
        "time": None if about.time is None else about.time.astimezone(UTC).strftime(_TIME),
        "paths": [str(path) for path in about.paths],
    }
    return json.dumps(tree, indent=1, sort_keys=True) + "\n"


def parsed(tree: Any) -> About | None:
    """What a JSON value says; None when it is no such note, or of a version that this one does not know."""
    if not isinstance(tree, dict) or tree.get("version") != VERSION:
        return None
    words = {name: tree.get(name, "") for name in ("message", "boot", "inside", "of", "place", "user")}
    paths, notes = tree.get("paths", []), tree.get("notes", [])
    transids, origin = tree.get("transids", {}), tree.get("origin", {})
    if not (
        _all(words.values(), str)
        and _list(paths, str)
        and _list(notes, str)
        and isinstance(transids, dict)
        and _all(transids.values(), int)
        and isinstance(origin, dict)
        and _all(origin.values(), str)
    ):
        return None
    apart = tree.get("apart", False)
    if type(apart) is not bool or words["inside"] in (".", "..") or "/" in words["inside"] or "\0" in words["inside"]:
        return None
    return About(
        time=_time(tree.get("time")),
        transids=transids,
        paths=tuple(path for text in paths if (path := _path(text)) is not None),
        origin=origin,
        notes=tuple(notes),
        apart=apart,
        **words,
    )


def _path(text: str) -> PurePosixPath | None:
    path = PurePosixPath(text)
    return None if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in text else path


def _time(text: object) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC) if isinstance(text, str) else None
    except ValueError:
        return None


def _list(value: object, kind: type) -> bool:
    return isinstance(value, list) and _all(value, kind)


def _all(values: Any, kind: type) -> bool:
    return all(type(value) is kind for value in values)
