"""One PUT, until it is known whether the object is there: a lost answer is no answer, and a wrong one neither."""

import secrets
from collections.abc import Callable

from persist.store import NotAStore, ObjectMissing, StoreFull
from persist.store.s3.conditions import PROBE
from persist.store.s3.objects import Objects, md5
from persist.store.s3.patience import Passing
from persist.store.s3.replies import Refused
from town.failure import Failure, TryLater
from town.terminal import size

Tried = Callable[[Callable[[], bool]], bool]
_TAKEN, _MISSING, _NO_SUCH_METHOD = 412, 404, 501  # HTTP


class Unconditional(Exception):
    """The server does not carry out conditional writes, and says so."""


class Write:
    """An object that is to be put under a key, by the tries of `run`."""

    def __init__(self, objects: Objects, key: str, data: bytes, **condition: str) -> None:
        """`condition`: IfNoneMatch or IfMatch, or nothing."""
        self._objects = objects
        self._key = key
        self._data = data
        self._digest = md5(data)
        self._condition = condition
        self._unsure = False  # whether an earlier try may have put it
        self._broke = False  # whether the server answered that it could not
        self._full = False
        self.tags_are_md5 = True

    def run(self, tried: Tried, *, tags_are_md5: bool = True) -> bool:
        """True once the object is there, False when the condition does not hold. Raises Unconditional, failures."""
        self.tags_are_md5 = tags_are_md5
        try:
            return tried(self._try)
        except TryLater as failure:
            if (self._unsure and self._is_there_after_all()) or (self._broke and self._goes_at_last()):
                return True
            if self._full:
                raise self._no_space() from failure
            raise

    def _try(self) -> bool:
        try:
            tag = self._objects.send(self._key, self._data, self._digest, **self._condition)
        except Refused as refused:
            return self._refused(refused)
        except Passing:
            self._unsure = True
            raise
        return not self.tags_are_md5 or tag.strip('"') == self._digest.hex() or self._explained()

    def _refused(self, refused: Refused) -> bool:
        reply = refused.reply
        if reply.status == _TAKEN or (reply.status == _MISSING and reply.code == "NoSuchKey"):
            # A second try meets what the first one left: then the key holds what was sent.
            return self._unsure and self._holds()
        if reply.status == _NO_SUCH_METHOD and self._condition:
            raise Unconditional from refused
        self._broke = reply.status >= 500
        self._unsure = self._unsure or self._broke
        raise refused

    def _explained(self) -> bool:
        """An ETag that is not of what was sent: of an encrypted object, or of the answer to some other request."""
        self._unsure = True
        if self._holds():
            self.tags_are_md5 = False
            return True
        raise Passing(NotAStore(f"the store {self._objects.name} answered another request than the one that was sent"))

    def _holds(self) -> bool:
        try:
            return self._objects.read(self._key, 0, len(self._data) + 1).data == self._data
        except ObjectMissing:
            return False

    def _goes_at_last(self) -> bool:
        """A last try. Some servers say of a full disk nothing but 500: it takes empty objects, and no others."""
        probe = PROBE + secrets.token_hex(16)
        try:
            self._objects.send(probe, b"")
            self._full = True
            self._objects.remove(probe)
            self._objects.send(self._key, self._data, self._digest, **self._condition)
        except Refused as refused:
            self._full = self._full and refused.reply.status >= 500
            return False
        except (Passing, Failure):
            self._full = False
            return False
        return True

    def _no_space(self) -> StoreFull:
        return StoreFull(
            f"the store {self._objects.name} answers and takes empty objects, but not one of {size(len(self._data))}: "
            "most likely no space is left behind it",
            hint="look at the disk of the server and at its log; nothing that was there is lost",
        )

    def _is_there_after_all(self) -> bool:
        try:
            return self._holds()
        except (Passing, Refused, Failure):
            return False
