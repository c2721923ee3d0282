"""A GitHub on loopback, by TLS: answers have the shape that its REST API documents (version 2022-11-28)."""

import base64
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from identity.keys import openpgp

TOKEN = "ghp_" + "canary0token1of2a3test4" * 2
_LISTS = {"/user/keys": "key", "/user/ssh_signing_keys": "key", "/user/gpg_keys": "armored_public_key"}
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Forge:
    """One account and what it was asked. `page` keys go on one page; `instead` may answer in its place."""

    login: str = "ada-bot"
    page: int = 2
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {path: [] for path in _LISTS})
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    sent: list[bytes] = field(default_factory=list)
    instead: Callable[[str, str], Answer | None] = lambda *_: None
    confirmed: bool = True
    raw: bool = True  # whether raw_key is kept, as it is of newer uploads
    port: int = 0
    number: int = 0

    @property
    def api(self) -> str:
        return f"https://localhost:{self.port}/api/v3"

    @property
    def changes(self) -> list[str]:
        return [line for line in self.asked if not line.startswith("GET")]

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        parts = urlsplit(target)
        path = parts.path.removeprefix("/api/v3")
        self.asked.append(f"{method} {path}")
        if (given := self.instead(method, path)) is not None:
            return given
        if path == "/user":
            return said(200, {"login": self.login, "id": 1})
        above, _, last = path.rpartition("/")
        if method == "DELETE" and above in _LISTS:
            self.lists[above] = [one for one in self.lists[above] if str(one["id"]) != last]
            return 204, {}, b""
        if path not in _LISTS:
            return said(404, {"message": "Not Found"})
        if method == "POST":
            return self._post(path, json.loads(body))
        number = int(parse_qs(parts.query)["page"][0])
        shown = self.lists[path][(number - 1) * self.page : number * self.page]
        more = number * self.page < len(self.lists[path])
        # As GitHub's, with addresses that nobody must follow.
        link = {"Link": f'<https://elsewhere.invalid{path}?page={number + 1}>; rel="next"'} if more else {}
        return said(200, shown, link)

    def _post(self, path: str, fields: dict[str, str]) -> Answer:
        text = fields[_LISTS[path]]
        if any(text in (one.get("key"), one.get("raw_key")) for one in self.lists[path]):
            return said(422, _IN_USE)
        return said(201, self.put(path, text, fields.get("title", fields.get("name", ""))))

    def put(self, path: str, text: str, title: str) -> dict[str, Any]:
        self.number += 1
        made: dict[str, Any] = {"id": self.number, "created_at": "2026-11-22T10:00:00Z"}
        if path == "/user/gpg_keys":
            made |= {"name": title, **self._pgp(text)}
        else:
            made |= {"title": title, "key": " ".join(text.split()[:2]), "url": f"https://elsewhere.invalid{path}"}
        self.lists[path].append(made)
        return made

    def _pgp(self, text: str) -> dict[str, Any]:
        bare = [_bare(body) for tag, body in openpgp.packets(text, "the upload") if tag in (6, 14)]
        emails = [{"email": "ada@signi.local", "verified": self.confirmed}]
        top = {"key_id": "0" * 16, "public_key": bare[0], "emails": emails, "revoked": False}
        return top | {"subkeys": [{"public_key": one} for one in bare[1:]], "raw_key": text if self.raw else None}


_IN_USE = {
    "message": "Validation Failed",
    "errors": [{"resource": "PublicKey", "code": "custom", "field": "key", "message": "key is already in use"}],
    "status": "422",
}


def _bare(body: bytes) -> str:
    return base64.b64encode(b"\x99" + len(body).to_bytes(2, "big") + body).decode()


def said(status: int, value: object, headers: dict[str, str] | None = None) -> Answer:
    return status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, json.dumps(value).encode()


@contextmanager
def forge(place: Path) -> Iterator[Forge]:
    """A running one; the authority that signs for it lies in `place`/ca.pem."""
    made = Forge()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            made.tokens.add(self.headers.get("Authorization", ""))
            made.sent.append(body)
            status, headers, data = made.answer(self.command, self.path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET  # noqa: N815 - as http.server names them

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing: the output belongs to the command."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hung up
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(place))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificate(place: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (place / "ca.pem").write_bytes(pem)
    both = place / "server.pem"
    both.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return both
