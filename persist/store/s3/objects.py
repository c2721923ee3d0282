"""Objects below a prefix of one bucket: each function is one request, sent once. What comes back is checked here."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from persist.store import Found, NotAStore, ObjectMissing, StoreDamaged, StoreUnreachable
from persist.store.pace import Pace, PacedBody
from persist.store.s3.client import Client
from persist.store.s3.patience import Passing
from persist.store.s3.replies import Refused, where
from persist.store.s3.wire import LARGEST
from town.terminal import shown

_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})")


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
            reply = self._client.ask("get_object", Key=self._below + key, **asked)
        except Refused as refused:
            if refused.reply.status == 416:  # nothing is there from that offset on
                return Read(b"", "", _whole_length(refused.reply.headers.get("content-range", "")))
            if refused.reply.code == "NoSuchKey":
                raise ObjectMissing(f"{shown(key)} is not in the store {self.name}") from refused
            raise
        return self._checked(reply, offset, length, key)

    def send(self, key: str, data: bytes, digest: bytes | None = None, **condition: str) -> str:
        """Put an object: the ETag that the server says it has. `digest`: its MD5, where it is known already."""
        reply = self._client.ask(
            "put_object",
            Key=self._below + key,
            Body=data if self._pace is None else PacedBody(data, self._pace),
            ContentLength=len(data),
            ContentMD5=base64.b64encode(digest or md5(data)).decode(),
            **condition,
        )
        if not (tag := str(reply.get("ETag", ""))):
            raise Passing(NotAStore(f"what answers for the store {self.name} does not say that it took an object"))
        return tag

    def remove(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        try:
            self._client.ask("delete_object", Key=self._below + key)
        except Refused as refused:
            if refused.reply.code != "NoSuchKey":
                raise

    def page(self, prefix: str, token: str = "", most: int = 1000) -> Page:
        """One page of the keys that begin with `prefix`; keys with a component that begins with a dot are left out."""
        asked = self._below + prefix
        more = {"ContinuationToken": token} if token else {}
        reply = self._client.ask("list_objects_v2", Prefix=asked, MaxKeys=most, **more)
        # A page that is no listing can be read as an empty one: an answer to something else, a page in XHTML.
        if "IsTruncated" not in reply or reply.get("Prefix", asked) != asked:
            raise Passing(NotAStore(f"what answers for the store {self.name} sent no listing of {shown(asked)!r}"))
        told = reply.get("Contents", ())
        if len(told) > most:
            raise StoreDamaged(
                f"the store {self.name} sent {len(told):,} keys in a page of its listing where {most:,} were asked for",
                hint="it does not honour max-keys: look at what answers at the endpoint, or take another server",
            )
        found = tuple(self._found(one, asked) for one in told)
        token = str(reply.get("NextContinuationToken", ""))
        kept = tuple(one for one in found if not one.key.startswith(".") and "/." not in one.key)
        return Page(kept, len(told), token if reply["IsTruncated"] else None)

    def _found(self, one: Mapping[str, Any], asked: str) -> Found:
        key, size = str(one.get("Key", "")), one.get("Size")
        if not key.startswith(asked) or not isinstance(size, int) or size < 0 or "LastModified" not in one:
            raise Passing(StoreUnreachable(f"the store {self.name} sent a listing of something else"), most=3)
        return Found(key[len(self._below) :], size, one["LastModified"].timestamp())

    def _checked(self, reply: Mapping[str, Any], offset: int, length: int | None, key: str) -> Read:
        """The range that was asked for, all of it, or an error: what comes over a network is not taken at its word."""
        # With a number it does not insist on Content-Length, which is of more where a server knows no ranges.
        data, start, whole = reply["Body"].read(LARGEST), 0, reply.get("ContentLength")
        if (text := reply.get("ContentRange")) is not None:
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
        return Read(data, str(reply.get("ETag", "")), whole)

    def _cut(self, key: str, why: str) -> Passing:
        return Passing(
            StoreUnreachable(
                f"{shown(key)} did not come whole from the store {self.name}: {why}",
                hint="try again later; where it lasts, the object is damaged: persist verify",
            )
        )


def _whole_length(text: str) -> int:
    """The length of an object of which no range was there: `bytes */0`; what says nothing is an empty one."""
    found = _CONTENT_RANGE.fullmatch(text)
    return int(found[3]) if found else 0
