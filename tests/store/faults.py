"""A proxy on loopback between a client and an S3 server that does what networks and bad servers do, by a script.

    with Proxy(server.endpoint) as proxy:
        proxy.script = lambda request: Status(503, "SlowDown") if request.number == 3 else None
        store = server.through(proxy.endpoint).store(place)

The script is asked once for each request, in the order of their arrival, and says what becomes of it: a Fault, or None
for nothing. `in_turn(…)` is a script of faults one after the other. `proxy.seen` are the requests so far. Every fault
says whether the server gets the request: that is the difference between what failed and what only seems to have.
"""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent: `number` counts from 1; `path` with its query."""

    number: int
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    @property
    def key(self) -> str:
        """The object's key with the bucket before it."""
        return self.path.partition("?")[0].lstrip("/")

    @property
    def is_listing(self) -> bool:
        """Whether it asks for a page of a listing."""
        return self.method == "GET" and "list-type=2" in self.path


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whole."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def with_header(self, name: str, value: str) -> "Answer":
        """The same with one header set."""
        kept = tuple(one for one in self.headers if one[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))


class Fault:
    """What becomes of one request. The server gets it unless a fault says that it does not."""

    forwards = True


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """The connection is reset; the server hears nothing."""

    forwards = False


@dataclass(frozen=True, slots=True)
class Hang(Fault):
    """No answer for so many seconds, then none at all. With `after`, the server has done what was asked."""

    seconds: float
    after: bool = False


@dataclass(frozen=True, slots=True)
class Lose(Fault):
    """The server does what was asked; its answer is lost."""


@dataclass(frozen=True, slots=True)
class Status(Fault):
    """An error of S3 instead of the answer. With `after`, the server has done what was asked."""

    status: int
    code: str
    message: str = "by the script"
    headers: tuple[tuple[str, str], ...] = ()
    after: bool = False


@dataclass(frozen=True, slots=True)
class Page(Fault):
    """A web page instead of the answer: a proxy, a page to log in. The server hears nothing."""

    status: int = 200
    body: bytes = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Welcome</body></html>"
    forwards = False


