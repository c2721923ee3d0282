"""One door to an HTTPS API: a request, an answer in JSON, and what every status means.

The token goes to one host by TLS. No redirect is followed, no proxy of the environment is asked, and the session's
keys are never logged ($SSLKEYLOGFILE), so it goes nowhere else.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from socket import SHUT_RDWR, socket
from threading import Event, Timer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from identity.publish_token import BadToken, Token
from town import __version__, grammar
from town.failure import Failure, TryLater, WrongUsage
from town.terminal import shown

if TYPE_CHECKING:
    from email.message import Message
    from http.client import HTTPResponse, HTTPSConnection
    from ssl import SSLContext

_SECONDS = 30.0
_LIMIT = 16 << 20  # bytes of an answer
_NEXT = re.compile(r';\s*rel="?next"?')  # RFC 8288
_WORDS = 300  # characters that a message repeats of an answer


class Unreachable(TryLater):
    """The host did not answer, or said that it cannot now. Trying again may help."""


class NotProven(Failure):
    """The host could not prove to be the one that the token is for."""


class NotAllowed(Failure):
    """The token is good, and not for this."""


class Refused(Failure):
    """The host understood and did not do it."""


class NoApi(Failure):
    """What answers is not the API: a redirect, a page for people, or something else."""


@dataclass(frozen=True, slots=True)
class Api:
    """Where an API is: a host, a port, and the path that everything in it begins with."""

    host: str
    port: int
    prefix: str

    def __str__(self) -> str:
        return self.host if self.port == 443 else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Need:
    """What a token needs for a request: the scope of a classic one, the permission of a fine-grained one."""

    scope: str
    permission: str

    def __str__(self) -> str:
        return f"the scope {self.scope} (a classic token) or the permission {self.permission!r} (a fine-grained one)"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the value, and whether there is a next page."""

    value: Any
    more: bool


def api(url: str) -> Api:
    """`https://HOST[:PORT][/PATH]`. Raises WrongUsage, which does not repeat it: a URL can hold a password."""
    wrong = WrongUsage(
        "--api takes https://HOST[/PATH] and nothing more: a token goes over no other wire",
        hint="for a GitHub Enterprise Server: --api https://github.example.org/api/v3",
    )
    try:
        parts = urlsplit(url)
        host, port = grammar.domain(parts.hostname or ""), parts.port or 443
    except (ValueError, grammar.Wrong):
        raise wrong from None
    plain = url.isascii() and url.isprintable() and re.fullmatch(r"[\w./~-]*", parts.path)
    if not plain or parts.scheme != "https" or parts.username is not None or parts.query or parts.fragment:
        raise wrong
    return Api(host, port, parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True, repr=False)
