"""A client of one bucket: each call is one request, sent once, and its answer or the one failure that it means."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock

from persist.store import StoreRefused
from persist.store.pace import Pace
from persist.store.s3 import answers
from persist.store.s3.address import Address, address
from persist.store.s3.answers import Answer
from persist.store.s3.credentials import Access
from persist.store.s3.patience import Patience
from persist.store.s3.replies import Refused, where
from persist.store.s3.signing import Signer, no_credentials
from persist.store.s3.wire import Wire
from town.store_url import Bucket
from town.terminal import shown

_COMMON = {"User-Agent": "nuketown"}
# Where a system keeps the certificates that it believes: Debian, NixOS, Fedora, Alpine.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class Client:
    """One bucket. It is made at the first request, once, and used by all threads."""

    def __init__(
        self, place: Bucket, access: Callable[[], Access], patience: Patience, pace: Pace | None = None
    ) -> None:
        """`access` is called before the first request."""
        self.place = place
        self._access = access
        self._patience = patience
        self._pace = pace
        self._lock = Lock()
        self._made: tuple[Signer, Wire] | None = None
        self._address: Address | None = None
        self.file = ""  # that the credentials came from, for messages

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self._made[1].requests if self._made else 0

    @property
    def answered(self) -> bool:
        """Whether anything ever answered."""
        return bool(self._made and self._made[1].answered)

    def now(self) -> float | None:
        """The store's clock; None when no reply told it yet."""
        if self._made is None or (heard := self._made[1].heard) is None:
            return None
        return heard[0] + time.monotonic() - heard[1]

    def ask(
        self,
        method: str,
        key: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        body: object = None,
        streamed: bool = False,
    ) -> Answer:
        """One request, sent once: of the object `key`, or of the bucket; `streamed`: the answer is an object.

        Raises Refused where the server says no, Passing, and failures that last.
        """
        signer, wire = self._ready()
        from botocore.exceptions import BotoCoreError, NoCredentialsError

        try:
            request = signer.signed(method, self._url(key, query), {**_COMMON, **(headers or {})}, body)
        except NoCredentialsError as error:
            raise no_credentials() from error
        except BotoCoreError as error:
            raise StoreRefused(f"no request to {where(self.place)} could be made: {shown(str(error))}") from error
        answer = wire.send(request, streamed=streamed)
        if answer.status >= 300:
            raise Refused(answers.error(answer))
        return answer

    def _url(self, key: str | None, query: Mapping[str, str] | None) -> str:
        from urllib.parse import quote

        at = self._address
        assert at is not None
        url = at.bare if key is None else f"{at.url}/{quote(key, safe='/~')}"
        asked = "&".join(f"{name}={quote(value, safe='-._~')}" for name, value in (query or {}).items())
        return f"{url}?{asked}" if asked else url

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        with self._lock:
            if self._made is not None:
                self._made[1].close()

    def _ready(self) -> tuple[Signer, Wire]:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> tuple[Signer, Wire]:
        access, place = self._access(), self.place
        self.file, self._address = access.file, address(place)
        signer = Signer(access, self._address.region)
        return signer, Wire(place, access.bundle or _bundle(), self._patience, self._pace)


def _bundle() -> str | bool:
    return next((path for path in _BUNDLES if Path(path).is_file()), True)