@dataclass(frozen=True, slots=True)
class Cut(Fault):
    """The body ends after so many bytes, though its header says more."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Shorten(Fault):
    """The body ends after so many bytes, and the headers fit that: only who knows the true length can tell."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Change(Fault):
    """The body is what a function makes of it; the length in the headers fits."""

    how: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Date(Fault):
    """Another Date in the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Stale(Fault):
    """The first answer that was ever given to this very request (method and path); the server hears nothing."""

    forwards = False


@dataclass(frozen=True, slots=True)
class Repeat(Fault):
    """The answer to the request before this one, of the same method, once more; the server hears nothing."""

    forwards = False


@dataclass(frozen=True, slots=True)
class Swap(Fault):
    """The answers to this request and to the next that is to be swapped are exchanged; alone, it waits a second."""


@dataclass(frozen=True, slots=True)
class Twice(Fault):
    """The server gets the request twice, as a proxy does that tries again; the second answer counts."""


Script = Callable[[Request], Fault | None]


def in_turn(*faults: Fault | None, of: Callable[[Request], bool] = lambda _: True) -> Script:
    """A script: the first request that `of` is true for meets the first fault, and so on; later ones none."""
    waiting, lock = list(faults), threading.Lock()

    def script(request: Request) -> Fault | None:
        with lock:
            return waiting.pop(0) if waiting and of(request) else None

    return script


class Proxy:
    """Listens on `endpoint` while the block lasts. All of it may be used by several threads."""

    def __init__(self, upstream: str, script: Script = lambda _: None) -> None:
        """`upstream`: the endpoint of the server, http://HOST:PORT."""
        split = urlsplit(upstream)
        self.script = script
        self.seen: list[Request] = []
        self._upstream = split.hostname or "", split.port or 80
        self._lock = threading.Lock()
        self._first: dict[tuple[str, str], Answer] = {}
        self._last: dict[str, Answer] = {}
        self._swapping: _Meeting | None = None
        self._over = threading.Event()
        self._server = _Listener(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(
        self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> tuple[Answer, int] | float:
        """What a client gets and how many bytes of the body; or after how many seconds the connection is reset."""
        with self._lock:
            request = Request(len(self.seen) + 1, method, path, tuple(headers), body)
            self.seen.append(request)
            fault = self.script(request)
        match fault:
            case Refuse():
                return 0.0
            case Hang(seconds, after):
                if after:
                    self._asked(request)
                return float(seconds)
            case Lose():
                self._asked(request)
                return 0.0
        answer = self._instead(fault, request) or _changed(fault, self._asked(request))
        return answer, fault.bytes if isinstance(fault, Cut) else len(answer.body)

    def _instead(self, fault: Fault | None, request: Request) -> Answer | None:
        match fault:
            case Status(after=after):
                if after:
                    self._asked(request)
                return _error(fault)
            case Page(status, body):
                return Answer(status, "", (("Content-Type", "text/html"),), body)
            case Stale():
                return self._first.get((request.method, request.path))
            case Repeat():
                return self._last.get(request.method)
            case Swap():
                return self._swapped(self._asked(request))
            case Twice():
                self._asked(request)
        return None

    def _asked(self, request: Request) -> Answer:
        """The server's own answer."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            reply = connection.getresponse()
            # The length of a body is said when it is sent; only the answer to a HEAD says one without a body.
            dropped = _HOP if request.method == "HEAD" else _HOP | {"content-length"}
            headers = tuple((n, v) for n, v in reply.getheaders() if n.lower() not in dropped)
            answer = Answer(reply.status, reply.reason, headers, reply.read())
        finally:
            connection.close()
        with self._lock:
            self._first.setdefault((request.method, request.path), answer)
            self._last[request.method] = answer
        return answer

    def _swapped(self, mine: Answer) -> Answer:
        with self._lock:
            if (meeting := self._swapping) is None:
                meeting = self._swapping = _Meeting(mine)
                first = True
            else:
                self._swapping, first = None, False
        if not first:
            meeting.second = mine
            meeting.met.set()
            return meeting.first
        meeting.met.wait(1.0)
        with self._lock:
            if self._swapping is meeting:
                self._swapping = None
        return meeting.second or mine

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = proxy.answer(self.command, self.path, self.headers.items(), body)
                if isinstance(found, float):
                    proxy._over.wait(found)
                    self._reset()
                    return
                answer, size = found
                self._send(answer, size)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815 - as http.server asks for them

            def _send(self, answer: Answer, size: int) -> None:
                length = [v for n, v in answer.headers if n.lower() == "content-length"] or [str(len(answer.body))]
                lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
                lines += [f"{name}: {value}" for name, value in answer.headers if name.lower() != "content-length"]
                # The answer to a HEAD and a 204 have no body; urllib3 and S3 want no length with a 204.
                lines += [] if answer.status in (204, 304) else [f"Content-Length: {length[0]}"]
                self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
                if self.command != "HEAD":
                    self.wfile.write(answer.body[:size])
                self.close_connection = size < len(answer.body)

            def _reset(self) -> None:
                # SO_LINGER of 0: close(2) sends RST (socket(7)).
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nothing: tests read `seen`."""

        return Handler


@dataclass(slots=True)
class _Meeting:
    """Two requests whose answers are exchanged."""

    first: Answer
    second: Answer | None = None
    met: threading.Event = field(default_factory=threading.Event)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that went away, or a connection that a fault reset: no news."""


def _changed(fault: Fault | None, answer: Answer) -> Answer:
    match fault:
        case Shorten(bytes=size):
            return replace(answer, body=answer.body[:size])
        case Change(how):
            return replace(answer, body=how(answer.body))
        case Date(text):
            return answer.with_header("Date", text)
    return answer


def _error(fault: Status) -> Answer:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message><RequestId>1</RequestId></Error>"
    )
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    given = {name.lower() for name, _ in fault.headers}
    own = tuple(one for one in (("Content-Type", "application/xml"), ("Date", date)) if one[0].lower() not in given)
    return Answer(fault.status, "by the script", (*own, *fault.headers), body.encode())
