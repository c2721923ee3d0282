"""Requests and bytes between a client and an S3 server, counted on the way by a process between them.

Bodies pass from socket to socket inside the kernel (splice), so that what is measured is hardly slowed, and every peer
passes through the same one.
"""

import mmap
import os
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from town import kernel

_COUNTS = struct.Struct("QQQ")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_AT_ONCE = 1 << 20
Count = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What passed: requests, bytes from the clients and bytes to them, HTTP headers included."""

    requests: int
    sent: int
    received: int

    def __sub__(self, before: "Traffic") -> "Traffic":
        return Traffic(self.requests - before.requests, self.sent - before.sent, self.received - before.received)

    def __str__(self) -> str:
        return f"{self.requests:6} requests {self.sent / 1e6:8.2f} MB sent {self.received / 1e6:8.2f} MB received"


class Counter:
    """The counting process; `port` is where clients connect."""

    def __init__(self, port: int, shared: mmap.mmap) -> None:
        self.port, self._shared = port, shared

    def now(self) -> Traffic:
        """What passed since the start."""
        return Traffic(*_COUNTS.unpack_from(self._shared))


@contextmanager
def between(server: tuple[str, int], *, network: int | None = None) -> Iterator[Counter]:
    """Listen on a free loopback port and pass everything on to `server`; `network`: its network namespace, a file."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        if (child := os.fork()) == 0:
            try:
                kernel.die_with_parent(signal.SIGKILL)
                if network is not None:  # what listens already stays where it was made
                    kernel.checked(kernel.libc.setns(network, kernel.CLONE_NEWNET))
                _serve(listening, server, shared)
            finally:
                os._exit(1)
        port = listening.getsockname()[1]
    try:
        yield Counter(port, shared)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(listening: socket.socket, server: tuple[str, int], shared: mmap.mmap) -> None:
    lock = threading.Lock()

    def count(requests: int, sent: int, received: int) -> None:
        with lock:
            before = _COUNTS.unpack_from(shared)
            _COUNTS.pack_into(shared, 0, before[0] + requests, before[1] + sent, before[2] + received)

    while True:
        client, _ = listening.accept()
        upstream = socket.create_connection(server)
        for one in (client, upstream):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_up, args=(client, upstream, count), daemon=True).start()
        threading.Thread(target=_down, args=(client, upstream, count), daemon=True).start()


def _up(client: socket.socket, upstream: socket.socket, count: Count) -> None:
    """Requests: heads are read, bodies pass by their Content-Length."""
    data = b""
    with _pipe() as pipe, suppress(OSError):
        while True:
            while b"\r\n\r\n" not in data:
                more = client.recv(64 << 10)
                if not more:
                    raise OSError
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            found = _LENGTH.search(head)
            body = int(found[1]) if found else 0
            count(1, len(head) + 4 + body, 0)
            upstream.sendall(head + b"\r\n\r\n" + rest[:body])
            _pass(client, upstream, pipe, body - len(rest[:body]))
            data = rest[body:]
    _close(client, upstream)


def _down(client: socket.socket, upstream: socket.socket, count: Count) -> None:
    with _pipe() as pipe, suppress(OSError):
        while passed := _pass(upstream, client, pipe, _AT_ONCE, once=True):
            count(0, 0, passed)
    _close(client, upstream)


def _pass(
    source: socket.socket, target: socket.socket, pipe: tuple[int, int], length: int, *, once: bool = False
) -> int:
    passed = 0
    while passed < length:
        moved = os.splice(source.fileno(), pipe[1], min(_AT_ONCE, length - passed))
        if not moved:
            break
        left = moved
        while left:
            left -= os.splice(pipe[0], target.fileno(), left)
        passed += moved
        if once:
            break
    return passed


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    pipe = os.pipe()
    try:
        yield pipe
    finally:
        for fd in pipe:
            os.close(fd)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
