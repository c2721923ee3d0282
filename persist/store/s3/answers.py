"""What servers answer, read: an error of S3, a page of a listing (Amazon S3 API Reference). Bodies are bounded already.

Names of elements count without their namespace, which servers spell in several ways.
"""

import http.client
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from persist.store.s3.replies import Reply

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


class NoAnswerError(Exception):
    """What came is not what S3 answers."""


class Answer(NamedTuple):
    """Status, headers (found by any case) and the body."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Key(NamedTuple):
    """One key of a listing; `modified` in seconds since the epoch. None: it was not said, or cannot be read."""

    key: str
    size: int | None
    modified: float | None


class Listing(NamedTuple):
    """A page of a listing; `prefix`, `truncated`: None where they were not said."""

    prefix: str | None
    truncated: bool | None
    token: str
    keys: list[Key]


def error(answer: Answer) -> Reply:
    """The error that an answer tells; by its status alone where the body is none of S3's."""
    headers = {str(name).lower(): str(value) for name, value in answer.headers.items()}
    if (said := _said(answer.data)) is None:
        return Reply(answer.status, str(answer.status), http.client.responses.get(answer.status, ""), headers)
    if region := said.get("Region"):
        headers.setdefault("x-amz-bucket-region", region)
    return Reply(answer.status, said.get("Code") or str(answer.status), said.get("Message") or "", headers)


def _said(data: bytes) -> dict[str, str] | None:
    try:
        root = _parsed(data)
    except NoAnswerError:
        return None
    found = next((one for one in (root, *root) if _tag(one) == "Error"), None)
    return None if found is None else _texts(found)


def listing(data: bytes) -> Listing:
    """The page that a body is. Raises NoAnswerError where it is no XML."""
    root = _parsed(data)
    said = _texts(root)
    decoded = _unquoted if said.get("EncodingType") == "url" else str
    prefix, truncated = said.get("Prefix"), said.get("IsTruncated")
    return Listing(
        None if prefix is None else decoded(prefix),
        None if truncated is None else truncated == "true",
        said.get("NextContinuationToken", ""),
        [
            Key(decoded(one.get("Key", "")), _size(one.get("Size", "")), _time(one.get("LastModified", "")))
            for one in _contents(root)
        ],
    )


def _parsed(data: bytes) -> "Element":
    from xml.etree import ElementTree

    try:
        # expat 2.4.1 and newer stop entities that grow, and no external one is read.
        return ElementTree.fromstring(data)  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as wrong:
        raise NoAnswerError from wrong


def _tag(one: "Element") -> str:
    return one.tag.rpartition("}")[2]


def _texts(parent: "Element") -> dict[str, str]:
    return {_tag(one): one.text or "" for one in parent}


def _contents(root: "Element") -> Iterator[dict[str, str]]:
    for one in root:
        if _tag(one) == "Contents":
            yield _texts(one)


def _unquoted(text: str) -> str:
    from urllib.parse import unquote_plus

    return unquote_plus(text)


def _size(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _time(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
