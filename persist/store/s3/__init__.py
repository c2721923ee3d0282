"""A store in an S3 bucket (`s3://`). Servers differ in what they honour: nothing is trusted that a probe did not show.

Every key is written by one single PUT. Whether it arrived is settled by reading the key back where the answer does
not say so: a lost reply, a 412 on a second try, an ETag that is not of what was sent.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import TypeVar

from persist.store import Found, NotAStore, ObjectExists, ObjectMissing, Store, StoreDamaged, checked_key
from persist.store.pace import Pace
from persist.store.s3 import conditions, credentials
from persist.store.s3.client import Client
from persist.store.s3.conditions import Conditions
from persist.store.s3.credentials import Access
from persist.store.s3.objects import Objects, Page, Read, md5
from persist.store.s3.patience import PATIENCE, Patience, patiently
from persist.store.s3.replies import Refused, raised
from persist.store.s3.writing import Unconditional, Write
from town.spec import Spec
from town.store_url import Bucket

T = TypeVar("T")
_KEYS = 5_000_000  # of one listing; a town's store has some for each commit and pack, so far fewer
_PAGES = 50_000  # of one listing: those keys by 100 a page, for servers that give fewer than were asked for


class S3Store:
    """The objects below a prefix of one bucket. Nothing is read or sent before the first call."""

    def __init__(
        self,
        place: Bucket,
        access: Callable[[], Access],
        *,
        state: Path | None = None,
        patience: Patience | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`access` says how to sign, when it is needed; `state`: a directory of root's that remembers the probe."""
        self._place = place
        self._access = access
        self._state = state
        self._patience = patience or PATIENCE
        self._client = Client(place, access, self._patience, pace)
        self._objects = Objects(self._client, pace)
        self._lock = Lock()
        self._known: Conditions | None = None
        self._asks = True  # whether `put` says If-None-Match: not where a server stumbles over it
        self._tags_are_md5 = True

    @classmethod
    def of(cls, spec: Spec, place: Bucket) -> "S3Store":
        """The store that the spec names; what is wrong with its credentials is raised by the first call."""
        return cls(place, lambda: credentials.access(spec, place), state=spec.state_dir / "store")

    def paced(self, pace: Pace) -> Store:
        """The same store, to and from which bytes pass at `pace`."""
        return S3Store(self._place, self._access, state=self._state, patience=self._patience, pace=pace)

    @property
    def requests(self) -> int:
        """See `Store.requests`."""
        return self._client.requests

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        if length == 0:
            self.size(key)
            return b""
        return self._read(key, offset, length).data

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        if not self._asks:
            self._write(key, data)
            return
        try:
            if self._write(key, data, IfNoneMatch="*"):
                return
            if self._exists(key):
                raise ObjectExists(f"{key} is in the store {self._objects.name} already")
        except Unconditional:
            pass
        self._asks = False  # a 412 for a key that is not there, or a 501: without the condition, then
        self._write(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store.put_if_absent`. Without conditional writes, two that meet may both be told True."""
        checked_key(key)
        if self.conditions().absent:
            try:
                return self._write(key, data, IfNoneMatch="*")
            except Unconditional:  # a note of a probe that is true no more
                self._note(Conditions(absent=False, match=""))
        return not self._exists(key) and self._write(key, data) and self._holds(key, data)

    def replace_if_unchanged(self, key: str, old: bytes, new: bytes) -> bool:
        """See `Store.replace_if_unchanged`. Without conditional writes, a change at the same moment may be lost."""
        try:
            found = self._read(key, 0, len(old) + 1)
        except ObjectMissing:
            return False
        if found.data != old:
            return False
        if (how := self.conditions().match) != "":
            try:
                return self._write(key, new, IfMatch=found.tag if how == "quoted" else found.tag.strip('"'))
            except Unconditional:
                self._note(Conditions(absent=False, match=""))
        return self._write(key, new) and self._holds(key, new)

    def list(self, prefix: str) -> Iterator[Found]:
        """See `Store.list`."""
        found: dict[str, Found] = {}
        for page in self._pages(prefix):
            found |= {one.key: one for one in page.found}
        # Not every server sorts; each key once, whatever is said twice.
        yield from sorted(found.values(), key=lambda one: one.key)

    def _pages(self, prefix: str) -> Iterator[Page]:
        """The pages of a listing. A server that gives a fresh token for ever is stopped by numbers."""
        token: str | None = ""
        seen, keys = {md5(b"")}, 0  # not the tokens themselves, which may be long
        while token is not None:
            page = self._tried(lambda at=token: self._objects.page(prefix, at))  # type: ignore[misc]
            keys, token = keys + page.told, page.token
            if token is not None and (told := md5(token.encode())) in seen:
                raise self._endless("it comes back to where it was")
            if keys > _KEYS or (token is not None and len(seen) >= _PAGES):
                raise self._endless(f"{keys:,} keys in {len(seen):,} pages, and more")
            yield page
            if token is not None:
                seen.add(told)

    def _endless(self, why: str) -> StoreDamaged:
        return StoreDamaged(
            f"the listing of the store {self._objects.name} does not end: {why}",
            hint="look at what answers at the endpoint; where it holds millions of other keys, give the town its own",
        )

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._tried(lambda: self._objects.remove(checked_key(key)))

    def size(self, key: str) -> int:
        """See `Store.size`."""
        # By a range of one byte: the refusal of a HEAD has no body, so it does not say what is missing.
        return self._read(key, 0, 1).whole

    def now(self) -> float:
        """See `Store.now`."""
        if self._client.now() is None:
            self._tried(lambda: self._objects.page("", most=1))
        if (known := self._client.now()) is None:
            raise NotAStore(
                f"the store {self._objects.name} does not say what time it is", hint="its replies need a Date header"
            )
        return known

    def conditions(self) -> Conditions:
        """Which conditional writes the server honours: as remembered, else as a probe finds, once."""
        with self._lock:
            if self._known is None and self._state is not None:
                self._known = conditions.remembered(self._state, self._place)
            if self._known is None:
                found = conditions.probed(
                    lambda key, data, **one: self._tried(lambda: self._objects.send(key, data, **one), plain=True),
                    lambda key: self._tried(lambda: self._objects.remove(key)),
                )
                self._note(found)
            assert self._known is not None
            return self._known

    def close(self) -> None:
        """Close its connections; it may be used again."""
        self._client.close()

    def _note(self, found: Conditions) -> None:
        self._known = found
        if self._state is not None:
            conditions.remember(self._state, self._place, found)

    def _read(self, key: str, offset: int, length: int | None) -> Read:
        return self._tried(lambda: self._objects.read(checked_key(key), offset, length))

    def _write(self, key: str, data: bytes, **condition: str) -> bool:
        write = Write(self._objects, checked_key(key), data, **condition)
        done = write.run(self._tried, tags_are_md5=self._tags_are_md5)
        self._tags_are_md5 = write.tags_are_md5
        return done

    def _exists(self, key: str) -> bool:
        try:
            self.size(key)
        except ObjectMissing:
            return False
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self._read(key, 0, len(data) + 1).data == data
        except ObjectMissing:
            return False

    def _tried(self, act: Callable[[], T], *, plain: bool = False) -> T:
        """By the patience of this store; `plain`: a refusal that lasts stays Refused, for who reads it."""

        def once() -> T:
            try:
                return act()
            except Refused as refused:
                failure = raised(refused.reply, self._place, self._client.file)
                if plain and refused.reply.status in conditions.NO:
                    raise
                raise failure from refused

        return patiently(self._patience, lambda: self._client.answered, once)