class Wire:
    """Requests to one API with one token."""

    api: Api
    token: Token

    def ask(self, method: str, path: str, need: Need, body: object = None) -> Answer:
        """One request. Raises Unreachable, NotProven, BadToken, NotAllowed, Refused, NoApi."""
        from http.client import HTTPException, HTTPSConnection

        line = HTTPSConnection(self.api.host, self.api.port, timeout=_SECONDS, context=_context())
        with _deadline(line) as late:
            try:
                line.request(method, self.api.prefix + path, *_content(body, self.token))
                response = line.getresponse()
                data = response.read(_LIMIT + 1)
            except OSError as error:
                raise self._broken(TimeoutError() if late.is_set() else error) from error
            except HTTPException as error:  # `from None`: it quotes what was answered, and that may repeat the token
                if late.is_set():
                    raise self._broken(TimeoutError()) from None
                raise NoApi(f"{self.api} does not speak HTTP: {self.token.hidden(repr(error))}") from None
            finally:
                line.close()
        if late.is_set():  # what came may be cut off
            raise self._broken(TimeoutError())
        return self._read(response, data, need)

    def _broken(self, error: OSError) -> Failure:
        from ssl import SSLCertVerificationError

        if isinstance(error, SSLCertVerificationError):
            return NotProven(
                f"{self.api} does not prove to be that host: {self.token.hidden(error.verify_message)}",
                hint="the token was not sent; a certificate authority of your own is named in $SSL_CERT_FILE",
            )
        why = "it did not answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return Unreachable(
            f"{self.api} cannot be reached: {self.token.hidden(why)}",
            hint="look at the network, then run it again; proxies ($https_proxy) are not used",
        )

    def _read(self, response: "HTTPResponse", data: bytes, need: Need) -> Answer:
        if response.status == 204:
            return Answer(None, False)
        if 300 <= response.status < 400:
            to = self.token.hidden(response.headers.get("Location", "nowhere"))
            raise NoApi(
                f"{self.api} points to {to}, which is not followed: the token is for this host alone",
                hint="name where the API is with --api",
            )
        value = self._json(response, data)
        if response.status not in (200, 201):
            raise self._failed(response, _message(value), need)
        return Answer(value, bool(_NEXT.search(response.headers.get("Link", ""))))

    def _json(self, response: "HTTPResponse", data: bytes) -> Any:
        kind = response.headers.get_content_type()
        try:
            if kind != "application/json" or len(data) > _LIMIT:
                raise ValueError
            return json.loads(data)
        except (ValueError, RecursionError):
            said = f"{self.api} answered with status {response.status} and {self.token.hidden(kind)} instead of JSON"
        if response.status >= 500:
            raise Unreachable(said, hint="it may be down: run it again later")
        raise NoApi(said, hint="it is a login page of the network, or no API: open it in a browser")

    def _failed(self, response: "HTTPResponse", message: str, need: Need) -> Failure:
        words, headers = self.token.hidden(message)[:_WORDS], response.headers
        match response.status:
            case 401:
                file = shown(self.token.file)
                return BadToken(f"{self.api} does not take the token in {file}: {words}", hint=f"make one with {need}")
            case 403 | 429 if when := _again(response.status, headers, message):
                return Unreachable(f"{self.api} has had too many requests: {words}", hint=f"run it again {when}")
            case 403 | 404:  # GitHub says 404 where a classic token lacks the scope
                return NotAllowed(
                    f"{self.api} does not let the token in {shown(self.token.file)} do this: {words}",
                    hint=f"it needs {need}",
                )
            case status if status >= 500:
                return Unreachable(f"{self.api} answered with status {status}: {words}", hint="run it again later")
            case status:
                return Refused(f"{self.api} refused it with status {status}: {words}")


@contextmanager
def _deadline(line: "HTTPSConnection") -> Iterator[Event]:
    """Ends a request of which something arrives again and again, and never all; the event says that it did."""
    late = Event()

    def end() -> None:
        late.set()
        if line.sock is not None:
            with suppress(OSError):
                socket.shutdown(line.sock, SHUT_RDWR)  # not the method of TLS, which would wait

    timer = Timer(_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _context() -> "SSLContext":
    import ssl

    # Not create_default_context: that one writes the session's keys to $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def _content(body: object, token: Token) -> tuple[bytes | None, dict[str, str]]:
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {token.text}",
        "User-Agent": f"nuketown/{__version__}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    if body is None:
        return None, headers
    return json.dumps(body).encode(), headers | {"Content-Type": "application/json"}


def _message(value: object) -> str:
    """What a refusal says: GitHub has `message`, and for a 422 `errors` with a message each."""
    if not isinstance(value, dict):
        return "it said nothing"
    errors = value.get("errors")
    each = errors if isinstance(errors, list) else []
    more = [str(one["message"]) for one in each if isinstance(one, dict) and "message" in one]
    return "; ".join([str(value.get("message", "it said nothing")), *more])


def _again(status: int, headers: "Message", message: str) -> str:
    """When a limited client may come again; empty when this is about no limit."""
    after = headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]{1,9}", after):
        return f"in {after} s"
    reset = headers.get("X-RateLimit-Reset", "")
    if headers.get("X-RateLimit-Remaining") == "0" and re.fullmatch(r"[0-9]{1,11}", reset):
        return f"after {datetime.fromtimestamp(int(reset), UTC):%Y-%m-%d %H:%M:%S} UTC"
    return "in some minutes" if status == 429 or "rate limit" in message.lower() else ""
