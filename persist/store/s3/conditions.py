"""Which conditional writes a server honours: found out by trying, and remembered; none is ever trusted unseen."""

import json
import os
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from persist.store.s3.replies import Refused
from town import files
from town.files import opened
from town.store_url import Bucket

Tag = Literal["quoted", "bare", ""]
PROBE = ".probe-"  # no key starts with a dot, so what a probe leaves behind is no object
_FILE = "conditions.json"
_GOOD_FOR = 30 * 86400.0  # seconds: servers are replaced by others behind the same URL
_LIMIT = 4096
_WRONG = "0" * 32
NO = {400, 412, 501}  # how servers say that they do not know a condition, or that it does not hold


@dataclass(frozen=True, slots=True)
class Conditions:
    """`absent`: of two PUTs with If-None-Match: * the second fails. `match`: how If-Match wants its ETag; "": never."""

    absent: bool
    match: Tag


Put = Callable[..., str]  # put(key, data, **condition): the ETag; raises Refused


def probed(put: Put, delete: Callable[[str], None]) -> Conditions:
    """Try it on an object of its own, which is removed: five requests, seven where ETags are wanted without quotes."""
    key = PROBE + secrets.token_hex(16)
    first = _passes(put, key, IfNoneMatch="*")
    try:
        tag = first or put(key, b"probe")
        absent = first is not None and _fails(put, key, IfNoneMatch="*")
        return Conditions(absent, _match(put, key, tag))
    finally:
        delete(key)


def _match(put: Put, key: str, tag: str) -> Tag:
    if _fails(put, key, IfMatch=f'"{_WRONG}"') and _passes(put, key, IfMatch=tag):
        return "quoted"
    # Ceph RGW compares with its own tag, which has no quotes: a quoted one never fits.
    if _fails(put, key, IfMatch=_WRONG) and _passes(put, key, IfMatch=tag.strip('"')):
        return "bare"
    return ""


def _passes(put: Put, key: str, **condition: str) -> str | None:
    try:
        return put(key, b"probe", **condition)
    except Refused as refused:
        if refused.reply.status in NO:
            return None
        raise


def _fails(put: Put, key: str, **condition: str) -> bool:
    try:
        put(key, b"probe", **condition)
    except Refused as refused:
        if refused.reply.status in NO:
            return refused.reply.status == 412
        raise
    return False


def remembered(state: Path, place: Bucket) -> Conditions | None:
    """What a probe on this machine found for this place; None when none did, lately, or root cannot trust the note."""
    try:
        with opened(os.open(state / _FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)) as fd:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                return None
            note = json.loads(files.read_fd(fd, _LIMIT, _FILE))
        fresh = 0 <= time.time() - float(note["time"]) < _GOOD_FOR
        if note["place"] != _name(place) or not fresh or note["match"] not in ("quoted", "bare", ""):
            return None
        return Conditions(note["absent"] is True, note["match"])
    except (OSError, ValueError, KeyError, TypeError, files.Unreadable):
        return None


def remember(state: Path, place: Bucket, conditions: Conditions) -> None:
    """Note what a probe found; where it cannot be written, the next process asks again."""
    note = {"place": _name(place), "time": int(time.time()), **asdict(conditions)}
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        with opened(os.open(state, files.DIRECTORY)) as directory:
            files.write_beneath(directory, _FILE, json.dumps(note).encode() + b"\n", mode=0o600)
    except OSError:
        return


def _name(place: Bucket) -> str:
    return f"{place.endpoint or ''}|{place.region or ''}|{place.bucket}|{place.prefix}"
