"""The one door to the network: each request is sent here once, and what comes back is read here, bounded and checked.

Nothing that a server sends is larger in memory than what was asked for, a cut reply is known, and the store's clock is
seen.
"""

import socket
import time
from email.utils import parsedate_to_datetime
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any

from persist.store import NotAStore, StoreDamaged, StoreUnreachable
from persist.store.pace import Pace
from persist.store.s3.answers import Answer
from persist.store.s3.patience import Passing, Patience
from persist.store.s3.replies import where
from persist.store.s3.troubles import trouble
from town.store_url import Bucket

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

LARGEST = 256 << 20  # bytes of an object that is asked for whole; those of a store are smaller
_PAGE = 16 << 20  # bytes of any other reply: a page of a listing, an error
_PIECE = 128 << 10
_SLOWEST = 1 << 10  # bytes a second, after the first minute: a server that drips does not hold us for ever
_POOL = 16
_SOCKET = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
_HTML = (b"<!doctype html", b"<html")


class Pieces:
    """A large body as it is sent: in pieces, none copied, so that a slow network has its time for each of them."""

    def __init__(self, data: bytes) -> None:
        """`data` whole."""
        self._left = memoryview(data)

    def read(self, _amount: int | None = None) -> memoryview:
        """The next piece, however much is asked for; empty at the end."""
        piece, self._left = self._left[:_PIECE], self._left[_PIECE:]
        return piece


class Wire:
    """What was sent and heard. `heard`: the Date of the last reply, and this machine's monotonic clock then."""

    def __init__(self, place: Bucket, bundle: str | bool, patience: Patience, pace: Pace | None) -> None:
        """`bundle`: a file of certificates to believe."""
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        self._place = place
        self._patience = patience
        self._pace = pace
        self._lock = Lock()
        self._session = URLLib3Session(
            verify=bundle,
            proxies=get_environ_proxies(place.endpoint or "https://s3.amazonaws.com"),
            timeout=(patience.connect, patience.read),
            max_pool_connections=_POOL,
            socket_options=_SOCKET,
        )
        self.requests = 0
        self.answered = False
        self.heard: tuple[float, float] | None = None

    def send(self, request: "AWSPreparedRequest", *, streamed: bool = False) -> Answer:
        """Send once, with `stream_output`, and read the answer; `streamed`: it is an object.

        Raises Passing, TlsFailed, ClockSkew, StoreDamaged.
        """
        with self._lock:
            self.requests += 1
        try:
            response = self._session.send(request)
            self._note(response.headers)
            streamed = streamed and response.status_code < 300
            data = self._body(request, response, streamed=streamed)
        except (Passing, StoreDamaged):
            raise
        except Exception as error:  # of botocore, urllib3, ssl and socket: all of them mean that no answer came
            raise trouble(error, self._place, self._patience) from error
        return Answer(response.status_code, response.headers, data)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _note(self, headers: Any) -> None:
        self.answered = True
        try:
            self.heard = parsedate_to_datetime(headers.get("Date", "")).timestamp(), time.monotonic()
        except (ValueError, TypeError, OverflowError):
            return

    def _body(self, request: "AWSPreparedRequest", response: "AWSResponse", *, streamed: bool) -> bytes:
        said = length_said(response.headers)
        limit = _wanted(request, response) if streamed else _PAGE
        if said is not None and said > limit and (not streamed or limit == LARGEST):
            response.raw.close()
            raise StoreDamaged(f"the store at {where(self._place)} sends {said:,} bytes where at most {limit:,} belong")
        data = b"" if request.method == "HEAD" else self._read(response.raw, limit)
        if not streamed or "html" in response.headers.get("Content-Type", ""):  # an object may hold anything
            _refuse_page(response, data, self._place)
        if said is not None and request.method != "HEAD" and len(data) != min(said, limit):
            raise Passing(_cut(self._place, len(data), said))
        return data

    def _read(self, raw: Any, limit: int) -> bytes:
        """At most `limit` bytes: the connection is kept where that was all, else closed."""
        taken, began = BytesIO(), time.monotonic()
        read = getattr(raw, "read1", raw.read)  # urllib3 before 2 has no read1
        while taken.tell() < limit and (piece := read(min(_PIECE, limit - taken.tell()))):
            taken.write(piece)
            if self._pace is not None:
                self._pace.take(len(piece))
            elif time.monotonic() - began > self._patience.read + taken.tell() / _SLOWEST:
                raw.close()
                raise Passing(_cut(self._place, taken.tell(), None))
        if taken.tell() == limit and read(1):
            raw.close()
        return taken.getvalue()


def _wanted(request: "AWSPreparedRequest", response: "AWSResponse") -> int:
    """How many bytes of an object are to be read: a server that does not know ranges sends it from the start."""
    asked = request.headers.get("Range")
    if asked is None:
        return LARGEST
    text = asked.decode() if isinstance(asked, bytes) else asked
    first, last = text.removeprefix("bytes=").split("-")
    if not last:
        return LARGEST
    return min(LARGEST, int(last) + 1 - (int(first) if response.status_code == 206 else 0))


def length_said(headers: Any) -> int | None:
    """The Content-Length; None where none is said."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _refuse_page(response: "AWSResponse", data: bytes, place: Bucket) -> None:
    """A page for people is no answer of a store, whatever its status. (moto calls every answer text/html.)"""
    if not any(mark in data[:1024].lower() for mark in _HTML):
        return
    failure = NotAStore(
        f"a web page came instead of an answer of the store at {where(place)} (HTTP {response.status_code})",
        hint="see that endpoint in town.store is the store's own, and what lies between: a proxy ($HTTPS_PROXY), "
        "a page to log in to the network",
    )
    raise Passing(failure, most=None if response.status_code >= 500 else 3)


def _cut(place: Bucket, got: int, said: int | None) -> StoreUnreachable:
    of = "a reply that came too slowly" if said is None else f"{said:,}"
    return StoreUnreachable(
        f"the answer of the store at {where(place)} was cut off after {got:,} bytes of {of}",
        hint="try again later; see what lies between this machine and the store",
    )
