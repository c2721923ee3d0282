"""Objects below a prefix of one bucket: each function is one request, sent once. What comes back is checked here."""

import base64
import hashlib
import re
from dataclasses import dataclass

from persist.store import Found, NotAStore, ObjectMissing, StoreDamaged, StoreUnreachable
from persist.store.pace import Pace, PacedBody
from persist.store.s3 import answers
from persist.store.s3.client import Client
from persist.store.s3.patience import Passing
from persist.store.s3.replies import Refused, where
from persist.store.s3.wire import LARGEST, Pieces, length_said
from town.store_url import Bucket
from town.terminal import shown

_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})")
_CONDITIONS = {"IfNoneMatch": "If-None-Match", "IfMatch": "If-Match"}
_LARGE = 1 << 20  # bytes of a body that is worth a question


@dataclass(frozen=True, slots=True)
class Read:
    """A range of an object, the object's ETag as it came, and its whole length."""

    data: bytes
    tag: str
    whole: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing, of how many keys, left out ones too; what the next is asked for by, None after the last."""

    found: tuple[Found, ...]
    told: int
    token: str | None


def md5(data: bytes) -> bytes:
    """What Content-MD5 and most ETags are; no secret hangs on it."""
    return hashlib.md5(data, usedforsecurity=False).digest()


class Objects:
    """Every call raises Refused where the server says no, Passing where it may pass, and failures that last."""

    def __init__(self, client: Client, pace: Pace | None) -> None:
        """`pace` slows what is sent; the client's own what is received."""
        place = client.place
        self._client = client
        self._pace = pace
        self._below = f"{place.prefix}/" if place.prefix else ""
        self.name = f"{shown(place.bucket)} at {where(place)}"

    def read(self, key: str, offset: int, length: int | None) -> Read:
        """At most `length` bytes, more than 0, from `offset`. Raises ObjectMissing."""
        last = "" if length is None else str(offset + length - 1)
        asked = {} if offset == 0 and length is None else {"Range": f"bytes={offset}-{last}"}
        try:
            reply = self._client.ask("GET", self._below + key, headers=asked, streamed=True)
        except Refused as refused:
            if refused.reply.status == 416:  # nothing is there from that offset on
                return Read(b"", "", _whole_length(refused.reply.headers.get("content-range", "")))
            if refused.reply.code == "NoSuchKey":
                raise ObjectMissing(f"{shown(key)} is not in the store {self.name}") from refused
            raise
        return self._checked(reply, offset, length, key)

    def send(self, key: str, data: bytes, digest: bytes | None = None, **condition: str) -> str:
        """Put an object: the ETag that the server says it has. `digest`: its MD5, where it is known already."""
        said: dict[str, str | bytes] = {
            "Content-Length": str(len(data)),
            "Content-MD5": base64.b64encode(digest or md5(data)).decode(),
            **{_CONDITIONS[name]: value for name, value in condition.items()},
            **_asks_first(data),
        }
        reply = self._client.ask("PUT", self._below + key, headers=said, body=self._body(data))
        if not (tag := str(reply.headers.get("ETag", ""))):
            raise Passing(NotAStore(f"what answers for the store {self.name} does not say that it took an object"))
        return tag

    def _body(self, data: bytes) -> object:
        if self._pace is not None:
            return PacedBody(data, self._pace)
        return data if len(data) < _LARGE else Pieces(data)

    def remove(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        try:
            self._client.ask("DELETE", self._below + key)
        except Refused as refused:
            if refused.reply.code != "NoSuchKey":
                raise

    def page(self, prefix: str, token: str = "", most: int = 1000) -> Page:
        """One page of the keys that begin with `prefix`; keys with a component that begins with a dot are left out."""
        asked = self._below + prefix
        more = {"continuation-token": token} if token else {}
        query = {"list-type": "2", "prefix": asked, "max-keys": str(most), **more, "encoding-type": "url"}
        try:
            page = answers.listing(self._client.ask("GET", query=query).data)
        except answers.NoAnswerError as error:
            raise Passing(_no_store(self._client.place), most=3) from error
        # A page that is no listing can be read as an empty one: an answer to something else, a page in XHTML.
        if page.truncated is None or page.prefix not in (None, asked):
            raise Passing(NotAStore(f"what answers for the store {self.name} sent no listing of {shown(asked)!r}"))
        if len(page.keys) > most:
            raise StoreDamaged(
                f"the store {self.name} sent {len(page.keys):,} keys in a page of its listing where {most:,} were "
                "asked for",
                hint="it does not honour max-keys: look at what answers at the endpoint, or take another server",
            )
        found = tuple(self._found(one, asked) for one in page.keys)
        kept = tuple(one for one in found if not one.key.startswith(".") and "/." not in one.key)
        return Page(kept, len(found), page.token if page.truncated else None)

    def _found(self, one: answers.Key, asked: str) -> Found:
        if not one.key.startswith(asked) or one.size is None or one.modified is None:
            raise Passing(StoreUnreachable(f"the store {self.name} sent a listing of something else"), most=3)
        return Found(one.key[len(self._below) :], one.size, one.modified)

    def _checked(self, reply: answers.Answer, offset: int, length: int | None, key: str) -> Read:
        """The range that was asked for, all of it, or an error: what comes over a network is not taken at its word."""
        data, start, whole = reply.data, 0, length_said(reply.headers)
        if (text := reply.headers.get("Content-Range")) is not None:
            if (found := _CONTENT_RANGE.fullmatch(str(text))) is None or found[1] is None:
                raise self._cut(key, "its range cannot be read")
            start, whole = int(found[1]), int(found[3])
        if whole is None:
            raise self._cut(key, "its length was not said")
        if length is None and whole - offset > LARGEST:
            raise StoreDamaged(f"{shown(key)} in the store {self.name} is larger than any object of a store")
        if start == 0 and offset:  # a server that does not know ranges
            data, start = data[offset:], offset
        wanted = max(0, whole - offset if length is None else min(length, whole - offset))
        if start != offset or len(data) != wanted:
            raise self._cut(key, f"{len(data):,} bytes from {start:,} on came, not {wanted:,} from {offset:,} on")
        return Read(data, str(reply.headers.get("ETag", "")), whole)

    def _cut(self, key: str, why: str) -> Passing:
        return Passing(
            StoreUnreachable(
                f"{shown(key)} did not come whole from the store {self.name}: {why}",
                hint="try again later; where it lasts, the object is damaged: persist verify",
            )
        )


def _asks_first(data: bytes) -> dict[str, bytes]:
    """A large body is sent once the server says that it takes it (RFC 9110, 10.1.1): a refusal costs the head only."""
    return {} if len(data) < _LARGE else {"Expect": b"100-continue"}


def _no_store(place: Bucket) -> NotAStore:
    return NotAStore(
        f"what {where(place)} answers is no answer of a store", hint="see that endpoint in town.store is an S3 server"
    )


def _whole_length(text: str) -> int:
    """The length of an object of which no range was there: `bytes */0`; what says nothing is an empty one."""
    found = _CONTENT_RANGE.fullmatch(text)
    return int(found[3]) if found else 0
