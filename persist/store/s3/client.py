"""A client of one bucket: each call is one request, sent once, and its answer or the one failure that it means."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from persist.store import NotAStore, StoreRefused
from persist.store.pace import Pace
from persist.store.s3.credentials import Access
from persist.store.s3.patience import Passing, Patience
from persist.store.s3.replies import Refused, Reply, where
from persist.store.s3.session import no_credentials, session_of
from persist.store.s3.wire import Wire
from town.store_url import Bucket
from town.terminal import shown

REGION = "us-east-1"  # what servers that have no regions are asked by
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
        self._made: tuple[Any, Wire] | None = None
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

    def ask(self, operation: str, **params: object) -> dict[str, Any]:
        """One request, sent once. Raises Refused where the server says no, Passing, and failures that last."""
        made, _ = self._ready()
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
        from botocore.parsers import ResponseParserError

        try:
            reply: dict[str, Any] = getattr(made, operation)(Bucket=self.place.bucket, **params)
        except ClientError as error:
            raise Refused(_reply(error.response)) from error
        except ResponseParserError as error:
            raise Passing(_no_store(self.place), most=3) from error
        except NoCredentialsError as error:
            raise no_credentials() from error
        except BotoCoreError as error:
            raise StoreRefused(f"no request to {where(self.place)} could be made: {shown(str(error))}") from error
        return reply

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        with self._lock:
            if self._made is not None:
                self._made[1].close()

    def _ready(self) -> tuple[Any, Wire]:
        with self._lock:
            if self._made is None:
                with _uncollected():
                    self._made = self._make()
            return self._made

    def _make(self) -> tuple[Any, Wire]:
        from botocore.config import Config

        access, place = self._access(), self.place
        self.file = access.file
        session = session_of(access)
        client = session.create_client(
            "s3",
            region_name=place.region or REGION,
            endpoint_url=place.endpoint,
            config=Config(
                signature_version="s3v4",
                retries={"total_max_attempts": 1, "mode": "standard"},  # persist.store.s3.patience sends again
                # A server of one's own seldom has a name for every bucket. The body is sealed, and Content-MD5 is
                # signed: to hash it once more would cost a fifth of a sync.
                s3={"addressing_style": "path" if place.endpoint else "auto", "payload_signing_enabled": False},
                request_checksum_calculation="when_required",  # others than AWS refuse the newer ones
                response_checksum_validation="when_required",
                ignore_configured_endpoint_urls=True,
                parameter_validation=False,
            ),
        )
        wire = Wire(place, access.bundle or _bundle(), self._patience, self._pace)
        client.meta.events.register_last("before-parameter-build.s3", _stay)
        client.meta.events.register("before-send.s3", wire.send)
        return client, wire


@contextmanager
def _uncollected() -> Iterator[None]:
    """The description of S3 is some 100,000 objects, all of which stay: looking for garbage among them takes 25 ms."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _stay(context: dict[str, Any], **_: object) -> None:
    """No second request to another region by itself: what botocore would do unasked is an error here, WrongRegion."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _bundle() -> str | bool:
    return next((path for path in _BUNDLES if Path(path).is_file()), True)


def _no_store(place: Bucket) -> NotAStore:
    return NotAStore(
        f"what {where(place)} answers is no answer of a store", hint="see that endpoint in town.store is an S3 server"
    )


def _reply(response: Any) -> Reply:
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    headers = {str(name).lower(): str(value) for name, value in meta.get("HTTPHeaders", {}).items()}
    if region := error.get("Region"):
        headers.setdefault("x-amz-bucket-region", str(region))
    status = meta.get("HTTPStatusCode", 0)
    return Reply(status, str(error.get("Code") or status), str(error.get("Message") or ""), headers)
